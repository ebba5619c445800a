//! `schema diff`: which credentials a new version would break.

use serde_json::{Value, json};
use steadfast_testkit::{CommandOutput, NpmServer, PackageSpec, Server, VersionSpec};

use crate::scene::{Engine, Scene, configuration};

const PACKAGE: &str = "@openfn/language-demo";

fn schema(properties: &Value, required: &Value) -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Versions without a schema, and with ones that differ in every way that matters.
async fn scene(engine: Engine) -> Scene {
    let npm = NpmServer::start().await;
    let url = json!({ "type": "string", "title": "URL" });
    let password = |least: u64| json!({ "type": "string", "title": "Password", "writeOnly": true, "minLength": least });
    let first = schema(
        &json!({ "url": url, "password": password(1) }),
        &json!(["url"]),
    );
    let retitled = json!({ "type": "string", "title": "Address" });
    let second = schema(
        &json!({ "url": retitled, "password": password(1), "port": { "type": "integer" } }),
        &json!(["url"]),
    );
    let third = schema(
        &json!({ "url": url, "password": password(12), "key": { "type": "string" } }),
        &json!(["url", "password", "key"]),
    );
    npm.put(
        PackageSpec::new(PACKAGE)
            .version("1.0.0")
            .version(VersionSpec::new("2.0.0").schema(&first))
            .version(VersionSpec::new("2.1.0").schema(&second))
            .version(VersionSpec::new("2.1.1").schema(&second))
            .version(VersionSpec::new("3.0.0").schema(&third))
            .version(VersionSpec::new("4.0.0-rc.1").schema(&json!({ "type": "nonsense" })))
            .tag("latest", "3.0.0")
            .tag("next", "4.0.0-rc.1"),
    );
    let text = |npm: &NpmServer| {
        let text = configuration(npm, &[PACKAGE]);
        format!("[catalog]\nschema_newest = 10\n{text}")
    };
    let scene = Scene::over(engine, npm, &text, |builder| builder).await;
    scene.ended_refresh().await;
    scene
}

async fn diff(server: &Server, rest: &[&str]) -> CommandOutput {
    server
        .cli(&[&["schema", "diff", PACKAGE], rest].concat())
        .await
}

#[tokio::test]
async fn rule_13_a_diff_of_two_versions_names_what_would_break() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let server = &scene.server;
        // Latest against the one before it.
        let output = diff(server, &["-o", "json"]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(
            [&told["from_version"], &told["to_version"], &told["class"]],
            ["2.1.1", "3.0.0", "breaking"]
        );
        let changes: Vec<_> = told["changes"].as_array().expect("a list").iter().collect();
        let lines: Vec<_> = changes
            .iter()
            .map(|change| {
                let text = |field: &str| change[field].as_str().unwrap_or_default().to_owned();
                let secret = if change["secret"] == true {
                    " secret"
                } else {
                    ""
                };
                format!(
                    "{} {} {}{secret}",
                    text("class"),
                    text("pointer"),
                    text("keyword")
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "breaking /key required",
                "breaking /password minLength secret",
                "breaking /password required secret",
                "breaking /port properties",
                "cosmetic /url title",
            ]
        );
        assert_eq!(changes[1]["title"], "Password");
        let text = diff(server, &[]).await;
        assert_eq!(text.status.code(), Some(2), "{text:?}");
        assert!(
            text.stdout
                .contains("2.1.1 to 3.0.0: 4 breaking, 1 cosmetic"),
            "{text:?}"
        );
        assert!(text.stdout.contains("is required now"), "{text:?}");

        // Named versions, tags and ranges; back is another way than forth.
        let compatible = diff(server, &["2.0.0", "^2"]).await;
        assert!(
            compatible
                .success()
                .contains("2.0.0 to 2.1.1: 1 compatible, 1 cosmetic"),
            "{compatible:?}"
        );
        let same = diff(server, &["2.1.0", "2.1.1"]).await;
        assert!(same.success().contains("the same schema"), "{same:?}");
        let since_none = diff(server, &["1.0.0", "2.0.0"]).await;
        assert_eq!(since_none.status.code(), Some(2), "{since_none:?}");
        let to_none = diff(server, &["2.0.0", "1.0.0"]).await;
        assert!(to_none.success().contains("1 compatible"), "{to_none:?}");
        let none = diff(server, &["1.0.0", "1.0.0"]).await;
        assert!(
            none.success().contains("neither version carries a schema"),
            "{none:?}"
        );

        // Whatever goes wrong is 1 and never 2.
        for (rest, reason) in [
            (vec!["2.0.0", "next"], "SCHEMA_UNUSABLE"),
            (vec!["9.9.9"], "VERSION_NOT_FOUND"),
            (vec!["", "1.0.0"], "VERSION_NOT_FOUND"),
            (vec!["2.0.0", "a b"], "INVALID_SPECIFIER"),
            (vec!["1", "2", "3"], "unexpected argument"),
        ] {
            let refused = diff(server, &rest).await;
            assert!(refused.failure(1).contains(reason), "{rest:?}: {refused:?}");
        }
        let unknown = server
            .cli(&["schema", "diff", "@openfn/language-dem"])
            .await;
        assert!(unknown.failure(1).contains(PACKAGE), "{unknown:?}");
    }
}
