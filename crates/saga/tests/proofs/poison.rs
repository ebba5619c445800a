//! One saga that cannot be carried on never stops the others, and one that takes replicas down is taken out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_saga::{Options, State, Verb};
use steadfast_store::fault::{Fault, Faults, Point};
use steadfast_types::Timestamp;
use tokio::time::Instant;

use crate::{
    scene::{Process, Scene, Setup},
    steps::{effect, seen, start, wait},
    world::counted,
};

/// What is broken in a saga's rows.
const DAMAGE: [&str; 4] = [
    "machine = '{'",
    "machine = '{\"state\": \"running\"}'",
    "plan_hash = 'nobody knows'",
    "inputs = '{'",
];

#[tokio::test]
async fn sagas_that_cannot_be_read_stop_no_others() {
    for scene in Scene::both().await {
        let first = scene.boot(Faults::default()).await;
        first.until_alive().await;
        scene.world.hold("held");
        let mut held = effect("held", "");
        held.timeouts.running_ms = 60_000;
        // In hand, parked, waiting for its key, and overdue: in front of those that are whole.
        let (mut broken, mut whole) = (Vec::new(), Vec::new());
        for (count, damage) in DAMAGE.iter().enumerate() {
            let mut in_hand = start(vec![held.clone()]);
            in_hand.priority = 9;
            let mut parked = start(vec![wait("w", 1_500), effect("x", "")]);
            parked.priority = 9;
            let mut overdue = start(vec![effect("x", ""), wait("w", 3_600_000)]);
            overdue.deadline = Some(Timestamp::now().plus(Duration::from_millis(1_500)));
            for saga in [in_hand, parked, overdue] {
                let id = first.start(saga).await.unwrap();
                broken.push((id, *damage));
            }
            whole.push(first.start(start(vec![held.clone()])).await.unwrap());
            let steps = vec![wait("w", 1_500 + count as u64), effect("x", "")];
            whole.push(first.start(start(steps)).await.unwrap());
        }
        let mut overdue = start(vec![effect("x", ""), wait("w", 3_600_000)]);
        overdue.deadline = Some(Timestamp::now().plus(Duration::from_millis(1_600)));
        let overdue = first.start(overdue).await.unwrap();
        scene.world.called(&whole[whole.len() - 2], 1).await;
        first.kill();
        for (id, damage) in &broken {
            scene
                .sql(&format!("UPDATE saga SET {damage} WHERE id = '{id}'"))
                .await;
        }
        scene.world.hold_no_more();
        let second = scene.boot(Faults::default()).await;
        for id in &whole {
            second.until_state(id, State::Completed).await;
        }
        second.until_state(&overdue, State::Compensated).await;
        // New ones, too.
        let id = second
            .start(start(vec![wait("w", 10), effect("y", "")]))
            .await;
        second.until_state(&id.unwrap(), State::Completed).await;
        assert_eq!((broken.len(), whole.len()), (12, 8));
        // They are where they were, for a person to look at.
        let kept = scene
            .sql("SELECT count(*) FROM saga WHERE ended_us IS NULL")
            .await;
        assert_eq!(kept, "12");
    }
}

fn capped(crashes: i64, running: usize, faults: Faults) -> Setup {
    let mut setup = Setup::from(faults);
    setup.engine = Options {
        crashes,
        running,
        ..setup.engine
    };
    setup
}

/// Ends one process after another with the saga in hand, once it was called so often.
async fn crash(scene: &Scene, id: &str, calls: impl Iterator<Item = usize>, cap: i64) {
    for calls in calls {
        let process = scene.boot(capped(cap, 100, Faults::default())).await;
        scene.world.called(id, calls).await;
        process.kill();
    }
}

#[tokio::test]
async fn a_saga_that_replicas_do_not_survive_is_taken_out_after_so_many() {
    for scene in Scene::both().await {
        let first = scene.boot(capped(2, 100, Faults::default())).await;
        first.until_alive().await;
        scene.world.hold("x");
        let mut step = effect("x", "");
        step.retry.attempts = 100;
        step.timeouts.running_ms = 60_000;
        let id = first.start(start(vec![step])).await.unwrap();
        scene.world.called(&id, 1).await;
        first.kill();
        crash(&scene, &id, 2..=3, 2).await;
        // Three replicas were lost; two may be.
        let last = scene.boot(capped(2, 100, Faults::default())).await;
        let view = last.until_rest(&id).await;
        assert_eq!(view.saga.state, State::Stuck);
        assert!(
            view.saga.reason.contains("lost again and again"),
            "{}",
            view.saga.reason
        );
        assert_eq!(scene.world.counts(&id), counted([("x", 3)]));
        // A person's retry gives it another chance, and the count begins anew.
        scene.world.hold_no_more();
        let seen = seen(&view);
        last.steer(&id, Verb::Retry(seen)).await.unwrap();
        last.until_state(&id, State::Completed).await;
        assert_eq!(scene.world.counts(&id), counted([("x", 4)]));
    }
}

/// What counts is how many were lost since it last made progress.
#[tokio::test]
async fn progress_makes_up_for_lost_replicas() {
    for scene in Scene::both().await {
        let names = ["p", "q", "r"];
        for name in names {
            scene.world.hold(name);
        }
        let steps = names.map(|name| {
            let mut step = effect(name, "");
            step.timeouts.running_ms = 60_000;
            step
        });
        let first = scene.boot(capped(1, 100, Faults::default())).await;
        first.until_alive().await;
        let id = first.start(start(steps.to_vec())).await.unwrap();
        scene.world.called(&id, 1).await;
        first.kill();
        for (at, name) in names.into_iter().enumerate() {
            // Taken over with this step under way, which is then done; the next one is under way when the replica is lost.
            let process = scene.boot(capped(1, 100, Faults::default())).await;
            scene.world.called(&id, 2 * at + 2).await;
            scene.world.gate(name).open_once();
            if at + 1 < names.len() {
                scene.world.called(&id, 2 * at + 3).await;
                process.kill();
            } else {
                process.until_state(&id, State::Completed).await;
            }
        }
        assert_eq!(
            scene.world.counts(&id),
            counted([("p", 2), ("q", 2), ("r", 2)])
        );
    }
}

/// Also one that no replica survives to begin.
#[tokio::test]
async fn a_pending_saga_that_replicas_do_not_survive_is_taken_out() {
    for scene in Scene::both().await {
        let first = scene.boot(capped(1, 0, Faults::default())).await;
        let id = first.start(start(vec![effect("x", "")])).await.unwrap();
        assert_eq!(first.get(&id).await.saga.state, State::Pending);
        first.kill();
        for _ in 0..2 {
            let reached = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&reached);
            let faults = Faults::planned(move |point| match point {
                Point::Sending(name) if name.starts_with("saga_commit") => {
                    stop.store(true, Ordering::SeqCst);
                    Fault::Stop
                }
                _ => Fault::None,
            });
            let process: Process = scene.boot(capped(1, 100, faults)).await;
            let deadline = Instant::now() + Duration::from_secs(30);
            while !reached.load(Ordering::SeqCst) {
                assert!(Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            process.kill();
        }
        let last = scene.boot(capped(1, 100, Faults::default())).await;
        let view = last.until_rest(&id).await;
        assert_eq!(view.saga.state, State::Stuck);
        assert_eq!(scene.world.calls(&id), []);
    }
}
