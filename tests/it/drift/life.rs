//! The life of a drift over the API, on both engines.

use serde_json::json;
use steadfast_client::api::drift::v1::{
    DeleteResourceRequest, DetectDriftRequest, DriftKind, DriftState, ListDriftsRequest, Presence,
    RecordResourceRequest, ReportOutcome, ResourceEventKind as Event, Severity, Verdict,
};

use super::stage::{Stage, WHO, key, live, resized, spec};
use crate::scene::Engine;

#[tokio::test]
async fn a_drift_is_found_once_followed_and_accepted() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::NotObserved);

        // Another shape is no difference.
        assert_eq!(stage.report("1", &live()).await, ReportOutcome::First);
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::InSync);
        assert_eq!(stage.open().await, []);

        assert_eq!(stage.report("1", &resized()).await, ReportOutcome::Changed);
        let sweep = stage.detect().await;
        assert_eq!((sweep.compared, sweep.drifts_opened), (1, 1));
        let drift = stage.only().await;
        assert_eq!(drift.path, "/size_slug");
        assert_eq!(
            (drift.kind(), drift.severity()),
            (DriftKind::Changed, Severity::Warning)
        );
        assert_eq!(drift.expected_json, "\"s-1vcpu-1gb\"");
        assert_eq!(drift.actual_json, "\"s-2vcpu-2gb\"");

        // Silence: the same again writes nothing, also if it is swept whole.
        let revision = stage.revision().await;
        assert_eq!(
            stage.report("1", &resized()).await,
            ReportOutcome::Unchanged
        );
        let full = DetectDriftRequest {
            full: true,
            ..DetectDriftRequest::default()
        };
        let sweep = stage.try_detect(full).await.expect("it is swept");
        assert_eq!(
            (sweep.compared, sweep.drifts_opened, sweep.drifts_changed),
            (1, 0, 0)
        );
        assert_eq!(stage.revision().await, revision);
        assert_eq!(stage.only().await.etag, drift.etag);

        // What nobody has seen is not adopted.
        let mut larger = resized();
        larger["size_slug"] = "s-4vcpu-8gb".into();
        stage.report("1", &larger).await;
        let refused = stage
            .accept(&drift.id, &drift.etag)
            .await
            .expect_err("unseen");
        assert_eq!(refused.reason, "DRIFT_CHANGED");
        assert_eq!(refused.metadata["what"], "actual");
        stage.detect().await;
        let refused = stage
            .accept(&drift.id, &drift.etag)
            .await
            .expect_err("unseen");
        assert_eq!(
            (refused.reason.as_str(), refused.metadata["what"].as_str()),
            ("DRIFT_CHANGED", "drift")
        );
        assert_eq!(stage.get("1").await.spec_version, 1);

        let changed = stage.only().await;
        assert_eq!(changed.id, drift.id);
        assert_eq!(
            (changed.actual_json.as_str(), changed.times_flipped),
            ("\"s-4vcpu-8gb\"", 1)
        );
        // The same spec is applied again: what was seen may be what that was to change.
        stage.record("1", &spec()).await;
        let refused = stage
            .accept(&changed.id, &changed.etag)
            .await
            .expect_err("nobody has looked since");
        assert_eq!(
            (refused.reason.as_str(), refused.metadata["what"].as_str()),
            ("DRIFT_CHANGED", "applied")
        );
        stage.report("1", &larger).await;
        let accepted = stage
            .accept(&changed.id, &changed.etag)
            .await
            .expect("as seen");
        let resource = accepted.resource.expect("it is recorded");
        assert_eq!(resource.spec_version, 2);
        assert!(resource.spec_json.contains("s-4vcpu-8gb"), "{resource:?}");
        // The same observation agrees with it now.
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::InSync);
        assert_eq!(stage.open().await, []);
        let refused = stage
            .accept(&changed.id, &changed.etag)
            .await
            .expect_err("closed");
        assert_eq!(refused.reason, "DRIFT_CLOSED");
        assert_eq!(
            stage.events("1").await,
            [
                Event::Recorded,
                Event::Appeared,
                Event::DriftDetected,
                Event::DriftChanged,
                Event::Applied,
                Event::DriftAccepted
            ]
        );
        let history = ListDriftsRequest {
            states: vec![DriftState::Accepted.into()],
            ..ListDriftsRequest::default()
        };
        let (history, _) = stage.list(history).await;
        assert_eq!(history.len(), 1);
        assert_eq!((history[0].actor.as_str(), history[0].reason.as_str()), WHO);
    }
}

#[tokio::test]
async fn a_drift_that_goes_away_by_itself_is_stale_and_comes_back_as_another() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        let mut ids = Vec::new();
        for round in 0..4 {
            stage.report("1", &resized()).await;
            stage.detect().await;
            let drift = stage.only().await;
            assert_eq!((drift.times_flipped, drift.flapping), (round, round >= 3));
            ids.push(drift.id);
            stage.report("1", &live()).await;
            let sweep = stage.detect().await;
            assert_eq!(sweep.drifts_closed, 1);
            assert_eq!(stage.open().await, []);
        }
        ids.dedup();
        assert_eq!(ids.len(), 4);
        let (stale, _) = stage
            .list(ListDriftsRequest {
                states: vec![DriftState::Stale.into()],
                path: "/size_slug".to_owned(),
                ..ListDriftsRequest::default()
            })
            .await;
        assert_eq!(stale.len(), 4);
    }
}

#[tokio::test]
async fn an_apply_without_an_effect_is_found_by_an_observation_that_says_nothing_new() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        stage.inventory(&[("1", &live())]).await;
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::InSync);
        // Something else is asked for now, and nothing happens there.
        let mut wanted = spec();
        wanted["size_slug"] = "s-2vcpu-2gb".into();
        assert_eq!(stage.record("1", &wanted).await.spec_version, 2);
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::NotObserved);
        assert_eq!(stage.open().await, []);
        stage.inventory(&[("1", &live())]).await;
        stage.detect().await;
        assert_eq!(stage.only().await.path, "/size_slug");
    }
}

#[tokio::test]
async fn an_inventory_that_fails_opens_and_closes_nothing() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        stage.record("2", &spec()).await;
        stage.inventory(&[("1", &resized()), ("2", &live())]).await;
        stage.detect().await;
        let drift = stage.only().await;
        // It sees the opposite, and not everything.
        let begun = stage.begin("droplet").await;
        let seen = vec![
            super::stage::observation("1", &live()),
            super::stage::observation("2", &resized()),
        ];
        stage
            .report_all(&begun.id, seen)
            .await
            .expect("it is reported");
        stage.end(&begun.id, false).await.expect("it ends");
        stage.detect().await;
        assert_eq!(stage.only().await.etag, drift.etag);
        assert_eq!(stage.get("1").await.verdict(), Verdict::Unreadable);
        // The next one is read.
        stage.inventory(&[("1", &live()), ("2", &live())]).await;
        stage.detect().await;
        assert_eq!(stage.open().await, []);
        assert_eq!(stage.get("1").await.verdict(), Verdict::InSync);
    }
}

#[tokio::test]
async fn gone_is_proven_by_two_inventories_or_by_the_provider() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        for id in ["1", "2", "3"] {
            stage.record(id, &spec()).await;
        }
        let all = [("1", &live()), ("2", &resized()), ("3", &live())];
        stage.inventory(&all).await;
        stage.detect().await;
        assert_eq!(stage.only().await.key, key("droplet", "2"));
        let missed = stage.inventory(&all[2..]).await;
        assert_eq!(missed.missed, 2);
        stage.detect().await;
        assert_eq!(stage.get("1").await.presence(), Presence::Missed);
        assert_eq!(stage.open().await.len(), 1, "one miss proves nothing");
        stage.inventory(&all[2..]).await;
        stage.detect().await;
        let gone = stage.open().await;
        let kinds: Vec<_> = gone
            .iter()
            .map(|drift| (drift.kind(), drift.path.as_str()))
            .collect();
        assert_eq!(kinds, [(DriftKind::Gone, ""), (DriftKind::Gone, "")]);
        assert_eq!(gone[0].severity(), Severity::Critical);
        // The provider itself says so of the third.
        let mut told = super::stage::observation("3", &live());
        told.attributes_json.clear();
        told.gone = true;
        stage
            .report_all("", vec![told])
            .await
            .expect("it is reported");
        stage.detect().await;
        assert_eq!(stage.open().await.len(), 3);
        // To accept that is to ask for it no longer.
        let first = gone.iter().find(|drift| drift.key == key("droplet", "1"));
        let first = first.expect("it is gone");
        let accepted = stage.accept(&first.id, &first.etag).await.expect("as seen");
        assert_eq!(accepted.resource, None);
        // And the second comes back.
        stage.report("2", &live()).await;
        stage.detect().await;
        assert_eq!(stage.only().await.key, key("droplet", "3"));
        assert_eq!(stage.get("2").await.verdict(), Verdict::InSync);
    }
}

#[tokio::test]
async fn pending_and_unrecorded_resources_have_their_own_ways() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let pending = RecordResourceRequest {
            key: key("droplet", "1"),
            spec_json: spec().to_string(),
            pending: true,
            expected_version: Some(0),
            ..RecordResourceRequest::default()
        };
        let recorded = stage.try_record(pending.clone()).await.expect("nobody did");
        assert_eq!((recorded.spec_version, recorded.applied_time), (1, None));
        let refused = stage.try_record(pending).await.expect_err("somebody did");
        assert_eq!(
            (
                refused.reason.as_str(),
                refused.metadata["version"].as_str()
            ),
            ("RESOURCE_CHANGED", "1")
        );
        stage.report("1", &resized()).await;
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::Pending);
        assert_eq!(stage.open().await, []);
        stage.record("1", &spec()).await;
        stage.report("1", &resized()).await;
        stage.detect().await;
        let drift = stage.only().await;
        // What is asked for no longer cannot drift.
        let mut resources = stage.connection.resources();
        let delete = DeleteResourceRequest {
            key: key("droplet", "1"),
            etag: String::new(),
            actor: WHO.0.to_owned(),
            reason: WHO.1.to_owned(),
        };
        stage
            .connection
            .call(resources.delete_resource(delete))
            .await
            .expect("it is forgotten");
        stage.detect().await;
        assert_eq!(stage.open().await, []);
        let left = stage.get("1").await;
        assert_eq!((left.spec_version, left.spec_json.as_str()), (0, ""));
        let refused = stage
            .accept(&drift.id, &drift.etag)
            .await
            .expect_err("closed");
        assert_eq!(refused.reason, "DRIFT_CLOSED");

        // A type that is declared so reports what nobody recorded; to accept it is to record it.
        let mut volume =
            super::stage::observation("9", &json!({ "size_gb": 10, "password": "hunter2" }));
        volume.key = key("volume", "9");
        stage
            .report_all("", vec![volume])
            .await
            .expect("it is reported");
        stage.detect().await;
        let unmanaged = stage.only().await;
        assert_eq!(
            (unmanaged.kind(), unmanaged.severity()),
            (DriftKind::Unmanaged, Severity::Info)
        );
        // All of it is shown, but for its secret; not even the secret's hash.
        let shown: serde_json::Value =
            serde_json::from_str(&unmanaged.actual_json).expect("a document");
        assert_eq!(shown["size_gb"], 10);
        let events = ["resource", "events", "do/volume/9", "-o", "json"];
        let events = stage.server.cli(&events).await;
        assert!(events.success().contains("drift"), "{events:?}");
        let told = format!("{unmanaged:?}{}", events.success());
        assert!(
            !told.contains("hunter") && !told.contains("$hash"),
            "{told}"
        );
        let accepted = stage
            .accept(&unmanaged.id, &unmanaged.etag)
            .await
            .expect("as seen");
        let resource = accepted.resource.expect("it is recorded");
        assert_eq!(
            (resource.spec_version, resource.recorded_by.as_str()),
            (1, WHO.0)
        );
        stage.detect().await;
        assert_eq!(stage.open().await, []);
    }
}
