//! Secrets: compared, and never shown nor accepted, wherever they are kept.

use serde_json::{Value, json};
use steadfast_client::api::drift::v1::{DriftKind, Verdict};

use super::stage::{Stage, key, observation};
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
