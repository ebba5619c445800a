//! Concurrency keys: one saga of a key at a time, the key handed on exactly once, and kept as long as its holder may act.

use std::time::Duration;

use steadfast_saga::{StartSaga, State, Verb};
use steadfast_store::fault::Faults;
use tokio::time::Instant;

use crate::{
    scene::{Process, Scene, Setup},
    steps::{effect, long, seen, start, stops, wait},
};

fn keyed(mut saga: StartSaga, priority: i32) -> StartSaga {
    saga.concurrency_key = Some("k".to_owned());
    saga.priority = priority;
    saga
}

async fn holder(scene: &Scene) -> String {
    scene
        .sql("SELECT holder FROM saga_key WHERE name = 'k'")
        .await
}

#[tokio::test]
async fn a_key_goes_to_the_first_by_priority_and_creation() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let gate = scene.world.hold("x");
        let mut ids = Vec::new();
        for priority in [0, 0, 5, 1, 5, 0] {
            let saga = keyed(start(vec![long("x", "")]), priority);
            ids.push(process.start(saga).await.unwrap());
        }
        let mut held_by = Vec::new();
        for _ in &ids {
            let deadline = Instant::now() + Duration::from_secs(30);
            let now = loop {
                let now = holder(&scene).await;
                if held_by.last() != Some(&now) {
                    break now;
                }
                assert!(Instant::now() < deadline, "the key stays with {now}");
            };
            scene.world.called(&now, 1).await;
            // Nobody else was let in.
            assert_eq!(scene.world.inside(), 1);
            for id in ids
                .iter()
                .filter(|id| **id != now && !held_by.contains(*id))
            {
                assert_eq!(process.get(id).await.saga.state, State::Pending);
            }
            held_by.push(now);
            gate.open_once();
        }
        let expected: Vec<_> = [0, 2, 4, 3, 1, 5].map(|at| ids[at].clone()).to_vec();
        assert_eq!(held_by, expected);
        for id in &ids {
            process.until_state(id, State::Completed).await;
        }
        assert_eq!(holder(&scene).await, "", "the last one drops it");
        assert_eq!(scene.world.most_inside(), 1);
    }
}

/// Many at once, started and carried out by two engines: a wake-up that was lost would leave one waiting for ever.
#[tokio::test]
async fn no_wake_up_is_lost_and_no_two_run_at_once() {
    for scene in Scene::both().await {
        let first = scene.boot(Faults::default()).await;
        let second = scene.boot_beside(&first, Setup::default()).await;
        let begin = |at: usize| {
            let what = if at.is_multiple_of(4) { "fail" } else { "slow" };
            let saga = keyed(start(vec![effect("x", "slow"), effect("y", what)]), 0);
            let process = if at.is_multiple_of(2) {
                &first
            } else {
                &second
            };
            async move { process.start(saga).await.unwrap() }
        };
        let ids = futures::future::join_all((0..60).map(begin)).await;
        for (at, id) in ids.iter().enumerate() {
            let state = if at.is_multiple_of(4) {
                State::Compensated
            } else {
                State::Completed
            };
            let view = first.until_rest(id).await;
            assert_eq!(view.saga.state, state, "{:?}", view.saga);
        }
        assert_eq!(scene.world.most_inside(), 1);
        assert_eq!(scene.sql("SELECT count(*) FROM saga_key").await, "0");
    }
}

async fn still_held(scene: &Scene, process: &Process, by: &str, waiter: &str) {
    assert_eq!(holder(scene).await, by);
    let waits = process.get(waiter).await;
    assert_eq!((waits.saga.state, waits.wake_time), (State::Pending, None));
}

#[tokio::test]
async fn a_key_is_held_through_paused_and_stuck() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        process.until_alive().await;
        let steps = vec![long("a", ""), wait("w", 100), stops("s")];
        let id = process.start(keyed(start(steps), 0)).await.unwrap();
        let waiter = keyed(start(vec![effect("z", "")]), 9);
        let waiter = process.start(waiter).await.unwrap();
        process.steer(&id, Verb::Pause).await.unwrap();
        process.until_state(&id, State::Paused).await;
        still_held(&scene, &process, &id, &waiter).await;

        process.steer(&id, Verb::Resume).await.unwrap();
        let stuck = process.until_state(&id, State::Stuck).await;
        still_held(&scene, &process, &id, &waiter).await;

        let skip = Verb::Skip {
            seen: seen(&stuck),
            output: serde_json::Value::Null,
        };
        process.steer(&id, skip).await.unwrap();
        process.until_state(&id, State::Completed).await;
        process.until_state(&waiter, State::Completed).await;
        assert_eq!(holder(&scene).await, "");
    }
}

#[tokio::test]
async fn a_key_is_held_through_compensating() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let gate = scene.world.hold("b");
        let steps = vec![long("b", ""), effect("c", "fail")];
        let id = process.start(keyed(start(steps), 0)).await.unwrap();
        let waiter = keyed(start(vec![effect("z", "")]), 9);
        let waiter = process.start(waiter).await.unwrap();
        gate.open_once();
        process.until_state(&id, State::Compensating).await;
        still_held(&scene, &process, &id, &waiter).await;
        gate.open_once();
        process.until_state(&id, State::Compensated).await;
        process.until_state(&waiter, State::Completed).await;
    }
}

#[tokio::test]
async fn an_abandoned_saga_keeps_its_key_until_its_last_call_cannot_act_any_more() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        process.until_alive().await;
        scene.world.hold("x");
        let mut step = effect("x", "");
        step.timeouts.running_ms = 1_500;
        let id = process.start(keyed(start(vec![step]), 0)).await.unwrap();
        scene.world.called(&id, 1).await;
        let waiter = keyed(start(vec![effect("z", "")]), 9);
        let waiter = process.start(waiter).await.unwrap();
        let view = process.get(&id).await;
        process
            .steer(&id, Verb::Abandon(seen(&view)))
            .await
            .unwrap();
        assert_eq!(process.get(&id).await.saga.state, State::Abandoned);
        still_held(&scene, &process, &id, &waiter).await;
        process.until_state(&waiter, State::Completed).await;
        let deadline = scene.world.calls(&id)[0].deadline;
        let began = scene.world.calls(&waiter)[0].time;
        assert!(
            began >= deadline,
            "let in {} early",
            deadline.since(began).as_millis()
        );
        assert_eq!(holder(&scene).await, "");
        // What it answers now is too late.
        scene.world.hold_no_more();
        assert_eq!(process.get(&id).await.saga.state, State::Abandoned);
    }
}
