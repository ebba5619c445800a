//! An agent in Python, with the stubs that the stock generator makes of the contract: it reports what a provider runs, loses the answer
//! to a page on the way, and sees its drifts.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_client::api::drift::v1::{InventoryState, ListInventoriesRequest};
use steadfast_testkit::{
    foreign::python_with_stubs,
    proxy::{Proxy, Target},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::stage::Stage;
use crate::scene::{Engine, eventually};

const AGENT: &str = r#"
import json, socket, grpc
from steadfast.drift.v1 import drift_pb2 as drift, drift_pb2_grpc, resource_pb2 as resource, resource_pb2_grpc
from google.protobuf.duration_pb2 import Duration

channel = grpc.insecure_channel(sys.argv[1])
COUNT, PAGE, LOST = int(sys.argv[2]), 1000, 3
resources = resource_pb2_grpc.ResourceServiceStub(channel)
drifts = drift_pb2_grpc.DriftServiceStub(channel)

def key(number):
    return resource.ResourceKey(provider="python", type="server", id=f"{number:05}")

waiting = []
for number in range(COUNT):
    spec = {"size": 1 + number % 4, "zone": f"zone-{number % 7}", "tags": ["a", "b"], "backups": number % 2 == 0}
    request = resource.RecordResourceRequest(key=key(number), spec_json=json.dumps(spec), recorded_by="agent.py")
    waiting.append(resources.RecordResource.future(request, timeout=60))
    if len(waiting) == 500:
        for future in waiting:
            future.result()
        waiting = []
for future in waiting:
    future.result()

# What the provider says: other shapes of the same, and in one of a thousand another size.
def live(number):
    size = 9 if number % 1000 == 7 else 1 + number % 4
    there = {"size": str(size), "attrs": {"zone": f"zone-{number % 7}"}, "tags": ["b", "a"], "backups": str(number % 2 == 0).lower()}
    return resource.Observation(key=key(number), attributes_json=json.dumps(there))

told = {"failures": [], "outcomes": {}}
scope = resource.InventoryScope(provider="python")
inventory = resources.BeginInventory(resource.BeginInventoryRequest(scope=scope, source="agent.py"), timeout=60).inventory
for page in range(0, COUNT, PAGE):
    if page == LOST * PAGE:
        # The test stands between this agent and the server, and waits for this.
        control = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
        control.sendall(b"next")
        assert control.recv(2) == b"go"
    request = resource.ReportResourcesRequest(inventory_id=inventory.id, observations=[live(number) for number in range(page, page + PAGE)])
    while True:
        try:
            # After a failure there may be no connection for a moment.
            answer = resources.ReportResources(request, timeout=60, wait_for_ready=True)
            break
        except grpc.RpcError as error:
            told["failures"].append([page // PAGE, error.code().name])
    names = [resource.ReportOutcome.Name(result.outcome) for result in answer.results]
    assert len(names) == PAGE and all(result.WhichOneof("result") == "outcome" for result in answer.results)
    for name in names:
        told["outcomes"][name] = told["outcomes"].get(name, 0) + 1
ended = resources.EndInventory(resource.EndInventoryRequest(id=inventory.id, complete=True), timeout=60).inventory
told["ended"] = {"state": resource.InventoryState.Name(ended.state), "missed": ended.missed, "reported": ended.reported, "changed": ended.changed}

# The end of the inventory asked for a sweep: this joins it, or follows it.
while True:
    detected = drifts.DetectDrift(drift.DetectDriftRequest(wait_timeout=Duration(seconds=50), triggered_by="agent.py"), timeout=60)
    if detected.sweep.state == drift.SWEEP_STATE_COMPLETED and not detected.joined:
        break
found = drifts.ListDrifts(drift.ListDriftsRequest(provider="python"), timeout=60).drifts
told["drifts"] = sorted([one.key.id, one.path, one.expected_json, one.actual_json, drift.DriftKind.Name(one.kind)] for one in found)
told["in_sync"], token = 0, ""
while True:
    page = resources.ListResources(resource.ListResourcesRequest(verdicts=[resource.VERDICT_IN_SYNC], page_size=1000, page_token=token), timeout=60)
    told["in_sync"] += len(page.resources)
    token = page.next_page_token
    if not token:
        break
print(json.dumps(told))
"#;

/// The stubs are made first.
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);

/// The page whose answer is lost.
const LOST: usize = 3;

/// Cuts the agent's connection once the server has written a page, whose answer it holds back.
async fn lose_an_answer(stage: &Stage, proxy: &Proxy, control: &TcpListener) {
    // One that could not even start never does.
    let accepted = timeout(CONNECTS_WITHIN, control.accept()).await;
    let (mut agent, _) = accepted.expect("in time").expect("the agent connects");
    let mut next = [0; 4];
    agent.read_exact(&mut next).await.expect("it says so");
    assert_eq!(&next, b"next");
    proxy.hold_answers();
    agent.write_all(b"go").await.expect("it waits for that");
    let written = i64::try_from((LOST + 1) * 1_000).expect("a small number");
    eventually("the page to be written", async || {
        let mut client = stage.connection.resources();
        let request = ListInventoriesRequest::default();
        let listed = stage.connection.call(client.list_inventories(request));
        let inventory = listed.await.expect("they are listed").inventories.remove(0);
        assert_eq!(inventory.state(), InventoryState::Running);
        (inventory.reported == written).then_some(())
    })
    .await;
    proxy.cut();
    proxy.resume();
}

async fn agent_reports(engine: Engine, count: usize) {
    let stage = Stage::start(engine).await;
    let server = stage.server.grpc_address().parse().expect("an address");
    let proxy = Proxy::start(Target::Tcp(server)).await;
    let control = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = control
        .local_addr()
        .expect("it is bound")
        .port()
        .to_string();
    let (address, count_text) = (proxy.address().to_string(), count.to_string());
    let arguments = [address.as_str(), &count_text, &port];
    let (output, ()) = tokio::join!(
        python_with_stubs(AGENT, &arguments),
        lose_an_answer(&stage, &proxy, &control)
    );
    let told: Value = output.json();
    // While its channel connects again it may be refused more than once.
    let failures = told["failures"].as_array().expect("a list");
    let lost = json!([LOST, "UNAVAILABLE"]);
    assert!(!failures.is_empty(), "{told}");
    assert!(failures.iter().all(|failure| *failure == lost), "{told}");
    // What was written and not answered is nothing new when it comes again.
    let (first, again) = (count - 1_000, 1_000);
    let outcomes = json!({ "REPORT_OUTCOME_FIRST": first, "REPORT_OUTCOME_UNCHANGED": again });
    assert_eq!(told["outcomes"], outcomes);
    let ended = json!({
        "state": "INVENTORY_STATE_COMPLETE", "missed": 0, "reported": count + again, "changed": count,
    });
    assert_eq!(told["ended"], ended, "{engine:?}");
    let expected: Vec<_> = (7..count)
        .step_by(1_000)
        .map(|number| {
            let size = (1 + number % 4).to_string();
            json!([
                format!("{number:05}"),
                "/size",
                size,
                "\"9\"",
                "DRIFT_KIND_CHANGED"
            ])
        })
        .collect();
    assert_eq!(told["drifts"], json!(expected), "{engine:?}");
    assert_eq!(told["in_sync"], count - expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reports_ten_thousand_resources_and_sees_its_drifts() {
    agent_reports(Engine::Postgres, 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reports_to_the_embedded_database() {
    agent_reports(Engine::Sqlite, 10_000).await;
}
