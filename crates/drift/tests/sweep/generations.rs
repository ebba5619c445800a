//! What sweeps are judged by may change while one is under way: policies, and what is declared of comparisons.

use std::time::Duration;

use steadfast_drift::{Comparator, Rules, SweepTally};
use steadfast_store::{NewSweep, PolicyWritten, fault::Point};

use crate::{
    hiding::{create, policy},
    scene::{Scene, declaration, rules_of},
};

const RESOURCES: usize = 300;

fn due() -> NewSweep {
    NewSweep {
        triggered_by: "tests".to_owned(),
        ..NewSweep::default()
    }
}

/// A policy is written after a sweep has read the policies, and before it opens the drift that this one concerns.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_policy_that_changes_during_a_sweep_counts_for_what_the_sweep_finds() {
    let hides = r#"{"path":"/a","handling":"ignore","reason":"known"}"#;
    for change in ["create", "update", "delete"] {
        for scene in Scene::both().await {
            let expires = scene.store.database_time().await.unwrap() + 3_600_000_000;
            let ignore = policy("later", Some(expires), hides);
            let other = policy("later", Some(expires), r#"{"path":"/b","severity":"info"}"#);
            match change {
                "create" => {}
                "update" => create(&scene, &other).await,
                _ => create(&scene, &ignore).await,
            }
            scene.record("1", r#"{"a":1}"#).await;
            scene.report("1", Some(r#"{"a":2}"#)).await;
            let halted = scene
                .ledger
                .halt(|point| matches!(point, Point::Sending("drift_page_past")));
            let asked = scene.sweeper.ask(&due()).await.unwrap();
            halted.reached().await;
            assert_eq!(scene.open("1").await, []);
            let written = match change {
                "create" => scene.store.create_drift_policy(&ignore, 100).await,
                "update" => scene.store.update_drift_policy(&ignore, "1").await,
                _ => scene.store.delete_drift_policy("later", "1").await,
            };
            assert!(matches!(written.unwrap(), PolicyWritten::Done(_)));
            halted.go();
            let ended = scene.until_swept(&asked.row.id).await;
            let tally = SweepTally::read(&ended.tally);
            assert_eq!((tally.compared, tally.opened), (1, 1), "{change}");
            let drift = scene.drifts("1", &["open"]).await.remove(0);
            let hidden = if change == "delete" { "" } else { "policy" };
            assert_eq!(drift.suppressed_by, hidden, "{change}");
            scene.assert_quiet().await;
        }
    }
}

fn ignoring() -> Rules {
    rules_of(&[declaration("/a", Comparator::Ignore)], &[])
}

async fn fill(scene: &Scene) {
    let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
    let records = ids.iter().map(|id| scene.record(id, r#"{"a":1}"#));
    futures::future::join_all(records).await;
    let observed = ids.iter().map(|id| scene.observed(id, Some(r#"{"a":2}"#)));
    scene.report_all(None, observed.collect()).await;
}

/// A replica with the rules of yesterday is in the midst of a sweep when one with those of today starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sweep_under_way_by_older_rules_goes_on_by_the_newer_ones() {
    let mut one = Scene::postgres().await;
    let mut other = one.replica().await;
    other.kill();
    one.restart(|manners| manners.page_resources = 50);
    fill(&one).await;
    let halted = one
        .ledger
        .halt(|point| matches!(point, Point::Sending("drift_page_past")));
    let asked = one.sweeper.ask(&due()).await.unwrap();
    halted.reached().await;
    other.redeclare(ignoring()).await;
    halted.go();
    let ended = other.until_swept(&asked.row.id).await;
    assert_eq!(ended.state, "completed", "{ended:?}");
    // What was due when this was asked for is not yet all that the new rules made due.
    other.sweep().await;
    for id in ["0000", "0049", "0050", "0150", "0299"] {
        assert_eq!(other.open(id).await, [], "{id}");
        assert_eq!(other.verdict(id).await, "in_sync", "{id}");
    }
    let (_, count) = (
        0,
        other
            .sql("SELECT count(*) FROM drift WHERE state = 'open'")
            .await,
    );
    assert_eq!(count, "0");
    assert_eq!(other.store.due_resources().await.unwrap(), 0);
}

#[tokio::test]
async fn a_replica_with_older_rules_takes_no_sweep() {
    let one = Scene::postgres().await;
    let mut other = one.replica().await;
    fill(&one).await;
    one.sweep().await;
    other.redeclare(ignoring()).await;
    other.kill();
    let asked = one.sweeper.ask(&due()).await.unwrap();
    let row = one
        .sweeper
        .wait(&asked.row.id, Duration::from_secs(1))
        .await;
    let row = row.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.attempts), ("running", 0));
    assert_eq!(one.open("0000").await.len(), 1);
    other.restart(|_| {});
    let ended = one.until_swept(&asked.row.id).await;
    let tally = SweepTally::read(&ended.tally);
    assert_eq!((tally.in_sync, tally.closed), (300, 300));
    // It starts again with its own rules: they are the newest then.
    let mut one = one;
    let rules = steadfast_drift::Rules::clone(&one.rules);
    one.redeclare(rules).await;
    one.sweep().await;
    assert_eq!(one.open("0299").await.len(), 1);
}
