//! One sweep at a time, whoever asks, and whoever is killed.

use std::sync::atomic::{AtomicUsize, Ordering};

use steadfast_drift::SweepTally;
use steadfast_store::{
    NewSweep,
    fault::{Fault, Point},
};

use crate::scene::Scene;

const RESOURCES: usize = 300;

async fn fill(scene: &Scene) {
    let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
    let records = ids.iter().map(|id| scene.record(id, r#"{"a":1}"#));
    futures::future::join_all(records).await;
    let inventory = scene.begin().await;
    let observed = ids.iter().map(|id| scene.observed(id, Some(r#"{"a":2}"#)));
    scene.report_all(Some(&inventory), observed.collect()).await;
    scene.end(&inventory, true).await;
}

fn due() -> NewSweep {
    NewSweep {
        triggered_by: "tests".to_owned(),
        ..NewSweep::default()
    }
}

#[tokio::test]
async fn two_replicas_that_ask_at_once_get_one_sweep() {
    let mut one = Scene::postgres().await;
    let mut other = one.replica().await;
    for scene in [&mut one, &mut other] {
        scene.restart(|manners| manners.page_resources = 7);
    }
    fill(&one).await;
    for scene in [&one, &other] {
        scene.ledger.take();
    }
    let asks = [due(), due()];
    let (first, second) = tokio::join!(one.sweeper.ask(&asks[0]), other.sweeper.ask(&asks[1]));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.row.id, second.row.id);
    assert_ne!(first.joined, second.joined);
    let (a, b) = tokio::join!(
        one.until_swept(&first.row.id),
        other.until_swept(&second.row.id)
    );
    assert_eq!(a, b);
    let tally = SweepTally::read(&a.tally);
    assert_eq!(tally.compared, i64::try_from(RESOURCES).unwrap());
    assert_eq!(tally.opened, i64::try_from(RESOURCES).unwrap());
    // Only one of them wrote.
    let wrote = |scene: &Scene| {
        let commits = scene.ledger.take();
        commits
            .iter()
            .any(|names| names.contains(&"drift_apply_open"))
    };
    assert_ne!(wrote(&one), wrote(&other));
    assert_eq!(one.store.due_resources().await.unwrap(), 0);
}

/// A replica goes no further at a page's commit, before it or after it; its lease runs out, and the other goes on behind the last
/// page that was written.
#[tokio::test]
async fn a_sweep_whose_replica_is_killed_is_resumed() {
    for durable in [false, true] {
        let mut one = Scene::postgres().await;
        let mut other = one.replica().await;
        other.kill();
        one.restart(|manners| manners.page_resources = 50);
        fill(&one).await;
        let pages = AtomicUsize::new(0);
        let reached = std::sync::Arc::new(tokio::sync::Notify::new());
        let signal = std::sync::Arc::clone(&reached);
        one.ledger.plan(move |point| {
            let names = match (point, durable) {
                (Point::Committing(names), false) | (Point::Committed(names), true) => names,
                _ => return Fault::None,
            };
            let page = names.contains(&"drift_apply_progress");
            if page && pages.fetch_add(1, Ordering::SeqCst) == 2 {
                signal.notify_one();
                return Fault::Stop;
            }
            Fault::None
        });
        let asked = one.sweeper.ask(&due()).await.unwrap();
        reached.notified().await;
        one.kill();
        let halfway = one.store.sweep(&asked.row.id).await.unwrap().unwrap();
        let written = if durable { 150 } else { 100 };
        assert_eq!(SweepTally::read(&halfway.tally).compared, written);
        other.restart(|manners| manners.page_resources = 50);
        let ended = other.until_swept(&asked.row.id).await;
        assert_eq!((ended.state.as_str(), ended.attempts), ("completed", 2));
        let tally = SweepTally::read(&ended.tally);
        assert_eq!((tally.compared, tally.opened), (300, 300));
        assert_eq!(other.store.due_resources().await.unwrap(), 0);
        other.assert_quiet().await;
    }
}

#[tokio::test]
async fn who_joins_finds_compared_what_was_due_when_they_asked() {
    for mut scene in Scene::both().await {
        scene.restart(|manners| manners.page_resources = 1);
        fill(&scene).await;
        let reached = std::sync::Arc::new(tokio::sync::Notify::new());
        let signal = std::sync::Arc::clone(&reached);
        scene.ledger.plan(move |point| {
            if let Point::Committed(names) = point
                && names.contains(&"drift_apply_progress")
            {
                signal.notify_one();
            }
            Fault::None
        });
        let asked = scene.sweeper.ask(&due()).await.unwrap();
        reached.notified().await;
        // Behind the sweep, which has 299 pages to go, something becomes due, and somebody asks.
        scene.report("0000", Some(r#"{"a":1}"#)).await;
        let joined = scene.sweeper.ask(&due()).await.unwrap();
        assert!(joined.joined && joined.row.id == asked.row.id);
        let row = scene.until_swept(&joined.row.id).await;
        assert!(row.round >= 1, "{row:?}");
        assert_eq!(SweepTally::read(&row.tally).compared, 301);
        assert_eq!(scene.open("0000").await, []);
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_cancelled_sweep_leaves_the_rest_due() {
    for mut scene in Scene::both().await {
        scene.restart(|manners| manners.page_resources = 50);
        fill(&scene).await;
        scene.kill();
        let asked = scene.sweeper.ask(&due()).await.unwrap();
        let id = asked.row.id.clone();
        let cancelled = scene
            .store
            .cancel_sweep(&id, "enough")
            .await
            .unwrap()
            .unwrap();
        assert!(cancelled.cancel_requested);
        scene.restart(|manners| manners.page_resources = 50);
        let row = scene.until_swept(&id).await;
        assert_eq!(
            (row.state.as_str(), row.error.as_str()),
            ("cancelled", "enough")
        );
        assert_eq!(scene.store.due_resources().await.unwrap(), 300);
        assert_eq!(scene.sweep().await.opened, 300);
    }
}

#[tokio::test]
async fn one_resource_and_those_with_a_label_are_swept_by_themselves() {
    for scene in Scene::both().await {
        fill(&scene).await;
        let key = scene.resource("0007").await.key;
        let only = NewSweep {
            only_key: Some(key),
            ..due()
        };
        for _ in 0..2 {
            let asked = scene.sweeper.ask(&only).await.unwrap();
            let row = scene.until_swept(&asked.row.id).await;
            assert_eq!(SweepTally::read(&row.tally).compared, 1);
        }
        assert_eq!(scene.open("0007").await.len(), 1);
        assert_eq!(scene.store.due_resources().await.unwrap(), 299);
        for (team, compared) in [("red", 0), ("blue", 299)] {
            let labelled = NewSweep {
                labels: [("team".to_owned(), team.to_owned())].into(),
                ..due()
            };
            let asked = scene.sweeper.ask(&labelled).await.unwrap();
            let row = scene.until_swept(&asked.row.id).await;
            assert_eq!(SweepTally::read(&row.tally).compared, compared, "{team}");
        }
    }
}
