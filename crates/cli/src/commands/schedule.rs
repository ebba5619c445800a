//! `steadfast schedule`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use steadfast_client::api::admin::v1::{
    ListSchedulesRequest, PauseScheduleRequest, ResumeScheduleRequest, RunScheduleRequest, Schedule,
};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json, moment, table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// List all schedules
    List,
    /// Run a schedule's work now, paused or not
    Run(NameArgs),
    /// Stop a schedule from coming due
    Pause(NameArgs),
    /// Let a paused schedule come due again, from now on
    Resume(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The schedule's name, as `schedule list` shows it
    name: String,
}

pub(crate) async fn run(command: ScheduleCommand, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.schedules();
    let schedule = match command {
        ScheduleCommand::List => {
            let call = client.list_schedules(ListSchedulesRequest {});
            let schedules = connection.call(call).await?.schedules;
            session.output.print(
                || list_text(&schedules),
                || {
                    let schedules: Vec<_> = schedules.iter().map(json::schedule).collect();
                    json!({ "schedules": schedules })
                },
            )?;
            return Ok(Exit::Success);
        }
        ScheduleCommand::Run(NameArgs { name }) => {
            let call = client.run_schedule(RunScheduleRequest { name });
            connection.call(call).await?.schedule
        }
        ScheduleCommand::Pause(NameArgs { name }) => {
            let call = client.pause_schedule(PauseScheduleRequest { name });
            connection.call(call).await?.schedule
        }
        ScheduleCommand::Resume(NameArgs { name }) => {
            let call = client.resume_schedule(ResumeScheduleRequest { name });
            connection.call(call).await?.schedule
        }
    };
    session.output.print(
        || schedule.as_ref().map_or_else(String::new, one_text),
        || schedule.as_ref().map_or(Value::Null, json::schedule),
    )?;
    Ok(Exit::Success)
}

fn next_text(schedule: &Schedule) -> String {
    if schedule.paused {
        return "paused".to_owned();
    }
    moment::relative(schedule.next_run_time.as_ref())
}

fn list_text(schedules: &[Schedule]) -> String {
    if schedules.is_empty() {
        return "no schedules: set catalog.refresh_schedule in the configuration, for example to \"0 3 * * *\", and restart the server".to_owned();
    }
    let mut rows = table::with_head(&["NAME", "CRON", "ZONE", "NEXT", "LAST", "RESULT"]);
    for schedule in schedules {
        rows.add_row([
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.time_zone.clone(),
            next_text(schedule),
            moment::relative(schedule.last_run_time.as_ref()),
            table::clean(&schedule.last_result),
        ]);
    }
    table::text(&rows)
}

fn one_text(schedule: &Schedule) -> String {
    table::of_fields([
        ("name", schedule.name.clone()),
        (
            "cron",
            format!("{} ({})", schedule.cron, schedule.time_zone),
        ),
        ("next", next_text(schedule)),
        ("last", moment::relative(schedule.last_run_time.as_ref())),
        ("result", table::clean(&schedule.last_result)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_schedules_say_what_to_do() {
        assert!(list_text(&[]).contains("catalog.refresh_schedule"));
    }

    #[test]
    fn paused_schedules_are_shown_as_such() {
        let schedule = Schedule {
            name: "refresh".to_owned(),
            paused: true,
            ..Schedule::default()
        };
        let text = list_text(std::slice::from_ref(&schedule));
        assert!(text.contains("paused") && text.contains("never"), "{text}");
        assert!(one_text(&schedule).contains("refresh"));
    }
}
