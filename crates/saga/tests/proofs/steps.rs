//! The sagas that are started, step by step, and what somebody who steers one has seen.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use steadfast_saga::{DefinitionRef, OnFailure, SagaView, StartSaga, Step, machine::Seen};

pub(crate) fn step(value: Value) -> Step {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn noop(name: &str) -> Step {
    step(json!({ "name": name, "action": { "builtin": { "name": "noop" } }, "undo": "none" }))
}

/// A step that acts on the world as told.
pub(crate) fn effect(name: &str, what: &str) -> Step {
    by("effect", name, what)
}

/// The same, by an action that is asked in vain what became of it.
pub(crate) fn blind(name: &str, what: &str) -> Step {
    by("blind", name, what)
}

/// The same, by an action that not every process has.
pub(crate) fn rare(name: &str, what: &str) -> Step {
    by("rare", name, what)
}

fn by(action: &str, name: &str, what: &str) -> Step {
    step(json!({
        "name": name,
        "action": { "builtin": { "name": action, "input": { "do": what } } },
        "undo": { "builtin": { "name": action, "input": { "was": "{{ output }}" } } },
        "retry": { "attempts": 3, "initial_backoff_ms": 1, "max_backoff_ms": 2 },
        "timeouts": { "running_ms": 1_000 },
    }))
}

/// A step that may be held in the middle of its call for as long as a test takes.
pub(crate) fn long(name: &str, what: &str) -> Step {
    let mut step = effect(name, what);
    step.timeouts.running_ms = 60_000;
    step
}

/// A step that fails, and leaves it to a person what follows.
pub(crate) fn stops(name: &str) -> Step {
    let mut step = effect(name, "fail");
    step.on_failure = OnFailure::Stop;
    step
}

pub(crate) fn wait(name: &str, duration_ms: u64) -> Step {
    step(json!({
        "name": name, "action": { "wait": { "duration_ms": duration_ms } }, "undo": "none",
    }))
}

pub(crate) fn start(steps: Vec<Step>) -> StartSaga {
    StartSaga {
        kind: "test".to_owned(),
        deployment_id: "d".to_owned(),
        triggered_by: "tester".to_owned(),
        definition: DefinitionRef::Inline(steps),
        inputs: json!({ "size": 3 }),
        context: Value::Null,
        labels: BTreeMap::new(),
        priority: 0,
        concurrency_key: None,
        deadline: None,
    }
}

/// What is to be seen of a saga: the step that it is at.
pub(crate) fn seen(view: &SagaView) -> Seen {
    let at = view.saga.at.unwrap();
    Seen {
        control_version: view.saga.control_version,
        step: at,
        attempt: view.saga.steps[at].attempt(view.saga.direction),
    }
}
