//! Sagas as messages.

use serde_json::Value;
use steadfast_api::saga::v1 as api;
use steadfast_saga::{
    Action, Direction, Leg, OnFailure, OnUnknown, SagaEventView, SagaView, State, Step,
    StoredDefinition, Undo,
};

use crate::grpc::admin::time_message as time;

/// A saga, whole.
pub(super) fn saga(view: &SagaView) -> api::Saga {
    api::Saga {
        inputs_json: view.inputs.clone(),
        context_json: view.context.clone(),
        ..summary(view)
    }
}

/// A saga without its documents.
pub(super) fn summary(view: &SagaView) -> api::Saga {
    let saga = &view.saga;
    let current = saga.at.filter(|_| !saga.state.has_ended());
    let counts_as_done = |leg: &Leg| matches!(leg, Leg::Done | Leg::Skipped);
    let steps_done = saga
        .steps
        .iter()
        .filter(|step| counts_as_done(&step.forward) && !counts_as_done(&step.backward));
    api::Saga {
        id: view.id.clone(),
        definition_name: view.definition_name.clone(),
        definition_version: view.definition_version,
        kind: view.kind.clone(),
        deployment_id: view.deployment_id.clone(),
        triggered_by: view.triggered_by.clone(),
        inputs_json: String::new(),
        context_json: String::new(),
        labels: view.labels.clone().into_iter().collect(),
        priority: view.priority,
        concurrency_key: view.concurrency_key.clone().unwrap_or_default(),
        deadline: view.deadline.map(time),
        state: state(saga.state).into(),
        direction: direction(saga.direction).into(),
        outcome_reason: saga.reason.clone(),
        cancel_requested: saga.cancel_requested,
        pause_requested: saga.pause_requested,
        current_step: current
            .and_then(|at| view.steps.get(at))
            .map_or_else(String::new, |step| step.name.clone()),
        current_attempt: current
            .and_then(|at| saga.steps.get(at))
            .map_or(0, |step| number(step.attempt(saga.direction))),
        control_version: i64::try_from(saga.control_version).unwrap_or(i64::MAX),
        transitions: view.version,
        step_count: number(view.steps.len()),
        steps_done: number(steps_done.count()),
        create_time: Some(time(view.create_time)),
        start_time: view.start_time.map(time),
        end_time: view.end_time.map(time),
        wake_time: view.wake_time.map(time),
        owner: view.owner.clone().unwrap_or_default(),
        etag: format!("{}/{}", state_name(saga.state), view.version),
    }
}

/// One step of a saga.
pub(super) fn step(view: &SagaView, index: usize, output: Option<&Value>) -> api::SagaStep {
    let (step, state) = (&view.steps[index], view.saga.steps.get(index));
    let error = state.and_then(|state| state.error.clone());
    let (error_code, error_message) = error.unwrap_or_default();
    let idle = Leg::default();
    api::SagaStep {
        index: number(index),
        definition: Some(step_summary(step)),
        step_json: json(step),
        forward: Some(leg(state.map_or(&idle, |state| &state.forward))),
        backward: Some(leg(state.map_or(&idle, |state| &state.backward))),
        output_json: output.map_or_else(String::new, Value::to_string),
        error_code,
        error_message,
        uncertain_until_time: state.and_then(|state| state.uncertain_until).map(time),
    }
}

/// One event.
pub(super) fn event(view: &SagaEventView) -> api::SagaEvent {
    api::SagaEvent {
        seq: view.seq,
        time: Some(time(view.time)),
        kind: event_kind(&view.kind).into(),
        step: view.step.clone().unwrap_or_default(),
        direction: view
            .direction
            .map_or(api::Direction::Unspecified, direction)
            .into(),
        attempt: number(view.attempt),
        actor: view.actor.clone(),
        reason: view.reason.clone(),
        verb: verb(&view.verb).into(),
        detail_json: match &view.detail {
            Value::Null => String::new(),
            Value::Object(members) if members.is_empty() => String::new(),
            detail => detail.to_string(),
        },
    }
}

/// The kind, from the name that is stored.
pub(super) fn event_kind(name: &str) -> api::SagaEventKind {
    let name = format!("SAGA_EVENT_KIND_{}", name.to_ascii_uppercase());
    api::SagaEventKind::from_str_name(&name).unwrap_or(api::SagaEventKind::Unspecified)
}

/// The verb, from the name that is stored.
fn verb(name: &str) -> api::SagaVerb {
    let name = format!("SAGA_VERB_{}", name.to_ascii_uppercase());
    api::SagaVerb::from_str_name(&name).unwrap_or(api::SagaVerb::Unspecified)
}

/// A stored definition.
pub(super) fn definition(stored: &StoredDefinition) -> api::SagaDefinition {
    api::SagaDefinition {
        name: stored.definition.name.clone(),
        version: stored.definition.version,
        definition_json: stored.document.clone(),
        steps: stored.definition.steps.iter().map(step_summary).collect(),
        hash: stored.hash.clone(),
        create_time: Some(time(stored.create_time)),
    }
}

/// The state that a filter names.
pub(super) fn state_of(state: api::SagaState) -> Option<State> {
    Some(match state {
        api::SagaState::Unspecified => return None,
        api::SagaState::Pending => State::Pending,
        api::SagaState::Running => State::Running,
        api::SagaState::Paused => State::Paused,
        api::SagaState::Compensating => State::Compensating,
        api::SagaState::Completed => State::Completed,
        api::SagaState::Compensated => State::Compensated,
        api::SagaState::Stuck => State::Stuck,
        api::SagaState::Abandoned => State::Abandoned,
    })
}

fn state(state: State) -> api::SagaState {
    match state {
        State::Pending => api::SagaState::Pending,
        State::Running => api::SagaState::Running,
        State::Paused => api::SagaState::Paused,
        State::Compensating => api::SagaState::Compensating,
        State::Completed => api::SagaState::Completed,
        State::Compensated => api::SagaState::Compensated,
        State::Stuck => api::SagaState::Stuck,
        State::Abandoned => api::SagaState::Abandoned,
    }
}

/// As the change log has it.
fn state_name(of: State) -> String {
    state(of)
        .as_str_name()
        .trim_start_matches("SAGA_STATE_")
        .to_ascii_lowercase()
}

fn direction(direction: Direction) -> api::Direction {
    match direction {
        Direction::Forward => api::Direction::Forward,
        Direction::Backward => api::Direction::Backward,
    }
}

fn leg(leg: &Leg) -> api::StepLeg {
    use api::StepState as S;
    let (state, attempt, at) = match *leg {
        Leg::Idle => (S::Idle, 0, None),
        Leg::Running { attempt, deadline } => (S::Running, attempt, Some(deadline)),
        Leg::Waiting { attempt, until } => (S::Waiting, attempt, Some(until)),
        Leg::Probing {
            attempt,
            not_before,
            ..
        } => (S::Probing, attempt, Some(not_before)),
        Leg::Unknown { attempt } => (S::Unknown, attempt, None),
        Leg::Done => (S::Done, 0, None),
        Leg::Skipped => (S::Skipped, 0, None),
        Leg::Failed { attempt } => (S::Failed, attempt, None),
    };
    api::StepLeg {
        state: state.into(),
        attempt: number(attempt),
        time: at.map(time),
    }
}

fn step_summary(step: &Step) -> api::StepSummary {
    let running_ms = step.timeouts.running_ms;
    api::StepSummary {
        name: step.name.clone(),
        action: Some(action(&step.action)),
        undo: match &step.undo {
            Undo::None => None,
            Undo::By(undo) => Some(action(undo)),
        },
        optional: step.optional,
        irreversible: step.irreversible,
        undo_blocks_late: step.undo_blocks_late,
        on_failure: match step.on_failure {
            OnFailure::Compensate => api::OnFailure::Compensate,
            OnFailure::Stop => api::OnFailure::Stop,
        }
        .into(),
        on_unknown: match step.on_unknown {
            OnUnknown::Retry => api::OnUnknown::Retry,
            OnUnknown::Reconcile => api::OnUnknown::Reconcile,
            OnUnknown::Stop => api::OnUnknown::Stop,
        }
        .into(),
        max_attempts: number(step.retry.attempts),
        running_timeout: Some(prost_types::Duration {
            seconds: i64::try_from(running_ms / 1_000).unwrap_or(i64::MAX),
            nanos: number(running_ms % 1_000) * 1_000_000,
        }),
    }
}

fn action(action: &Action) -> api::ActionSummary {
    let (kind, name) = match action {
        Action::Task { task_type, .. } => (api::ActionKind::Task, task_type.clone()),
        Action::Http(http) => (
            api::ActionKind::Http,
            format!("{} {}", http.method, http.url),
        ),
        Action::Wait(wait) => (api::ActionKind::Wait, format!("{} ms", wait.duration_ms)),
        Action::Builtin { name, .. } => (api::ActionKind::Builtin, name.clone()),
    };
    api::ActionSummary {
        kind: kind.into(),
        name,
    }
}

fn json(step: &Step) -> String {
    serde_json::to_string(step).unwrap_or_else(|error| {
        tracing::error!(step = step.name, %error, "a step cannot be written as JSON");
        String::new()
    })
}

/// Counts are far below the limit of the contract's numbers.
fn number<N: TryInto<i32>>(count: N) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use steadfast_saga::{Record, Verb};

    use super::*;

    #[test]
    fn every_record_has_a_kind() {
        let (step, direction, attempt) = (0, Direction::Forward, 1);
        let text = String::new;
        for record in [
            Record::Started,
            Record::StepStarted {
                step,
                direction,
                attempt,
            },
            Record::StepDone {
                step,
                direction,
                attempt,
            },
            Record::StepFailed {
                step,
                direction,
                attempt,
                code: text(),
                message: text(),
            },
            Record::StepUnknown {
                step,
                direction,
                attempt,
                message: text(),
            },
            Record::StepSkipped { step, direction },
            Record::StepRetried { step, direction },
            Record::Probed {
                step,
                direction,
                found: "done",
            },
            Record::Compensating { reason: text() },
            Record::CancelRequested,
            Record::CancelDropped,
            Record::DeadlinePassed,
            Record::PauseRequested,
            Record::Paused,
            Record::Resumed,
            Record::Poisoned,
            Record::Steered,
            Record::Stuck { reason: text() },
            Record::Ended {
                state: State::Completed,
            },
        ] {
            let stored = serde_json::to_value(&record).unwrap_or_default();
            let name = stored["type"].as_str().unwrap_or_default();
            assert_ne!(
                event_kind(name),
                api::SagaEventKind::Unspecified,
                "{record:?}"
            );
        }
        assert_eq!(event_kind("created"), api::SagaEventKind::Created);
        assert_eq!(event_kind("sung"), api::SagaEventKind::Unspecified);
    }

    #[test]
    fn every_verb_has_a_name() {
        let seen = || steadfast_saga::machine::Seen {
            control_version: 0,
            step: 0,
            attempt: 0,
        };
        let skip = Verb::Skip {
            seen: seen(),
            output: Value::Null,
        };
        for (of, expected) in [
            (Verb::Cancel, api::SagaVerb::Cancel),
            (Verb::Pause, api::SagaVerb::Pause),
            (Verb::Resume, api::SagaVerb::Resume),
            (Verb::Retry(seen()), api::SagaVerb::Retry),
            (skip, api::SagaVerb::Skip),
            (Verb::Abandon(seen()), api::SagaVerb::Abandon),
        ] {
            assert_eq!(verb(of.name()), expected);
        }
        assert_eq!(verb(""), api::SagaVerb::Unspecified);
    }

    #[test]
    fn states_go_both_ways() {
        for number in 1..=8 {
            let Ok(wire) = api::SagaState::try_from(number) else {
                panic!("there are eight states");
            };
            assert_eq!(state_of(wire).map(state), Some(wire));
        }
        assert_eq!(state_of(api::SagaState::Unspecified), None);
        assert_eq!(state_name(State::Compensating), "compensating");
    }
}
