//! Definitions change while sagas are under way: each goes on with the steps that it was started with.

use serde_json::{Value, json};
use steadfast_client::api::saga::v1::{Direction, SagaEventKind, SagaState};
use uuid::Uuid;

use super::stage::{Stage, named};
use crate::scene::Engine;

fn echo(text: &str) -> Value {
    json!({ "builtin": { "name": "noop", "input": { "of": text } } })
}

/// Version 1: held at its second step; version 2 has other steps under the same names, and others.
fn versions(at_gate: &Value) -> [Value; 2] {
    let step = |name: &str, action: &Value| json!({ "name": name, "action": action, "undo": echo("undo") });
    let mut held = step("held", at_gate);
    held["retry"] = json!({ "initial_backoff_ms": 50, "max_backoff_ms": 100 });
    // The attempt of a server that is lost may have had its effect: its undo waits for its deadline, and then proves enough.
    held["timeouts"] = json!({ "running_ms": 3_000 });
    held["undo_blocks_late"] = json!(true);
    let last = |text: &str| step("last", &echo(text));
    [
        json!({ "name": "site", "version": 1, "steps": [step("first", &echo("one")), held, last("{{ steps.first.output.of }} of one")] }),
        json!({ "name": "site", "version": 2, "steps": [step("new", &echo("two")), last("{{ steps.new.output.of }} of two")] }),
    ]
}

#[tokio::test]
async fn sagas_of_an_older_version_go_on_with_their_own_steps() {
    for engine in Engine::BOTH {
        let mut stage = Stage::start(engine).await;
        let gates = [Uuid::new_v4().to_string(), Uuid::new_v4().to_string()];
        let at_gate = json!({ "http": { "method": "PUT", "url": format!("{}{{{{ inputs.gate }}}}", stage.gates.url("")) } });
        let [one, two] = versions(&at_gate);
        stage.define(&one).await.expect("it is stored");
        let mut old = Vec::new();
        for gate in &gates {
            let mut start = named("site", 0);
            start.inputs_json = json!({ "gate": gate }).to_string();
            old.push(stage.start_saga(start).await.expect("it starts"));
            stage.gates.asked(gate).await;
        }
        stage.define(&two).await.expect("it is stored");
        let new = stage.start_saga(named("site", 0)).await.expect("it starts");
        assert_eq!((new.definition_version, new.step_count), (2, 2));
        let new = stage.until_state(&new.id, SagaState::Completed).await;
        let outputs = async |stage: &Stage, id: &str| -> Vec<String> {
            let steps = stage.steps(id).await;
            steps.into_iter().map(|step| step.output_json).collect()
        };
        assert_eq!(
            outputs(&stage, &new.id).await,
            [r#"{"of":"two"}"#, r#"{"of":"two of two"}"#]
        );

        // One ends before the server is lost, the other one after it came back; one forward, one backward.
        stage.gates.open(&gates[0], 200);
        let ended = stage.until_state(&old[0].id, SagaState::Completed).await;
        assert_eq!((ended.definition_version, ended.step_count), (1, 3));
        stage.restart().await;
        stage.gates.open(&gates[1], 400);
        let ended = stage.until_state(&old[1].id, SagaState::Compensated).await;
        assert_eq!((ended.definition_version, ended.step_count), (1, 3));
        let last = |id: String| {
            let stage = &stage;
            async move { outputs(stage, &id).await.pop() }
        };
        assert_eq!(
            last(old[0].id.clone()).await.as_deref(),
            Some(r#"{"of":"one of one"}"#)
        );
        let events = stage.events(&old[1].id).await;
        let undone: Vec<_> = events
            .iter()
            .filter(|event| event.kind() == SagaEventKind::StepDone)
            .filter(|event| event.direction() == Direction::Backward)
            .map(|event| event.step.as_str())
            .collect();
        assert_eq!(undone.last(), Some(&"first"), "{undone:?}");

        // An older version can still be asked for by number, and the newest is the newest after a restart too.
        let mut start = named("site", 1);
        start.inputs_json = json!({ "gate": gates[0] }).to_string();
        let again = stage.start_saga(start).await.expect("it starts");
        assert_eq!(again.definition_version, 1);
        stage.until_state(&again.id, SagaState::Completed).await;
        let newest = stage.start_saga(named("site", 0)).await.expect("it starts");
        assert_eq!(newest.definition_version, 2);
    }
}
