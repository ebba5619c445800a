//! `validate`, `define`, `definition` and `definitions`.

use serde_json::json;

use super::{super::stage::Stage, GREETING, assert_tells};
use crate::scene::Engine;

const WRONG: &str = r#"{ "name": "wrong", "version": 1, "steps": [
    { "name": "a", "action": { "builtin": { "name": "nop" } } },
    { "name": "a", "action": { "wait": { "duration_ms": 0 } }, "undo": "none" }
] }"#;

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
