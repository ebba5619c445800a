//! Python's grpcio, by reflection alone: defines a saga, starts it, follows it to its end, and steers another one.

use serde_json::Value;
use steadfast_testkit::foreign::python;

use super::stage::Stage;
use crate::scene::Engine;

const CALLS: &str = r#"
import json, sys, grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

def method(name, service="steadfast.saga.v1.SagaService"):
    found = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_factory.GetMessageClass(found.input_type)
    answer = message_factory.GetMessageClass(found.output_type)
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    call = make(f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
    return lambda **fields: call(json_format.ParseDict(fields, request()), timeout=20)

def plain(message):
    return json_format.MessageToDict(message)

def step(name, action, **more):
    return {"name": name, "action": {"builtin": action}, "undo": {"builtin": {"name": "noop"}}, **more}

steps = [
    step("greet", {"name": "noop", "input": {"text": "hello {{ inputs.name }}"}}),
    step("repeat", {"name": "noop", "input": "{{ steps.greet.output.text }}"}),
]
definition = {"name": "greeting", "version": 1, "steps": steps}
told = {"defined": plain(method("CreateSagaDefinition")(definitionJson=json.dumps(definition)))["definition"]["version"]}
start = {"definition": {"name": "greeting"}, "inputsJson": json.dumps({"name": "you"}), "triggeredBy": "python", "requestId": "py"}
saga = plain(method("StartSaga")(**start))["saga"]
told["messages"] = [plain(message) for message in method("WatchSaga")(id=saga["id"])]
told["steps"] = plain(method("ListSagaSteps")(id=saga["id"]))["steps"]
told["replayed"] = plain(method("StartSaga")(**start))["replayed"]

stops = [step("stops", {"name": "fail"}, on_failure="stop", retry={"attempts": 1})]
stuck = plain(method("StartSaga")(stepsJson=json.dumps(stops)))["saga"]
for message in method("WatchSaga")(id=stuck["id"]):
    if plain(message).get("event", {}).get("kind") == "SAGA_EVENT_KIND_STUCK":
        break
stuck = plain(method("GetSaga")(id=stuck["id"]))["saga"]
seen = {"controlVersion": stuck.get("controlVersion", "0"), "step": stuck["currentStep"], "attempt": stuck["currentAttempt"]}
who = {"id": stuck["id"], "actor": "python", "reason": "a test"}
try:
    method("CancelSaga")(**who)
except grpc.RpcError as error:
    told["refused"] = error.code().name
told["skipped"] = plain(method("SkipStep")(**who, seen=seen, outputJson='"by hand"'))["saga"]
told["events"] = plain(method("ListSagaEvents")(id=stuck["id"]))["events"]
print(json.dumps(told))
"#;

#[tokio::test]
async fn a_saga_is_started_and_followed_by_reflection_alone() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let told: Value = python(CALLS, &[stage.server.grpc_address()]).await.json();
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
