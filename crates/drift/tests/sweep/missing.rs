//! What proves that something is gone: looks that could not both have overlooked it, or the provider's own word.

use steadfast_store::ReportOutcome;

use crate::{
    locking::until_blocked,
    scene::{Scene, name},
};

const THERE: &str = r#"{"a":1}"#;

impl Scene {
    /// A complete inventory, begun before, that saw none of these.
    async fn ends_without(&self, inventory: &str, ids: &[&str]) {
        let missed = self.end(inventory, true).await;
        assert_eq!(missed, i64::try_from(ids.len()).unwrap(), "{ids:?}");
    }

    async fn misses(&self, id: &str) -> i64 {
        self.resource(id).await.misses
    }
}

#[tokio::test]
async fn two_looks_at_once_are_one_proof() {
    for scene in Scene::both().await {
        scene.record("1", THERE).await;
        scene.inventory(&[("1", THERE)]).await;
        // Something else was deleted while both turned their pages: both skip the same row.
        let (first, second) = (scene.begin().await, scene.begin().await);
        scene.ends_without(&first, &["1"]).await;
        scene.ends_without(&second, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1);
        let third = scene.begin().await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, []);
        assert_eq!(scene.verdict("1").await, "not_observed");
        // One that began after the end of the first is the second look.
        scene.ends_without(&third, &["1"]).await;
        assert_eq!(scene.misses("1").await, 2);
        scene.sweep().await;
        assert_eq!(scene.open("1").await[0].1, "gone");
        assert_eq!(
            scene.events("1").await,
            ["recorded", "appeared", "gone", "drift_detected"]
        );
    }
}

#[tokio::test]
async fn one_that_was_under_way_when_another_ended_proves_nothing_more() {
    for scene in Scene::both().await {
        scene.record("1", THERE).await;
        let long = scene.begin().await;
        scene.inventory(&[("1", THERE)]).await;
        scene.ends_without(&scene.begin().await, &["1"]).await;
        let late = scene.begin().await;
        scene.ends_without(&long, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1);
        // Asked for again: what was missed before does not count.
        scene.record("1", THERE).await;
        scene.ends_without(&late, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1, "it began before the apply");
        scene.ends_without(&scene.begin().await, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1, "the first since the apply");
        scene.ends_without(&scene.begin().await, &["1"]).await;
        assert_eq!(scene.misses("1").await, 2);
    }
}

#[tokio::test]
async fn what_somebody_saw_meanwhile_is_not_missed() {
    for scene in Scene::both().await {
        let ids = ["told", "later", "running", "early", "unseen"];
        for id in ids {
            scene.record(id, THERE).await;
        }
        let all = ids.map(|id| (id, THERE));
        scene.inventory(&all).await;
        let mut old = scene.observed("early", Some(THERE));
        old.age = std::time::Duration::from_secs(3_000);
        let blind = scene.begin().await;
        // None of them is news, and none of these looks writes what it saw to the resource.
        let said = scene.report("told", Some(THERE)).await;
        assert_eq!(said, ReportOutcome::Unchanged);
        let said = scene.report_all(None, vec![old]).await;
        assert_eq!(said, [ReportOutcome::Outdated]);
        let (later, running) = (scene.begin().await, scene.begin().await);
        for (inventory, id) in [(&later, "later"), (&running, "running")] {
            let seen = vec![scene.observed(id, Some(THERE))];
            let said = scene.report_all(Some(inventory), seen).await;
            assert_eq!(said, [ReportOutcome::Unchanged]);
        }
        // It saw three of the five less than the resources of its scope, and two of them were seen by nobody.
        scene.ends_without(&blind, &ids).await;
        let missed = async |id| scene.misses(id).await;
        assert_eq!((missed("told").await, missed("later").await), (0, 0));
        assert_eq!((missed("running").await, missed("unseen").await), (0, 1));
        assert_eq!(missed("early").await, 1, "that is older than the look");
        // The other way round: what an older look brings later says nothing about a newer one.
        let others = ["told", "running", "early", "unseen"];
        scene.ends_without(&later, &others).await;
        assert_eq!(missed("later").await, 0);
        assert_eq!(missed("told").await, 1, "nobody saw it since that began");
    }
}

/// A direct report that repeats what is known costs a write only if an inventory that may miss the resource is under way, and once.
#[tokio::test]
async fn a_report_that_repeats_what_is_known_writes_only_what_could_be_missed() {
    for scene in Scene::both().await {
        for id in ["1", "2"] {
            scene.record(id, THERE).await;
        }
        scene.inventory(&[("1", THERE), ("2", THERE)]).await;
        scene.sweep().await;
        let touched = async |id| {
            scene.ledger.take();
            let before = (
                scene.revision().await,
                scene.resource(id).await.live_version,
            );
            let said = scene.report(id, Some(THERE)).await;
            assert_eq!(said, ReportOutcome::Unchanged);
            let wrote = scene.ledger.take().concat();
            assert!(!wrote.contains(&"drift_due_mark"), "{wrote:?}");
            let row = scene.resource(id).await;
            assert_eq!((scene.revision().await, row.live_version), before);
            wrote.contains(&"drift_report_write")
        };
        assert!(!touched("1").await, "nothing is under way");
        let disks = ["disk".to_owned()];
        let disks = scene.store.begin_inventory("cloud", &disks, "tests").await;
        scene
            .store
            .begin_inventory("elsewhere", &[], "tests")
            .await
            .unwrap();
        assert!(!touched("1").await, "neither covers it");
        let blind = scene.begin().await;
        assert!(touched("1").await);
        assert!(!touched("1").await, "it is known already");
        let blind_too = scene.begin().await;
        assert!(touched("1").await);
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        scene.ends_without(&blind, &["1", "2"]).await;
        scene.ends_without(&blind_too, &["1", "2"]).await;
        assert_eq!((scene.misses("1").await, scene.misses("2").await), (0, 1));
        assert!(!touched("1").await, "nothing that covers it is under way");
        scene.end(&disks.unwrap().id, true).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.not_observed), (1, 1));
        scene.assert_quiet().await;
    }
}

#[tokio::test]
async fn the_providers_word_is_enough_for_what_was_never_seen() {
    for scene in Scene::both().await {
        // Asked for, and the provider knows nothing of it: told alone, and within an inventory.
        for id in ["alone", "within", "before", "deleted"] {
            scene.record(id, THERE).await;
        }
        let deleted = name("deleted");
        let deleted = scene
            .store
            .delete_resource::<()>(&deleted, "ann", "a test", |_| Ok(()));
        deleted.await.unwrap().unwrap();
        let mut old = scene.observed("before", None);
        old.age = std::time::Duration::from_secs(3_000);
        // That was before it was asked for.
        let said = scene.report_all(None, vec![old]).await;
        assert_eq!(said, [ReportOutcome::Unchanged]);
        assert_eq!(scene.report("alone", None).await, ReportOutcome::First);
        assert_eq!(scene.report("alone", None).await, ReportOutcome::Unchanged);
        assert_eq!(
            scene.report("deleted", None).await,
            ReportOutcome::Unchanged
        );
        let inventory = scene.begin().await;
        let gone = vec![scene.observed("within", None)];
        let said = scene.report_all(Some(&inventory), gone).await;
        assert_eq!(said, [ReportOutcome::First]);
        scene.end(&inventory, true).await;
        scene.sweep().await;
        for id in ["alone", "within"] {
            assert_eq!(scene.open(id).await[0].1, "gone", "{id}");
            let events = scene.events(id).await;
            assert_eq!(events, ["recorded", "gone", "drift_detected"], "{id}");
        }
        assert_eq!(scene.verdict("before").await, "not_observed");
        assert_eq!(scene.events("before").await, ["recorded"]);
        assert!(!scene.resource("deleted").await.is_known());
        assert_eq!(scene.events("deleted").await, ["recorded", "deleted"]);
        // It is there after all.
        let said = scene.report("alone", Some(THERE)).await;
        assert_eq!(said, ReportOutcome::Changed);
        scene.sweep().await;
        assert_eq!(scene.verdict("alone").await, "in_sync");
        scene.assert_quiet().await;
    }
}

/// A look that began after the first miss saw the resource as it was known, and wrote nothing, at the very moment at which the miss was
/// counted: what the next one misses is the first miss again.
#[tokio::test]
async fn two_misses_with_a_sight_between_prove_nothing() {
    let scene = Scene::postgres().await;
    scene.record("1", THERE).await;
    scene.inventory(&[("1", THERE)]).await;
    let database = scene.database.clone().unwrap();
    let mut other = database.session().await;
    other.run("BEGIN;").await.unwrap();
    let hold = "SELECT key FROM drift_live FOR UPDATE;";
    other.run(hold).await.unwrap();
    let first = scene.begin().await;
    let between = scene.begin().await;
    let (missed, ()) = tokio::join!(scene.end(&first, true), async {
        until_blocked(&database).await;
        let seen = vec![scene.observed("1", Some(THERE))];
        let said = scene.report_all(Some(&between), seen).await;
        assert_eq!(said, [ReportOutcome::Unchanged]);
        other.run("COMMIT;").await.unwrap();
    });
    assert_eq!((missed, scene.misses("1").await), (1, 1));
    let second = scene.begin().await;
    scene.ends_without(&second, &["1"]).await;
    assert_eq!(scene.misses("1").await, 1);
    scene.end(&between, true).await;
    let third = scene.begin().await;
    scene.ends_without(&third, &["1"]).await;
    assert_eq!(scene.misses("1").await, 2);
}
