//! Steering a saga while it is carried out: what was decided meanwhile is never overwritten, what was decided on something older
//! is refused, and each transition is one event and one change of the log.

use std::time::Duration;

use serde_json::json;
use steadfast_saga::{Direction, Error, Refusal, State, Verb, machine::Seen};
use steadfast_store::{SagaTransition, TransitionOutcome, fault::Faults};
use steadfast_types::ReplicaId;

use crate::{
    scene::{Process, Scene},
    steps::{effect, long, seen, start, stops, wait},
    world::counted,
};

/// A saga whose first step is in the middle of its call.
async fn under_way(scene: &Scene, process: &Process) -> String {
    scene.world.hold("a");
    let steps = vec![long("a", ""), effect("b", "")];
    let id = process.start(start(steps)).await.unwrap();
    scene.world.called(&id, 1).await;
    id
}

#[tokio::test]
async fn an_outcome_does_not_overwrite_what_was_decided_meanwhile() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        process.until_alive().await;

        let id = under_way(&scene, &process).await;
        let asked = process.steer(&id, Verb::Pause).await.unwrap();
        assert_eq!(
            asked.saga.state,
            State::Running,
            "not in the middle of a step"
        );
        assert_eq!(asked.saga.control_version, 1);
        scene.world.gate("a").open_once();
        process.until_state(&id, State::Paused).await;
        assert_eq!(scene.world.counts(&id), counted([("a", 1)]));
        process.steer(&id, Verb::Resume).await.unwrap();
        process.until_state(&id, State::Completed).await;
        assert_eq!(scene.world.counts(&id), counted([("a", 1), ("b", 1)]));

        let id = under_way(&scene, &process).await;
        process.steer(&id, Verb::Cancel).await.unwrap();
        scene.world.hold_no_more();
        let view = process.until_rest(&id).await;
        assert_eq!(view.saga.state, State::Compensated);
        assert_eq!(scene.world.counts(&id), counted([("a", 1), ("-a", 1)]));

        // Abandoned in the middle of a call: what that returns changes nothing, and nothing is undone.
        let id = under_way(&scene, &process).await;
        let view = process.get(&id).await;
        process
            .steer(&id, Verb::Abandon(seen(&view)))
            .await
            .unwrap();
        let abandoned = process.get(&id).await;
        scene.world.gate("a").open_once();
        let other = process.start(start(vec![effect("c", "")])).await.unwrap();
        process.until_state(&other, State::Completed).await;
        let view = process.get(&id).await;
        assert_eq!(view.saga, abandoned.saga);
        assert_eq!(view.saga.state, State::Abandoned);
        assert_eq!(scene.world.there(&id), ["a"]);
    }
}

#[tokio::test]
async fn a_pause_going_backward_holds_the_undos() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let steps = vec![effect("a", ""), long("b", ""), effect("c", "fail")];
        let gate = scene.world.hold("b");
        let id = process.start(start(steps)).await.unwrap();
        gate.open_once();
        process.until_state(&id, State::Compensating).await;
        process.steer(&id, Verb::Pause).await.unwrap();
        // Cancelling what is being rolled back changes nothing.
        process.steer(&id, Verb::Cancel).await.unwrap();
        gate.open_once();
        let view = process.until_state(&id, State::Paused).await;
        assert_eq!(view.saga.direction, Direction::Backward);
        assert_eq!(scene.world.there(&id), ["a"]);
        process.steer(&id, Verb::Resume).await.unwrap();
        process.until_state(&id, State::Compensated).await;
        assert_eq!(scene.world.order(&id), ["a", "b", "c", "-b", "-a"]);
    }
}

#[tokio::test]
async fn a_cancel_before_and_between_steps_rolls_back_and_a_stuck_saga_refuses_it() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let keyed = |step| {
            let mut saga = start(vec![step]);
            saga.concurrency_key = Some("k".to_owned());
            saga
        };
        let holder = process.start(keyed(stops("x"))).await.unwrap();
        let pending = process.start(keyed(effect("y", ""))).await.unwrap();
        process.until_state(&holder, State::Stuck).await;
        assert_eq!(process.get(&pending).await.saga.state, State::Pending);
        let view = process.steer(&pending, Verb::Cancel).await.unwrap();
        assert_eq!(view.saga.state, State::Compensated);
        assert_eq!(scene.world.calls(&pending), []);

        let refused = process.steer(&holder, Verb::Cancel).await;
        assert!(
            matches!(refused, Err(Error::Refused(Refusal::IsStuck))),
            "{refused:?}"
        );

        let steps = vec![effect("a", ""), wait("w", 150), effect("b", "")];
        let paused = process.start(start(steps)).await.unwrap();
        process.until(&paused, |view| view.saga.at == Some(1)).await;
        process.steer(&paused, Verb::Pause).await.unwrap();
        process.until_state(&paused, State::Paused).await;
        process.steer(&paused, Verb::Cancel).await.unwrap();
        process.until_state(&paused, State::Compensated).await;
        assert_eq!(scene.world.order(&paused), ["a", "-a"]);
        // Who, and why.
        let events = process.events(&paused).await;
        let by_me = events
            .iter()
            .filter(|event| event.actor == "me" && event.reason == "because");
        assert!(by_me.count() >= 2, "{events:?}");
    }
}

#[tokio::test]
async fn a_decision_about_something_older_is_refused() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let id = process
            .start(start(vec![stops("x"), effect("y", "")]))
            .await
            .unwrap();
        let view = process.until_state(&id, State::Stuck).await;
        let old = seen(&view);
        process.steer(&id, Verb::Retry(old.clone())).await.unwrap();
        // It failed again: the same state, of another attempt.
        let again = process
            .until(&id, |view| {
                view.saga.state == State::Stuck && view.saga.control_version == 1
            })
            .await;
        let output = json!({ "by": "hand" });
        let skip = |seen| Verb::Skip {
            seen,
            output: output.clone(),
        };
        for verb in [
            Verb::Retry(old.clone()),
            skip(old.clone()),
            Verb::Abandon(old.clone()),
            skip(Seen {
                attempt: old.attempt,
                ..seen(&again)
            }),
        ] {
            let refused = process.steer(&id, verb.clone()).await;
            assert!(
                matches!(refused, Err(Error::Refused(Refusal::Changed))),
                "{verb:?}: {refused:?}"
            );
        }
        assert_eq!(process.get(&id).await.saga, again.saga);
        process.steer(&id, skip(seen(&again))).await.unwrap();
        process.until_state(&id, State::Completed).await;
        assert_eq!(scene.world.counts(&id), counted([("x", 2), ("y", 1)]));
        let events = process.events(&id).await;
        let skipped = events.iter().find(|event| event.kind == "step_skipped");
        assert_eq!(skipped.unwrap().detail["output"], output);
    }
}

/// Undos, too, are tried again and skipped as a person says.
#[tokio::test]
async fn an_undo_is_skipped_on_a_persons_word() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        scene.world.break_undo("b");
        let steps = vec![effect("a", ""), effect("b", ""), effect("c", "fail")];
        let id = process.start(start(steps)).await.unwrap();
        let view = process.until_state(&id, State::Stuck).await;
        assert_eq!(view.saga.direction, Direction::Backward);
        let skip = Verb::Skip {
            seen: seen(&view),
            output: json!(null),
        };
        process.steer(&id, skip).await.unwrap();
        process.until_state(&id, State::Compensated).await;
        assert_eq!(scene.world.order(&id), ["a", "b", "c", "-b", "-a"]);
        assert_eq!(scene.world.there(&id), ["b"]);
    }
}

/// Each transition, whoever made it, is one event row and one change of the log, in one transaction and in order.
#[tokio::test]
async fn each_transition_is_one_event_and_one_change_of_the_log() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let steps = vec![effect("a", ""), wait("w", 30), effect("b", ""), stops("c")];
        let id = process.start(start(steps)).await.unwrap();
        let view = process.until_state(&id, State::Stuck).await;
        let skip = Verb::Skip {
            seen: seen(&view),
            output: json!(null),
        };
        process.steer(&id, skip).await.unwrap();
        let view = process.until_state(&id, State::Completed).await;
        let versions = scene
            .sql(&format!(
                "SELECT version FROM saga_event WHERE saga_id = '{id}' ORDER BY version"
            ))
            .await;
        let expected: Vec<String> = (1..=view.version).map(|at| at.to_string()).collect();
        assert_eq!(versions.lines().collect::<Vec<_>>(), expected);
        assert!(view.version >= 6, "{}", view.version);
        let log = scene
            .sql("SELECT changes FROM change_log ORDER BY revision")
            .await;
        let states: Vec<&str> = log
            .split('"')
            .filter(|word| {
                word.rsplit_once('/').is_some_and(|(state, version)| {
                    version.parse::<i64>().is_ok() && state.bytes().all(|b| b.is_ascii_lowercase())
                })
            })
            .collect();
        let of_versions: Vec<i64> = states
            .iter()
            .map(|etag| etag.rsplit_once('/').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(of_versions, (1..=view.version).collect::<Vec<_>>(), "{log}");
        let last = format!("completed/{}", view.version);
        assert_eq!(states.last(), Some(&&*last));
        assert_eq!(log.matches(&id).count(), states.len());
    }
}

/// What was decided on an older version is left out, and said to be; it is no error, which would be everybody's in its batch.
#[tokio::test]
async fn a_transition_decided_on_an_older_version_is_left_out() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        process.until_alive().await;
        let id = under_way(&scene, &process).await;
        process.steer(&id, Verb::Pause).await.unwrap();
        let asked = id.clone();
        let (outcomes, before, after) = process
            .run(|_, store| async move {
                let holder = ReplicaId::random();
                let lease = store.claim_lease("saga/x", holder, Duration::from_secs(60));
                let lease = lease.await.unwrap().unwrap();
                let before = store.saga(&asked).await.unwrap().unwrap();
                // One that releases no key is committed by statements of its own.
                let write = |expected, held_by: &str, release| SagaTransition {
                    id: before.id.clone(),
                    expected,
                    held_by: held_by.to_owned(),
                    owner: before.owner.clone(),
                    wake_us: None,
                    state: "completed".to_owned(),
                    machine: before.machine.clone(),
                    records: "{\"records\":[]}".to_owned(),
                    ended: true,
                    release,
                    progress: true,
                    lease: lease.clone(),
                };
                let mut outcomes = Vec::new();
                for release in [true, false] {
                    for (expected, held_by) in [
                        (before.version - 1, before.owner.as_str()),
                        (before.version + 1, &before.owner),
                        (before.version, "another"),
                    ] {
                        let write = write(expected, held_by, release);
                        outcomes.push(store.commit_saga(write).await);
                    }
                }
                let after = store.saga(&asked).await.unwrap().unwrap();
                (outcomes, before, after)
            })
            .await;
        for outcome in outcomes {
            assert!(
                matches!(outcome, Ok(TransitionOutcome::Changed)),
                "{outcome:?}"
            );
        }
        assert_eq!(after, before);
    }
}
