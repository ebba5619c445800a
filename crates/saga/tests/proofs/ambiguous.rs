//! Lost answers, at every statement.
//!
//! One drama needs every statement that sagas have, leases included. It is played once for each of them, with the connection
//! lost when the statement was about to be sent, and again when its transaction was durable and nobody knew. The engine has to
//! go on by itself; only what a client asked for is asked again by the client. The statements are taken from the store, so that
//! a new one is either reached by the drama, or makes the test fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::stream::{self, StreamExt as _};
use steadfast_saga::{
    Definition, DefinitionRef, Error, OnFailure, Options, SagaFilter, StartSaga, State, Verb,
    machine::Seen,
};
use steadfast_store::{
    Engine, Request,
    fault::{Fault, Faults, Point, points},
};
use steadfast_types::Timestamp;
use tokio::time::Instant;

use crate::{
    scene::{LEASE, Process, Scene, Setup},
    steps::{effect, rare, start, wait},
    world::counted,
};

/// Dramas that are played at the same time.
const AT_ONCE: usize = 6;

/// How long COMPLETED sagas are kept here.
const KEPT: Duration = Duration::from_millis(1500);

/// What is written, and what was only read.
#[derive(Debug, Default, Clone)]
struct Reached {
    sent: BTreeSet<&'static str>,
    committed: BTreeSet<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Sending,
    Committing,
    Committed,
}

/// Loses the connection at some statements.
#[derive(Debug)]
struct Loss {
    moment: Moment,
    /// At which, and how often yet.
    left: Mutex<BTreeMap<&'static str, u32>>,
    seen: Mutex<Reached>,
}

impl Loss {
    fn new(moment: Moment, names: &[&'static str], times: u32) -> Arc<Self> {
        Arc::new(Self {
            moment,
            left: Mutex::new(names.iter().map(|name| (*name, times)).collect()),
            seen: Mutex::default(),
        })
    }

    fn faults(self: &Arc<Self>) -> Faults {
        let loss = Arc::clone(self);
        Faults::planned(move |point| {
            let mut seen = loss.seen.lock().unwrap();
            let (moment, names) = match point {
                Point::Sending(name) => {
                    seen.sent.insert(name);
                    (Moment::Sending, vec![name])
                }
                Point::Committing(names) => (Moment::Committing, names.to_vec()),
                Point::Committed(names) => {
                    seen.committed.extend(names);
                    (Moment::Committed, names.to_vec())
                }
            };
            let mut left = loss.left.lock().unwrap();
            let mut fault = Fault::None;
            for (name, count) in left.iter_mut() {
                if moment == loss.moment && *count > 0 && names.contains(name) {
                    *count -= 1;
                    fault = Fault::Lost;
                }
            }
            fault
        })
    }
}

fn request(id: &str) -> Option<Request> {
    Some(Request {
        identity: "me".to_owned(),
        rpc: "StartSaga",
        id: id.to_owned(),
        body_hash: id.to_owned(),
    })
}

/// What a client does: asks again while the database is away.
async fn insist<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    loop {
        match ask().await {
            Err(Error::Store(error)) if error.is_unavailable() => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
}

async fn begin(process: &Process, name: &str, saga: StartSaga) -> String {
    insist(|| {
        let (saga, request) = (saga.clone(), request(name));
        process.run(|engine, _| async move { Ok(engine.start(saga, request).await?.0.id) })
    })
    .await
    .unwrap()
}

async fn steer(process: &Process, id: &str, verb: Verb) {
    let steered = insist(|| process.steer(id, verb.clone())).await;
    // The first try may have done it.
    assert!(
        matches!(steered, Ok(_) | Err(Error::Refused(_))),
        "{steered:?}"
    );
}

async fn rest(process: &Process, id: &str, state: State) {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let view = insist(|| {
            let id = id.to_owned();
            process.run(|engine, _| async move { engine.get(&id).await })
        })
        .await;
        match view {
            Ok(view) if view.saga.state == state => return,
            // Only those are forgotten so early.
            Err(Error::SagaNotFound { .. }) if state == State::Completed => return,
            Ok(view) => assert!(
                Instant::now() < deadline && !view.saga.state.has_ended(),
                "owner {:?}, wakes {:?}, {:?}",
                view.owner,
                view.wake_time,
                view.saga
            ),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn with_key(key: &str, mut saga: StartSaga, priority: i32) -> StartSaga {
    saga.concurrency_key = Some(key.to_owned());
    saga.priority = priority;
    saga
}

fn stops(name: &str) -> StartSaga {
    let mut step = effect(name, "fail");
    step.on_failure = OnFailure::Stop;
    start(vec![step])
}

/// Everything that sagas do. Returns what each was called for: saga, calls.
async fn drama(engine: Engine, loss: &Arc<Loss>) {
    let scene = Scene::on(engine).await;
    let world = &scene.world;

    // A replica that ends with a saga in hand.
    world.hold("taken");
    let lost = scene
        .boot(Setup {
            has_rare: true,
            ..Setup::default()
        })
        .await;
    lost.until_alive().await;
    // And one whose next action nobody has who comes after it.
    let left = begin(&lost, "left", start(vec![wait("w", 1_500), rare("r", "")])).await;
    let taken = begin(&lost, "taken", start(vec![effect("taken", "")])).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.calls(&taken).is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    lost.kill();
    world.hold_no_more();

    let mut setup = Setup::from(loss.faults());
    setup.engine = Options {
        // A slow machine is no lost lease.
        lease_duration: LEASE * 4,
        keep_completed: KEPT,
        retention_interval: Duration::from_millis(100),
        ..setup.engine
    };
    let gate = world.hold("holds");
    let process = scene.boot(setup).await;

    // Definitions.
    let mut flaky = effect("b", "flaky");
    flaky.retry.attempts = 20;
    let definition = Definition {
        name: "plain".to_owned(),
        version: 1,
        steps: vec![effect("a", ""), wait("w", 20), flaky, effect("c", "fail")],
    };
    insist(|| {
        let definition = definition.clone();
        process.run(|engine, _| async move { engine.create_definition(definition, false).await })
    })
    .await
    .unwrap();
    let listed =
        insist(|| process.run(|engine, _| async move { engine.definitions(None, 10).await }));
    assert_eq!(listed.await.unwrap().len(), 1);
    let named = |version| {
        let mut saga = start(Vec::new());
        saga.definition = DefinitionRef::Named {
            name: "plain".to_owned(),
            version,
        };
        saga
    };
    let plain = begin(&process, "plain", named(None)).await;
    assert_eq!(begin(&process, "plain", named(None)).await, plain);
    let other = begin(&process, "other", named(Some(1))).await;

    // Keys, released by a transition, and by a person; with a waiter and without one.
    let mut holds = effect("holds", "");
    holds.timeouts.running_ms = 30_000;
    let holder = with_key("k", start(vec![holds]), 0);
    let holder = begin(&process, "holder", holder).await;
    let waiter = with_key("k", start(vec![effect("waits", "")]), 1);
    let waiter = begin(&process, "waiter", waiter).await;
    let stuck = begin(&process, "stuck", with_key("l", stops("s"), 0)).await;
    let behind = with_key("l", start(vec![effect("behind", "")]), 0);
    let behind = begin(&process, "behind", behind).await;
    let alone = begin(&process, "alone", with_key("m", stops("s"), 0)).await;
    gate.open_once();
    for id in [&stuck, &alone] {
        rest(&process, id, State::Stuck).await;
        let view = insist(|| {
            let id = id.clone();
            process.run(|engine, _| async move { engine.get(&id).await })
        })
        .await
        .unwrap();
        let seen = Seen {
            control_version: view.saga.control_version,
            step: 0,
            attempt: view.saga.steps[0].attempt(view.saga.direction),
        };
        steer(&process, id, Verb::Abandon(seen)).await;
    }

    // A deadline, a pause, and reading.
    let mut late = start(vec![effect("late", ""), wait("w", 3_600_000)]);
    late.deadline = Some(Timestamp::now().plus(Duration::from_millis(300)));
    let late = begin(&process, "late", late).await;
    // Asked for in the middle of a step, so that its outcome has to be decided again.
    let gate = world.hold("paused");
    let mut step = effect("paused", "");
    step.timeouts.running_ms = 30_000;
    let paused = start(vec![step, wait("w", 10)]);
    let paused = begin(&process, "paused", paused).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.calls(&paused).is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    steer(&process, &paused, Verb::Pause).await;
    gate.open_once();
    rest(&process, &paused, State::Paused).await;
    steer(&process, &paused, Verb::Resume).await;
    for states in [vec![], vec![State::Stuck, State::Paused]] {
        let all = states.is_empty();
        let listed = insist(|| {
            let filter = SagaFilter {
                states: states.clone(),
                ..SagaFilter::default()
            };
            process.run(|engine, _| async move { engine.list(filter, None, 100).await })
        });
        assert_eq!(listed.await.unwrap().is_empty(), !all);
    }
    let events = insist(|| {
        let id = late.clone();
        process.run(|engine, _| async move { engine.events(&id, 0, 100).await })
    });
    assert!(!events.await.unwrap().is_empty());

    let deadline = Instant::now() + Duration::from_secs(40);
    while !loss.seen.lock().unwrap().sent.contains("saga_pass_on") {
        assert!(Instant::now() < deadline, "it is not left to others");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    steer(&process, &left, Verb::Cancel).await;
    for id in [&plain, &other, &late, &left] {
        rest(&process, id, State::Compensated).await;
    }
    for id in [&stuck, &alone] {
        rest(&process, id, State::Abandoned).await;
    }
    let completed = [&taken, &holder, &waiter, &behind, &paused];
    for id in completed {
        rest(&process, id, State::Completed).await;
    }
    let unwound = || counted([("a", 1), ("b", 3), ("c", 1), ("-b", 1), ("-a", 1)]);
    let expected: [(&str, &str, BTreeMap<String, usize>); 11] = [
        // Once by the replica that was lost, once by the one that took over.
        ("taken", &taken, counted([("taken", 2)])),
        ("plain", &plain, unwound()),
        ("other", &other, unwound()),
        ("holder", &holder, counted([("holds", 1)])),
        ("waiter", &waiter, counted([("waits", 1)])),
        ("stuck", &stuck, counted([("s", 1)])),
        ("behind", &behind, counted([("behind", 1)])),
        ("alone", &alone, counted([("s", 1)])),
        ("late", &late, counted([("late", 1), ("-late", 1)])),
        ("paused", &paused, counted([("paused", 1)])),
        ("left", &left, counted([])),
    ];
    for (name, id, calls) in expected {
        assert_eq!(world.counts(id), calls, "{name}");
        let effects = world.effects(id);
        assert!(
            effects.values().all(|count| *count == 1),
            "{name}: {effects:?}"
        );
    }
    // Those that completed are forgotten, and only those.
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let left = insist(|| {
            process.run(|engine, _| async move {
                let completed = SagaFilter {
                    states: vec![State::Completed],
                    ..SagaFilter::default()
                };
                engine.list(completed, None, 100).await
            })
        })
        .await
        .unwrap();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?} are not forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // After each error in it, forgetting waits for its own lease to run out.
    let deadline = Instant::now() + Duration::from_secs(40);
    while loss.left.lock().unwrap().values().any(|count| *count > 0) {
        assert!(Instant::now() < deadline, "never reached: {:?}", loss.left);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.sql("SELECT count(*) FROM saga").await, "6");
    assert_eq!(scene.sql("SELECT count(*) FROM saga_key").await, "0");
    assert_eq!(
        scene
            .sql("SELECT count(*) FROM saga WHERE owner <> ''")
            .await,
        "0"
    );
    let orphans =
        "SELECT count(*) FROM saga_event e LEFT JOIN saga s ON s.id = e.saga_id WHERE s.id IS NULL";
    assert_eq!(scene.sql(orphans).await, "0");
}

/// The fault points of the drama.
fn own_points(engine: Engine) -> Vec<&'static str> {
    let own = |name: &&str| name.starts_with("saga_") || name.starts_with("lease_");
    let mut own: Vec<_> = points(engine).into_iter().filter(own).collect();
    own.push("log_append");
    own
}

async fn at_every_statement(engine: Engine) {
    let points = own_points(engine);
    let none = Loss::new(Moment::Sending, &[], 0);
    drama(engine, &none).await;
    let seen = none.seen.lock().unwrap().clone();
    let unreached: Vec<_> = points
        .iter()
        .filter(|name| !seen.sent.contains(**name))
        .collect();
    assert!(
        unreached.is_empty(),
        "the drama does not reach {unreached:?}"
    );
    assert!(points.len() > 30, "{points:?}");

    // Alone each, and more than once in a row; or some of them in each drama.
    let long = env::var_os("STEADFAST_LONG").is_some();
    let together = if long { 1 } else { 10 };
    let sent: Vec<_> = points
        .iter()
        .copied()
        .filter(|name| seen.sent.contains(name))
        .collect();
    let committed: Vec<_> = points
        .iter()
        .copied()
        .filter(|name| seen.committed.contains(name))
        .collect();
    assert!(
        sent.len() > 30 && committed.len() > 15,
        "{sent:?} {committed:?}"
    );
    let mut losses = Vec::new();
    for names in sent.chunks(together) {
        losses.push(Loss::new(Moment::Sending, names, 1));
    }
    for names in committed.chunks(together) {
        losses.push(Loss::new(Moment::Committed, names, 1));
        if long {
            losses.push(Loss::new(Moment::Committing, names, 1));
            losses.push(Loss::new(Moment::Committed, names, 3));
        }
    }
    let planned = losses.len();
    println!(
        "{planned} dramas on {engine}: {} statements, {} of them commit",
        sent.len(),
        committed.len()
    );
    let played = stream::iter(losses)
        .map(|loss| async move {
            println!("{:?} {:?}", loss.moment, loss.left);
            drama(engine, &loss).await;
            let left = loss.left.lock().unwrap();
            assert!(
                left.values().all(|count| *count == 0),
                "{:?} never reached: {left:?}",
                loss.moment
            );
        })
        .buffer_unordered(AT_ONCE)
        .count()
        .await;
    assert_eq!(played, planned);
}

#[tokio::test]
async fn an_answer_is_lost_at_every_statement_on_sqlite() {
    at_every_statement(Engine::Sqlite).await;
}

#[tokio::test]
async fn an_answer_is_lost_at_every_statement_on_postgres() {
    at_every_statement(Engine::Postgres).await;
}

/// Answers are lost for so long that nobody asks again: the engine finds out by itself that its transitions landed, and never takes
/// the outcome of one step for that of the next.
#[tokio::test]
async fn a_transition_that_landed_unanswered_is_not_decided_again() {
    for scene in Scene::both().await {
        let faults = Faults::planned(|point| match point {
            Point::Committed(names) if names.iter().any(|name| name.starts_with("saga_commit")) => {
                Fault::Lost
            }
            _ => Fault::None,
        });
        let mut setup = Setup::from(faults);
        setup.write_deadline = Duration::from_millis(300);
        let process = scene.boot(setup).await;
        let steps = ["a", "b", "c"].map(|name| effect(name, ""));
        let id = begin(&process, "completes", start(steps.to_vec())).await;
        process.until_state(&id, State::Completed).await;
        let steps = vec![effect("a", ""), wait("w", 20), effect("b", "fail")];
        let other = begin(&process, "unwinds", start(steps)).await;
        process.until_state(&other, State::Compensated).await;
        assert_eq!(
            scene.world.counts(&id),
            counted([("a", 1), ("b", 1), ("c", 1)])
        );
        assert_eq!(
            scene.world.counts(&other),
            counted([("a", 1), ("b", 1), ("-a", 1)])
        );
    }
}
