//! `steadfast saga`: what it prints, in tables and in JSON, and how it exits.

use std::fs;

use serde_json::{Value, json};
use steadfast_client::api::saga::v1::SagaState;
use uuid::Uuid;

use super::{reach::Place, stage::Stage};
use crate::scene::Engine;

const GREETING: &str = r#"
name = "greeting"
version = 1

[[steps]]
name = "greet"
action.builtin = { name = "noop", input = { text = "hello {{ inputs.name }}" } }
undo.builtin = { name = "noop" }
"#;

const WRONG: &str = r#"{ "name": "wrong", "version": 1, "steps": [
    { "name": "a", "action": { "builtin": { "name": "nop" } } },
    { "name": "a", "action": { "wait": { "duration_ms": 0 } }, "undo": "none" }
] }"#;

/// A definition with one step that fails, and what the saga is to do then.
fn failing(on_failure: &str) -> String {
    json!({ "steps": [
        { "name": "before", "action": { "builtin": { "name": "noop" } }, "undo": { "builtin": { "name": "noop" } } },
        {
            "name": "fails",
            "action": { "builtin": { "name": "fail", "input": { "times": 1 } } },
            "undo": "none",
            "on_failure": on_failure,
        },
    ] })
    .to_string()
}

impl Stage {
    fn file(&self, name: &str, text: &str) {
        fs::write(self.directory().join(name), text).expect("it can be written");
    }

    /// What the command prints, having exited with this code.
    async fn saga(&self, code: i32, arguments: &[&str]) -> String {
        let arguments: Vec<_> = ["saga"].iter().chain(arguments).copied().collect();
        let output = self.server.cli(&arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        if code == 0 || code > 5 && !output.stdout.is_empty() {
            output.stdout
        } else {
            output.stderr
        }
    }

    /// The same as JSON.
    async fn saga_json(&self, code: i32, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
        let text = self.saga(code, &arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// All parts, in this order.
fn assert_tells(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is missing, or out of order:\n{text}");
        };
        rest = &rest[at + part.len()..];
    }
}

#[tokio::test]
async fn definitions_are_validated_stored_and_shown() {
    let stage = Stage::start(Engine::Sqlite).await;
    stage.file("greeting.toml", GREETING);
    stage.file("wrong.json", WRONG);
    assert_tells(
        &stage.saga(0, &["validate", "greeting.toml"]).await,
        &["greeting@1 is valid, with 1 step"],
    );
    assert_tells(
        &stage.saga(5, &["definition", "greeting"]).await,
        &["NOT_FOUND DEFINITION_NOT_FOUND"],
    );
    let told = stage.saga_json(0, &["validate", "greeting.toml"]).await;
    assert_eq!(told, json!({ "valid": true, "problems": [] }));

    let problems = stage.saga(6, &["validate", "wrong.json"]).await;
    assert_tells(&problems, &["AT", "PROBLEM", "4 problems"]);
    for part in [
        "steps[0].action.builtin.name",
        "`noop`",
        "steps[1].name",
        "steps[1].action.wait.duration_ms",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    let told = stage.saga_json(6, &["validate", "wrong.json"]).await;
    assert_eq!(
        (&told["valid"], told["problems"].as_array().map(Vec::len)),
        (&json!(false), Some(4)),
        "{told}"
    );
    let refused = stage.saga(6, &["define", "wrong.json"]).await;
    assert_tells(
        &refused,
        &["error: the definition is invalid", "hint: steps[0]"],
    );

    for _ in 0..2 {
        let told = stage.saga(0, &["define", "greeting.toml"]).await;
        assert_tells(&told, &["greeting@1 is defined, with 1 step"]);
    }
    stage.file("greeting.toml", &GREETING.replace("hello", "good day"));
    let refused = stage.saga(1, &["define", "greeting.toml"]).await;
    assert_tells(&refused, &["ALREADY_EXISTS DEFINITION_EXISTS"]);
    let told = stage.saga_json(0, &["definition", "greeting"]).await;
    assert_eq!(
        (&told["name"], &told["version"]),
        (&json!("greeting"), &json!(1))
    );
    assert_eq!(
        told["definition"]["steps"][0]["action"]["builtin"]["input"]["text"],
        "hello {{ inputs.name }}"
    );
    // What is printed for people can be defined again.
    stage.file(
        "again.json",
        &stage.saga(0, &["definition", "greeting@1"]).await,
    );
    stage.saga(0, &["define", "again.json"]).await;
    assert_tells(
        &stage.saga(0, &["definitions"]).await,
        &["NAME", "VERSION", "greeting", "1", "greet"],
    );
    let told = stage.saga_json(0, &["definitions"]).await;
    assert_eq!(told["definitions"].as_array().map(Vec::len), Some(1));
    stage.file("broken.toml", "name = ");
    assert_tells(
        &stage.saga(2, &["define", "broken.toml"]).await,
        &["broken.toml"],
    );
}

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

/// Waiting for a saga tells by the exit code how it ended, or that a person is needed; and the person has what it takes.
#[tokio::test]
async fn the_exit_code_tells_how_it_ended_and_verbs_change_it() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.file("rolls-back.json", &failing("compensate"));
        stage.file("stops.json", &failing("stop"));
        let waited = stage
            .saga(7, &["start", "--steps-file", "rolls-back.json", "--wait"])
            .await;
        assert_tells(
            &waited,
            &[
                "→ fails: failed: FAILED",
                "● rolls back",
                "← before: undone",
                "● compensated",
            ],
        );

        let stuck = async || {
            let told = stage
                .saga_json(8, &["start", "--steps-file", "stops.json", "--wait"])
                .await;
            assert_eq!(
                (&told["state"], &told["current_step"]),
                (&json!("stuck"), &json!("fails"))
            );
            told["id"].as_str().expect("an id").to_owned()
        };
        let by = ["--actor", "ann", "--reason", "looked at it"];
        let with = |verb: &'static str, id: &str, more: &[&str]| -> Vec<String> {
            let words = [verb, id].into_iter().chain(by).chain(more.iter().copied());
            words.map(str::to_owned).collect()
        };
        let run = async |code: i32, words: Vec<String>| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            stage.saga(code, &words).await
        };
        let id = stuck().await;
        assert_tells(
            &stage.saga(8, &["watch", &id]).await,
            &[
                "● stuck",
                "is stuck, at step fails (attempt 1)",
                "a person is needed",
                "saga retry",
            ],
        );
        assert_tells(
            &stage.saga(0, &["get", &id]).await,
            &["stuck", "a person is needed"],
        );
        for verb in ["cancel", "pause", "resume"] {
            assert_tells(
                &run(1, with(verb, &id, &[])).await,
                &["FAILED_PRECONDITION SAGA_STUCK"],
            );
        }
        assert_tells(
            &run(1, with("retry", &id, &["--attempt", "9"])).await,
            &["ABORTED SAGA_CHANGED"],
        );
        assert_tells(
            &run(1, with("skip", &id, &["--control-version", "9"])).await,
            &["ABORTED SAGA_CHANGED"],
        );
        assert_tells(
            &run(5, with("skip", &id, &["--step", "nowhere"])).await,
            &["NOT_FOUND STEP_NOT_FOUND"],
        );
        stage.saga(2, &["retry", &id]).await;
        assert_tells(
            &run(
                0,
                with(
                    "retry",
                    &id,
                    &[
                        "--step",
                        "fails",
                        "--attempt",
                        "1",
                        "--control-version",
                        "0",
                    ],
                ),
            )
            .await,
            &["is running, at step fails (attempt 2)"],
        );
        assert_tells(
            &stage.saga(0, &["watch", &id]).await,
            &[
                "→ fails: to run again; retry by ann (looked at it)",
                "● completed",
            ],
        );
        assert_tells(
            &run(1, with("abandon", &id, &[])).await,
            &["FAILED_PRECONDITION SAGA_ENDED"],
        );

        let id = stuck().await;
        assert_tells(
            &run(0, with("skip", &id, &["--result", r#"{"by":"hand"}"#])).await,
            &["is completed"],
        );
        let told = stage.saga_json(0, &["get", &id]).await;
        assert_eq!(
            (&told["steered"]["verb"], &told["steered"]["actor"]),
            (&json!("skip"), &json!("ann"))
        );
        assert_tells(
            &stage.saga(0, &["get", &id]).await,
            &["steered", "skip by ann (looked at it)"],
        );
        assert_eq!(told["steps"][1]["output"], json!({ "by": "hand" }));
        let events = stage.saga_json(0, &["events", &id]).await;
        let skipped = events["events"]
            .as_array()
            .and_then(|events| events.iter().find(|event| event["kind"] == "step_skipped"));
        let skipped = skipped.expect("it is recorded");
        assert_eq!(
            (&skipped["verb"], &skipped["actor"], &skipped["reason"]),
            (&json!("skip"), &json!("ann"), &json!("looked at it"))
        );

        let id = stuck().await;
        assert_tells(&run(0, with("abandon", &id, &[])).await, &["is abandoned"]);
        assert_tells(
            &stage.saga(9, &["watch", &id]).await,
            &["● abandoned; abandon by ann (looked at it)"],
        );

        let waiting = Place::RunningWaiting.reach(&stage).await.saga.id;
        assert_tells(
            &run(0, with("pause", &waiting, &[])).await,
            &["is paused, at step waits (attempt 1)", "saga resume"],
        );
        assert_tells(&run(0, with("pause", &waiting, &[])).await, &["is paused"]);
        assert_tells(
            &stage.saga(0, &["events", &waiting]).await,
            &[
                "● paused; pause by ann",
                "● changed nothing; pause by ann (looked at it)",
            ],
        );
        assert_tells(
            &run(0, with("resume", &waiting, &[])).await,
            &["is running"],
        );
        assert_tells(
            &run(0, with("cancel", &waiting, &[])).await,
            &["is compensating"],
        );
        stage.until_state(&waiting, SagaState::Compensated).await;
        assert_tells(
            &stage.saga(7, &["watch", &waiting]).await,
            &[
                "● rolls back: canceled; cancel by ann (looked at it)",
                "● compensated",
            ],
        );
        assert_tells(
            &run(5, with("cancel", &Uuid::now_v7().to_string(), &[])).await,
            &["SAGA_NOT_FOUND"],
        );
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
