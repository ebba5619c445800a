//! A saga's events as they happen.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use prost_types::Timestamp;
use serde_json::json;
use steadfast_client::{
    Connection, SagaWatch, SagaWatchEvent,
    api::saga::v1::{
        GetSagaRequest, ListSagaEventsRequest, Saga, SagaEvent, SagaEventKind, SagaState,
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::{IdArgs, report};
use crate::{
    commands::{Session, watch::reader},
    failure::{Exit, Failure},
    json,
    output::note,
    table::clean,
};

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    saga: IdArgs,
    /// Begin with the first event after this one
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,
    /// Go on while the saga is stuck, until it has ended
    #[arg(long)]
    through_stuck: bool,
}

/// What is written while the saga goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Each event.
    Events,
    /// Nothing but the saga at its end, for programs.
    End,
}

pub(super) async fn run(args: WatchArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let timeline = Timeline::new(
        &connection,
        &args.saga.id,
        args.after,
        session,
        Lines::Events,
    );
    timeline.follow(args.through_stuck).await
}

/// Follows a saga that was just started.
pub(super) async fn wait(
    connection: &Connection,
    id: &str,
    session: &Session,
) -> Result<Exit, Failure> {
    let lines = if session.output.is_json() {
        Lines::End
    } else {
        Lines::Events
    };
    let timeline = Timeline::new(connection, id, 0, session, lines);
    timeline.follow(false).await
}

struct Timeline<'a> {
    connection: &'a Connection,
    session: &'a Session,
    id: &'a str,
    watch: SagaWatch,
    lines: Lines,
    start: Option<Timestamp>,
    progress: Progress,
    /// The last event that says so has not been taken back.
    stuck: bool,
}

// === impl Timeline ===

impl<'a> Timeline<'a> {
    fn new(
        connection: &'a Connection,
        id: &'a str,
        after: i64,
        session: &'a Session,
        lines: Lines,
    ) -> Self {
        Self {
            connection,
            session,
            id,
            watch: SagaWatch::new(connection, id, after),
            lines,
            start: None,
            progress: Progress::new(),
            stuck: false,
        }
    }

    async fn follow(mut self, through_stuck: bool) -> Result<Exit, Failure> {
        // Printing is not interrupted: a signal is looked at only while the watch waits.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut reader_left = std::pin::pin!(reader::left());
        loop {
            let event = tokio::select! {
                event = self.watch.next() => event?,
                _ = interrupt.recv() => return self.left(),
                _ = terminate.recv() => return self.left(),
                () = &mut reader_left => return Ok(Exit::Success),
            };
            match event {
                Some(SagaWatchEvent::Opened(saga)) => {
                    self.start = self.start.or(saga.create_time);
                    self.stuck = saga.state() == SagaState::Stuck;
                    self.progress.show(&saga);
                }
                Some(SagaWatchEvent::Event(event)) => self.event(&event)?,
                Some(SagaWatchEvent::Ended(saga)) => return self.end(&saga),
                Some(SagaWatchEvent::Disconnected { error, retry_in }) => {
                    let error = clean(&error.to_string());
                    self.progress.note(&format!(
                        "connection lost ({error}); trying again in {retry_in:.1?}"
                    ));
                    continue;
                }
                None => return Ok(Exit::Success),
            }
            if self.stuck && !through_stuck && self.is_last().await? {
                let mut client = self.connection.sagas();
                let request = GetSagaRequest {
                    id: self.id.to_owned(),
                };
                let answer = self.connection.call(client.get_saga(request)).await?;
                let saga = answer.saga.unwrap_or_default();
                // It may have been freed meanwhile: then its events come.
                if saga.state() == SagaState::Stuck {
                    return self.end(&saga);
                }
            }
        }
    }

    fn event(&mut self, event: &SagaEvent) -> Result<(), Failure> {
        self.stuck = match event.kind() {
            SagaEventKind::Stuck => true,
            SagaEventKind::StepStarted
            | SagaEventKind::StepRetried
            | SagaEventKind::StepSkipped
            | SagaEventKind::Ended => false,
            _ => self.stuck,
        };
        if self.lines == Lines::End {
            return Ok(());
        }
        self.start = self.start.or(event.time);
        let (output, start) = (self.session.output, self.start);
        self.progress.suspend(|| {
            if output.is_json() {
                output.raw(&json::saga::event(event).to_string())
            } else {
                output.raw(&report::line(event, start.as_ref()))
            }
        })?;
        self.progress.step(event);
        Ok(())
    }

    /// Whether nothing has happened since the last event that was printed.
    async fn is_last(&self) -> Result<bool, Failure> {
        let mut client = self.connection.sagas();
        let request = ListSagaEventsRequest {
            id: self.id.to_owned(),
            after_seq: self.watch.seq(),
            page_size: 1,
            page_token: String::new(),
        };
        let answer = self
            .connection
            .call(client.list_saga_events(request))
            .await?;
        Ok(answer.events.is_empty())
    }

    fn end(&self, saga: &Saga) -> Result<Exit, Failure> {
        self.progress.clear();
        let output = self.session.output;
        match (output.is_json(), self.lines) {
            (false, _) => output.raw(&report::one_line(saga))?,
            (true, Lines::End) => output.print(String::new, || json::saga::saga(saga))?,
            // One line, as each event before it.
            (true, Lines::Events) => {
                output.raw(&json!({ "saga": json::saga::saga(saga) }).to_string())?;
            }
        }
        Ok(exit_of(saga.state()))
    }

    fn left(&self) -> Result<Exit, Failure> {
        self.progress.clear();
        note(&format!(
            "the saga goes on; `steadfast saga watch {} --after {}` follows it further",
            self.id,
            self.watch.seq()
        ));
        Ok(Exit::Success)
    }
}

fn exit_of(state: SagaState) -> Exit {
    match state {
        SagaState::Completed => Exit::Success,
        SagaState::Compensated => Exit::Compensated,
        SagaState::Stuck => Exit::Stuck,
        SagaState::Abandoned => Exit::Abandoned,
        SagaState::Unspecified
        | SagaState::Pending
        | SagaState::Running
        | SagaState::Paused
        | SagaState::Compensating => Exit::Error,
    }
}

/// A line on standard error that tells what goes on; hidden unless that is a terminal.
struct Progress {
    bar: ProgressBar,
}

/// How often the line moves.
const TICK: Duration = Duration::from_millis(100);

// === impl Progress ===

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    fn show(&self, saga: &Saga) {
        self.bar.set_message(report::one_line(saga));
    }

    fn step(&self, event: &SagaEvent) {
        self.bar.set_message(match event.step.as_str() {
            "" => json::saga::event_kind(event.kind),
            step => format!("{}: {}", clean(step), json::saga::event_kind(event.kind)),
        });
    }

    fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    fn note(&self, text: &str) {
        self.suspend(|| note(text));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        let codes: Vec<_> = [
            SagaState::Completed,
            SagaState::Compensated,
            SagaState::Stuck,
            SagaState::Abandoned,
            SagaState::Running,
        ]
        .map(|state| exit_of(state) as u8)
        .into();
        assert_eq!(codes, [0, 7, 8, 9, 1]);
    }

    #[test]
    fn the_line_has_a_valid_template() {
        let progress = Progress::new();
        progress.show(&Saga::default());
        progress.step(&SagaEvent::default());
        assert_eq!(progress.suspend(|| 4), 4);
        progress.clear();
    }
}
