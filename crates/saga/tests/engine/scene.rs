//! A database, engines on it, and a world that they change.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use steadfast_saga::{
    Act, Actions, Attempt, DefinitionRef, Direction, Engine, NoSecrets, Options, Outcome, Probed,
    SagaView, StartSaga, State, Step,
};
use steadfast_store::{Store, Wakeups};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::ReplicaId;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What was done where, in order; and what fails how often.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) log: Mutex<Vec<(String, Direction, String)>>,
    pub(crate) hold: Mutex<BTreeMap<String, Arc<Notify>>>,
}

pub(crate) struct Effect(Arc<World>);

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
pub(crate) struct Blind;

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
pub(crate) struct Fixture {
    options: steadfast_store::Options,
    _database: Option<TestDatabase>,
    _folder: Option<TempDir>,
    pub(crate) world: Arc<World>,
}

pub(crate) struct Replica {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Fixture {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = steadfast_store::Options {
            data_dir: folder.path().to_owned(),
            ..steadfast_store::Options::default()
        };
        Self::new(options, None, Some(folder))
    }

    pub(crate) async fn postgres() -> Self {
        let database = TestDatabase::create_empty().await;
        let options = steadfast_store::Options {
            url: database.url(),
            max_connections: 8,
            ..steadfast_store::Options::default()
        };
        Self::new(options, Some(database), None)
    }

    pub(crate) fn new(
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

    pub(crate) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    pub(crate) async fn replica(&self) -> Replica {
        self.replica_with(Options::default()).await
    }

    /// Its lease and its looks are short, whatever the options say.
    pub(crate) async fn replica_with(&self, options: Options) -> Replica {
        let store = Store::open(&self.options).await.unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let coalesce = Duration::from_millis(5);
        let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
        let actions = Actions::new()
            .with_builtin("effect", Arc::new(Effect(Arc::clone(&self.world))))
            .with_builtin("blind", Arc::new(Blind));
        let engine = Engine::start_engine(
            store.clone(),
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
            store,
            stop,
            tasks,
        }
    }

    pub(crate) fn log(&self) -> Vec<(String, Direction)> {
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
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&SagaView) -> bool) -> SagaView {
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

    pub(crate) async fn until_state(&self, id: &str, state: State) -> SagaView {
        self.until(id, |view| view.saga.state == state).await
    }

    pub(crate) async fn start(&self, steps: Vec<Step>) -> String {
        self.engine.start(start(steps), None).await.unwrap().0.id
    }
}

pub(crate) fn step(value: Value) -> Step {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn effect(name: &str, what: &str) -> Step {
    step(json!({
        "name": name,
        "action": { "builtin": { "name": "effect", "input": { "do": what } } },
        "undo": { "builtin": { "name": "effect", "input": {} } },
        "retry": { "attempts": 3, "initial_backoff_ms": 1, "max_backoff_ms": 2 },
        "timeouts": { "running_ms": 2000 },
    }))
}

pub(crate) fn start(steps: Vec<Step>) -> StartSaga {
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
