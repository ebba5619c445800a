//! A process that was asleep: its lease was taken over meanwhile, and it wakes up believing that nothing happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_saga::{OnUnknown, Options, SagaFilter, State};
use steadfast_store::{
    Error as StoreError, SagaTransition, TransitionOutcome,
    fault::{Fault, Faults, Point},
};
use steadfast_types::ReplicaId;
use tokio::time::Instant;

use crate::{
    scene::{LEASE, Process, Scene, Setup},
    steps::{effect, start, wait},
    world::counted,
};

/// Whether a process renews its lease, and how many lives it had.
#[derive(Default)]
struct Sleep {
    renewals: AtomicUsize,
    asleep: AtomicBool,
    fails: AtomicBool,
    lives: AtomicUsize,
}

impl Sleep {
    fn faults(self: &Arc<Self>) -> Faults {
        let sleep = Arc::clone(self);
        Faults::planned(move |point| match point {
            Point::Sending("lease_renew") => {
                sleep.renewals.fetch_add(1, Ordering::SeqCst);
                match () {
                    () if sleep.asleep.load(Ordering::SeqCst) => Fault::Stop,
                    () if sleep.fails.load(Ordering::SeqCst) => Fault::Lost,
                    () => Fault::None,
                }
            }
            Point::Committed(["lease_claim"]) => {
                sleep.lives.fetch_add(1, Ordering::SeqCst);
                Fault::None
            }
            _ => Fault::None,
        })
    }

    /// Waits until one more renewal was asked for.
    async fn renewal(&self) {
        let before = self.renewals.load(Ordering::SeqCst);
        until("a renewal", || {
            self.renewals.load(Ordering::SeqCst) > before
        })
        .await;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn held(name: &str) -> steadfast_saga::Step {
    let mut step = effect(name, "");
    step.timeouts.running_ms = 60_000;
    step
}

/// A process that sleeps with a saga in hand, and another one that has taken that over.
struct Night {
    scene: Scene,
    sleep: Arc<Sleep>,
    asleep: Process,
    awake: Process,
    id: String,
    /// Lives that the sleeper had until then, with what else claimed a lease.
    lives: usize,
}

impl Night {
    /// With how many sagas each of them may have in hand, and what the sleeper's loss means for its step.
    async fn fall(scene: Scene, rooms: [usize; 2], on_unknown: OnUnknown) -> Self {
        let sleep = Arc::new(Sleep::default());
        let setup = |faults, running| {
            let mut setup = Setup::from(faults);
            setup.engine = Options {
                running,
                ..setup.engine
            };
            setup
        };
        let asleep = scene.boot(setup(sleep.faults(), rooms[0])).await;
        asleep.until_alive().await;
        scene.world.hold("x");
        let mut x = held("x");
        x.on_unknown = on_unknown;
        let steps = vec![x, effect("y", "")];
        let id = asleep.start(start(steps)).await.unwrap();
        until("a call", || scene.world.calls(&id).len() == 1).await;
        // From now on nothing renews its lease, and it does not know.
        sleep.asleep.store(true, Ordering::SeqCst);
        sleep.renewal().await;
        sleep.asleep.store(false, Ordering::SeqCst);
        let quiet = setup(Faults::default(), rooms[1]);
        let awake = scene.boot_beside(&asleep, quiet).await;
        awake
            .until(&id, |view| view.saga.steps[0].uncertain_until.is_some())
            .await;
        // What claims leases from now on is a new life of the sleeper.
        let lives = sleep.lives.load(Ordering::SeqCst);
        Self {
            scene,
            sleep,
            asleep,
            awake,
            id,
            lives,
        }
    }
}

#[tokio::test]
async fn an_outcome_after_a_takeover_is_refused_and_a_new_life_begins() {
    for scene in Scene::both().await {
        // The sleeper has no room for more than what it believes to have.
        let night = Night::fall(scene, [1, 100], OnUnknown::Retry).await;
        let (scene, id) = (&night.scene, &night.id);
        // Sent again by the other one.
        until("a second call", || scene.world.calls(id).len() == 2).await;
        let rows = format!("SELECT * FROM saga WHERE id = '{id}'");
        let events = format!("SELECT * FROM saga_event WHERE saga_id = '{id}'");
        let before = (scene.sql(&rows).await, scene.sql(&events).await);
        // The first call returns: the sleeper has an outcome.
        scene.world.gate("x").open_once();
        until("a new life", || {
            night.sleep.lives.load(Ordering::SeqCst) > night.lives
        })
        .await;
        let after = (scene.sql(&rows).await, scene.sql(&events).await);
        assert_eq!(after, before, "the sleeper has written");
        scene.world.gate("x").open_once();
        night.awake.until_state(id, State::Completed).await;
        assert_eq!(scene.world.counts(id), counted([("x", 2), ("y", 1)]));
        // The new life works.
        night.asleep.until_alive().await;
    }
}

#[tokio::test]
async fn a_timer_after_a_takeover_is_not_the_sleepers() {
    for scene in Scene::both().await {
        // The other one takes nothing that is free: the timer would be the sleeper's.
        let night = Night::fall(scene, [100, 0], OnUnknown::Stop).await;
        let timer = vec![wait("w", 20), effect("z", "")];
        let id = night.awake.start(start(timer)).await.unwrap();
        until("a new life", || {
            night.sleep.lives.load(Ordering::SeqCst) > night.lives
        })
        .await;
        // By the sleeper's next life.
        night.awake.until_state(&id, State::Completed).await;
        let events = night.awake.events(&id).await;
        let lost: Vec<_> = events
            .iter()
            .filter(|event| event.kind == "step_unknown")
            .collect();
        assert!(
            lost.is_empty(),
            "it was in the hand of a lost life: {lost:?}"
        );
        assert_eq!(night.scene.world.counts(&id), counted([("z", 1)]));
    }
}

/// A process that cannot renew its lease stops what the lease covered when it could have ended, without being told.
#[tokio::test]
async fn a_life_ends_when_its_lease_could_have_ended() {
    for scene in Scene::both().await {
        let sleep = Arc::new(Sleep::default());
        let process = scene.boot(sleep.faults()).await;
        process.until_alive().await;
        let lives = sleep.lives.load(Ordering::SeqCst);
        scene.world.hold("x");
        let id = process.start(start(vec![held("x")])).await.unwrap();
        until("a call", || scene.world.calls(&id).len() == 1).await;
        sleep.fails.store(true, Ordering::SeqCst);
        until("the end of the call", || scene.world.inside() == 0).await;
        sleep.fails.store(false, Ordering::SeqCst);
        scene.world.hold_no_more();
        process.until_state(&id, State::Completed).await;
        assert!(sleep.lives.load(Ordering::SeqCst) > lives);
        assert_eq!(scene.world.counts(&id), counted([("x", 2)]));
    }
}

/// Every write that needs a lease, with one that was taken over.
#[tokio::test]
async fn every_write_under_a_lost_lease_is_refused() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        process.until_alive().await;
        scene.world.hold("x");
        let id = process.start(start(vec![held("x")])).await.unwrap();
        until("a call", || scene.world.calls(&id).len() == 1).await;
        // A saga that could be taken.
        let free = process
            .start(start(vec![wait("w", 3_600_000)]))
            .await
            .unwrap();
        process.until(&free, |view| view.wake_time.is_some()).await;
        let (lost, holder) = (ReplicaId::random(), ReplicaId::random());
        let short = Duration::from_millis(1);
        let old = process
            .run(move |_, store| async move { store.claim_lease("saga/x", lost, short).await })
            .await
            .unwrap()
            .unwrap();
        let deadline = Instant::now() + LEASE * 20;
        let new = loop {
            let claimed = process
                .run(move |_, store| async move {
                    store.claim_lease("saga/x", holder, LEASE * 60).await
                })
                .await
                .unwrap();
            if let Some(lease) = claimed {
                break lease;
            }
            assert!(Instant::now() < deadline);
        };
        let list = || async {
            let views = process
                .run(|engine, _| async move { engine.list(SagaFilter::default(), None, 100).await })
                .await
                .unwrap();
            format!("{views:?}")
        };
        let before = list().await;
        let row = process
            .run({
                let id = id.clone();
                move |_, store| async move { store.saga(&id).await }
            })
            .await
            .unwrap()
            .unwrap();
        let owner = row.owner.clone();
        let write = SagaTransition {
            id: row.id,
            expected: row.version,
            held_by: row.owner,
            owner: String::new(),
            wake_us: None,
            state: "completed".to_owned(),
            machine: row.machine,
            records: "{\"records\":[]}".to_owned(),
            ended: true,
            release: true,
            progress: true,
            lease: old.clone(),
        };
        let refused = process
            .run(move |_, store| async move {
                let fenced = |error: StoreError| matches!(error, StoreError::Fenced { .. });
                // One that releases no key is committed by statements of its own.
                let keeping = SagaTransition {
                    release: false,
                    ..write.clone()
                };
                [
                    store.commit_saga(write).await.unwrap() == TransitionOutcome::Fenced,
                    store.commit_saga(keeping).await.unwrap() == TransitionOutcome::Fenced,
                    store.claim_sagas(&old, lost, 10).await.is_err_and(fenced),
                    store
                        .take_over_sagas(&old, lost, (&owner, true), 10)
                        .await
                        .is_err_and(fenced),
                    store.renew_lease(&old).await.is_err_and(fenced),
                    // Handing back what is another's changes nothing.
                    store.release_lease(&old).await.is_ok()
                        && store.renew_lease(&new).await.is_ok(),
                ]
            })
            .await;
        assert_eq!(refused, [true; 6]);
        assert_eq!(list().await, before);
    }
}
