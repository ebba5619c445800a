//! What has not changed is not fetched, not written, and not announced; what has, is, exactly.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use steadfast_testkit::{VersionSpec, npm::NpmServer};

use crate::scene::{Engine, PRESENT, Scene, configuration, eventually, http_schema, registry};

fn configured(npm: &NpmServer) -> String {
    configuration(npm, &PRESENT)
}

async fn scene(engine: Engine) -> Scene {
    let scene = Scene::over(engine, registry().await, &configured, |builder| builder).await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}");
    scene
}

#[tokio::test]
async fn a_second_refresh_finds_everything_unchanged() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let head = scene.head().await;
        let checked = async || {
            let list = scene.server.cli(&["package", "list", "-o", "json"]).await;
            let checked = list.json()["read_state"]["checked_time"].clone();
            checked.as_str().expect("a time").to_owned()
        };
        let before = checked().await;
        scene.npm.reset_requests();
        let output = scene.server.cli(&["refresh"]).await;
        assert!(
            output.success().ends_with(": nothing has changed\n"),
            "{output:?}"
        );
        assert_eq!(scene.head().await, head, "the head has not moved");

        let requests = scene.npm.requests();
        assert_eq!(requests.count("*.tgz"), 0, "{}", scene.npm.counts());
        assert_eq!(requests.total(), PRESENT.len(), "{}", scene.npm.counts());
        for request in &requests.0 {
            assert!(
                request.header("if-none-match").is_some(),
                "{} was read again",
                request.path
            );
        }
        let refresh = scene.refresh(0).await;
        for counts in refresh["refresh"]["counts"].as_array().expect("counts") {
            assert_eq!(counts["listed"], counts["unchanged"], "{refresh}");
            assert_eq!(
                (&counts["changed"], &counts["failed"]),
                (&json!(0), &json!(0))
            );
        }
        assert_eq!(scene.head().await, head);
        // Yet everybody knows that it was asked: replicas read when, apart from the log.
        eventually("the age to be young again", async || {
            (checked().await > before).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_watch_prints_exactly_what_a_refresh_changed() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let after = scene.server.cli(&["head", "-o", "json"]).await.json()["cursor"].clone();
        let after = after.as_str().expect("a cursor");
        let mut watch = scene
            .server
            .cli_running(&["watch", "--after", after, "-o", "json"]);

        let newer = VersionSpec::new("7.3.0").schema(&http_schema());
        scene.npm.change("@openfn/language-http", |package| {
            package.versions.push(newer);
            package.dist_tags.insert("latest".into(), "7.3.0".into());
        });
        scene.npm.change("left-pad", |package| {
            let text = "Pads on the left".into();
            package.extra.insert("description".to_owned(), text);
        });
        let refresh = scene.refresh(0).await;
        assert_eq!(refresh["refresh"]["counts"][0]["changed"], 2, "{refresh}");
        let end = scene.server.cli(&["publish", "app/end", "x"]).await;
        let _ = end.success();

        let mut told = BTreeSet::new();
        let mut revisions = Vec::new();
        loop {
            let line = watch.next_line().await.expect("the watch goes on");
            let change: Value = serde_json::from_str(&line).expect("JSON");
            let part = |name: &str| change[name].as_str().expect("text").to_owned();
            if part("topic") == "app/end" {
                break;
            }
            revisions.push(change["revision"].as_i64().expect("a number"));
            let fresh = told.insert(format!("{} {} {}", part("op"), part("topic"), part("key")));
            assert!(fresh, "told twice: {line}");
        }
        assert!(revisions.is_sorted(), "{revisions:?}");
        let expected = BTreeSet::from([
            "upsert registry @openfn/language-http".to_owned(),
            "upsert registry left-pad".to_owned(),
            "upsert schema @openfn/language-http@7.3.0".to_owned(),
        ]);
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn values_travel_with_changes_and_are_at_least_as_new() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let after = scene.server.cli(&["head", "-o", "json"]).await.json()["cursor"].clone();
        let after = after.as_str().expect("a cursor");
        let arguments = ["watch", "--after", after, "--values"];
        let mut watch = scene
            .server
            .cli_running(&[&arguments[..], &["-o", "json"]].concat());
        let mut text = scene.server.cli_running(&arguments);
        let newer = VersionSpec::new("7.3.0").schema(&http_schema());
        scene.npm.change("@openfn/language-http", |package| {
            package.versions.push(newer);
            package.dist_tags.insert("latest".into(), "7.3.0".into());
        });
        let refresh = scene.refresh(0).await;
        assert_eq!(refresh["refresh"]["counts"][0]["changed"], 1, "{refresh}");
        let end = scene.server.cli(&["publish", "app/end", "x"]).await;
        let _ = end.success();

        let mut told = BTreeSet::new();
        loop {
            let line = watch.next_line().await.expect("the watch goes on");
            let change: Value = serde_json::from_str(&line).expect("JSON");
            let value = &change["value"];
            let topic = change["topic"].as_str().expect("a topic");
            if topic == "app/end" {
                assert!(value.is_null(), "{line}");
                break;
            }
            let as_of = value["read_state"]["revision"].as_i64();
            assert!(as_of >= change["revision"].as_i64(), "{line}");
            match topic {
                "registry" => {
                    let package = &value["package"];
                    assert_eq!(package["name"], "@openfn/language-http");
                    assert_eq!(package["dist_tags"]["latest"], "7.3.0", "{line}");
                }
                _ => {
                    assert_eq!((topic, &value["version"]), ("schema", &json!("7.3.0")));
                    let schema = value["schema_json"].as_str().expect("a schema");
                    let schema: Value = serde_json::from_str(schema).expect("JSON");
                    assert_eq!(schema, http_schema());
                }
            }
            told.insert(topic.to_owned());
        }
        assert_eq!(told.len(), 2);
        let line = text.next_line().await.expect("the watch goes on");
        assert!(line.contains("  value="), "{line}");
    }
}
