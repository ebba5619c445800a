//! The engine on real databases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use steadfast_saga::{
    Act, Actions, Attempt, DefinitionRef, Direction, Engine, Error, NoSecrets, Options, Outcome,
    Probed, Refusal, SagaFilter, SagaView, StartSaga, State, Step, Verb, machine::Seen,
};
use steadfast_store::{Request, Store, Wakeups};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::{ReplicaId, Timestamp};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What was done where, in order; and what fails how often.
#[derive(Default)]
struct World {
    log: Mutex<Vec<(String, Direction, String)>>,
    hold: Mutex<BTreeMap<String, Arc<Notify>>>,
}

struct Effect(Arc<World>);

impl Act for Effect {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        let world = Arc::clone(&self.0);
        async move {
            let entry = (attempt.step.clone(), attempt.direction, attempt.key.clone());
            world.log.lock().unwrap().push(entry);
            let held = world.hold.lock().unwrap().get(&attempt.step).cloned();
            if let Some(gate) = held {
                gate.notified().await;
            }
            match attempt.input.get("do").and_then(Value::as_str) {
                Some("fail") => Outcome::Failed {
                    code: "NO".to_owned(),
                    message: "told to".to_owned(),
                    retryable: false,
                },
                Some("unknown") => Outcome::Unknown {
                    message: "told to".to_owned(),
                },
                Some("flaky") if attempt.attempt < 3 => Outcome::Failed {
                    code: "LATER".to_owned(),
                    message: "told to".to_owned(),
                    retryable: true,
                },
                _ => Outcome::Done(json!({ "of": attempt.step, "input": attempt.input, "undoing": attempt.output })),
            }
        }
        .boxed()
    }

    fn probe(&self, _: Attempt) -> BoxFuture<'static, Probed> {
        async { Probed::NotDone }.boxed()
    }

    fn can_probe(&self) -> bool {
        true
    }
}

/// Never tells what became of it, and cannot be asked.
struct Blind;

impl Act for Blind {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        let outcome = match attempt.direction {
            Direction::Forward => Outcome::Unknown {
                message: "blind".to_owned(),
            },
            Direction::Backward => Outcome::Done(Value::Null),
        };
        std::future::ready(outcome).boxed()
    }
}

/// A database, and engines on it.
struct Fixture {
    options: steadfast_store::Options,
    _database: Option<TestDatabase>,
    _folder: Option<TempDir>,
    world: Arc<World>,
}

struct Replica {
    engine: Engine,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Fixture {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = steadfast_store::Options {
            data_dir: folder.path().to_owned(),
            ..steadfast_store::Options::default()
        };
        Self::new(options, None, Some(folder))
    }

    async fn postgres() -> Self {
        let database = TestDatabase::create_empty().await;
        let options = steadfast_store::Options {
            url: database.url(),
            max_connections: 8,
            ..steadfast_store::Options::default()
        };
        Self::new(options, Some(database), None)
    }

    fn new(
        options: steadfast_store::Options,
        database: Option<TestDatabase>,
        folder: Option<TempDir>,
    ) -> Self {
        Self {
            options,
            _database: database,
            _folder: folder,
            world: Arc::default(),
        }
    }

    async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    async fn replica(&self) -> Replica {
        self.replica_with(Options::default()).await
    }

    /// Its lease and its looks are short, whatever the options say.
    async fn replica_with(&self, options: Options) -> Replica {
        let store = Store::open(&self.options).await.unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let coalesce = Duration::from_millis(5);
        let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
        let actions = Actions::new()
            .with_builtin("effect", Arc::new(Effect(Arc::clone(&self.world))))
            .with_builtin("blind", Arc::new(Blind));
        let engine = Engine::start_engine(
            store,
            wakeups,
            actions,
            Arc::new(NoSecrets),
            Options {
                lease_duration: Duration::from_secs(2),
                poll_interval: Duration::from_millis(100),
                ..options
            },
            &stop,
            &tasks,
        );
        Replica {
            engine,
            stop,
            tasks,
        }
    }

    fn log(&self) -> Vec<(String, Direction)> {
        let log = self.world.log.lock().unwrap();
        log.iter()
            .map(|(step, direction, _)| (step.clone(), *direction))
            .collect()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    async fn until(&self, id: &str, wanted: impl Fn(&SagaView) -> bool) -> SagaView {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let view = self.engine.get(id).await.unwrap();
            if wanted(&view) {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "{:?}", view.saga);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_state(&self, id: &str, state: State) -> SagaView {
        self.until(id, |view| view.saga.state == state).await
    }

    async fn start(&self, steps: Vec<Step>) -> String {
        self.engine.start(start(steps), None).await.unwrap().0.id
    }
}

fn step(value: Value) -> Step {
    serde_json::from_value(value).unwrap()
}

fn effect(name: &str, what: &str) -> Step {
    step(json!({
        "name": name,
        "action": { "builtin": { "name": "effect", "input": { "do": what } } },
        "undo": { "builtin": { "name": "effect", "input": {} } },
        "retry": { "attempts": 3, "initial_backoff_ms": 1, "max_backoff_ms": 2 },
        "timeouts": { "running_ms": 2000 },
    }))
}

fn start(steps: Vec<Step>) -> StartSaga {
    StartSaga {
        kind: "test".to_owned(),
        deployment_id: "d".to_owned(),
        triggered_by: "tester".to_owned(),
        definition: DefinitionRef::Inline(steps),
        inputs: json!({ "size": 3 }),
        context: Value::Null,
        labels: BTreeMap::new(),
        priority: 0,
        concurrency_key: None,
        deadline: None,
    }
}

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
                "timeouts": { "running_ms": 50 },
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
