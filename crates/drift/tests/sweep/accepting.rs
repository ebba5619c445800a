//! The life of a drift: found, silent while it stays, accepted, closed; and what may not be accepted.

use steadfast_drift::{AcceptRefusal, intake};
use steadfast_store::ReportOutcome;

use crate::{
    saga::{hold, release},
    scene::{Scene, changed, name, rules},
};

/// The scenario that the project began with: a wrong size and a right region.
#[tokio::test]
async fn what_differs_is_found_accepted_and_found_no_more() {
    for scene in Scene::both().await {
        assert_eq!(
            scene
                .record("1", r#"{"size_slug":"s-1","region":"ams3"}"#)
                .await,
            1
        );
        let live = r#"{"size_slug":"s-2","region":"ams3","vcpus":2}"#;
        assert_eq!(
            scene.inventory(&[("1", live)]).await,
            [ReportOutcome::First]
        );
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.drifted, tally.opened), (1, 1, 1));
        assert_eq!(
            scene.open("1").await,
            [changed("/size_slug", "\"s-1\"", "\"s-2\"")]
        );
        let events = scene.events("1").await;
        assert_eq!(events, ["recorded", "appeared", "drift_detected"]);

        let drift = scene.drifts("1", &["open"]).await.remove(0);
        let adopted = scene.accept(&drift).await.unwrap();
        assert_eq!(adopted.spec, r#"{"region":"ams3","size_slug":"s-2"}"#);
        assert_eq!(adopted.spec_version, 2);
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.in_sync, tally.opened), (1, 1, 0));
        assert_eq!(scene.open("1").await, []);
        assert_eq!(scene.verdict("1").await, "in_sync");
        let closed = scene.drifts("1", &["accepted"]).await.remove(0);
        assert_eq!(
            (closed.actor.as_str(), closed.reason.as_str()),
            ("ann", "it is better")
        );
        assert_eq!(scene.accept(&drift).await, Err(AcceptRefusal::Closed));
    }
}

#[tokio::test]
async fn nothing_is_accepted_that_was_not_seen() {
    for scene in Scene::both().await {
        scene.record("1", r#"{"a":1,"b":1,"c":1}"#).await;
        scene.report("1", Some(r#"{"a":2,"b":2}"#)).await;
        scene.sweep().await;
        let seen = scene.drifts("1", &["open"]).await;
        assert_eq!(seen.len(), 3);
        // The value moved, and nothing has compared it yet: neither the old value nor the new one is taken.
        scene.report("1", Some(r#"{"a":3,"b":2}"#)).await;
        assert_eq!(
            scene.accept(&seen[0]).await,
            Err(AcceptRefusal::ActualChanged)
        );
        // Now the drift says so; what the operator saw before is refused.
        scene.sweep().await;
        assert_eq!(
            scene.accept(&seen[0]).await,
            Err(AcceptRefusal::DriftChanged)
        );
        let again = scene.drifts("1", &["open"]).await;
        assert_eq!(again[0].actual.as_deref(), Some("3"));
        assert_eq!((again[0].flips, again[0].version), (1, 2));
        // The spec moved under it.
        scene.record("1", r#"{"a":1,"b":1,"c":1,"d":1}"#).await;
        assert_eq!(
            scene.accept(&again[0]).await,
            Err(AcceptRefusal::SpecChanged)
        );
        assert_eq!(scene.resource("1").await.spec_version, 2);
        // What is still there is accepted, and the others stay acceptable as they were seen.
        scene.report("1", Some(r#"{"a":3,"b":2,"d":1}"#)).await;
        scene.sweep().await;
        let now = scene.drifts("1", &["open"]).await;
        for drift in &now {
            scene.accept(drift).await.unwrap();
        }
        let adopted = scene.resource("1").await;
        assert_eq!(adopted.spec, r#"{"a":3,"b":2,"d":1}"#);
        assert_eq!(adopted.spec_version, 5);
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
    }
}

#[tokio::test]
async fn secrets_are_compared_and_never_accepted() {
    for scene in Scene::both().await {
        let rules = scene.rules.of("cloud", "vm");
        let spec = rules.redact(r#"{"password":"one"}"#).unwrap().into_owned();
        let live = rules.redact(r#"{"password":"two"}"#).unwrap().into_owned();
        assert!(!spec.contains("one") && !live.contains("two"));
        scene.record("1", &spec).await;
        scene.report("1", Some(&live)).await;
        scene.sweep().await;
        let drift = scene.drifts("1", &["open"]).await.remove(0);
        assert!(drift.secret);
        assert_eq!(scene.accept(&drift).await, Err(AcceptRefusal::Secret));
        let key = scene.resource("1").await.key;
        let events = scene.store.resource_events(key, 0, 10).await.unwrap();
        assert_eq!(events.last().unwrap().detail, r#"{"kind":"changed"}"#);
        // The same secret, seen again, agrees.
        scene.report("1", Some(&spec)).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
    }
}

#[tokio::test]
async fn a_match_or_a_path_that_left_the_spec_closes_a_drift() {
    for scene in Scene::both().await {
        scene.record("1", r#"{"a":1,"b":1}"#).await;
        scene.report("1", Some(r#"{"a":2,"b":2}"#)).await;
        scene.sweep().await;
        scene.report("1", Some(r#"{"a":1,"b":2}"#)).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.closed), (0, 1));
        scene.record("1", r#"{"a":1}"#).await;
        // Nobody has looked since: nothing is closed by an old look.
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "not_observed");
        assert_eq!(scene.open("1").await, [changed("/b", "1", "2")]);
        scene.report("1", Some(r#"{"a":1,"b":2}"#)).await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, []);
        let stale = scene.drifts("1", &["stale"]).await;
        let reasons: Vec<&str> = stale.iter().map(|row| row.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "it is as it was asked for again",
                "it is as the new spec says, or that does not name it"
            ]
        );
        // It comes back: another row, which remembers.
        scene.report("1", Some(r#"{"a":7}"#)).await;
        scene.sweep().await;
        let open = scene.drifts("1", &["open"]).await.remove(0);
        assert_eq!((open.path.as_str(), open.flips), ("/a", 1));
    }
}

/// The value that was displayed may be the one that the apply was to change.
#[tokio::test]
async fn what_was_seen_before_an_apply_is_not_accepted_after_it() {
    for scene in Scene::both().await {
        let (spec, live) = (r#"{"a":1,"b":1}"#, r#"{"a":2,"b":2}"#);
        scene.record("1", spec).await;
        scene.report("1", Some(live)).await;
        scene.sweep().await;
        let seen = scene.drifts("1", &["open"]).await;
        // The same spec is applied again, or is about to be.
        for pending in [false, true, false] {
            assert_eq!(scene.record_as("1", spec, pending).await, 1);
            for swept in [false, true] {
                if swept {
                    scene.sweep().await;
                }
                let before = scene.resource("1").await;
                for drift in &seen {
                    assert_eq!(scene.accept(drift).await, Err(AcceptRefusal::AppliedSince));
                }
                assert_eq!(scene.resource("1").await, before);
            }
        }
        // A look from before the apply, however late it is reported.
        let mut old = scene.observed("1", Some(live));
        old.age = std::time::Duration::from_secs(600);
        scene.report_all(None, vec![old]).await;
        assert_eq!(
            scene.accept(&seen[0]).await,
            Err(AcceptRefusal::AppliedSince)
        );
        // One that is under way, and one that failed.
        let inventory = scene.begin().await;
        let observed = vec![scene.observed("1", Some(live))];
        scene.report_all(Some(&inventory), observed).await;
        assert_eq!(scene.accept(&seen[0]).await, Err(AcceptRefusal::Unreadable));
        scene.end(&inventory, false).await;
        assert_eq!(scene.accept(&seen[0]).await, Err(AcceptRefusal::Unreadable));
        // It is there still: what was displayed is so, whether or not a sweep has said so again.
        scene.report("1", Some(live)).await;
        scene.accept(&seen[0]).await.unwrap();
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/b", "1", "2")]);
        assert_eq!(scene.resource("1").await.spec, r#"{"a":2,"b":1}"#);
    }
}

#[tokio::test]
async fn that_a_resource_is_gone_is_not_accepted_once_it_was_applied_again() {
    for scene in Scene::both().await {
        scene.record("1", r#"{"a":1}"#).await;
        scene.report("1", Some(r#"{"a":1}"#)).await;
        scene.report("1", None).await;
        scene.sweep().await;
        let gone = scene.drifts("1", &["open"]).await.remove(0);
        assert_eq!(gone.kind, "gone");
        scene.record("1", r#"{"a":1}"#).await;
        assert_eq!(scene.accept(&gone).await, Err(AcceptRefusal::AppliedSince));
        assert!(scene.resource("1").await.recorded);
        scene.report("1", None).await;
        assert!(!scene.accept(&gone).await.unwrap().recorded);
    }
}

#[tokio::test]
async fn nothing_is_accepted_while_the_resource_is_being_changed() {
    for mut scene in Scene::both().await {
        scene.redeclare(rules(&["cloud/vm"])).await;
        let live = r#"{"a":2}"#;
        for recorded in [false, true] {
            if recorded {
                scene.record("1", r#"{"a":1}"#).await;
            }
            scene.report("1", Some(live)).await;
            scene.sweep().await;
            let drift = scene.drifts("1", &["open"]).await.remove(0);
            let kind = if recorded { "changed" } else { "unmanaged" };
            assert_eq!(drift.kind, kind);
            let saga = hold(&scene, &name("1")).await;
            let before = scene.resource("1").await;
            assert_eq!(scene.accept(&drift).await, Err(AcceptRefusal::Busy));
            assert_eq!(scene.resource("1").await, before);
            release(&scene, &saga).await;
            let mut resizing = scene.observed("1", Some(live));
            "resizing".clone_into(&mut resizing.transition);
            scene.report_all(None, vec![resizing]).await;
            assert_eq!(scene.accept(&drift).await, Err(AcceptRefusal::Busy));
            scene.report("1", Some(live)).await;
            if recorded {
                scene.accept(&drift).await.unwrap();
                assert_eq!(scene.resource("1").await.spec, live);
            }
        }
    }
}

/// What is recorded comes in through `intake::spec`, which has one way to write a document.
#[tokio::test]
async fn what_was_accepted_is_recorded_again_as_the_same_spec() {
    for mut scene in Scene::both().await {
        scene.redeclare(rules(&["cloud/vm"])).await;
        let normal = |scene: &Scene, text: &str| {
            intake::spec(scene.rules.of("cloud", "vm"), text).expect("a document")
        };
        let live =
            r#"{ "z" : 1.50, "ports": [ {"to": 2, "from": "\u0061"}, 80 ], "password": "one" }"#;
        let kept = scene
            .rules
            .of("cloud", "vm")
            .redact(live)
            .unwrap()
            .into_owned();
        scene.report("1", Some(&kept)).await;
        scene
            .record("2", &normal(&scene, r#"{"ports":[443],"z":1}"#))
            .await;
        scene.report("2", Some(&kept)).await;
        scene.sweep().await;
        for (id, drifts) in [("1", 1), ("2", 2)] {
            let open = scene.drifts(id, &["open"]).await;
            assert_eq!(open.len(), drifts);
            for drift in open {
                scene.accept(&drift).await.unwrap();
            }
        }
        for (id, document) in [
            ("1", live),
            ("2", r#"{"z":1.50,"ports":[{"from":"a","to":2},80]}"#),
        ] {
            let adopted = scene.resource(id).await;
            assert_eq!(adopted.spec, normal(&scene, document));
            let version = scene.record(id, &normal(&scene, document)).await;
            assert_eq!(version, adopted.spec_version);
        }
    }
}
