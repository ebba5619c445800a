//! Sagas in tables and lines.

use prost_types::Timestamp;
use serde_json::Value;
use steadfast_client::api::saga::v1::{
    Direction, Saga, SagaEvent, SagaEventKind, SagaState, SagaStep, StepLeg, StepState,
};

use crate::{json, moment, table};

/// Characters of a message in a table.
const MESSAGE_LENGTH: usize = 120;

pub(super) fn list(sagas: &[Saga], more: bool) -> String {
    if sagas.is_empty() {
        return "no sagas".to_owned();
    }
    let mut rows = table::with_head(&[
        "ID",
        "DEFINITION",
        "KIND",
        "STATE",
        "STEP",
        "DONE",
        "CREATED",
        "REASON",
    ]);
    for saga in sagas {
        rows.add_row([
            saga.id.clone(),
            definition(saga),
            table::clean(&saga.kind),
            state(saga),
            saga.current_step.clone(),
            format!("{}/{}", saga.steps_done, saga.step_count),
            moment::relative(saga.create_time.as_ref()),
            table::shorten(&saga.outcome_reason, MESSAGE_LENGTH),
        ]);
    }
    let shown = table::count(sagas.len(), "saga");
    let more = if more { "; --limit shows more" } else { "" };
    format!("{}\n\n{shown}{more}", table::text(&rows))
}

/// The saga and its steps, and what can be done about it.
pub(super) fn one(saga: &Saga, steps: &[SagaStep], steered: Option<&SagaEvent>) -> String {
    let mut labels: Vec<_> = saga
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    let optional_time = |time: Option<&Timestamp>| {
        time.map_or_else(String::new, |time| moment::relative(Some(time)))
    };
    let number = |number: i64| {
        if number == 0 {
            String::new()
        } else {
            number.to_string()
        }
    };
    let fields = table::of_fields([
        ("id", saga.id.clone()),
        ("definition", definition(saga)),
        ("kind", table::clean(&saga.kind)),
        ("deployment", table::clean(&saga.deployment_id)),
        ("triggered by", table::clean(&saga.triggered_by)),
        ("labels", table::clean(&labels.join(", "))),
        ("state", state(saga)),
        ("reason", table::clean(&saga.outcome_reason)),
        ("step", at(saga)),
        ("control version", saga.control_version.to_string()),
        ("steered", steered.map_or_else(String::new, last_verb)),
        ("concurrency key", table::clean(&saga.concurrency_key)),
        ("priority", number(saga.priority.into())),
        ("inputs", table::shorten(&saga.inputs_json, MESSAGE_LENGTH)),
        (
            "context",
            match saga.context_json.as_str() {
                "null" => String::new(),
                text => table::shorten(text, MESSAGE_LENGTH),
            },
        ),
        ("created", moment::relative(saga.create_time.as_ref())),
        (
            "took",
            moment::between(saga.start_time.as_ref(), saga.end_time.as_ref()),
        ),
        ("deadline", optional_time(saga.deadline.as_ref())),
        ("wakes", optional_time(saga.wake_time.as_ref())),
        ("executor", saga.owner.clone()),
    ]);
    let mut parts = vec![fields, steps_table(steps)];
    parts.extend(advice(saga));
    parts.join("\n\n")
}

/// Who steered last, how, why and when.
fn last_verb(event: &SagaEvent) -> String {
    format!(
        "{} by {} ({}), {}",
        json::saga::verb(event.verb),
        table::clean(&event.actor),
        table::clean(&event.reason),
        moment::relative(event.time.as_ref())
    )
}

fn steps_table(steps: &[SagaStep]) -> String {
    let mut rows = table::with_head(&["#", "STEP", "ACTION", "DO", "UNDO", "ERROR", "OUTPUT"]);
    for step in steps {
        let summary = step.definition.clone().unwrap_or_default();
        let action = summary.action.unwrap_or_default();
        let undo = if summary.undo.is_none() && leg_state(step.backward.as_ref()) == StepState::Idle
        {
            "none".to_owned()
        } else {
            leg(step.backward.as_ref())
        };
        let error = match (step.error_code.as_str(), step.error_message.as_str()) {
            ("", "") => String::new(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {}", table::shorten(message, MESSAGE_LENGTH)),
        };
        rows.add_row([
            (step.index + 1).to_string(),
            summary.name,
            table::shorten(
                &format!("{} {}", json::saga::action_kind(action.kind), action.name),
                MESSAGE_LENGTH,
            ),
            leg(step.forward.as_ref()),
            undo,
            error,
            table::shorten(&step.output_json, MESSAGE_LENGTH / 2),
        ]);
    }
    table::text(&rows)
}

fn leg_state(leg: Option<&StepLeg>) -> StepState {
    leg.map_or(StepState::Unspecified, StepLeg::state)
}

/// For example `waiting (attempt 2, in 3s)`.
fn leg(leg: Option<&StepLeg>) -> String {
    let Some(leg) = leg else {
        return String::new();
    };
    let state = match leg.state() {
        StepState::Idle => return "-".to_owned(),
        StepState::Done => return "done".to_owned(),
        StepState::Skipped => return "skipped".to_owned(),
        StepState::Unspecified
        | StepState::Running
        | StepState::Waiting
        | StepState::Probing
        | StepState::Unknown
        | StepState::Failed => json::saga::step_state(leg.state),
    };
    let mut details = Vec::new();
    if leg.attempt > 0 {
        details.push(format!("attempt {}", leg.attempt));
    }
    if leg.time.is_some() {
        details.push(moment::relative(leg.time.as_ref()));
    }
    if details.is_empty() {
        state
    } else {
        format!("{state} ({})", details.join(", "))
    }
}

fn definition(saga: &Saga) -> String {
    if saga.definition_name.is_empty() {
        "inline".to_owned()
    } else {
        format!("{}@{}", saga.definition_name, saga.definition_version)
    }
}

/// The state, with what was asked for and has not happened yet.
fn state(saga: &Saga) -> String {
    let mut text = json::saga::state(saga.state);
    let backward = saga.direction() == Direction::Backward;
    if backward && matches!(saga.state(), SagaState::Paused | SagaState::Stuck) {
        text.push_str(" going backward");
    }
    if saga.cancel_requested {
        text.push_str(", cancel asked");
    }
    if saga.pause_requested {
        text.push_str(", pause asked");
    }
    text
}

fn at(saga: &Saga) -> String {
    match saga.current_attempt {
        _ if saga.current_step.is_empty() => String::new(),
        0 => saga.current_step.clone(),
        attempt => format!("{} (attempt {attempt})", saga.current_step),
    }
}

/// What a person can do, where one is needed.
fn advice(saga: &Saga) -> Option<String> {
    let id = &saga.id;
    match saga.state() {
        SagaState::Stuck => Some(format!(
            "a person is needed: `steadfast saga retry {id} --reason TEXT` runs step {step} again, `saga skip` counts it as \
             done, `saga abandon` gives up",
            step = saga.current_step
        )),
        SagaState::Paused => Some(format!(
            "`steadfast saga resume {id} --reason TEXT` lets it go on"
        )),
        SagaState::Unspecified
        | SagaState::Pending
        | SagaState::Running
        | SagaState::Compensating
        | SagaState::Completed
        | SagaState::Compensated
        | SagaState::Abandoned => None,
    }
}

/// The answer to a verb, or the end of a timeline.
pub(super) fn one_line(saga: &Saga) -> String {
    let mut text = format!("saga {} is {}", saga.id, state(saga));
    let at = at(saga);
    if !at.is_empty() {
        text.push_str(&format!(", at step {at}"));
    }
    let took = moment::between(saga.start_time.as_ref(), saga.end_time.as_ref());
    if !took.is_empty() {
        text.push_str(&format!(" after {took}"));
    }
    if !saga.outcome_reason.is_empty() {
        text.push_str(&format!(": {}", table::clean(&saga.outcome_reason)));
    }
    if let Some(advice) = advice(saga) {
        text.push_str(&format!("\n{advice}"));
    }
    text
}

pub(super) fn events(events: &[SagaEvent]) -> String {
    if events.is_empty() {
        return "no events".to_owned();
    }
    let start = events.first().and_then(|event| event.time);
    let lines: Vec<_> = events
        .iter()
        .map(|event| format!("{:>5}  {}", event.seq, line(event, start.as_ref())))
        .collect();
    lines.join("\n")
}

/// One event: when, in which direction, which step, what.
pub(super) fn line(event: &SagaEvent, start: Option<&Timestamp>) -> String {
    let arrow = match event.direction() {
        _ if event.step.is_empty() => "●",
        Direction::Backward => "←",
        Direction::Forward | Direction::Unspecified => "→",
    };
    let passed = moment::between(start, event.time.as_ref());
    let mut text = format!("{:>9}  {arrow} ", format!("+{passed}"));
    if !event.step.is_empty() {
        text.push_str(&format!("{}: ", table::clean(&event.step)));
    }
    text.push_str(&words(event));
    // What began with the saga needs no name but on its first line; whoever steers gives a reason.
    if !event.reason.is_empty() {
        let (actor, reason) = (table::clean(&event.actor), table::clean(&event.reason));
        match json::saga::verb(event.verb).as_str() {
            "" => text.push_str(&format!(" by {actor} ({reason})")),
            verb => text.push_str(&format!("; {verb} by {actor} ({reason})")),
        }
    } else if event.kind() == SagaEventKind::Created && !event.actor.is_empty() {
        text.push_str(&format!(" by {}", table::clean(&event.actor)));
    }
    text
}

fn words(event: &SagaEvent) -> String {
    use SagaEventKind as K;
    let detail: Value = serde_json::from_str(&event.detail_json).unwrap_or_default();
    let of = |name: &str| match &detail[name] {
        Value::String(text) => table::clean(text),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let with = |what: &str, more: String| {
        if more.is_empty() {
            what.to_owned()
        } else {
            format!("{what}: {more}")
        }
    };
    let undo = event.direction() == Direction::Backward;
    let attempt = match event.attempt {
        0 | 1 => String::new(),
        attempt => format!(" (attempt {attempt})"),
    };
    match event.kind() {
        K::StepStarted if undo => format!("undo started{attempt}"),
        K::StepStarted => format!("started{attempt}"),
        K::StepDone if undo => "undone".to_owned(),
        K::StepDone => "done".to_owned(),
        K::StepFailed => {
            let code = of("code");
            let more = match (code.as_str(), of("message")) {
                ("", message) => message,
                (_, message) if message.is_empty() => code,
                (_, message) => format!("{code} {message}"),
            };
            let what = if undo { "undo failed" } else { "failed" };
            with(&format!("{what}{attempt}"), more)
        }
        K::StepUnknown => with(&format!("outcome unknown{attempt}"), of("message")),
        K::StepSkipped => "skipped".to_owned(),
        K::StepRetried => "to run again".to_owned(),
        K::Probed => with("probed", of("found").replace('_', " ")),
        K::Compensating => with("rolls back", of("reason")),
        K::CancelRequested => "cancel asked".to_owned(),
        K::CancelDropped => "cancel dropped: an irreversible step is done".to_owned(),
        K::DeadlinePassed => "deadline passed".to_owned(),
        K::PauseRequested => "pause asked".to_owned(),
        K::Stuck => with("stuck", of("reason")),
        K::Ended => match of("state").as_str() {
            "" => "ended".to_owned(),
            state => state.to_owned(),
        },
        K::Poisoned => "taken out of circulation: replicas were lost with it in hand".to_owned(),
        K::Steered => "changed nothing".to_owned(),
        K::Created | K::Started | K::Paused | K::Resumed => json::saga::event_kind(event.kind),
        K::Unspecified => "something that this program does not know".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::saga::v1::{ActionKind, ActionSummary, SagaVerb, StepSummary};

    use super::*;

    fn event(kind: SagaEventKind, step: &str, detail: &str) -> SagaEvent {
        SagaEvent {
            seq: 3,
            kind: kind.into(),
            step: step.to_owned(),
            direction: Direction::Forward.into(),
            attempt: 2,
            detail_json: detail.to_owned(),
            time: Some(Timestamp {
                seconds: 2,
                nanos: 0,
            }),
            ..SagaEvent::default()
        }
    }

    #[test]
    fn a_line_tells_when_where_and_what() {
        let start = Timestamp {
            seconds: 1,
            nanos: 0,
        };
        let failed = event(
            SagaEventKind::StepFailed,
            "droplet",
            r#"{"code":"HTTP_503","message":"try\nlater"}"#,
        );
        assert_eq!(
            line(&failed, Some(&start)),
            "   +1.00s  → droplet: failed (attempt 2): HTTP_503 try later"
        );
        let mut undone = event(SagaEventKind::StepDone, "droplet", "");
        undone.direction = Direction::Backward.into();
        assert!(line(&undone, Some(&start)).ends_with("← droplet: undone"));
        let mut ended = event(SagaEventKind::Ended, "", r#"{"state":"compensated"}"#);
        ended.actor = "ann".to_owned();
        ended.reason = "no longer\u{1b}[2J wanted".to_owned();
        assert!(
            line(&ended, Some(&start))
                .ends_with("● compensated by ann (no longer\u{fffd}[2J wanted)")
        );
        ended.verb = SagaVerb::Cancel.into();
        assert!(
            line(&ended, Some(&start))
                .ends_with("● compensated; cancel by ann (no longer\u{fffd}[2J wanted)")
        );
    }

    #[test]
    fn every_kind_has_words() {
        for kind in 0.. {
            let Ok(kind) = SagaEventKind::try_from(kind) else {
                assert!(kind > 10);
                break;
            };
            assert!(!words(&event(kind, "", "")).is_empty());
        }
    }

    #[test]
    fn a_stuck_saga_says_who_is_needed() {
        let saga = Saga {
            id: "0190".to_owned(),
            state: SagaState::Stuck.into(),
            direction: Direction::Backward.into(),
            current_step: "b".to_owned(),
            current_attempt: 5,
            outcome_reason: "step `b` could not be undone".to_owned(),
            ..Saga::default()
        };
        let step = SagaStep {
            index: 1,
            definition: Some(StepSummary {
                name: "b".to_owned(),
                action: Some(ActionSummary {
                    kind: ActionKind::Http.into(),
                    name: "PUT https://x".to_owned(),
                }),
                ..StepSummary::default()
            }),
            forward: Some(StepLeg {
                state: StepState::Done.into(),
                ..StepLeg::default()
            }),
            backward: Some(StepLeg {
                state: StepState::Failed.into(),
                attempt: 5,
                time: None,
            }),
            error_code: "HTTP_500".to_owned(),
            ..SagaStep::default()
        };
        let text = one(&saga, &[step], None);
        for part in [
            "stuck going backward",
            "b (attempt 5)",
            "saga retry 0190",
            "http PUT https://x",
            "failed (attempt 5)",
            "HTTP_500",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(one_line(&saga).contains("could not be undone\na person is needed"));
        assert!(list(&[saga], true).ends_with("1 saga; --limit shows more"));
    }
}
