//! Every step fails in turn, in every way, and what was done is undone in the reverse order; and every action and undo is
//! delivered twice without doing anything twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use steadfast_saga::{Direction, OnFailure, OnUnknown, State, Step, Verb};
use steadfast_store::fault::Faults;

use crate::{
    scene::{Process, Scene},
    steps::{blind, effect, seen, start, step},
    world::{World, counted},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A way in which a step fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Certainly not done, and never will be.
    Permanent,
    /// Nobody knows, time and again; it was not done.
    Unknown,
    /// The same, and it was done.
    UnknownAndDone,
    /// No answer before the deadline; it was not done.
    Timeout,
    /// The same, and it was done.
    TimeoutAndDone,
}

const FAILURES: [Failure; 5] = [
    Failure::Permanent,
    Failure::Unknown,
    Failure::UnknownAndDone,
    Failure::Timeout,
    Failure::TimeoutAndDone,
];

impl Failure {
    const fn word(self) -> &'static str {
        match self {
            Self::Permanent => "fail",
            Self::Unknown => "vanish",
            Self::UnknownAndDone => "unknown",
            Self::Timeout => "freeze",
            Self::TimeoutAndDone => "hang",
        }
    }

    const fn is_certain(self) -> bool {
        matches!(self, Self::Permanent)
    }

    const fn was_done(self) -> bool {
        matches!(self, Self::UnknownAndDone | Self::TimeoutAndDone)
    }
}

fn steps(failing: usize, failure: Failure) -> Vec<Step> {
    let of = |(at, name): (usize, &&str)| {
        let mut step = effect(name, if at == failing { failure.word() } else { "" });
        step.retry.attempts = 2;
        step.timeouts.running_ms = 800;
        step
    };
    NAMES.iter().enumerate().map(of).collect()
}

/// What must have happened when step `failing` failed and everything else is called `times` times.
fn check(world: &World, id: &str, failing: usize, failure: Failure, times: usize) {
    let context = format!("{failure:?} of step {failing}, {times} times");
    let name = NAMES[failing];
    let mut counts = BTreeMap::new();
    let mut order = Vec::new();
    let mut effects = BTreeMap::new();
    for done in &NAMES[..failing] {
        counts.insert((*done).to_owned(), times);
        order.push((*done).to_owned());
        effects.insert(format!("/{done}/forward"), 1);
    }
    order.push(name.to_owned());
    if failure.is_certain() {
        counts.insert(name.to_owned(), 1);
    } else {
        counts.insert(name.to_owned(), 2);
        counts.insert(format!("-{name}"), times);
        order.push(format!("-{name}"));
    }
    if failure.was_done() {
        effects.insert(format!("/{name}/forward"), 1);
        // The undo of a step of which nobody knows carries the forward key.
        effects.insert(format!("/{name}/forward undone"), 1);
    }
    for done in NAMES[..failing].iter().rev() {
        counts.insert(format!("-{done}"), times);
        order.push(format!("-{done}"));
        effects.insert(format!("/{done}/backward undone"), 1);
    }
    assert_eq!(world.counts(id), counts, "{context}");
    assert_eq!(world.order(id), order, "{context}");
    assert_eq!(world.effects(id), effects, "{context}");
    assert_eq!(world.there(id), [""; 0], "{context}");
    let calls = world.calls(id);
    for call in &calls {
        let unknown = call.direction == Direction::Backward && call.step == name;
        let way = match call.direction {
            Direction::Backward if !unknown => "backward",
            _ => "forward",
        };
        assert_eq!(call.key, format!("{id}/{}/{way}", call.step), "{context}");
        if call.direction == Direction::Backward {
            let output = if unknown {
                Value::Null
            } else {
                json!({ "of": call.step, "attempt": times })
            };
            assert_eq!(call.output, output, "{context}");
            assert_eq!(call.input["was"], output, "{context}");
        }
        if unknown {
            let late = calls
                .iter()
                .filter(|forward| forward.step == name && forward.direction == Direction::Forward)
                .map(|forward| forward.deadline)
                .max();
            assert!(Some(call.time) >= late, "undone too early: {context}");
        }
    }
    // Claimed only because the effect was looked for, and twice not found.
    let probes = if failure.is_certain() { 0 } else { 2 };
    assert_eq!(world.probes(id).len(), probes, "{context}");
}

async fn fail_each_step(times: usize) {
    for scene in Scene::both().await {
        if times == 2 {
            scene.world.deliver_twice();
        }
        let process = scene.boot(Faults::default()).await;
        let mut sagas = Vec::new();
        for failure in FAILURES {
            for failing in 0..NAMES.len() {
                let id = process.start(start(steps(failing, failure))).await.unwrap();
                sagas.push((id, failing, failure));
            }
        }
        assert_eq!(sagas.len(), 20);
        for (id, failing, failure) in sagas {
            let view = process.until_rest(&id).await;
            assert_eq!(view.saga.state, State::Compensated, "{:?}", view.saga);
            let reason = format!("step `{}` failed", NAMES[failing]);
            assert_eq!(view.saga.reason, reason);
            check(&scene.world, &id, failing, failure, times);
        }
    }
}

#[tokio::test]
async fn each_step_fails_in_each_way_and_the_others_are_undone_in_reverse() {
    fail_each_step(1).await;
}

#[tokio::test]
async fn the_same_with_every_action_and_undo_delivered_twice() {
    fail_each_step(2).await;
}

#[tokio::test]
async fn every_action_is_delivered_twice_and_each_effect_happens_once() {
    for scene in Scene::both().await {
        scene.world.deliver_twice();
        let process = scene.boot(Faults::default()).await;
        let steps = NAMES.iter().map(|name| effect(name, "")).collect();
        let id = process.start(start(steps)).await.unwrap();
        process.until_state(&id, State::Completed).await;
        let counts = counted([("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
        assert_eq!(scene.world.counts(&id), counts);
        let attempts: Vec<u32> = scene
            .world
            .calls(&id)
            .iter()
            .map(|call| call.attempt)
            .collect();
        assert_eq!(attempts, [1, 2, 1, 2, 1, 2, 1, 2]);
        let effects = scene.world.effects(&id);
        assert!(
            effects.len() == 4 && effects.values().all(|count| *count == 1),
            "{effects:?}"
        );
        // One outcome of each step is recorded, however many attempts there were.
        let events = process.events(&id).await;
        let done = events.iter().filter(|event| event.kind == "step_done");
        assert_eq!(done.count(), 4);
    }
}

/// The undo of each step fails in turn: the saga is stuck, what comes after it in the reverse order is untouched, and a person's
/// retry goes on from there.
#[tokio::test]
async fn an_undo_that_fails_leaves_the_rest_to_be_done() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        for broken in 0..NAMES.len() {
            scene.world.break_undo(NAMES[broken]);
            let mut steps: Vec<Step> = NAMES.iter().map(|name| effect(name, "")).collect();
            steps.push(effect("e", "fail"));
            let id = process.start(start(steps)).await.unwrap();
            let stuck = process.until_rest(&id).await;
            assert_eq!(stuck.saga.state, State::Stuck);
            let reason = format!("step `{}` could not be undone", NAMES[broken]);
            assert_eq!(stuck.saga.reason, reason);
            let untouched: Vec<_> = NAMES[..=broken].to_vec();
            assert_eq!(scene.world.there(&id), untouched);
            let undone: Vec<_> = NAMES[broken..]
                .iter()
                .rev()
                .map(|n| format!("-{n}"))
                .collect();
            assert_eq!(scene.world.order(&id)[5..], undone[..]);
            scene.world.mend();
            let retried = process.steer(&id, Verb::Retry(seen(&stuck))).await;
            assert!(retried.is_ok(), "{retried:?}");
            let view = process.until_rest(&id).await;
            assert_eq!(view.saga.state, State::Compensated, "{:?}", view.saga);
            let undone: Vec<_> = NAMES.iter().rev().map(|name| format!("-{name}")).collect();
            assert_eq!(scene.world.order(&id)[5..], undone[..]);
            assert_eq!(scene.world.there(&id), [""; 0]);
        }
    }
}

async fn one(process: &Process, mut step: Step, change: impl FnOnce(&mut Step)) -> String {
    change(&mut step);
    let steps = vec![effect("first", ""), step, effect("last", "")];
    process.start(start(steps)).await.unwrap()
}

/// What follows an unknown outcome is what the step says.
#[tokio::test]
async fn an_unknown_outcome_is_repeated_reconciled_or_left_to_a_person() {
    for scene in Scene::both().await {
        let (world, process) = (&scene.world, scene.boot(Faults::default()).await);
        let set = |how: OnUnknown| move |step: &mut Step| step.on_unknown = how;
        let repeated = one(&process, effect("x", "unknown once"), set(OnUnknown::Retry)).await;
        let found = one(&process, effect("x", "unknown"), set(OnUnknown::Reconcile)).await;
        let not_found = one(&process, effect("x", "vanish"), set(OnUnknown::Reconcile)).await;
        let stopped = one(&process, effect("x", "unknown"), set(OnUnknown::Stop)).await;

        process.until_state(&repeated, State::Completed).await;
        assert_eq!(
            world.counts(&repeated),
            counted([("first", 1), ("x", 2), ("last", 1)])
        );
        assert_eq!(world.probes(&repeated).len(), 0);

        let view = process.until_state(&found, State::Completed).await;
        assert_eq!(
            world.counts(&found),
            counted([("first", 1), ("x", 1), ("last", 1)])
        );
        let probes = world.probes(&found);
        assert_eq!(probes.len(), 1, "found at once");
        let sent = &world.calls(&found)[1];
        assert_eq!((&*sent.step, &sent.key), ("x", &probes[0].key));
        assert!(probes[0].time >= sent.deadline, "asked before the deadline");
        assert_eq!(view.saga.reason, "");

        // Each attempt is believed not to be done only when that was found twice.
        let view = process.until_rest(&not_found).await;
        assert_eq!(view.saga.state, State::Compensated);
        assert_eq!(
            world.counts(&not_found),
            counted([("first", 1), ("x", 3), ("-first", 1)])
        );
        assert_eq!(world.probes(&not_found).len(), 6);

        let view = process.until_rest(&stopped).await;
        assert_eq!(view.saga.state, State::Stuck);
        assert_eq!(view.saga.direction, Direction::Forward);
        assert_eq!(world.counts(&stopped), counted([("first", 1), ("x", 1)]));
    }
}

/// The undo of a step of which nobody knows counts only if something proves it.
#[tokio::test]
async fn an_undo_of_an_unknown_step_needs_a_proof() {
    for scene in Scene::both().await {
        let (world, process) = (&scene.world, scene.boot(Faults::default()).await);
        let unknown = |step: &mut Step| step.retry.attempts = 1;
        let proven = one(&process, effect("x", "unknown"), unknown).await;
        let unproven = one(&process, blind("x", "unknown"), unknown).await;
        let declared = one(&process, blind("x", "unknown"), |step| {
            step.retry.attempts = 1;
            step.undo_blocks_late = true;
        })
        .await;
        let optional = {
            let mut x = effect("x", "unknown");
            x.retry.attempts = 1;
            x.optional = true;
            let steps = vec![x, effect("last", "fail")];
            process.start(start(steps)).await.unwrap()
        };
        for (id, state) in [
            (&proven, State::Compensated),
            (&unproven, State::Stuck),
            (&declared, State::Compensated),
            (&optional, State::Compensated),
        ] {
            let view = process.until_rest(id).await;
            assert_eq!(view.saga.state, state, "{:?}", view.saga);
        }
        assert_eq!(world.probes(&proven).len(), 2);
        assert_eq!(world.probes(&declared).len(), 0);
        let undone = |id: &str| world.order(id);
        assert_eq!(undone(&proven), ["first", "x", "-x", "-first"]);
        assert_eq!(undone(&declared), ["first", "x", "-x", "-first"]);
        // What comes after it in the reverse order waits for the person, too.
        assert_eq!(undone(&unproven), ["first", "x", "-x"]);
        assert_eq!(undone(&optional), ["x", "last", "-x"]);
    }
}

/// Past the pivot there is no way back: a failure needs a person, and a cancel is refused.
#[tokio::test]
async fn past_an_irreversible_step_a_failure_stops() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let mut pivot = effect("pivot", "");
        pivot.irreversible = true;
        pivot.undo = step(json!({
            "name": "n", "action": { "builtin": { "name": "noop" } }, "undo": "none",
        }))
        .undo;
        let steps = vec![effect("a", ""), pivot, effect("b", "fail")];
        let id = process.start(start(steps)).await.unwrap();
        let view = process.until_rest(&id).await;
        assert_eq!(view.saga.state, State::Stuck);
        assert_eq!(scene.world.order(&id), ["a", "pivot", "b"]);
        let mut stops = effect("b", "fail");
        stops.on_failure = OnFailure::Stop;
        let id = process
            .start(start(vec![effect("a", ""), stops]))
            .await
            .unwrap();
        let view = process.until_rest(&id).await;
        assert_eq!(view.saga.state, State::Stuck);
        assert_eq!(view.saga.direction, Direction::Forward);
        assert_eq!(scene.world.there(&id), ["a"]);
    }
}
