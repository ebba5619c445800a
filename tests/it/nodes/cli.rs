//! `nodes`, `publish --wait` and `watch --report`, as a person and as a script use them.

use std::time::Duration;

use serde_json::Value;

use super::stage::{Stage, node, open};
use crate::{
    scene::{Engine, eventually},
    watch::next,
};

/// Exits so if somebody lags.
const LAGGING: i32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn publish_waits_until_every_node_has_it_or_names_who_has_not() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, Duration::from_secs(60)).await;
        let server = &stage.servers[0];
        let arguments = [
            "watch", "--node", "follower", "--report", "--label", "zone=b",
        ];
        let mut follower = server.cli_running(&arguments);
        let listed = eventually("the follower to be there", async || {
            let listed = server.cli(&["nodes", "list", "-o", "json"]).await.json();
            let nodes = listed["nodes"].as_array().expect("a list").clone();
            nodes.into_iter().find(|node| node["node"] == "follower")
        })
        .await;
        assert_eq!(listed["labels"]["zone"], "b");
        assert_eq!(
            (&listed["kind"], &listed["state"]),
            (&"watcher".into(), &"connected".into())
        );

        let output = server.cli(&["publish", "app/x", "k", "--wait"]).await;
        let count = stage.servers.len() + 1;
        let expected = format!("published as revision 1\nrevision 1 is applied by {count} nodes\n");
        assert_eq!(output.success(), expected);
        assert_eq!(
            follower.next_line().await.as_deref(),
            Some("1  upsert  app/x  k")
        );

        // One that never says anything.
        let mut silent = open(stage.connection(1), &node("silent", "1")).await;
        next(&mut silent).await.expect("it is open");
        let wait = ["publish", "app/x", "k", "--wait", "--wait-timeout", "500ms"];
        let output = server.cli(&wait).await;
        let told = output.failure(LAGGING);
        assert!(
            told.contains("revision 2 was not applied by 1 node: silent (connected)"),
            "{told}"
        );
        assert!(
            output.stdout.starts_with("published as revision 2\n"),
            "{}",
            output.stdout
        );
        assert!(output.stdout.contains("silent"), "{}", output.stdout);
        let output = server.cli(&[&wait[..], &["-o", "json"]].concat()).await;
        let _ = output.failure(LAGGING);
        let told: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(
            (&told["revision"], &told["complete"]),
            (&3.into(), &false.into())
        );
        assert_eq!(told["lagging_count"], 1);
        assert_eq!(told["lagging"][0]["node"], "silent");
        assert_eq!(told["lagging"][0]["applied_revision"], Value::Null);
        assert_eq!(told["applied_count"], count);

        let wait = async |more: &[&str]| {
            let arguments = [&["nodes", "wait"], more].concat();
            server.cli(&arguments).await
        };
        let one = wait(&["--node", "follower"]).await;
        assert_eq!(one.success(), "revision 3 is applied by 1 node\n");
        let earlier = wait(&["--node", "follower", "--revision", "2"]).await;
        assert_eq!(earlier.success(), "revision 2 is applied by 1 node\n");
        let cursor = told["cursor"].as_str().expect("a cursor");
        let by_cursor = wait(&["--node", "follower", "--cursor", cursor, "-o", "json"]).await;
        assert_eq!(by_cursor.json()["complete"], true);
        let unknown = wait(&["--node", "nobody", "--timeout", "100ms"]).await;
        assert!(unknown.failure(LAGGING).contains("nobody (unknown)"));
        let all = wait(&["--timeout", "100ms"]).await;
        assert!(all.failure(LAGGING).contains("silent (connected)"));
        let ahead = wait(&["--revision", "99"]).await;
        assert!(ahead.failure(1).contains("the newest is 3"));
        let table = server.cli(&["nodes", "list"]).await;
        let shown = table.success();
        for part in ["NODE", "follower", "zone=b", "silent", "never", "replica"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
