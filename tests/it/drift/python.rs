//! An agent in Python, by reflection alone: it reports what a provider runs, loses a page on the way, and sees its drifts.

use serde_json::{Value, json};
use steadfast_testkit::foreign::python;

use super::stage::Stage;
use crate::scene::Engine;

const AGENT: &str = r#"
import json, sys, time, grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
COUNT, PAGE = int(sys.argv[2]), 1000

def method(service, name):
    found = pool.FindServiceByName("steadfast.drift.v1." + service).FindMethodByName(name)
    request = message_factory.GetMessageClass(found.input_type)
    answer = message_factory.GetMessageClass(found.output_type)
    path = f"/steadfast.drift.v1.{service}/{name}"
    call = channel.unary_unary(path, request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
    return call, lambda fields: json_format.ParseDict(fields, request())

def ask(service, name, timeout=60, **fields):
    call, message = method(service, name)
    return json_format.MessageToDict(call(message(fields), timeout=timeout))

def key(number):
    return {"provider": "python", "type": "server", "id": f"{number:05}"}

record, message = method("ResourceService", "RecordResource")
waiting = []
for number in range(COUNT):
    spec = {"size": 1 + number % 4, "zone": f"zone-{number % 7}", "tags": ["a", "b"], "backups": number % 2 == 0}
    waiting.append(record.future(message({"key": key(number), "specJson": json.dumps(spec)}), timeout=60))
    if len(waiting) == 500:
        for future in waiting:
            future.result()
        waiting = []
for future in waiting:
    future.result()

# What the provider says: other shapes of the same, and in one of a thousand another size.
def live(number):
    size = 9 if number % 1000 == 7 else 1 + number % 4
    return {"size": str(size), "attrs": {"zone": f"zone-{number % 7}"}, "tags": ["b", "a"], "backups": str(number % 2 == 0).lower(), "uptime": number}

told = {"failures": 0, "first": 0}
inventory = ask("ResourceService", "BeginInventory", scope={"provider": "python"}, source="agent.py")["inventory"]
for page in range(0, COUNT, PAGE):
    observations = [{"key": key(number), "attributesJson": json.dumps(live(number))} for number in range(page, page + PAGE)]
    fails = page == 3 * PAGE
    while True:
        try:
            # The first answer of this page is not waited for: whether it was written, the agent cannot know.
            answer = ask("ResourceService", "ReportResources", timeout=0.002 if fails else 60, inventoryId=inventory["id"], observations=observations)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
            told["failures"] += 1
            fails = False
            continue
        outcomes = [result.get("outcome") for result in answer["results"]]
        assert len(outcomes) == PAGE and None not in outcomes, answer
        break
told["ended"] = ask("ResourceService", "EndInventory", id=inventory["id"], complete=True)["inventory"]

# The end of the inventory asked for a sweep: this joins it, or follows it.
while True:
    detected = ask("DriftService", "DetectDrift", waitTimeout="50s", triggeredBy="agent.py")
    if detected["sweep"]["state"] == "SWEEP_STATE_COMPLETED" and not detected.get("joined"):
        break
drifts = ask("DriftService", "ListDrifts", provider="python")["drifts"]
told["drifts"] = sorted([drift["key"]["id"], drift["path"], drift["expectedJson"], drift["actualJson"]] for drift in drifts)
told["in_sync"] = 0
token = ""
while True:
    page = ask("ResourceService", "ListResources", verdicts=["VERDICT_IN_SYNC"], pageSize=1000, pageToken=token)
    told["in_sync"] += len(page.get("resources", []))
    token = page.get("nextPageToken", "")
    if not token:
        break
print(json.dumps(told))
"#;

async fn agent_reports(engine: Engine, count: usize) {
    let stage = Stage::start(engine).await;
    let arguments = [stage.server.grpc_address(), &count.to_string()];
    let told: Value = python(AGENT, &arguments).await.json();
    assert_eq!(told["failures"], 1, "{told}");
    let ended = &told["ended"];
    assert_eq!(ended["state"], "INVENTORY_STATE_COMPLETE");
    assert_eq!(ended["missed"], Value::Null, "{ended}");
    let expected: Vec<_> = (7..count)
        .step_by(1_000)
        .map(|number| {
            let size = 1 + number % 4;
            json!([format!("{number:05}"), "/size", size.to_string(), "\"9\""])
        })
        .collect();
    assert_eq!(told["drifts"], json!(expected), "{engine:?}");
    assert_eq!(told["in_sync"], count - expected.len());
}

#[tokio::test]
async fn an_agent_reports_ten_thousand_resources_and_sees_its_drifts() {
    agent_reports(Engine::Postgres, 10_000).await;
}

#[tokio::test]
async fn an_agent_reports_to_the_embedded_database() {
    agent_reports(Engine::Sqlite, 4_000).await;
}
