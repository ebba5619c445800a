//! The end of an inventory that missed much: in pieces, and as a whole all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_store::{
    InventoryEnd, InventoryEnded, NewReports, Reported,
    fault::{Fault, Point},
};

use crate::scene::Scene;

const RESOURCES: usize = 2_500;
const SPEC: &str = r#"{"a":1}"#;

/// Changes of one revision, and misses of one transaction, at most.
const PIECE: usize = 1_000;

impl Scene {
    async fn fill_and_see(&self) -> Vec<String> {
        let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
        let records = ids.iter().map(|id| self.record(id, SPEC));
        futures::future::join_all(records).await;
        let inventory = self.begin().await;
        for part in ids.chunks(PIECE) {
            let observed = part.iter().map(|id| self.observed(id, Some(SPEC)));
            self.report_all(Some(&inventory), observed.collect()).await;
        }
        self.end(&inventory, true).await;
        self.sweep().await;
        ids
    }

    /// How many resources were missed so often.
    async fn missed(&self, ids: &[String], misses: i64) -> usize {
        let rows = self.resources_of_all().await;
        assert_eq!(rows.len(), ids.len());
        rows.iter().filter(|row| row.misses == misses).count()
    }

    async fn resources_of_all(&self) -> Vec<steadfast_store::ResourceRow> {
        let filter = steadfast_store::ResourceFilter::default();
        let list = self.store.resources(&filter, None, 10_000).await;
        list.unwrap().rows
    }

    /// Ends an inventory as complete, and is killed at a transaction that counts misses: before it is durable, or after.
    async fn end_and_die(&self, inventory: &str, at: usize, durable: bool) {
        let (passed, reached) = (AtomicUsize::new(0), Arc::new(tokio::sync::Notify::new()));
        let signal = Arc::clone(&reached);
        self.ledger.plan(move |point| {
            let names = match (point, durable) {
                (Point::Committing(names), false) | (Point::Committed(names), true) => names,
                _ => return Fault::None,
            };
            let counts = names.contains(&"drift_inventory_miss");
            if counts && passed.fetch_add(1, Ordering::SeqCst) + 1 == at {
                signal.notify_one();
                return Fault::Stop;
            }
            Fault::None
        });
        let (store, id) = (self.store.clone(), inventory.to_owned());
        let dying = tokio::spawn(async move { store.end_inventory(&id, &COMPLETE).await });
        tokio::time::timeout(crate::scene::PATIENCE, reached.notified())
            .await
            .unwrap();
        dying.abort();
        assert!(dying.await.unwrap_err().is_cancelled());
        self.ledger.plan(|_| Fault::None);
    }
}

const COMPLETE: InventoryEnd = InventoryEnd {
    complete: true,
    error: String::new(),
};

#[tokio::test]
async fn what_an_inventory_missed_is_written_in_pieces() {
    for scene in Scene::both().await {
        let ids = scene.fill_and_see().await;
        for misses in [1, 2] {
            let inventory = scene.begin().await;
            let revision = scene.revision().await;
            scene.ledger.take();
            assert_eq!(scene.end(&inventory, true).await, 2_500);
            let commits = scene.ledger.take();
            let counting = |names: &&Vec<&str>| names.contains(&"drift_inventory_miss");
            assert_eq!(commits.iter().filter(counting).count(), 3, "{commits:?}");
            assert_eq!(scene.revision().await - revision, 3);
            assert_eq!(scene.missed(&ids, misses).await, RESOURCES);
        }
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.opened), (2_500, 2_500));
        scene.assert_quiet().await;
    }
}

#[tokio::test]
async fn an_inventory_that_ended_halfway_is_brought_to_its_end() {
    let long = std::env::var("STEADFAST_LONG").is_ok_and(|value| value == "1");
    let places = [(2, true), (3, false), (1, false), (3, true)];
    for &(at, durable) in &places[..if long { 4 } else { 2 }] {
        for scene in Scene::both().await {
            let ids = scene.fill_and_see().await;
            let first = scene.begin().await;
            scene.end_and_die(&first, at, durable).await;
            let counted = (at - usize::from(!durable)) * PIECE;
            let counted = counted.min(RESOURCES);
            let what = format!("{at}, {durable}");
            assert_eq!(scene.missed(&ids, 1).await, counted, "{what}");
            // It has been asked for its end: there is no way back, and nothing can be added.
            let row = scene.store.inventory(&first).await.unwrap().unwrap();
            assert_eq!(
                (row.state.as_str(), row.end_us),
                ("running", None),
                "{what}"
            );
            let failed = InventoryEnd {
                complete: false,
                error: "changed my mind".to_owned(),
            };
            let ended = scene.store.end_inventory(&first, &failed).await.unwrap();
            assert!(
                matches!(&ended, InventoryEnded::Before(row) if row.ended_complete() == Some(true)),
                "{what}: {ended:?}"
            );
            let late = NewReports {
                inventory: Some(first.clone()),
                observed: vec![scene.observed("0000", Some(SPEC))],
            };
            let refused = scene.store.report_resources(late).await.unwrap();
            assert_eq!(refused, Reported::InventoryEnded, "{what}");
            let abandoned = scene.store.fail_abandoned_inventories(Duration::ZERO).await;
            assert_eq!(abandoned.unwrap(), [""; 0], "{what}");
            // Another process goes on, unless it may still be under way.
            let patience = Duration::from_secs(3_600);
            let resumed = scene.store.resume_inventory_ends(patience).await.unwrap();
            assert_eq!(resumed, [""; 0], "{what}");
            let resumed = scene.store.resume_inventory_ends(Duration::ZERO).await;
            assert_eq!(resumed.unwrap(), [first.as_str()], "{what}");
            let row = scene.store.inventory(&first).await.unwrap().unwrap();
            assert_eq!((row.state.as_str(), row.missed), ("complete", 2_500));
            assert!(row.end_us.is_some());
            assert_eq!(scene.missed(&ids, 1).await, RESOURCES, "{what}");
            scene.sweep().await;

            // The same for those that are gone: none of them is told before the end, and each once.
            let second = scene.begin().await;
            scene.end_and_die(&second, at, durable).await;
            assert_eq!(scene.missed(&ids, 2).await, counted, "{what}");
            let tally = scene.sweep().await;
            assert_eq!((tally.opened, tally.closed), (0, 0), "{what}");
            // Whoever asks for the end again gets it.
            let ended = scene.store.end_inventory(&second, &COMPLETE).await.unwrap();
            assert!(
                matches!(&ended, InventoryEnded::Now(row) if row.missed == 2_500),
                "{what}: {ended:?}"
            );
            assert_eq!(scene.missed(&ids, 2).await, RESOURCES, "{what}");
            let tally = scene.sweep().await;
            assert_eq!(tally.opened, 2_500, "{what}");
            for id in [&ids[0], &ids[999], &ids[1_000], &ids[2_499]] {
                let events = scene.events(id).await;
                let wanted = ["recorded", "appeared", "gone", "drift_detected"];
                assert_eq!(events, wanted, "{what}: {id}");
            }
            let ended = scene.store.end_inventory(&second, &COMPLETE).await.unwrap();
            assert!(matches!(&ended, InventoryEnded::Before(row) if row.missed == 2_500));
            scene.assert_quiet().await;
        }
    }
}

/// What a failed inventory leaves to be compared is marked in pieces, too, after it has failed.
#[tokio::test]
async fn a_failure_that_was_told_halfway_is_told_to_its_end() {
    for scene in Scene::both().await {
        let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
        let records = ids.iter().map(|id| scene.record(id, SPEC));
        futures::future::join_all(records).await;
        let tally = scene.sweep().await;
        assert_eq!(tally.not_observed, 2_500);
        let inventory = scene.begin().await;
        let (passed, reached) = (AtomicUsize::new(0), Arc::new(tokio::sync::Notify::new()));
        let signal = Arc::clone(&reached);
        scene.ledger.plan(move |point| {
            if let Point::Committed(names) = point
                && names.contains(&"drift_due_mark")
                && passed.fetch_add(1, Ordering::SeqCst) == 1
            {
                signal.notify_one();
                return Fault::Stop;
            }
            Fault::None
        });
        let (store, id) = (scene.store.clone(), inventory.clone());
        let failed = InventoryEnd {
            complete: false,
            error: "it was cut".to_owned(),
        };
        let end = failed.clone();
        let dying = tokio::spawn(async move { store.end_inventory(&id, &end).await });
        tokio::time::timeout(crate::scene::PATIENCE, reached.notified())
            .await
            .unwrap();
        dying.abort();
        scene.ledger.plan(|_| Fault::None);
        assert_eq!(scene.store.due_resources().await.unwrap(), 2_000);
        let row = scene.store.inventory(&inventory).await.unwrap().unwrap();
        assert_eq!(
            (row.state.as_str(), row.error.as_str()),
            ("failed", "it was cut")
        );
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.unreadable), (2_000, 2_000));
        let resumed = scene.store.resume_inventory_ends(Duration::ZERO).await;
        assert_eq!(resumed.unwrap(), [inventory.as_str()]);
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.unreadable), (500, 500));
        let again = scene
            .store
            .end_inventory(&inventory, &failed)
            .await
            .unwrap();
        assert!(matches!(again, InventoryEnded::Before(_)));
        let resumed = scene.store.resume_inventory_ends(Duration::ZERO).await;
        assert_eq!(resumed.unwrap(), [""; 0]);
    }
}
