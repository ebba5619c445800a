//! What policies do by themselves: exactly once, and only to what the sweep has judged.

use std::time::Duration;

use steadfast_drift::SweepTally;
use steadfast_store::{NewSweep, fault::Point};

use crate::{
    hiding::{create, policy},
    scene::{PATIENCE, Scene, changed},
};

const ACCEPT: &str = r#"{"path":"/a","handling":"accept"}"#;

async fn drifted(scene: &Scene) {
    create(scene, &policy("auto", None, ACCEPT)).await;
    scene.record("1", r#"{"a":1,"b":1}"#).await;
    scene.report("1", Some(r#"{"a":2,"b":2}"#)).await;
}

fn due() -> NewSweep {
    NewSweep {
        triggered_by: "tests".to_owned(),
        ..NewSweep::default()
    }
}

/// The process is killed between the commit that opens the drift and the one that accepts it: after the first, or just before the
/// second. Whoever goes on with the sweep accepts it.
#[tokio::test]
async fn what_was_to_be_accepted_when_its_replica_was_killed_is_accepted_by_the_next() {
    for accepting in [false, true] {
        for mut scene in Scene::both().await {
            let mut other = match scene.database {
                Some(_) => Some(scene.replica().await),
                None => None,
            };
            if let Some(other) = &mut other {
                other.kill();
            }
            drifted(&scene).await;
            let reached = scene.ledger.stop(move |point| match point {
                Point::Committing(names) => accepting && names.contains(&"drift_accept"),
                Point::Committed(names) => !accepting && names.contains(&"drift_apply_open"),
                Point::Sending(_) => false,
            });
            let asked = scene.sweeper.ask(&due()).await.unwrap();
            tokio::time::timeout(PATIENCE, reached.notified())
                .await
                .unwrap();
            scene.kill();
            assert_eq!(scene.resource("1").await.spec, r#"{"a":1,"b":1}"#);
            assert_eq!(scene.open("1").await.len(), 2);
            assert_eq!(scene.store.due_resources().await.unwrap(), 1);
            let next = match &mut other {
                Some(other) => other,
                None => &mut scene,
            };
            next.restart(|_| {});
            let ended = next.until_swept(&asked.row.id).await;
            assert_eq!((ended.state.as_str(), ended.attempts), ("completed", 2));
            let tally = SweepTally::read(&ended.tally);
            assert_eq!(
                (tally.compared, tally.drifted, tally.opened, tally.accepted),
                (1, 1, 2, 1),
                "{ended:?}"
            );
            assert_eq!(next.resource("1").await.spec, r#"{"a":2,"b":1}"#);
            assert_eq!(next.open("1").await, [changed("/b", "1", "2")]);
            next.sweep().await;
            assert_eq!(next.store.due_resources().await.unwrap(), 0);
            next.assert_quiet().await;
        }
    }
}

/// A person hides the drift after the sweep has judged it, and before its policy accepts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_policy_accepts_only_what_the_sweep_has_judged() {
    for scene in Scene::both().await {
        drifted(&scene).await;
        let halted = scene.ledger.halt(
            |point| matches!(point, Point::Committed(names) if names.contains(&"drift_apply_open")),
        );
        let asked = scene.sweeper.ask(&due()).await.unwrap();
        halted.reached().await;
        let open = scene.drifts("1", &["open"]).await;
        assert_eq!(open[0].path, "/a");
        scene.snooze(&open[0].id, Duration::from_secs(3_600)).await;
        halted.go();
        let ended = scene.until_swept(&asked.row.id).await;
        assert_eq!(SweepTally::read(&ended.tally).accepted, 0);
        let now = scene.drifts("1", &["open"]).await;
        assert_eq!(
            (now[0].path.as_str(), now[0].suppressed_by.as_str()),
            ("/a", "snooze")
        );
        assert_eq!(scene.resource("1").await.spec, r#"{"a":1,"b":1}"#);
        // The next sweep finds it hidden, and leaves it.
        assert_eq!(scene.sweep().await.accepted, 0);
        assert_eq!(scene.open("1").await.len(), 2);
        scene.assert_quiet().await;
    }
}

/// What is compared although nothing has happened to it is remembered as well, until it is accepted.
#[tokio::test]
async fn what_was_not_due_is_accepted_by_the_next_replica_too() {
    for mut scene in Scene::both().await {
        scene.record("1", r#"{"a":1}"#).await;
        scene.report("1", Some(r#"{"a":2}"#)).await;
        scene.sweep().await;
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        // It is not due any more, as if its replica had been killed before there was anything that kept it so.
        create(&scene, &policy("auto", None, ACCEPT)).await;
        scene.sql("DELETE FROM drift_due").await;
        let reached = scene.ledger.stop(
            |point| matches!(point, Point::Committing(names) if names.contains(&"drift_accept")),
        );
        let all = NewSweep {
            forced: true,
            ..due()
        };
        let asked = scene.sweeper.ask(&all).await.unwrap();
        tokio::time::timeout(PATIENCE, reached.notified())
            .await
            .unwrap();
        scene.kill();
        assert_eq!(scene.store.due_resources().await.unwrap(), 1);
        scene.restart(|_| {});
        let ended = scene.until_swept(&asked.row.id).await;
        assert_eq!(SweepTally::read(&ended.tally).accepted, 1);
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
    }
}
