//! Answers that are lost, and replicas that are stopped.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use steadfast_saga::{Direction, Event, Leg, Outcome, Saga, SagaView, State, Step};
use steadfast_store::{SagaRow, SteerWrite};
use steadfast_types::Timestamp;
use tokio::sync::Notify;

use crate::scene::{Fixture, Replica, effect, step};

/// A saga whose first step has been sent and is held; the gate lets it go on.
pub(crate) async fn held_at_first(
    fixture: &Fixture,
    replica: &Replica,
    steps: &[Step],
) -> (SagaView, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let held = (steps[0].name.clone(), Arc::clone(&gate));
    fixture.world.hold.lock().unwrap().insert(held.0, held.1);
    let id = replica.start(steps.to_vec()).await;
    let view = replica.until(&id, |view| view.owner.is_some()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while fixture.log().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (view, gate)
}

/// The same saga, in somebody's hand.
pub(crate) fn handed_to(row: &SagaRow, owner: &str) -> SteerWrite {
    SteerWrite {
        owner: owner.to_owned(),
        wake_us: None,
        state: row.state.clone(),
        machine: row.machine.clone(),
        records: json!({ "records": [] }).to_string(),
        ended: false,
        release: false,
        begin: false,
        deadline_done: false,
        crashes: row.crashes,
        actor: String::new(),
        reason: String::new(),
    }
}

#[tokio::test]
async fn what_a_lost_answer_gave_to_a_replica_is_found() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let mut long = effect("held", "");
        long.timeouts.running_ms = 60_000;
        let (held, gate) = held_at_first(&fixture, &replica, &[long]).await;
        let owner = held.owner.unwrap();
        let timer = step(
            json!({ "name": "later", "action": { "wait": { "duration_ms": 3_600_000 } }, "undo": "none" }),
        );
        let id = replica.start(vec![timer, effect("then", "")]).await;
        replica.until(&id, |view| view.wake_time.is_some()).await;
        // As if its timer were due, and the answer to the claim had been lost.
        let steered = replica
            .store
            .steer_saga(&id, |row| Ok::<_, ()>(handed_to(row, &owner)));
        steered.await.unwrap();
        let ended = replica.until_state(&id, State::Completed).await;
        let events = replica.engine.events(&id, 0, 100).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        // A timer that is due is over, whoever was lost with it.
        assert!(!kinds.contains(&"step_unknown"), "{kinds:?}");
        assert_eq!(ended.saga.steps[0].error, None);
        let then = fixture.log().into_iter().filter(|(step, _)| step == "then");
        assert_eq!(then.count(), 1);
        // What somebody has in hand is left alone.
        assert_eq!(
            fixture
                .log()
                .iter()
                .filter(|(step, _)| step == "held")
                .count(),
            1
        );
        gate.notify_one();
        replica.until_state(&held.id, State::Completed).await;
    }
}

#[tokio::test]
async fn an_outcome_whose_commit_was_not_answered_is_not_taken_for_the_next_steps() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let steps = [effect("a", ""), effect("b", "")];
        let (held, gate) = held_at_first(&fixture, &replica, &steps).await;
        // What its own commit would say, as if that had landed without an answer.
        let steered = replica.store.steer_saga(&held.id, |row| {
            let saga: Saga = serde_json::from_str(&row.machine).unwrap();
            let outcome = Outcome::Done(json!({}));
            let done = Event::Ended {
                attempt: 1,
                outcome,
            };
            let next = saga
                .apply(
                    &steps,
                    &replica.engine.known_actions(),
                    done,
                    Timestamp::now(),
                    0.0,
                )
                .unwrap();
            Ok::<_, ()>(SteerWrite {
                machine: serde_json::to_string(&next.saga).unwrap(),
                records: json!({ "records": next.records, "outputs": { "0": {} } }).to_string(),
                ..handed_to(row, &row.owner)
            })
        });
        steered.await.unwrap();
        gate.notify_one();
        replica.until_state(&held.id, State::Completed).await;
        let forward = |step: &str| (step.to_owned(), Direction::Forward);
        assert_eq!(fixture.log(), [forward("a"), forward("b")]);
    }
}

#[tokio::test]
async fn replicas_that_are_stopped_in_order_are_no_crashes() {
    for fixture in Fixture::both().await {
        let mut long = effect("a", "");
        (long.retry.attempts, long.timeouts.running_ms) = (20, 60_000);
        let mut replica = fixture.replica().await;
        let (held, gate) = held_at_first(&fixture, &replica, &[long]).await;
        // Oftener than replicas may be lost, and each time with an attempt under way.
        for stops in 1..=8 {
            replica.stop.cancel();
            replica.tasks.close();
            replica.tasks.wait().await;
            drop(replica);
            replica = fixture.replica().await;
            let view = replica.until(&held.id, |view| {
                let again = matches!(view.saga.steps[0].forward, Leg::Running { attempt, .. } if attempt == stops + 1);
                again || view.saga.state == State::Stuck
            });
            assert_eq!(view.await.saga.state, State::Running, "after {stops} stops");
        }
        gate.notify_one();
        replica.until_state(&held.id, State::Completed).await;
    }
}
