//! A refresh has every root looked at, and names what it found there.

use serde_json::{Value, json};

use super::{
    monorepo::{Monorepo, manifest, name, schema},
    stage::{Stage, listed, revision},
};
use crate::scene::{Engine, eventually};

fn items(refresh: &Value) -> Vec<[String; 4]> {
    let items = refresh["items"].as_array().expect("items");
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .map(|item| ["kind", "package", "outcome", "reason"].map(|field| text(item, field)))
        .collect()
}

fn counts(refresh: &Value) -> Value {
    refresh["refresh"]["counts"].clone()
}

#[tokio::test]
async fn rule_4_a_refresh_looks_at_local_roots_and_an_unchanged_one_writes_nothing() {
    for engine in Engine::BOTH {
        let (first, second) = (Monorepo::of(5), Monorepo::empty());
        second.manifest("twin", &manifest("adaptor-000"));
        second.write("packages/bad/package.json", "nonsense");
        second.manifest("spoilt", &manifest("spoilt"));
        second.write("packages/spoilt/configuration-schema.json", "nonsense");
        let configuration = Monorepo::source("dev", &[&first, &second], 500);
        let stage = Stage::start(engine, &configuration).await;
        let server = &stage.server;
        listed(server, 5).await;
        let head = revision(server).await;

        let output = server.cli(&["refresh", "-o", "json"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let refresh: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(refresh["refresh"]["state"], json!("partial"), "{refresh}");
        let counts_of = |kind: usize| counts(&refresh)[kind].clone();
        let packages = counts_of(0);
        assert_eq!(
            ["listed", "changed", "unchanged", "failed"].map(|field| packages[field].clone()),
            [7, 0, 5, 2].map(|count| json!(count)),
            "{refresh}"
        );
        let items = items(&refresh);
        let both = name("adaptor-000");
        let spoilt = name("spoilt");
        for expected in [
            ["packages", both.as_str(), "unchanged", ""],
            ["packages", &both, "unchanged", "SHADOWED"],
            ["packages", "packages/bad", "failed", "LOCAL_JSON_INVALID"],
            ["packages", &spoilt, "failed", "LOCAL_SCHEMA_INVALID"],
            [
                "packages",
                &format!("dev:{}", first.text()),
                "unchanged",
                "",
            ],
            [
                "packages",
                &format!("dev:{}", second.text()),
                "unchanged",
                "",
            ],
        ] {
            assert!(
                items.contains(&expected.map(str::to_owned)),
                "{expected:?}: {items:?}"
            );
        }
        assert_eq!(revision(server).await, head, "nothing has changed");

        // One package alone, which has changed: either this finds it, or the watch did a moment before.
        let mut edited = schema("adaptor-001");
        edited["title"] = json!("edited");
        first.schema("adaptor-001", &edited);
        let one = name("adaptor-001");
        let output = server
            .cli(&["refresh", "--package", &one, "-o", "json"])
            .await;
        let refresh: Value = serde_json::from_str(output.success()).expect("JSON");
        assert_eq!(refresh["refresh"]["state"], "succeeded", "{refresh}");
        assert_eq!(counts(&refresh)[0]["listed"], 1, "{refresh}");
        let got = server.cli(&["schema", "get", &one]).await;
        assert!(got.success().contains("edited"), "{got:?}");
        assert_eq!(revision(server).await, head + 1);

        let unknown = server.cli(&["refresh", "--package", "@openfn/nope"]).await;
        let told = unknown.failure(5);
        assert!(told.contains("PACKAGE_NOT_CONFIGURED"), "{told}");
    }
}

#[tokio::test]
async fn rule_7_rescans_of_an_unchanged_root_bump_no_revision_but_move_the_checked_time() {
    for engine in Engine::BOTH {
        let repo = Monorepo::of(4);
        let stage = Stage::start(engine, &Monorepo::source("dev", &[&repo], 500)).await;
        let server = &stage.server;
        listed(server, 4).await;
        let head = revision(server).await;
        let checked = async || {
            let list = server.cli(&["package", "list", "-o", "json"]).await.json();
            list["read_state"]["checked_time"]
                .as_str()
                .map(str::to_owned)
        };
        let rescans = async || {
            for _ in 0..3 {
                let before = checked().await;
                eventually("a rescan", async || {
                    (checked().await > before).then_some(())
                })
                .await;
            }
        };
        rescans().await;
        // Written again as it was, into another file.
        repo.manifest("touched", &manifest("touched"));
        listed(server, 5).await;
        repo.manifest("touched", &manifest("touched"));
        rescans().await;
        assert_eq!(revision(server).await, head + 1);
    }
}
