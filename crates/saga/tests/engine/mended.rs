//! What an undo proves, what an output may hold, and what replicas are lost with.

use std::sync::Arc;

use serde_json::{Value, json};
use steadfast_saga::{Direction, Error, Options, State, Verb, machine::Seen};
use tokio::sync::Notify;

use crate::scene::{Fixture, effect, start, step};

use crate::lost::handed_to;

/// The registered action says whether its undo can be proven by asking it, not the kind of action.
#[tokio::test]
async fn an_undo_that_nobody_can_be_asked_about_is_no_proof() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let uncertain = |name: &str| {
            step(json!({
                "name": "a",
                "action": { "builtin": { "name": name, "input": { "do": "unknown" } } },
                "undo": { "builtin": { "name": name } },
                "retry": { "attempts": 1, "initial_backoff_ms": 1, "max_backoff_ms": 2 },
                "timeouts": { "running_ms": 1500 },
            }))
        };
        let blind = replica.start(vec![uncertain("blind")]).await;
        let stuck = replica.until_state(&blind, State::Stuck).await;
        assert_eq!(stuck.saga.direction, Direction::Backward);
        let events = replica.engine.events(&blind, 0, 100).await.unwrap();
        assert!(
            events.iter().all(|event| event.kind != "probed"),
            "{events:?}"
        );
        let asked = replica.start(vec![uncertain("effect")]).await;
        replica.until_state(&asked, State::Compensated).await;
        let events = replica.engine.events(&asked, 0, 100).await.unwrap();
        let probes = events.iter().filter(|event| event.kind == "probed");
        assert_eq!(probes.count(), 2, "{events:?}");
    }
}

#[tokio::test]
async fn text_that_looks_like_a_nul_is_kept_and_a_nul_is_not() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let looks = r"a literal \u0000, and \\u0000";
        let echo = |input: Value| {
            step(
                json!({ "name": "a", "action": { "builtin": { "name": "noop", "input": input } }, "undo": "none" }),
            )
        };
        let mut new = start(vec![echo(
            json!({ "text": "{{ inputs.text }}", r"\u0000": 1 }),
        )]);
        new.inputs = json!({ "text": looks });
        let id = replica.engine.start(new, None).await.unwrap().0.id;
        replica.until_state(&id, State::Completed).await;
        let output = async |id: &str| {
            let events = replica.engine.events(id, 0, 100).await.unwrap();
            let done = events.into_iter().find(|event| event.kind == "step_done");
            done.unwrap().detail["output"].clone()
        };
        assert_eq!(output(&id).await, json!({ "text": looks, r"\u0000": 1 }));
        let id = replica.start(vec![echo(json!({ "text": "a\0b" }))]).await;
        replica.until_state(&id, State::Completed).await;
        let dropped = output(&id).await;
        let dropped = dropped["dropped"].as_str().unwrap();
        assert!(dropped.contains("without NUL"), "{dropped}");
        let mut nul = start(vec![echo(json!({}))]);
        nul.inputs = json!({ "text": "a\0b" });
        let refused = replica.engine.start(nul, None).await;
        assert!(
            matches!(
                refused,
                Err(Error::InvalidArgument {
                    field: "inputs_json",
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn what_replicas_are_lost_with_says_so_and_a_person_frees_it() {
    let fixture = Fixture::postgres().await;
    let held = Arc::new(Notify::new());
    let hold = |fixture: &Fixture| {
        let mut hold = fixture.world.hold.lock().unwrap();
        hold.insert("b".to_owned(), Arc::clone(&held));
    };
    hold(&fixture);
    let first = fixture.replica().await;
    let id = loop {
        // The executor may not have its lease yet: then the saga waits in the database.
        let id = first.start(vec![effect("a", ""), effect("b", "")]).await;
        let taken = first.until(&id, |view| view.saga.at == Some(1)).await;
        if taken.owner.is_some() {
            break id;
        }
    };
    first.stop.cancel();
    first.tasks.close();
    first.tasks.wait().await;
    // As if it had been lost instead of stopped in order, which is no crash.
    let lost = first
        .store
        .steer_saga(&id, |row| Ok::<_, ()>(handed_to(row, "lost")));
    lost.await.unwrap();
    let options = Options {
        crashes: 0,
        ..Options::default()
    };
    let second = fixture.replica_with(options).await;
    let stuck = second.until_state(&id, State::Stuck).await;
    assert_eq!(stuck.saga.direction, Direction::Forward);
    let events = second.engine.events(&id, 0, 100).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds[kinds.len() - 2..], ["poisoned", "stuck"]);
    assert!(events.iter().all(|event| event.verb.is_empty()));
    fixture.world.hold.lock().unwrap().clear();
    let seen = Seen {
        control_version: stuck.saga.control_version,
        step: 1,
        attempt: 1,
    };
    second
        .engine
        .steer(&id, Verb::Retry(seen), "ann", "looked at it")
        .await
        .unwrap();
    second.until_state(&id, State::Completed).await;
    let events = second.engine.events(&id, 0, 100).await.unwrap();
    let retried: Vec<_> = events
        .iter()
        .filter(|event| event.verb == "retry")
        .collect();
    assert!(
        retried
            .iter()
            .all(|event| event.actor == "ann" && event.reason == "looked at it")
    );
    assert_eq!(retried[0].kind, "step_retried");
}
