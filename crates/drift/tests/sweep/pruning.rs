//! What is forgotten, and what is not.

use std::time::Duration;

use steadfast_store::{DriftRetention, ReportOutcome};

use crate::scene::{Scene, name};

const THERE: &str = r#"{"a":1}"#;

impl Scene {
    /// Forgets all that may be forgotten, once everything that is past is old. Returns how many rows.
    async fn prune(&self, inventories: i64) -> u64 {
        let keep = DriftRetention {
            drifts: Duration::ZERO,
            events: Duration::ZERO,
            inventories,
        };
        let mut pruned = 0;
        loop {
            match self.store.prune_drift(&keep).await.unwrap() {
                0 => return pruned,
                some => pruned += some,
            }
        }
    }

    async fn is_remembered(&self, id: &str) -> bool {
        let key = self.store.resource_key(&name(id)).await.unwrap();
        let row = self.store.resource(&name(id)).await.unwrap();
        assert_eq!(key.is_some(), row.is_some(), "{id}");
        key.is_some()
    }
}

#[tokio::test]
async fn what_is_gone_shows_nothing_of_what_it_was() {
    for scene in Scene::both().await {
        scene.report("1", Some(THERE)).await;
        scene.report("2", Some(THERE)).await;
        scene.end(&scene.begin().await, true).await;
        assert_eq!(scene.resource("1").await.attributes, THERE);
        scene.end(&scene.begin().await, true).await;
        scene.report("2", None).await;
        for id in ["1", "2"] {
            let row = scene.resource(id).await;
            assert_eq!((row.misses, row.attributes.as_str()), (2, ""), "{id}");
        }
        // The same as before is news then.
        assert_eq!(scene.report("1", Some(THERE)).await, ReportOutcome::Changed);
        let events = scene.events("1").await;
        assert_eq!(events, ["appeared", "gone", "appeared"]);
    }
}

#[tokio::test]
async fn what_nobody_recorded_is_forgotten_once_it_is_gone_and_its_history_is_old() {
    for scene in Scene::both().await {
        for id in ["missed", "told", "unproven", "back"] {
            scene.report(id, Some(THERE)).await;
        }
        for id in ["recorded", "deleted"] {
            scene.record(id, THERE).await;
        }
        scene.report("recorded", Some(THERE)).await;
        scene.report("there", Some(THERE)).await;
        let deleted = name("deleted");
        let deleted = scene
            .store
            .delete_resource::<()>(&deleted, "ann", "a test", |_| Ok(()));
        deleted.await.unwrap().unwrap();
        for id in ["told", "recorded", "back"] {
            scene.report(id, None).await;
        }
        let there = ["unproven", "there"].map(|id| (id, THERE));
        scene.inventory(&there).await;
        scene.inventory(&there).await;
        let failed = scene.begin().await;
        let gone = vec![scene.observed("unproven", None)];
        scene.report_all(Some(&failed), gone).await;
        scene.end(&failed, false).await;

        // They are still to be compared.
        scene.prune(100).await;
        let ids = [
            "missed", "told", "unproven", "back", "recorded", "deleted", "there",
        ];
        for id in ids {
            assert!(scene.is_remembered(id).await, "{id}");
        }
        scene.sweep().await;
        let key = scene.resource("back").await.key;
        scene.report("back", Some(THERE)).await;
        scene.sweep().await;
        let revision = scene.revision().await;
        // Three resources, and of the others that something came back, and that it is gone.
        assert_eq!(scene.prune(100).await, 3 + 2);
        let left = ["unproven", "back", "recorded", "there"];
        for id in ids {
            assert_eq!(scene.is_remembered(id).await, left.contains(&id), "{id}");
        }
        assert_eq!(scene.resource("back").await.key, key);
        assert_eq!(scene.open("recorded").await[0].1, "gone");
        // Whoever follows resources hears of those that anyone knew.
        assert_eq!(scene.revision().await, revision + 1);
        scene.assert_quiet().await;
        assert_eq!(scene.prune(100).await, 0);

        // One that comes back is another one.
        assert_eq!(
            scene.report("told", Some(THERE)).await,
            ReportOutcome::First
        );
        scene.record("deleted", THERE).await;
        assert_eq!(scene.events("told").await, ["appeared"]);
        let newest = scene.resource("deleted").await.key;
        for id in left {
            assert!(scene.resource(id).await.key < newest, "{id}");
        }
    }
}
