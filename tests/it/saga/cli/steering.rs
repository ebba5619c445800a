//! How a saga ended, told by the exit code, and the verbs that change it.

use serde_json::json;
use steadfast_client::api::saga::v1::SagaState;
use uuid::Uuid;

use super::{
    super::{reach::Place, stage::Stage},
    assert_tells,
};
use crate::scene::Engine;

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
