//! A crash at every durable boundary.
//!
//! A saga is carried out by a process that is killed just before, or just after, its commit number `k` is durable; another
//! process finds what is in the database, and brings the saga to its end. That is done for every `k` that there is. What may be
//! called twice is known exactly: the action whose outcome was not recorded yet, and nothing else.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use steadfast_saga::{Direction, State, Step};
use steadfast_store::{
    Engine, Request,
    fault::{Fault, Faults, Point},
};
use tokio::time::Instant;

use crate::{
    scene::Scene,
    steps::{effect, start, wait},
    world::World,
};

/// Crashes that are played at the same time.
const AT_ONCE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

/// Stops a process at one commit.
#[derive(Default)]
struct Trap {
    armed: AtomicBool,
    passed: AtomicUsize,
    sprung: AtomicBool,
}

/// One saga, commit by commit.
struct Tale {
    name: &'static str,
    steps: fn() -> Vec<Step>,
    state: State,
    /// Per commit: the action whose outcome it records, and the one whose intent it records.
    commits: &'static [(&'static str, &'static str)],
    /// Steps that fail: after a crash with one of them under way nobody knows that any more, and it is undone.
    failing: &'static [&'static str],
    /// Calls without any crash.
    calls: &'static [(&'static str, usize)],
    /// Calls in order, with undos that only a crash makes necessary.
    order: &'static [&'static str],
    effects: &'static [&'static str],
}

const TALES: [Tale; 2] = [
    Tale {
        name: "it unwinds",
        steps: || {
            let mut optional = effect("o", "fail");
            optional.optional = true;
            vec![
                effect("a", ""),
                wait("w", 30),
                optional,
                effect("b", ""),
                effect("c", "fail"),
            ]
        },
        state: State::Compensated,
        commits: &[
            ("", "a"),
            ("a", "w"),
            // The timer is due: the saga is taken.
            ("", "w"),
            ("w", "o"),
            ("o", "b"),
            ("b", "c"),
            ("c", "-b"),
            ("-b", "-a"),
            ("-a", ""),
        ],
        failing: &["o", "c"],
        calls: &[("a", 1), ("o", 1), ("b", 1), ("c", 1), ("-b", 1), ("-a", 1)],
        order: &["a", "o", "b", "c", "-c", "-b", "-o", "-a"],
        effects: &[
            "/a/forward",
            "/b/forward",
            "/a/backward undone",
            "/b/backward undone",
        ],
    },
    Tale {
        name: "it completes",
        steps: || {
            let mut optional = effect("o", "fail");
            optional.optional = true;
            vec![effect("a", ""), wait("w", 30), optional, effect("b", "")]
        },
        state: State::Completed,
        commits: &[
            ("", "a"),
            ("a", "w"),
            ("", "w"),
            ("w", "o"),
            ("o", "b"),
            ("b", ""),
        ],
        failing: &[],
        calls: &[("a", 1), ("o", 1), ("b", 1)],
        order: &["a", "o", "b"],
        effects: &["/a/forward", "/b/forward"],
    },
];

impl Trap {
    /// The faults of a process that stops at commit number `at`, counted from when the trap is armed.
    fn faults(self: &Arc<Self>, at: usize, moment: Moment) -> Faults {
        let trap = Arc::clone(self);
        Faults::planned(move |point| {
            if !trap.armed.load(Ordering::SeqCst) {
                return Fault::None;
            }
            let of_saga = |names: &[&str]| names.iter().any(|name| name.starts_with("saga_"));
            let here = match point {
                Point::Committing(names) if of_saga(names) => {
                    trap.passed.fetch_add(1, Ordering::SeqCst) + 1 == at && moment == Moment::Before
                }
                Point::Committed(names) if of_saga(names) => {
                    trap.passed.load(Ordering::SeqCst) == at && moment == Moment::After
                }
                _ => false,
            };
            if here {
                trap.sprung.store(true, Ordering::SeqCst);
                return Fault::Stop;
            }
            Fault::None
        })
    }
}

fn request() -> Option<Request> {
    Some(Request {
        identity: "me".to_owned(),
        rpc: "StartSaga",
        id: "once".to_owned(),
        body_hash: "body".to_owned(),
    })
}

impl Tale {
    /// The calls that there must be if the process is killed at commit `at`.
    fn calls_with_a_crash(&self, at: usize, moment: Moment) -> BTreeMap<String, usize> {
        let mut calls: BTreeMap<String, usize> = self
            .calls
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        let (outcome, intent) = self.commits[at - 1];
        // Before the commit its action was called and nobody will know; after it the next was recorded, and nobody knows that
        // it was not called.
        let lost = match moment {
            Moment::Before => outcome,
            Moment::After => intent,
        };
        if moment == Moment::Before
            && let Some(count) = calls.get_mut(outcome)
        {
            *count += 1;
        }
        if self.failing.contains(&lost) {
            calls.insert(format!("-{lost}"), 1);
        }
        calls
    }

    fn check(&self, world: &World, id: &str, calls: BTreeMap<String, usize>, context: &str) {
        let order: Vec<_> = self
            .order
            .iter()
            .filter(|name| calls.contains_key(**name))
            .collect();
        assert_eq!(world.counts(id), calls, "calls {context}");
        assert_eq!(
            world.order(id).iter().collect::<Vec<_>>(),
            order,
            "order {context}"
        );
        let effects: BTreeMap<String, u32> = self
            .effects
            .iter()
            .map(|key| ((*key).to_owned(), 1))
            .collect();
        assert_eq!(world.effects(id), effects, "effects {context}");
        for call in world.calls(id) {
            let of_unknown =
                call.direction == Direction::Backward && self.failing.contains(&&*call.step);
            let way = if call.direction == Direction::Forward || of_unknown {
                "forward"
            } else {
                "backward"
            };
            assert_eq!(call.key, format!("{id}/{}/{way}", call.step), "{context}");
            // What was recorded reaches the undo, whoever carries that out.
            if call.direction == Direction::Backward {
                let of = if of_unknown {
                    Value::Null
                } else {
                    json!(call.step)
                };
                assert_eq!(call.output["of"], of, "{context}");
            }
        }
    }

    /// Without a crash: says how many commits there are.
    async fn undisturbed(&self, engine: Engine) {
        let scene = Scene::on(engine).await;
        let trap = Arc::new(Trap::default());
        let process = scene.boot(trap.faults(usize::MAX, Moment::Before)).await;
        process.until_alive().await;
        trap.armed.store(true, Ordering::SeqCst);
        let id = process.start(start((self.steps)())).await.unwrap();
        process.until_state(&id, self.state).await;
        assert_eq!(
            trap.passed.load(Ordering::SeqCst),
            self.commits.len(),
            "commits of: {}",
            self.name
        );
        let calls = self
            .calls
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        self.check(&scene.world, &id, calls.collect(), self.name);
    }

    async fn with_a_crash(&self, engine: Engine, at: usize, moment: Moment) {
        let context = format!("{}: {engine}, {moment:?} commit {at}", self.name);
        let scene = Scene::on(engine).await;
        let trap = Arc::new(Trap::default());
        let first = scene.boot(trap.faults(at, moment)).await;
        first.until_alive().await;
        trap.armed.store(true, Ordering::SeqCst);
        let saga = start((self.steps)());
        let asked = saga.clone();
        // Its answer may never come.
        let starting = tokio::time::timeout(
            Duration::from_millis(1),
            first.run(|engine, _| async move { engine.start(asked, request()).await }),
        );
        drop(starting.await);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !trap.sprung.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "never reached: {context}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        first.kill();

        let second = scene.boot(Faults::default()).await;
        let id = second
            .run(|engine, _| async move { engine.start(saga, request()).await })
            .await
            .unwrap()
            .0
            .id;
        let view = second.until_rest(&id).await;
        assert_eq!(view.saga.state, self.state, "{context}: {:?}", view.saga);
        let calls = self.calls_with_a_crash(at, moment);
        self.check(&scene.world, &id, calls, &context);
        assert_eq!(
            scene.world.there(&id).is_empty(),
            self.state == State::Compensated,
            "{context}"
        );
    }
}

async fn everywhere(engine: Engine) {
    for tale in &TALES {
        tale.undisturbed(engine).await;
    }
    let places = TALES.iter().flat_map(|tale| {
        (1..=tale.commits.len())
            .flat_map(move |at| [Moment::Before, Moment::After].map(|moment| (tale, at, moment)))
    });
    let played = stream::iter(places)
        .map(|(tale, at, moment)| tale.with_a_crash(engine, at, moment))
        .buffer_unordered(AT_ONCE)
        .count()
        .await;
    assert_eq!(played, 30, "9 and 6 commits, each before and after");
}

#[tokio::test]
async fn a_crash_at_any_commit_is_recovered_from_on_sqlite() {
    everywhere(Engine::Sqlite).await;
}

#[tokio::test]
async fn a_crash_at_any_commit_is_recovered_from_on_postgres() {
    everywhere(Engine::Postgres).await;
}
