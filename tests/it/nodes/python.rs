//! A node in Python, a process of its own with the stock grpcio: `complete` is held against its dictionary.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_testkit::foreign::python_by_reflection;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::stage::{PATIENCE, Stage, publish, wait, watchers};
use crate::scene::Engine;

const NODE: &str = r#"
import socket, threading, uuid

NAMES = {"id": "python", "incarnation": str(uuid.uuid4())}
nodes, cache, reported = "steadfast.watch.v1.NodeService", {}, threading.Event()
stream = method("steadfast.watch.v1.WatchService", "Watch")(node={**NAMES, "labels": {"language": "python"}}, filters=[{"topic": "app/*"}])
opened = plain(next(stream))["opened"]

def report(cursor):
    method(nodes, "ReportApplied")(node=NAMES["id"], incarnation=NAMES["incarnation"], cursor=cursor)

def follow():
    for message in stream:
        event = plain(message)
        if "batch" in event:
            for change in event["batch"].get("changes", []):
                cache[change["key"]] = change.get("etag", "")
            report(event["batch"]["cursor"])

report(opened["head"])
threading.Thread(target=follow, daemon=True).start()
control = socket.create_connection(("127.0.0.1", PORT)).makefile("rw")
control.write("ready\n")
control.flush()
for line in control:
    if line == "end\n":
        break
    control.write(json.dumps(cache) + "\n")
    control.flush()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn complete_means_that_a_process_of_another_language_has_it() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, Duration::from_secs(60)).await;
        let control = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = control.local_addr().expect("it is bound").port();
        let program = NODE.replace("PORT", &port.to_string());
        let python = python_by_reflection(&program, stage.servers[0].grpc_address());
        let driving = async {
            let (node, _) = control.accept().await.expect("the node connects");
            let (answers, mut asks) = node.into_split();
            let mut answers = BufReader::new(answers).lines();
            let ready = answers.next_line().await.expect("a line");
            assert_eq!(ready.as_deref(), Some("ready"));
            for round in 0..10 {
                let value = round.to_string();
                let cursor = publish(stage.connection(round), "thing", &value).await;
                let waited = wait(stage.connection(round + 1), &cursor, PATIENCE).await;
                asks.write_all(b"get\n").await.expect("it listens");
                let cache = answers.next_line().await.expect("a line");
                let cache: Value = serde_json::from_str(&cache.expect("it goes on")).expect("JSON");
                assert_eq!(cache, json!({ "thing": value }));
                assert!(waited.complete, "{waited:?}");
                assert_eq!(watchers(&waited.applied), ["python"]);
            }
            asks.write_all(b"end\n").await.expect("it listens");
        };
        let (output, ()) = tokio::join!(python, driving);
        let _ = output.success();
    }
}
