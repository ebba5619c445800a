//! Freshness and existence: which looks count, and what proves that something is gone.

use std::time::Duration;

use steadfast_store::{
    InventoryEnd, InventoryEnded, NewReports, ReportOutcome, Reported,
    fault::{Fault, Point},
};

use crate::scene::{PATIENCE, Scene, changed, name, rules};

#[tokio::test]
async fn only_a_look_that_began_after_the_apply_counts() {
    for scene in Scene::both().await {
        let early = scene.begin().await;
        scene.record("1", r#"{"a":1}"#).await;
        let late = scene.begin().await;
        let seen = || vec![scene.observed("1", Some(r#"{"a":2}"#))];
        // It is reported after the apply, by a look that began before it.
        scene.report_all(Some(&early), seen()).await;
        scene.end(&early, true).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "not_observed");
        assert_eq!(scene.open("1").await, []);
        // The other look says the very same.
        assert_eq!(
            scene.report_all(Some(&late), seen()).await,
            [ReportOutcome::Unchanged]
        );
        scene.sweep().await;
        assert_eq!(
            scene.verdict("1").await,
            "not_observed",
            "the look is under way"
        );
        scene.end(&late, true).await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/a", "1", "2")]);
        // A report on its own counts from its receipt minus its age.
        scene.record("1", r#"{"a":2}"#).await;
        let mut old = scene.observed("1", Some(r#"{"a":2}"#));
        old.age = Duration::from_secs(3_000);
        assert_eq!(
            scene.report_all(None, vec![old]).await,
            [ReportOutcome::Outdated]
        );
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "not_observed");
        assert_eq!(
            scene.report("1", Some(r#"{"a":2}"#)).await,
            ReportOutcome::Unchanged
        );
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
    }
}

#[tokio::test]
async fn an_apply_that_did_nothing_is_found_although_nothing_changed() {
    for scene in Scene::both().await {
        let live = r#"{"a":1}"#;
        scene.record("1", r#"{"a":1}"#).await;
        scene.inventory(&[("1", live)]).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        // Asked for and not applied: not compared.
        scene.record_as("1", r#"{"a":2}"#, true).await;
        scene.inventory(&[("1", live)]).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "pending");
        // Said to be applied; nobody has looked.
        assert_eq!(scene.record("1", r#"{"a":2}"#).await, 2);
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "not_observed");
        let revision = scene.revision().await;
        assert_eq!(
            scene.inventory(&[("1", live)]).await,
            [ReportOutcome::Unchanged]
        );
        assert_eq!(scene.revision().await, revision);
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/a", "2", "1")]);
        let events = scene.events("1").await;
        let wanted = [
            "recorded",
            "appeared",
            "recorded",
            "applied",
            "drift_detected",
        ];
        assert_eq!(events, wanted);
    }
}

#[tokio::test]
async fn gone_needs_two_complete_looks_or_the_providers_word() {
    for scene in Scene::both().await {
        let there = r#"{"a":2}"#;
        for id in ["1", "2"] {
            scene.record(id, r#"{"a":1}"#).await;
        }
        scene.inventory(&[("1", there), ("2", there)]).await;
        scene.sweep().await;
        // Younger than the look that misses it.
        let inventory = scene.begin().await;
        scene.record("3", r#"{"a":1}"#).await;
        scene
            .report_all(Some(&inventory), vec![scene.observed("2", Some(there))])
            .await;
        assert_eq!(scene.end(&inventory, true).await, 2);
        scene.sweep().await;
        assert_eq!(scene.resource("1").await.misses, 1);
        assert_eq!(scene.resource("3").await.misses, 0);
        assert_eq!(scene.verdict("1").await, "not_observed");
        assert_eq!(scene.open("1").await, [changed("/a", "1", "2")]);
        // A look that failed proves nothing.
        let failed = scene.begin().await;
        scene.end(&failed, false).await;
        scene.sweep().await;
        assert_eq!(scene.resource("1").await.misses, 1);
        scene.inventory(&[("2", there), ("3", there)]).await;
        scene.sweep().await;
        let whole = |kind: &str| (String::new(), kind.to_owned(), None, None);
        assert_eq!(scene.open("1").await, [whole("gone")]);
        let stale = scene.drifts("1", &["stale"]).await.remove(0);
        assert_eq!(
            (stale.path.as_str(), stale.reason.as_str()),
            ("/a", "the resource is gone")
        );
        // The provider's own word is enough.
        scene.report("2", None).await;
        scene.sweep().await;
        assert_eq!(scene.open("2").await, [whole("gone")]);
        // It comes back.
        assert_eq!(scene.report("2", Some(there)).await, ReportOutcome::Changed);
        scene.sweep().await;
        assert_eq!(scene.open("2").await, [changed("/a", "1", "2")]);
        // To accept that it is gone forgets it.
        let gone = scene.drifts("1", &["open"]).await.remove(0);
        let forgotten = scene.accept(&gone).await.unwrap();
        assert!(!forgotten.recorded);
        scene.sweep().await;
        assert_eq!(scene.open("1").await, []);
        assert_eq!(scene.verdict("1").await, "");
        assert_eq!(scene.events("1").await.last().unwrap(), "deleted");
    }
}

#[tokio::test]
async fn a_look_that_failed_opens_nothing_and_closes_nothing() {
    for scene in Scene::both().await {
        for id in ["drifted", "fine"] {
            scene.record(id, r#"{"a":1}"#).await;
        }
        let before = [("drifted", r#"{"a":2}"#), ("fine", r#"{"a":1}"#)];
        scene.inventory(&before).await;
        scene.sweep().await;
        let open = scene.open("drifted").await;
        assert_eq!(open, [changed("/a", "1", "2")]);
        let failed = scene.begin().await;
        let observed = vec![
            scene.observed("drifted", Some(r#"{"a":1}"#)),
            scene.observed("fine", Some(r#"{"a":2}"#)),
        ];
        scene.report_all(Some(&failed), observed).await;
        scene.end(&failed, false).await;
        scene.sweep().await;
        assert_eq!(scene.open("drifted").await, open);
        assert_eq!(scene.open("fine").await, []);
        for id in ["drifted", "fine"] {
            assert_eq!(scene.verdict(id).await, "unreadable");
        }
        // What it said is not taken from it either, but from the next one that says so.
        scene
            .inventory(&[("drifted", r#"{"a":1}"#), ("fine", r#"{"a":2}"#)])
            .await;
        scene.sweep().await;
        assert_eq!(scene.open("drifted").await, []);
        assert_eq!(scene.open("fine").await, [changed("/a", "1", "2")]);
        // Nobody has seen it since it was applied, and who tried failed.
        scene.record("fine", r#"{"a":3}"#).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("fine").await, "not_observed");
        let failed = scene.begin().await;
        scene.end(&failed, false).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("fine").await, "unreadable");
    }
}

#[tokio::test]
async fn an_older_look_never_overtakes_a_newer_one() {
    for scene in Scene::both().await {
        scene.record("1", r#"{"a":1}"#).await;
        scene.inventory(&[("1", r#"{"a":1}"#)]).await;
        let older = scene.begin().await;
        let newer = scene.begin().await;
        // It repeats what is known, and so writes nothing of the resource.
        let same = vec![scene.observed("1", Some(r#"{"a":1}"#))];
        assert_eq!(
            scene.report_all(Some(&newer), same).await,
            [ReportOutcome::Unchanged]
        );
        let late = || vec![scene.observed("1", Some(r#"{"a":2}"#))];
        assert_eq!(
            scene.report_all(Some(&older), late()).await,
            [ReportOutcome::Outdated]
        );
        scene.end(&newer, true).await;
        assert_eq!(
            scene.report_all(Some(&older), late()).await,
            [ReportOutcome::Outdated]
        );
        assert_eq!(scene.end(&older, true).await, 0, "it did report it");
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        // It is known who saw it last, although that wrote nothing of it.
        let row = scene.resource("1").await;
        assert_eq!(row.inventory, newer);
    }
}

#[tokio::test]
async fn inventories_refuse_what_is_not_theirs() {
    for scene in Scene::both().await {
        let types = ["vm".to_owned()];
        let begun = scene.store.begin_inventory("cloud", &types, "tests").await;
        let begun = begun.unwrap();
        let mut disk = scene.observed("1", Some(r#"{"a":1}"#));
        "disk".clone_into(&mut disk.name.kind);
        let mut twice = scene.observed("1", Some(r#"{"a":1}"#));
        twice.attributes = r#"{"a":2}"#.to_owned();
        twice.digest.push('2');
        let vm = scene.observed("1", Some(r#"{"a":1}"#));
        assert_eq!(
            scene
                .report_all(Some(&begun.id), vec![disk, vm, twice])
                .await,
            [
                ReportOutcome::OutOfScope,
                ReportOutcome::Outdated,
                ReportOutcome::First
            ]
        );
        let row = scene.store.inventory(&begun.id).await.unwrap().unwrap();
        assert_eq!((row.reported, row.changed), (1, 1));
        let end = InventoryEnd {
            complete: true,
            error: String::new(),
        };
        scene.end(&begun.id, true).await;
        let again = scene.store.end_inventory(&begun.id, &end).await.unwrap();
        assert!(
            matches!(again, InventoryEnded::Before(row) if row.state == "complete" && row.reported == 1)
        );
        let late = NewReports {
            inventory: Some(begun.id),
            observed: vec![scene.observed("1", Some("{}"))],
        };
        let refused = scene.store.report_resources(late.clone()).await.unwrap();
        assert_eq!(refused, Reported::InventoryEnded);
        let nowhere = NewReports {
            inventory: Some("nowhere".to_owned()),
            ..late
        };
        let refused = scene.store.report_resources(nowhere).await.unwrap();
        assert_eq!(refused, Reported::UnknownInventory);
        // A report of what nobody ever heard of, and that it is gone, leaves nothing behind.
        assert_eq!(scene.report("x", None).await, ReportOutcome::Unchanged);
        assert_eq!(scene.store.resource(&name("x")).await.unwrap(), None);
        let failed = scene.begin().await;
        let none = scene
            .store
            .fail_abandoned_inventories(Duration::from_secs(3_600))
            .await
            .unwrap();
        let one = scene
            .store
            .fail_abandoned_inventories(Duration::ZERO)
            .await
            .unwrap();
        assert_eq!((none, one), (vec![], vec![failed.clone()]));
        let row = scene.store.inventory(&failed).await.unwrap().unwrap();
        assert_eq!(
            (row.state.as_str(), row.error.as_str()),
            ("failed", "nobody ended it")
        );
    }
}

#[tokio::test]
async fn what_nobody_recorded_is_a_drift_where_that_is_declared() {
    for mut scene in Scene::both().await {
        scene.report("1", Some(r#"{"a":1}"#)).await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, []);
        scene.redeclare(rules(&["cloud/vm"])).await;
        scene.sweep().await;
        let open = scene.drifts("1", &["open"]).await.remove(0);
        assert_eq!((open.kind.as_str(), open.severity), ("unmanaged", 1));
        let recorded = scene.accept(&open).await.unwrap();
        assert_eq!(
            (recorded.spec.as_str(), recorded.spec_version),
            (r#"{"a":1}"#, 1)
        );
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        assert_eq!(scene.open("1").await, []);
    }
}

/// What a report brought is told by its changes. The attempt whose answer arrives finds it there.
#[tokio::test]
async fn a_report_whose_answer_was_lost_is_counted_once() {
    for scene in Scene::both().await {
        let inventory = scene.begin().await;
        for within in [Some(inventory.as_str()), None] {
            let id = if within.is_some() { "1" } else { "2" };
            let lost = std::sync::atomic::AtomicBool::new(false);
            scene.ledger.plan(move |point| match point {
                steadfast_store::fault::Point::Committed(names)
                    if names.contains(&"drift_report_write")
                        && !lost.swap(true, std::sync::atomic::Ordering::SeqCst) =>
                {
                    Fault::Lost
                }
                _ => Fault::None,
            });
            let revision = scene.revision().await;
            let seen = || vec![scene.observed(id, Some(r#"{"a":1}"#))];
            let outcomes = scene.report_all(within, seen()).await;
            assert_eq!(outcomes, [ReportOutcome::Unchanged]);
            assert_eq!(scene.revision().await, revision + 1);
            assert_eq!(scene.resource(id).await.live_version, 1);
            // The same as if the caller had to ask again.
            let outcomes = scene.report_all(within, seen()).await;
            assert_eq!(outcomes, [ReportOutcome::Unchanged]);
            assert_eq!(scene.revision().await, revision + 1);
        }
        assert_eq!(scene.events("2").await, ["appeared"]);
        let row = scene.store.inventory(&inventory).await.unwrap().unwrap();
        assert_eq!((row.reported, row.changed), (2, 1));
        assert_eq!(scene.end(&inventory, true).await, 1);
        assert_eq!(scene.events("1").await, ["appeared"]);
    }
}

/// The spec is applied again, and that is not committed yet, when somebody begins to look: what they see is from after the apply,
/// although the report that says so finds nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_look_after_an_apply_counts_however_long_that_takes_to_commit() {
    for in_inventory in [false, true] {
        let scene = Scene::postgres().await;
        let other = scene.replica().await;
        let (spec, live) = (r#"{"a":1}"#, r#"{"a":1}"#);
        scene.record("1", spec).await;
        scene.report("1", Some(live)).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        let halted = other.ledger.halt(|point| {
            matches!(point, Point::Committing(names) if names.contains(&"drift_record_write"))
        });
        let recording = tokio::spawn(async move {
            let version = other.record("1", spec).await;
            (other, version)
        });
        halted.reached().await;
        let inventory = match in_inventory {
            true => Some(scene.begin().await),
            false => None,
        };
        let reports = NewReports {
            inventory: inventory.clone(),
            observed: vec![scene.observed("1", Some(live))],
        };
        let store = scene.store.clone();
        let reporting = tokio::spawn(async move { store.report_resources(reports).await });
        // Either it is done, or it waits for the record.
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let until = tokio::time::Instant::now() + PATIENCE;
        while !reporting.is_finished() && scene.sql(waits).await == "0" {
            assert!(
                tokio::time::Instant::now() < until,
                "it neither ends nor waits"
            );
        }
        halted.go();
        let (_other, version) = recording.await.unwrap();
        assert_eq!(version, 1);
        let reported = reporting.await.unwrap().unwrap();
        assert_eq!(reported, Reported::Done(vec![ReportOutcome::Unchanged]));
        if let Some(inventory) = &inventory {
            scene.end(inventory, true).await;
        }
        scene.sweep().await;
        let row = scene.resource("1").await;
        assert!(row.observed_us > row.applied_us.unwrap(), "{row:?}");
        assert_eq!(row.verdict, "in_sync", "{in_inventory}: {row:?}");
        scene.assert_quiet().await;
    }
}
