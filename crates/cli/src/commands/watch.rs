//! `steadfast watch`.

mod cursor_file;
pub(super) mod reader;
mod reporter;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use steadfast_client::{
    Cursor, ResetReason, WatchEvent, WatchOptions, WatchStart, WatchStream,
    api::{
        common::v1::ReadState,
        watch::v1::{Change, Filter, Node, value::Kind},
    },
};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::{
    args::key_and_value,
    commands::Session,
    failure::{Exit, Failure},
    json,
    output::{Output, note},
    table::clean,
};
use cursor_file::CursorFile;
use reporter::Reporter;

/// Which changes, and from where on.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Keep only this topic, or with `/*` at its end all topics below; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Keep only keys that begin with this; may be repeated
    #[arg(long = "key-prefix", value_name = "PREFIX", requires = "topics")]
    key_prefixes: Vec<String>,
    /// Begin after this cursor, as `head` and `--output json` show it
    #[arg(long, value_name = "CURSOR", conflicts_with = "earliest")]
    after: Option<Cursor>,
    /// Begin with the oldest change in the log, instead of now
    #[arg(long)]
    earliest: bool,
    /// Keep the cursor in this file, and go on from there at the next start; --after and --earliest hold for the first only
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// Show packages and schemas as they are now with their changes; --output json shows all of them
    #[arg(long)]
    values: bool,
    /// Be known as this node, so that others can wait for it: see `steadfast nodes`
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Say of each change that is printed that this node has applied it; without it the node lags for ever
    #[arg(long, requires = "node")]
    report: bool,
    /// Tell something about this node; may be repeated
    #[arg(long = "label", requires = "node", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
}

pub(crate) async fn run(args: WatchArgs, session: &Session) -> Result<Exit, Failure> {
    let cursor_file = args.cursor_file.clone().map(CursorFile::new);
    let stored = match &cursor_file {
        Some(file) => file.read()?,
        None => None,
    };
    let options = WatchOptions {
        filters: filters(&args.topics, &args.key_prefixes),
        start: match (stored.or(args.after), args.earliest) {
            (Some(cursor), _) => WatchStart::After(cursor),
            (None, true) => WatchStart::Earliest,
            (None, false) => WatchStart::Now,
        },
        include_values: args.values,
        node: args.node.map(|id| Node {
            id,
            incarnation: Uuid::now_v7().to_string(),
            labels: args.labels.into_iter().collect(),
        }),
        ..WatchOptions::default()
    };
    let connection = session.connect().await?;
    let reporter = options
        .node
        .as_ref()
        .filter(|_| args.report)
        .map(|node| Reporter::start(&connection, node));
    let mut watch = WatchStream::new(&connection, options);
    let mut printer = Printer {
        output: session.output,
        safe: None,
    };
    // Printing and storing are not interrupted: a signal is looked at only while the watch waits.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut reader_left = std::pin::pin!(reader::left());
    loop {
        let event = tokio::select! {
            event = watch.next() => event?,
            _ = interrupt.recv() => return Ok(Exit::Success),
            _ = terminate.recv() => return Ok(Exit::Success),
            () = &mut reader_left => return Ok(Exit::Success),
        };
        printer.print(&event, watch.cursor())?;
        if let (Some(file), Some(cursor)) = (&cursor_file, watch.cursor()) {
            file.write(cursor)?;
        }
        if let (Some(reporter), Some(cursor)) = (&reporter, watch.cursor()) {
            match event {
                WatchEvent::Disconnected { .. } => {}
                // Another stream: the server may not know of what was reported on the last one.
                WatchEvent::Opened { .. } => reporter.report_again(cursor),
                _ => reporter.report(cursor),
            }
        }
    }
}

/// Each topic with each prefix.
fn filters(topics: &[String], key_prefixes: &[String]) -> Vec<Filter> {
    let any = [String::new()];
    let prefixes = if key_prefixes.is_empty() {
        &any
    } else {
        key_prefixes
    };
    topics
        .iter()
        .flat_map(|topic| {
            prefixes.iter().map(|prefix| Filter {
                topic: topic.clone(),
                key_prefix: prefix.clone(),
            })
        })
        .collect()
}

/// Writes events, and knows from where a reader of its lines can resume.
struct Printer {
    output: Output,
    /// Whatever was printed so far is at or below it.
    safe: Option<Cursor>,
}

// === impl Printer ===

impl Printer {
    fn print(&mut self, event: &WatchEvent, cursor: Option<Cursor>) -> Result<(), Failure> {
        match event {
            WatchEvent::Opened { head, .. } => {
                let after = cursor.unwrap_or(*head).revision;
                note(&format!(
                    "watching after revision {after}; the head is {}",
                    head.revision
                ));
            }
            WatchEvent::Batch { changes, .. } => self.output.raw(&self.lines(changes, cursor))?,
            WatchEvent::Progress { .. } => {}
            WatchEvent::Reset { reason, head, .. } => {
                if self.output.is_json() {
                    self.output.raw(&reset_json(*reason, *head).to_string())?;
                } else {
                    self.output.raw(&reset_text(*reason, *head))?;
                }
            }
            WatchEvent::Disconnected { error, retry_in } => {
                let error = clean(&error.to_string());
                note(&format!(
                    "connection lost ({error}); trying again in {retry_in:.1?}"
                ));
            }
        }
        self.safe = cursor;
        Ok(())
    }

    fn lines(&self, changes: &[Change], cursor: Option<Cursor>) -> String {
        let last = changes.len().saturating_sub(1);
        let lines = changes.iter().enumerate().map(|(index, change)| {
            if !self.output.is_json() {
                return change_text(change) + "\n";
            }
            // The batch's cursor covers all of it, so only its last line may carry it.
            let safe = if index == last { cursor } else { self.safe };
            let mut fields = json::change(change);
            fields.insert("event".to_owned(), "change".into());
            fields.insert(
                "cursor".to_owned(),
                safe.map(|cursor| cursor.to_string()).into(),
            );
            Value::Object(fields).to_string() + "\n"
        });
        lines.collect()
    }
}

fn change_text(change: &Change) -> String {
    let mut text = format!(
        "{}  {}  {}  {}",
        change.revision,
        json::op(change.op),
        change.topic,
        clean(&change.key)
    );
    if !change.etag.is_empty() {
        text.push_str(&format!("  etag={}", clean(&change.etag)));
    }
    if !change.payload.is_empty() {
        let payload = match std::str::from_utf8(&change.payload) {
            Ok(payload) => format!("  payload={payload:?}"),
            Err(_) => format!("  payload={} bytes", change.payload.len()),
        };
        text.push_str(&payload);
    }
    if let Some(kind) = change.value.as_ref().and_then(|value| value.kind.as_ref()) {
        text.push_str(&value_text(kind));
    }
    text
}

fn value_text(kind: &Kind) -> String {
    let as_of = |state: Option<&ReadState>| state.map_or(0, |state| state.revision);
    match kind {
        Kind::Package(answer) => format!(
            "  value={} versions as of {}",
            answer
                .package
                .as_ref()
                .map_or(0, |package| package.versions.len()),
            as_of(answer.read_state.as_ref())
        ),
        Kind::Schema(answer) => format!(
            "  value={} bytes as of {}",
            answer.schema_json.len(),
            as_of(answer.read_state.as_ref())
        ),
    }
}

fn reason_words(reason: ResetReason) -> (&'static str, &'static str) {
    match reason {
        ResetReason::Compacted => (
            "compacted",
            "the changes after your cursor are no longer kept",
        ),
        ResetReason::StoreChanged => ("store_changed", "the database's history is another one"),
        ResetReason::Other => ("other", "the history that your cursor names is gone"),
    }
}

fn reset_text(reason: ResetReason, head: Cursor) -> String {
    let (_, words) = reason_words(reason);
    format!(
        "RESET: {words}; reload what you keep, and go on after revision {}",
        head.revision
    )
}

fn reset_json(reason: ResetReason, head: Cursor) -> Value {
    let (name, _) = reason_words(reason);
    json!({ "event": "reset", "reason": name, "head": head.revision.0, "cursor": head.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    fn cursor(revision: i64) -> Cursor {
        format!("00000000-0000-0000-0000-000000000000:{revision}:00")
            .parse()
            .expect("a cursor")
    }

    fn change(revision: i64, key: &str) -> Change {
        Change {
            revision,
            key: key.to_owned(),
            topic: "app/x".to_owned(),
            op: 1,
            ..Change::default()
        }
    }

    #[test]
    fn each_topic_goes_with_each_prefix() {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(filters(&[], &[]).is_empty());
        assert_eq!(filters(&texts(&["a"]), &[]).len(), 1);
        let all = filters(&texts(&["a", "b"]), &texts(&["x", "y"]));
        assert_eq!(all.len(), 4);
        assert_eq!(
            (all[3].topic.as_str(), all[3].key_prefix.as_str()),
            ("b", "y")
        );
    }

    #[test]
    fn only_the_last_line_of_a_batch_carries_its_cursor() {
        let printer = Printer {
            output: Output::new(Format::Json),
            safe: Some(cursor(1)),
        };
        let lines = printer.lines(&[change(2, "a"), change(3, "b")], Some(cursor(3)));
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        assert_eq!(lines[0]["cursor"], cursor(1).to_string());
        assert_eq!(lines[1]["cursor"], cursor(3).to_string());
        assert_eq!(lines[1]["key"], "b");
    }

    #[test]
    fn a_change_is_one_line_whatever_it_holds() {
        let printer = Printer {
            output: Output::new(Format::Table),
            safe: None,
        };
        let mut strange = change(2, "a\nb\u{1b}[2J");
        strange.payload = "line\nline".into();
        let lines = printer.lines(&[strange, change(3, "c")], None);
        assert_eq!(
            lines,
            "2  upsert  app/x  a b\u{fffd}[2J  payload=\"line\\nline\"\n3  upsert  app/x  c\n"
        );
    }

    #[test]
    fn a_reset_says_what_to_do() {
        let text = reset_text(ResetReason::StoreChanged, cursor(9));
        assert!(text.contains("reload") && text.contains('9'), "{text}");
        assert_eq!(
            reset_json(ResetReason::Compacted, cursor(9))["reason"],
            "compacted"
        );
    }
}
