//! Sagas as programs see them.

use serde_json::{Value, json};
use steadfast_client::api::saga::v1::{
    ActionKind, ActionSummary, Direction, OnFailure, OnUnknown, Saga, SagaDefinition, SagaEvent,
    SagaEventKind, SagaState, SagaStep, SagaVerb, StepLeg, StepState, StepSummary,
};

use super::{document, sorted};
use crate::moment::rfc3339;

pub(crate) fn state(value: i32) -> String {
    enum_name!(value, SagaState, "SAGA_STATE_")
}

pub(crate) fn direction(value: i32) -> String {
    enum_name!(value, Direction, "DIRECTION_")
}

pub(crate) fn step_state(value: i32) -> String {
    enum_name!(value, StepState, "STEP_STATE_")
}

pub(crate) fn event_kind(value: i32) -> String {
    enum_name!(value, SagaEventKind, "SAGA_EVENT_KIND_")
}

pub(crate) fn verb(value: i32) -> String {
    enum_name!(value, SagaVerb, "SAGA_VERB_")
}

pub(crate) fn action_kind(value: i32) -> String {
    enum_name!(value, ActionKind, "ACTION_KIND_")
}

pub(crate) fn saga(saga: &Saga) -> Value {
    json!({
        "id": saga.id,
        "definition_name": saga.definition_name,
        "definition_version": saga.definition_version,
        "kind": saga.kind,
        "deployment_id": saga.deployment_id,
        "triggered_by": saga.triggered_by,
        "inputs": document(&saga.inputs_json),
        "context": document(&saga.context_json),
        "labels": sorted(&saga.labels),
        "priority": saga.priority,
        "concurrency_key": saga.concurrency_key,
        "deadline": rfc3339(saga.deadline.as_ref()),
        "state": state(saga.state),
        "direction": direction(saga.direction),
        "outcome_reason": saga.outcome_reason,
        "cancel_requested": saga.cancel_requested,
        "pause_requested": saga.pause_requested,
        "current_step": saga.current_step,
        "current_attempt": saga.current_attempt,
        "control_version": saga.control_version,
        "transitions": saga.transitions,
        "step_count": saga.step_count,
        "steps_done": saga.steps_done,
        "create_time": rfc3339(saga.create_time.as_ref()),
        "start_time": rfc3339(saga.start_time.as_ref()),
        "end_time": rfc3339(saga.end_time.as_ref()),
        "wake_time": rfc3339(saga.wake_time.as_ref()),
        "owner": saga.owner,
        "etag": saga.etag,
    })
}

pub(crate) fn step(step: &SagaStep) -> Value {
    json!({
        "index": step.index,
        "name": step.definition.as_ref().map_or("", |summary| &summary.name),
        "definition": document(&step.step_json),
        "forward": leg(step.forward.as_ref()),
        "backward": leg(step.backward.as_ref()),
        "output": document(&step.output_json),
        "error_code": step.error_code,
        "error_message": step.error_message,
        "uncertain_until_time": rfc3339(step.uncertain_until_time.as_ref()),
    })
}

fn leg(leg: Option<&StepLeg>) -> Value {
    let Some(leg) = leg else {
        return Value::Null;
    };
    json!({
        "state": step_state(leg.state),
        "attempt": leg.attempt,
        "time": rfc3339(leg.time.as_ref()),
    })
}

pub(crate) fn event(event: &SagaEvent) -> Value {
    json!({
        "seq": event.seq,
        "time": rfc3339(event.time.as_ref()),
        "kind": event_kind(event.kind),
        "step": event.step,
        "direction": direction(event.direction),
        "attempt": event.attempt,
        "actor": event.actor,
        "reason": event.reason,
        "verb": verb(event.verb),
        "detail": document(&event.detail_json),
    })
}

pub(crate) fn definition(definition: &SagaDefinition) -> Value {
    let steps: Vec<_> = definition.steps.iter().map(step_summary).collect();
    json!({
        "name": definition.name,
        "version": definition.version,
        "hash": definition.hash,
        "create_time": rfc3339(definition.create_time.as_ref()),
        "steps": steps,
        "definition": document(&definition.definition_json),
    })
}

fn step_summary(step: &StepSummary) -> Value {
    json!({
        "name": step.name,
        "action": action(step.action.as_ref()),
        "undo": action(step.undo.as_ref()),
        "optional": step.optional,
        "irreversible": step.irreversible,
        "undo_blocks_late": step.undo_blocks_late,
        "on_failure": enum_name!(step.on_failure, OnFailure, "ON_FAILURE_"),
        "on_unknown": enum_name!(step.on_unknown, OnUnknown, "ON_UNKNOWN_"),
        "max_attempts": step.max_attempts,
    })
}

fn action(action: Option<&ActionSummary>) -> Value {
    action.map_or(
        Value::Null,
        |action| json!({ "kind": action_kind(action.kind), "name": action.name }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_as_documents() {
        let told = saga(&Saga {
            inputs_json: r#"{"b":1,"a":[2]}"#.to_owned(),
            state: SagaState::Stuck.into(),
            ..Saga::default()
        });
        assert_eq!(told["inputs"].to_string(), r#"{"b":1,"a":[2]}"#);
        assert_eq!(told["context"], Value::Null);
        assert_eq!(told["state"], "stuck");
        let told = step(&SagaStep {
            output_json: "null".to_owned(),
            backward: Some(StepLeg {
                state: StepState::Probing.into(),
                ..StepLeg::default()
            }),
            ..SagaStep::default()
        });
        assert_eq!(told["backward"]["state"], "probing");
        assert_eq!(told["forward"], Value::Null);
    }

    #[test]
    fn kinds_lose_their_prefix() {
        assert_eq!(event_kind(SagaEventKind::StepDone.into()), "step_done");
        assert_eq!(direction(Direction::Backward.into()), "backward");
        assert_eq!(action_kind(0), "");
    }
}
