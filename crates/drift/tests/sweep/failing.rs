//! A resource that cannot be compared stops nothing but itself.

use steadfast_drift::SweepTally;
use steadfast_store::{NewSweep, SweepRow};

use crate::scene::{PATIENCE, Scene};

const RESOURCES: usize = 60;

async fn fill(scene: &Scene) {
    let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
    let records = ids.iter().map(|id| scene.record(id, r#"{"a":1}"#));
    futures::future::join_all(records).await;
    let observed = ids.iter().map(|id| scene.observed(id, Some(r#"{"a":2}"#)));
    scene.report_all(None, observed.collect()).await;
}

fn due() -> NewSweep {
    NewSweep {
        triggered_by: "tests".to_owned(),
        ..NewSweep::default()
    }
}

impl Scene {
    /// Something in the row of a resource that no page can be read with.
    async fn poison(&self, id: &str) {
        let poison = match self.database {
            // A NULL where there is none.
            Some(_) => {
                self.sql("ALTER TABLE drift_resource ALTER labels DROP NOT NULL")
                    .await;
                "labels = NULL"
            }
            // A text that is none.
            None => "labels = CAST(x'ff' AS TEXT)",
        };
        let sql = format!("UPDATE drift_resource SET {poison} WHERE id = '{id}'");
        self.sql(&sql).await;
    }

    async fn mend(&self, id: &str) {
        let sql = format!("UPDATE drift_resource SET labels = '{{}}' WHERE id = '{id}'");
        self.sql(&sql).await;
    }

    async fn swept(&self, new: &NewSweep) -> SweepRow {
        let asked = self.sweeper.ask(new).await.unwrap();
        let row = self.sweeper.wait(&asked.row.id, PATIENCE).await.unwrap();
        row.unwrap()
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_left_out_and_named() {
    for mut scene in Scene::both().await {
        scene.restart(|manners| manners.page_resources = 20);
        fill(&scene).await;
        for id in ["0025", "0026", "0041"] {
            scene.poison(id).await;
        }
        let row = scene.swept(&due()).await;
        assert_eq!((row.state.as_str(), row.error.as_str()), ("completed", ""));
        let tally = SweepTally::read(&row.tally);
        let rest = i64::try_from(RESOURCES).unwrap() - 3;
        assert_eq!(
            (tally.compared, tally.opened, tally.failed),
            (rest, rest, 3),
            "{row:?}"
        );
        let failed = row.failures();
        let names: Vec<&str> = failed.iter().map(|one| one.name.id.as_str()).collect();
        assert_eq!(names, ["0025", "0026", "0041"]);
        for one in &failed {
            assert_eq!(
                (one.name.provider.as_str(), one.name.kind.as_str()),
                ("cloud", "vm")
            );
            assert_eq!(one.reason, "the database refused the data");
        }
        assert_eq!(scene.open("0024").await.len(), 1);
        assert_eq!(scene.open("0059").await.len(), 1);
        // They are due later, and what there is now is swept as ever.
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        scene.report("0000", Some(r#"{"a":1}"#)).await;
        let row = scene.swept(&due()).await;
        let tally = SweepTally::read(&row.tally);
        assert_eq!((tally.compared, tally.failed, row.attempts), (1, 0, 1));
        // Whatever mends it is found once its time has come.
        for id in ["0025", "0026", "0041"] {
            scene.mend(id).await;
        }
        let waiting = scene.sql("SELECT count(*) FROM drift_due").await;
        assert_eq!(waiting, "3");
        for id in ["0025", "0026", "0041"] {
            assert_eq!(scene.verdict(id).await, "unreadable");
        }
        scene.sql("UPDATE drift_due SET due_us = 1").await;
        let tally = SweepTally::read(&scene.swept(&due()).await.tally);
        assert_eq!((tally.compared, tally.opened, tally.failed), (3, 3, 0));
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        scene.assert_quiet().await;
    }
}

/// Nobody lives to tell why: the sweep is taken in hand again and again at the same place.
#[tokio::test]
async fn a_resource_at_which_every_process_ends_is_left_out_and_named() {
    for mut scene in Scene::both().await {
        scene.kill();
        fill(&scene).await;
        let asked = scene.sweeper.ask(&due()).await.unwrap();
        scene
            .sql("UPDATE drift_sweep SET attempts = 8, stalls = 8")
            .await;
        scene.restart(|_| {});
        let row = scene.until_swept(&asked.row.id).await;
        assert_eq!((row.state.as_str(), row.attempts), ("completed", 9));
        let tally = SweepTally::read(&row.tally);
        assert_eq!((tally.compared, tally.failed), (59, 1));
        let failed = row.failures();
        assert_eq!(failed[0].name.id, "0000");
        assert_eq!(
            failed[0].reason,
            "the sweep was interrupted here 9 times in a row"
        );
    }
}

/// Being interrupted is not failing: every take that gets anywhere begins to count anew.
#[tokio::test]
async fn a_sweep_that_gets_on_fails_at_nothing() {
    for mut scene in Scene::both().await {
        scene.restart(|manners| manners.page_resources = 4);
        fill(&scene).await;
        let mut asked = None;
        for _ in 0..5 {
            let reached = scene.ledger.stop(|point| {
                matches!(point, steadfast_store::fault::Point::Committed(names) if names.contains(&"drift_apply_progress"))
            });
            if asked.is_none() {
                asked = Some(scene.sweeper.ask(&due()).await.unwrap());
            }
            tokio::time::timeout(PATIENCE, reached.notified())
                .await
                .unwrap();
            scene.restart(|manners| manners.page_resources = 4);
        }
        scene.ledger.plan(|_| steadfast_store::fault::Fault::None);
        let row = scene.until_swept(&asked.unwrap().row.id).await;
        let tally = SweepTally::read(&row.tally);
        assert_eq!((tally.compared, tally.failed), (60, 0));
        assert!(row.attempts > 5, "{row:?}");
    }
}

/// What is wrong is in the way of every page: that is no reason to leave out one resource after the other.
#[tokio::test]
async fn a_sweep_in_which_nothing_can_be_compared_fails_and_says_why() {
    for mut scene in Scene::both().await {
        scene.restart(|manners| manners.page_resources = 20);
        fill(&scene).await;
        let failed = scene.begin().await;
        scene.end(&failed, false).await;
        let poison = match scene.database {
            Some(_) => {
                scene
                    .sql("ALTER TABLE drift_inventory ALTER types DROP NOT NULL")
                    .await;
                "types = NULL"
            }
            None => "types = CAST(x'ff' AS TEXT)",
        };
        scene
            .sql(&format!("UPDATE drift_inventory SET {poison}"))
            .await;
        let row = scene.swept(&due()).await;
        assert_eq!(
            (row.state.as_str(), row.error.as_str()),
            (
                "failed",
                "20 resources in a row could not be compared, the last of them because the database refused the data"
            )
        );
        let tally = SweepTally::read(&row.tally);
        assert_eq!((tally.compared, tally.failed), (0, 20));
        assert_eq!(row.failures().len(), 20);
        assert_eq!(scene.store.due_resources().await.unwrap(), 40);
        // It is mended.
        scene.sql("UPDATE drift_inventory SET types = '[]'").await;
        scene.sql("UPDATE drift_due SET due_us = 1").await;
        let tally = SweepTally::read(&scene.swept(&due()).await.tally);
        assert_eq!((tally.compared, tally.opened, tally.failed), (60, 60, 0));
    }
}
