//! `start`, `start-many`, and what shows sagas: `watch`, `get`, `events` and `list`.

use serde_json::{Value, json};

use super::{
    super::{reach::Place, stage::Stage},
    GREETING, assert_tells,
};
use crate::scene::Engine;

#[tokio::test]
async fn a_saga_is_started_watched_and_shown() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.file("greeting.toml", GREETING);
        stage.saga(0, &["define", "greeting.toml"]).await;
        let start = [
            "start",
            "greeting",
            "--input",
            "name=you",
            "--label",
            "team=a",
            "--deployment",
            "d1",
        ];
        let more = |more: &[&'static str]| -> Vec<&'static str> {
            start.iter().chain(more).copied().collect()
        };
        let waited = stage
            .saga(0, &more(&["--wait", "--triggered-by", "tester"]))
            .await;
        assert_tells(
            &waited,
            &[
                "● created by tester",
                "● started",
                "→ greet: started",
                "→ greet: done",
                "● completed",
                "is completed after",
            ],
        );
        // Nobody is known to use this machine, and nobody is said to.
        let told = stage.saga_json(0, &more(&["--wait"])).await;
        assert_eq!(
            (
                &told["state"],
                &told["labels"]["team"],
                &told["triggered_by"]
            ),
            (&json!("completed"), &json!("a"), &json!(""))
        );
        let once = more(&["--request-id", "once"]);
        let started = stage.saga_json(0, &once).await;
        assert_eq!(
            (&started["replayed"], &started["request_id"]),
            (&json!(false), &json!("once"))
        );
        let id = started["saga"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(stage.saga_json(0, &once).await["replayed"], true);
        let reused = stage
            .saga(1, &more(&["--request-id", "once", "--priority", "3"]))
            .await;
        assert_tells(&reused, &["ALREADY_EXISTS REQUEST_ID_REUSED"]);
        assert_tells(
            &stage.saga(5, &["start", "nobody"]).await,
            &["NOT_FOUND DEFINITION_NOT_FOUND"],
        );
        stage.saga(2, &["start"]).await;

        let lines = stage.saga(0, &["watch", &id]).await;
        assert_tells(&lines, &["● created\n", "→ greet: done", "● completed"]);
        let lines = stage.saga(0, &["watch", &id, "-o", "json"]).await;
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let kinds: Vec<_> = lines[..lines.len() - 1]
            .iter()
            .map(|line| line["kind"].as_str().expect("a kind"))
            .collect();
        assert_eq!(
            kinds,
            ["created", "started", "step_started", "step_done", "ended"]
        );
        assert_eq!(lines[lines.len() - 1]["saga"]["state"], "completed");
        let last = lines[3]["seq"].to_string();
        let rest = stage
            .saga(0, &["watch", &id, "--after", &last, "-o", "json"])
            .await;
        assert_eq!(rest.lines().count(), 2, "{rest}");
        assert_tells(
            &stage.saga(5, &["watch", "nobody"]).await,
            &["SAGA_NOT_FOUND"],
        );

        assert_tells(
            &stage.saga(0, &["get", &id]).await,
            &[
                &id,
                "greeting@1",
                "team=a",
                "completed",
                "greet",
                "builtin noop",
                "done",
                r#"{"text":"hello you"}"#,
            ],
        );
        let told = stage.saga_json(0, &["get", &id]).await;
        assert_eq!(
            (&told["saga"]["inputs"], &told["steered"]),
            (&json!({ "name": "you" }), &Value::Null)
        );
        assert_eq!(told["steps"][0]["output"], json!({ "text": "hello you" }));
        assert_tells(
            &stage.saga(5, &["get", "nobody"]).await,
            &["SAGA_NOT_FOUND"],
        );
        let events = stage.saga_json(0, &["events", &id]).await;
        assert_eq!(events["events"].as_array().map(Vec::len), Some(5));
        assert_tells(
            &stage.saga(0, &["events", &id]).await,
            &["created", "completed"],
        );

        let listed = stage
            .saga_json(
                0,
                &[
                    "list",
                    "--definition",
                    "greeting@1",
                    "--label",
                    "team=a",
                    "--deployment",
                    "d1",
                ],
            )
            .await;
        assert_eq!(
            listed["sagas"].as_array().map(Vec::len),
            Some(3),
            "{listed}"
        );
        assert_tells(
            &stage
                .saga(0, &["list", "--state", "completed", "--limit", "1"])
                .await,
            &[
                "ID",
                "greeting@1",
                "completed",
                "1/1",
                "1 saga; --limit shows more",
            ],
        );
        assert_tells(
            &stage.saga(0, &["list", "--state", "stuck"]).await,
            &["no sagas"],
        );
        stage.saga(2, &["list", "--state", "done"]).await;

        stage.file("many.jsonl", "{\"definition\":\"greeting\",\"inputs\":{\"name\":\"x\"}}\n\n{\"definition\":\"nobody\"}\n");
        let output = stage
            .server
            .cli(&["saga", "start-many", "many.jsonl"])
            .await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_tells(
            &output.stdout,
            &["refused DEFINITION_NOT_FOUND", "1 started, 1 refused"],
        );
        let nobody = ["--endpoint", "http://127.0.0.1:9", "--timeout", "2s"];
        let unreachable = stage
            .server
            .cli(&[&["saga", "list"], &nobody[..]].concat())
            .await;
        assert_eq!(unreachable.status.code(), Some(4), "{unreachable:?}");
    }
}

#[tokio::test]
async fn watching_prints_events_as_they_happen() {
    let stage = Stage::start(Engine::Sqlite).await;
    let reached = Place::RunningBusy.reach(&stage).await;
    let mut watch = stage
        .server
        .cli_running(&["saga", "watch", &reached.saga.id]);
    for part in ["created", "started", "busy: started"] {
        let line = watch.next_line().await.expect("a line");
        assert!(line.contains(part), "{part}: {line}");
    }
    stage.gates.open(&reached.gate, 200);
    let mut rest = Vec::new();
    while let Some(line) = watch.next_line().await {
        rest.push(line);
    }
    assert_tells(
        &rest.join("\n"),
        &[
            "busy: done",
            "last: started",
            "last: done",
            "completed",
            "is completed",
        ],
    );
}
