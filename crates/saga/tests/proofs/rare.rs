//! Replicas that do not all have the same actions, as while a new version is rolled out: one carries a saga on only if it has what
//! comes next, and what nobody has waits without failing.

use std::time::Duration;

use steadfast_saga::{Direction, Leg, State, Verb};
use steadfast_store::fault::Faults;

use crate::{
    scene::{Process, Scene, Setup},
    steps::{effect, rare, start, wait},
    world::counted,
};

/// Longer than a replica leaves a saga to others in these tests.
const LONG: Duration = Duration::from_secs(1);

fn newer() -> Setup {
    Setup {
        has_rare: true,
        ..Setup::default()
    }
}

/// Until the saga has come to this step.
async fn waits_at(process: &Process, id: &str, step: usize) {
    let came = async {
        while process.get(id).await.saga.at != Some(step) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(30), came).await;
    assert!(came.is_ok(), "{:?}", process.get(id).await.saga);
}

/// Fails if anything is done about the sagas while only a replica without their next action is there.
async fn rests(older: &Process, ids: &[&String]) {
    // Which of them is taken first is chance; what was under way has come to rest after this.
    tokio::time::sleep(LONG).await;
    let mut before = Vec::new();
    for id in ids {
        before.push((older.get(id).await.saga, older.events(id).await.len()));
    }
    tokio::time::sleep(LONG).await;
    for (id, before) in ids.iter().zip(before) {
        let after = (older.get(id).await.saga, older.events(id).await.len());
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn a_saga_is_carried_on_only_by_a_replica_that_has_its_next_action() {
    for scene in Scene::both().await {
        let first = scene.boot(newer()).await;
        first.until_alive().await;
        // Not begun yet, between two steps, and on the way back.
        let gate = scene.world.hold("k");
        let keyed = |mut saga: steadfast_saga::StartSaga| {
            saga.concurrency_key = Some("k".to_owned());
            saga
        };
        let mut holder = effect("k", "");
        holder.timeouts.running_ms = 60_000;
        let holder = first.start(keyed(start(vec![holder]))).await.unwrap();
        let pending = first.start(keyed(start(vec![rare("a", "")]))).await;
        let pending = pending.unwrap();
        let between = vec![
            effect("a", ""),
            wait("w", 1_000),
            rare("b", ""),
            effect("c", ""),
        ];
        let between = first.start(start(between)).await.unwrap();
        let back = vec![rare("a", ""), wait("w", 1_000), effect("b", "fail")];
        let back = first.start(start(back)).await.unwrap();
        scene.world.called(&holder, 1).await;
        waits_at(&first, &between, 1).await;
        waits_at(&first, &back, 1).await;
        first.kill();

        let older = scene.boot(Faults::default()).await;
        scene.world.called(&holder, 2).await;
        gate.open_once();
        older.until_state(&holder, State::Completed).await;
        older.until_state(&back, State::Compensating).await;
        rests(&older, &[&pending, &between, &back]).await;
        let view = older.get(&between).await;
        assert_eq!(view.saga.state, State::Running);
        let waits = &view.saga.steps[2];
        assert!(
            matches!(
                *waits.leg(Direction::Forward),
                Leg::Waiting { attempt: 0, .. }
            ),
            "{waits:?}"
        );
        let (code, message) = waits.error.as_ref().unwrap();
        assert_eq!(code, "UNKNOWN_ACTION");
        assert!(message.contains("waits for a replica"), "{message}");
        assert_eq!(older.get(&pending).await.saga.state, State::Pending);
        assert_eq!(scene.world.counts(&pending), counted([]));

        let newer = scene.boot_beside(&older, newer()).await;
        newer.until_state(&pending, State::Completed).await;
        newer.until_state(&between, State::Completed).await;
        newer.until_state(&back, State::Compensated).await;
        assert_eq!(scene.world.counts(&pending), counted([("a", 1)]));
        let once = counted([("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(scene.world.counts(&between), once);
        assert!(newer.get(&between).await.saga.steps[2].error.is_none());
        assert_eq!(
            scene.world.counts(&back),
            counted([("a", 1), ("b", 1), ("-a", 1)])
        );
    }
}

#[tokio::test]
async fn what_waits_for_a_replica_that_has_its_action_can_be_paused_and_cancelled() {
    for scene in Scene::both().await {
        let first = scene.boot(newer()).await;
        first.until_alive().await;
        let steps = vec![effect("a", ""), wait("w", 1_000), rare("b", "")];
        let id = first.start(start(steps)).await.unwrap();
        waits_at(&first, &id, 1).await;
        first.kill();
        let older = scene.boot(Faults::default()).await;
        waits_at(&older, &id, 2).await;
        older.steer(&id, Verb::Pause).await.unwrap();
        older.until_state(&id, State::Paused).await;
        older.steer(&id, Verb::Resume).await.unwrap();
        older.until_state(&id, State::Running).await;
        older.steer(&id, Verb::Cancel).await.unwrap();
        older.until_state(&id, State::Compensated).await;
        assert_eq!(scene.world.counts(&id), counted([("a", 1), ("-a", 1)]));
    }
}
