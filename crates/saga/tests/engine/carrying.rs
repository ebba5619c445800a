//! Steps, undos, timers, keys, verbs and takeovers.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use steadfast_saga::{Direction, Error, Refusal, SagaFilter, State, Verb, machine::Seen};
use steadfast_store::Request;
use steadfast_types::Timestamp;
use tokio::sync::Notify;

use crate::scene::{Fixture, effect, start, step};

#[tokio::test]
async fn steps_run_in_order_and_outputs_reach_later_steps() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let mut last = effect("c", "");
        last.action = serde_json::from_value(json!({ "builtin": { "name": "effect", "input": {
            "size": "{{ inputs.size }}", "from": "{{ steps.a.output.of }}" } } }))
        .unwrap();
        let id = replica
            .start(vec![effect("a", ""), effect("b", "flaky"), last])
            .await;
        replica.until_state(&id, State::Completed).await;
        let names: Vec<_> = fixture.log().into_iter().map(|(step, _)| step).collect();
        assert_eq!(names, ["a", "b", "b", "b", "c"]);
        let events = replica.engine.events(&id, 0, 1_000).await.unwrap();
        let done = events
            .iter()
            .rfind(|event| event.kind == "step_done")
            .unwrap();
        assert_eq!(
            done.detail["output"]["input"],
            json!({ "size": 3, "from": "a" })
        );
        assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert_eq!(events[0].kind, "created");
    }
}

#[tokio::test]
async fn a_failure_unwinds_in_reverse_with_recorded_outputs_and_stable_keys() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let id = replica
            .start(vec![effect("a", ""), effect("b", ""), effect("c", "fail")])
            .await;
        let view = replica.until_state(&id, State::Compensated).await;
        assert_eq!(view.saga.reason, "step `c` failed");
        use Direction::{Backward, Forward};
        let expected = [
            ("a", Forward),
            ("b", Forward),
            ("c", Forward),
            ("b", Backward),
            ("a", Backward),
        ];
        let expected: Vec<_> = expected.map(|(step, way)| (step.to_owned(), way)).to_vec();
        assert_eq!(fixture.log(), expected);
        let keys: Vec<String> = {
            let log = fixture.world.log.lock().unwrap();
            log.iter().map(|(_, _, key)| key.clone()).collect()
        };
        assert_eq!(keys[4], format!("{id}/a/backward"));
        let events = replica.engine.events(&id, 0, 1_000).await.unwrap();
        let undone = events
            .iter()
            .rfind(|event| event.kind == "step_done")
            .unwrap();
        assert_eq!(undone.step.as_deref(), Some("a"));
    }
}

#[tokio::test]
async fn timers_are_durable_and_a_cancel_need_not_wait_for_them() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let wait = |ms: u64| {
            step(
                json!({ "name": "w", "action": { "wait": { "duration_ms": ms } }, "undo": "none" }),
            )
        };
        let short = replica
            .start(vec![effect("a", ""), wait(60), effect("b", "")])
            .await;
        replica.until_state(&short, State::Completed).await;
        let long = replica.start(vec![effect("x", ""), wait(3_600_000)]).await;
        let parked = replica.until(&long, |view| view.wake_time.is_some()).await;
        assert_eq!(parked.owner, None, "a parked saga is in nobody's hand");
        replica
            .engine
            .steer(&long, Verb::Cancel, "me", "enough")
            .await
            .unwrap();
        let view = replica.until_state(&long, State::Compensated).await;
        assert_eq!(view.saga.reason, "canceled");
        let events = replica.engine.events(&long, 0, 1_000).await.unwrap();
        assert!(
            events
                .iter()
                .any(|event| event.actor == "me" && event.reason == "enough")
        );
    }
}

#[tokio::test]
async fn a_request_id_starts_one_saga() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let request = |hash: &str| {
            Some(Request {
                identity: "me".to_owned(),
                rpc: "StartSaga",
                id: "r1".to_owned(),
                body_hash: hash.to_owned(),
            })
        };
        let steps = || start(vec![effect("a", "")]);
        let (first, replayed) = replica.engine.start(steps(), request("h")).await.unwrap();
        assert!(!replayed);
        let (again, replayed) = replica.engine.start(steps(), request("h")).await.unwrap();
        assert!(replayed && again.id == first.id);
        let other = replica.engine.start(steps(), request("other")).await;
        assert!(matches!(other, Err(Error::RequestIdReused)), "{other:?}");
        replica.until_state(&first.id, State::Completed).await;
        assert_eq!(fixture.log().len(), 1);
    }
}

#[tokio::test]
async fn sagas_of_one_key_run_one_at_a_time_by_priority() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let gate = Arc::new(Notify::new());
        fixture
            .world
            .hold
            .lock()
            .unwrap()
            .insert("first".to_owned(), Arc::clone(&gate));
        let with_key = |name: &str, priority: i32| {
            let mut start = start(vec![effect(name, "")]);
            start.concurrency_key = Some("resource/x".to_owned());
            start.priority = priority;
            start
        };
        let mut ids = Vec::new();
        for (name, priority) in [("first", 0), ("low", 1), ("high", 9)] {
            ids.push(
                replica
                    .engine
                    .start(with_key(name, priority), None)
                    .await
                    .unwrap()
                    .0
                    .id,
            );
        }
        let waiting = replica.engine.get(&ids[1]).await.unwrap();
        assert_eq!(waiting.saga.state, State::Pending);
        // A waiter that is cancelled takes nothing along.
        let mut canceled = with_key("never", 5);
        canceled.kind = "canceled".to_owned();
        let canceled = replica.engine.start(canceled, None).await.unwrap().0.id;
        replica
            .engine
            .steer(&canceled, Verb::Cancel, "me", "")
            .await
            .unwrap();
        gate.notify_one();
        for id in &ids {
            replica.until_state(id, State::Completed).await;
        }
        let names: Vec<_> = fixture.log().into_iter().map(|(step, _)| step).collect();
        assert_eq!(names, ["first", "high", "low"]);
    }
}

#[tokio::test]
async fn a_stuck_saga_waits_for_a_person_and_goes_on_as_told() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let mut stops = effect("b", "fail");
        stops.on_failure = steadfast_saga::OnFailure::Stop;
        let id = replica
            .start(vec![effect("a", ""), stops, effect("c", "")])
            .await;
        let stuck = replica.until_state(&id, State::Stuck).await;
        let listed = replica
            .engine
            .list(
                SagaFilter {
                    states: vec![State::Stuck],
                    ..SagaFilter::default()
                },
                None,
                10,
            )
            .await
            .unwrap();
        assert_eq!(listed[0].id, id);
        let at = stuck.saga.at.unwrap();
        let seen = Seen {
            control_version: stuck.saga.control_version,
            step: at,
            attempt: stuck.saga.steps[at].attempt(Direction::Forward),
        };
        let refused = replica.engine.steer(&id, Verb::Cancel, "me", "").await;
        assert!(
            matches!(refused, Err(Error::Refused(Refusal::IsStuck))),
            "{refused:?}"
        );
        let output = json!({ "of": "a person" });
        let skip = Verb::Skip {
            seen: seen.clone(),
            output,
        };
        replica
            .engine
            .steer(&id, skip, "me", "done by hand")
            .await
            .unwrap();
        replica.until_state(&id, State::Completed).await;
        let again = replica.engine.steer(&id, Verb::Retry(seen), "me", "").await;
        assert!(
            matches!(again, Err(Error::Refused(Refusal::HasEnded))),
            "{again:?}"
        );
    }
}

#[tokio::test]
async fn a_deadline_is_a_cancel() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let wait = step(
            json!({ "name": "w", "action": { "wait": { "duration_ms": 3_600_000 } }, "undo": "none" }),
        );
        let mut start = start(vec![effect("a", ""), wait]);
        start.deadline = Some(Timestamp::now().plus(Duration::from_millis(200)));
        let id = replica.engine.start(start, None).await.unwrap().0.id;
        let view = replica.until_state(&id, State::Compensated).await;
        assert_eq!(view.saga.reason, "its deadline passed");
    }
}

/// A replica that stops with a step in flight: the other one takes the saga over and does not believe that nothing happened.
#[tokio::test]
async fn another_replica_takes_over_and_repeats_with_the_same_key() {
    let fixture = Fixture::postgres().await;
    let gate = Arc::new(Notify::new());
    fixture
        .world
        .hold
        .lock()
        .unwrap()
        .insert("b".to_owned(), gate);
    let first = fixture.replica().await;
    let id = loop {
        // The executor may not have its lease yet: then the saga waits in the database.
        let id = first
            .start(vec![effect("a", ""), effect("b", ""), effect("c", "")])
            .await;
        let taken = first.until(&id, |view| view.saga.at == Some(1)).await;
        if taken.owner.is_some() {
            break id;
        }
    };
    let second = fixture.replica().await;
    fixture.world.hold.lock().unwrap().clear();
    first.stop.cancel();
    first.tasks.close();
    first.tasks.wait().await;
    second.until_state(&id, State::Completed).await;
    let log = fixture.world.log.lock().unwrap();
    let keys: Vec<&String> = log
        .iter()
        .filter(|entry| entry.0 == "b")
        .map(|entry| &entry.2)
        .collect();
    assert_eq!(
        keys,
        [&format!("{id}/b/forward"), &format!("{id}/b/forward")]
    );
    assert_eq!(log.iter().filter(|entry| entry.0 == "a").count(), 1);
}

#[tokio::test]
async fn many_sagas_over_two_replicas_all_end_with_exact_effects() {
    let fixture = Fixture::postgres().await;
    let replicas = [fixture.replica().await, fixture.replica().await];
    let mut ids = Vec::new();
    for n in 0..200 {
        let what = if n % 3 == 0 { "fail" } else { "" };
        let steps = vec![effect("a", ""), effect("b", "flaky"), effect("c", what)];
        ids.push(replicas[n % 2].start(steps).await);
    }
    for (n, id) in ids.iter().enumerate() {
        let wanted = if n % 3 == 0 {
            State::Compensated
        } else {
            State::Completed
        };
        replicas[(n + 1) % 2].until_state(id, wanted).await;
    }
    let log = fixture.world.log.lock().unwrap();
    let count = |step: &str, direction: Direction| {
        log.iter()
            .filter(|entry| entry.0 == step && entry.1 == direction)
            .count()
    };
    assert_eq!(count("a", Direction::Forward), 200);
    assert_eq!(count("b", Direction::Forward), 600);
    assert_eq!(
        (
            count("b", Direction::Backward),
            count("a", Direction::Backward)
        ),
        (67, 67)
    );
}
