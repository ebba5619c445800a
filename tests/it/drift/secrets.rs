//! Secrets: compared, and never shown nor accepted, wherever they are kept.

use serde_json::{Value, json};
use steadfast_client::api::drift::v1::{DriftKind, Verdict};

use super::stage::{Stage, key, live, observation, spec};
use crate::scene::Engine;

/// A spec that was taken over from what is there has its secret under `attrs`, as the provider said it.
#[tokio::test]
async fn a_secret_under_attrs_stays_one_when_it_is_taken_over() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let report = async |password: &str| {
            let there = json!({ "size_gb": 10, "attrs": { "password": password } });
            let mut volume = observation("9", &there);
            volume.key = key("volume", "9");
            let reported = stage.report_all("", vec![volume]).await;
            reported.expect("it is reported");
            stage.detect().await;
        };
        report("hunter2").await;
        let unmanaged = stage.only().await;
        assert_eq!(unmanaged.kind(), DriftKind::Unmanaged);
        let accepted = stage.accept(&unmanaged.id, &unmanaged.etag).await;
        let resource = accepted.expect("as seen").resource.expect("it is recorded");
        let shown: Value = serde_json::from_str(&resource.spec_json).expect("a document");
        assert_eq!(shown["attrs"]["password"], "***");
        stage.detect().await;
        assert_eq!(stage.open().await, []);
        report("hunter3").await;
        let drift = stage.only().await;
        assert_eq!(
            (drift.path.as_str(), drift.secret),
            ("/attrs/password", true)
        );
        assert_eq!(
            (drift.expected_json.as_str(), drift.actual_json.as_str()),
            ("", "")
        );
        let refused = stage.accept(&drift.id, &drift.etag).await;
        assert_eq!(refused.expect_err("secret").reason, "SECRET_PATH");
        for command in ["get", "events"] {
            let line = ["resource", command, "do/volume/9", "-o", "json"];
            let output = stage.server.cli(&line).await;
            let told = output.success();
            assert!(
                !told.contains("hunter") && !told.contains("$hash"),
                "{told}"
            );
        }
        // It goes back, and nobody had to see it.
        report("hunter2").await;
        assert_eq!(stage.open().await, []);
        let verdict = stage.get_of("volume", "9").await.verdict();
        assert_eq!(verdict, Verdict::InSync);
    }
}

#[tokio::test]
async fn secrets_are_compared_and_never_shown_nor_accepted() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let with = |mut document: Value, password: &str| {
            document["password"] = password.into();
            document
        };
        let recorded = stage.record("1", &with(spec(), "hunter2")).await;
        assert!(recorded.spec_json.contains("***") && !recorded.spec_json.contains("hunter2"));
        stage.report("1", &with(live(), "hunter2")).await;
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::InSync);
        stage.report("1", &with(live(), "hunter3")).await;
        stage.detect().await;
        let drift = stage.only().await;
        assert!(drift.secret && drift.expected_json.is_empty() && drift.actual_json.is_empty());
        let refused = stage
            .accept(&drift.id, &drift.etag)
            .await
            .expect_err("secret");
        assert_eq!(refused.reason, "SECRET_PATH");
        let shown = format!("{:?} {:?}", stage.get("1").await, drift);
        assert!(
            !shown.contains("hunter") && !shown.contains("$hash"),
            "{shown}"
        );
        for command in [["resource", "get"], ["resource", "events"]] {
            let arguments = [command[0], command[1], "do/droplet/1", "-o", "json"];
            let told = stage.server.cli(&arguments).await;
            let told = told.success();
            assert!(
                !told.contains("hunter") && !told.contains("$hash"),
                "{told}"
            );
        }
    }
}
