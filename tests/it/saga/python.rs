//! Python's grpcio, by reflection alone: defines a saga, starts it, follows it to its end, and steers another one.

use serde_json::Value;
use steadfast_testkit::foreign::python_by_reflection;

use super::stage::Stage;
use crate::scene::Engine;

const CALLS: &str = r#"
def sagas(name):
    return method("steadfast.saga.v1.SagaService", name)

def step(name, action, **more):
    return {"name": name, "action": {"builtin": action}, "undo": {"builtin": {"name": "noop"}}, **more}

steps = [
    step("greet", {"name": "noop", "input": {"text": "hello {{ inputs.name }}"}}),
    step("repeat", {"name": "noop", "input": "{{ steps.greet.output.text }}"}),
]
definition = {"name": "greeting", "version": 1, "steps": steps}
told = {"defined": plain(sagas("CreateSagaDefinition")(definitionJson=json.dumps(definition)))["definition"]["version"]}
start = {"definition": {"name": "greeting"}, "inputsJson": json.dumps({"name": "you"}), "triggeredBy": "python", "requestId": "py"}
saga = plain(sagas("StartSaga")(**start))["saga"]
told["messages"] = [plain(message) for message in sagas("WatchSaga")(id=saga["id"])]
told["steps"] = plain(sagas("ListSagaSteps")(id=saga["id"]))["steps"]
told["replayed"] = plain(sagas("StartSaga")(**start))["replayed"]

stops = [step("stops", {"name": "fail"}, on_failure="stop", retry={"attempts": 1})]
stuck = plain(sagas("StartSaga")(stepsJson=json.dumps(stops)))["saga"]
for message in sagas("WatchSaga")(id=stuck["id"]):
    if plain(message).get("event", {}).get("kind") == "SAGA_EVENT_KIND_STUCK":
        break
stuck = plain(sagas("GetSaga")(id=stuck["id"]))["saga"]
seen = {"controlVersion": stuck.get("controlVersion", "0"), "step": stuck["currentStep"], "attempt": stuck["currentAttempt"]}
who = {"id": stuck["id"], "actor": "python", "reason": "a test"}
try:
    sagas("CancelSaga")(**who)
except grpc.RpcError as error:
    told["refused"] = error.code().name
told["skipped"] = plain(sagas("SkipStep")(**who, seen=seen, outputJson='"by hand"'))["saga"]
told["events"] = plain(sagas("ListSagaEvents")(id=stuck["id"]))["events"]
print(json.dumps(told))
"#;

#[tokio::test]
async fn a_saga_is_started_and_followed_by_reflection_alone() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let output = python_by_reflection(CALLS, stage.server.grpc_address()).await;
        let told: Value = output.json();
        assert_eq!(told["defined"], 1);
        let messages = told["messages"].as_array().expect("a list");
        assert!(messages[0]["opened"].is_object(), "{told}");
        let kinds: Vec<_> = messages[1..messages.len() - 1]
            .iter()
            .map(|message| message["event"]["kind"].as_str().expect("a kind"))
            .map(|kind| kind.trim_start_matches("SAGA_EVENT_KIND_"))
            .collect();
        let expected = [
            "CREATED",
            "STARTED",
            "STEP_STARTED",
            "STEP_DONE",
            "STEP_STARTED",
            "STEP_DONE",
            "ENDED",
        ];
        assert_eq!(kinds, expected, "{engine:?}");
        let ended = &messages[messages.len() - 1]["ended"];
        assert_eq!(ended["state"], "SAGA_STATE_COMPLETED");
        assert_eq!(told["steps"][1]["outputJson"], r#""hello you""#);
        assert_eq!(told["replayed"], true);
        assert_eq!(told["refused"], "FAILED_PRECONDITION");
        assert_eq!(told["skipped"]["state"], "SAGA_STATE_COMPLETED", "{told}");
        let events = told["events"].as_array().expect("a list");
        let skipped = events
            .iter()
            .find(|event| event["kind"] == "SAGA_EVENT_KIND_STEP_SKIPPED");
        let skipped = skipped.expect("it is recorded");
        assert_eq!(
            (&skipped["verb"], &skipped["actor"]),
            (&"SAGA_VERB_SKIP".into(), &"python".into())
        );
    }
}
