//! A database, and processes on it that can be killed.
//!
//! A process is a thread with a runtime of its own, on which everything that belongs to it runs: the engine, its attempts, the
//! committers of its store, its connections. Killing it drops that runtime between two polls: nothing says goodbye, connections
//! break, and its lease has to run out.

use std::{future::Future, sync::Arc, thread::JoinHandle, time::Duration};

use steadfast_saga::{
    Actions, Engine, Error, NoSecrets, Options, SagaEventView, SagaView, SecretSource, StartSaga,
    State, Verb,
};
use steadfast_store::{Store, Wakeups, fault::Faults};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::ReplicaId;
use tempfile::TempDir;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    steps::{noop, start},
    world::{Effect, World},
};

/// Leases of the processes, short, because after each kill one has to run out.
pub(crate) const LEASE: Duration = Duration::from_millis(500);

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one statement on a SQLite file and prints rows as psql does.
const SQLITE: &str = r#"
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as connection:
    for row in connection.execute(sys.argv[2]):
        print("|".join("" if value is None else str(value) for value in row))
"#;

/// A database and what actions act on.
pub(crate) struct Scene {
    options: steadfast_store::Options,
    pub(crate) database: Option<TestDatabase>,
    folder: Option<TempDir>,
    pub(crate) world: World,
}

/// How a process is set up.
pub(crate) struct Setup {
    pub(crate) faults: Faults,
    pub(crate) engine: Options,
    pub(crate) secrets: Arc<dyn SecretSource>,
    /// How long a write is tried again before its caller is told.
    pub(crate) write_deadline: Duration,
    /// It has the action `rare`, too.
    pub(crate) has_rare: bool,
}

/// A process with an engine.
pub(crate) struct Process {
    engine: Engine,
    store: Store,
    handle: Handle,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            faults: Faults::default(),
            engine: Options {
                lease_duration: LEASE,
                poll_interval: Duration::from_millis(50),
                ..Options::default()
            },
            secrets: Arc::new(NoSecrets),
            write_deadline: Duration::from_secs(5),
            has_rare: false,
        }
    }
}

impl From<Faults> for Setup {
    fn from(faults: Faults) -> Self {
        Self {
            faults,
            ..Self::default()
        }
    }
}

// === impl Scene ===

impl Scene {
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
            max_connections: 6,
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
            database,
            folder,
            world: World::default(),
        }
    }

    /// One on each engine.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    pub(crate) async fn on(engine: steadfast_store::Engine) -> Self {
        match engine {
            steadfast_store::Engine::Sqlite => Self::sqlite().await,
            steadfast_store::Engine::Postgres => Self::postgres().await,
        }
    }

    /// Starts a process.
    pub(crate) async fn boot(&self, setup: impl Into<Setup>) -> Process {
        let setup = setup.into();
        let mut options = self.options.clone();
        options.faults = setup.faults;
        options.write_deadline = setup.write_deadline;
        let actions = self.actions(setup.has_rare);
        let (kill, killed) = oneshot::channel();
        let (ready, booted) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let store = Store::open(&options).await.unwrap();
                store.migrate().await.unwrap();
                let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
                let coalesce = Duration::from_millis(5);
                let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
                let engine = Engine::start_engine(
                    store.clone(),
                    wakeups,
                    actions,
                    setup.secrets,
                    setup.engine,
                    &stop,
                    &tasks,
                );
                let started = (engine, store, Handle::current());
                assert!(ready.send(started).is_ok(), "nobody waits for the process");
                let _ = killed.await;
            });
        });
        let (engine, store, handle) = booted.await.unwrap();
        Process {
            engine,
            store,
            handle,
            kill: Some(kill),
            thread: Some(thread),
        }
    }

    fn actions(&self, has_rare: bool) -> Actions {
        let kinds = [("effect", true), ("blind", false), ("rare", true)];
        kinds
            .into_iter()
            .filter(|(name, _)| has_rare || *name != "rare")
            .fold(Actions::new(), |actions, (name, can_probe)| {
                let world = self.world.clone();
                actions.with_builtin(name, Arc::new(Effect { world, can_probe }))
            })
    }

    /// Another engine on the same database while the first one is there: a process of its own, but on SQLite, which one process
    /// at a time may use.
    pub(crate) async fn boot_beside(&self, other: &Process, setup: Setup) -> Process {
        if self.database.is_some() {
            return self.boot(setup).await;
        }
        let actions = self.actions(setup.has_rare);
        let engine = other
            .run(|_, store| async move {
                let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
                let coalesce = Duration::from_millis(5);
                let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
                let (secrets, options) = (setup.secrets, setup.engine);
                Engine::start_engine(store, wakeups, actions, secrets, options, &stop, &tasks)
            })
            .await;
        Process {
            engine,
            store: other.store.clone(),
            handle: other.handle.clone(),
            kill: None,
            thread: None,
        }
    }

    /// The bytes of SQLite's files.
    pub(crate) fn files(&self) -> Option<Vec<u8>> {
        let folder = self.folder.as_ref()?;
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        Some(bytes)
    }

    /// Everything that the database holds, as text.
    pub(crate) async fn dump(&self) -> String {
        let tables = match &self.database {
            Some(_) => "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
            None => "SELECT name FROM sqlite_schema WHERE type = 'table'",
        };
        let mut dump = String::new();
        for table in self.sql(tables).await.lines() {
            let rows = self.sql(&format!("SELECT * FROM {table}")).await;
            dump.push_str(&format!("{table}\n{rows}\n"));
        }
        dump
    }

    /// Runs statements behind the engine's back.
    pub(crate) async fn sql(&self, statement: &str) -> String {
        match (&self.database, &self.folder) {
            (Some(database), _) => database.psql(statement).await,
            (None, Some(folder)) => {
                let output = tokio::process::Command::new("python3")
                    .args(["-c", SQLITE])
                    .arg(folder.path().join("steadfast.db"))
                    .arg(statement)
                    .output()
                    .await
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            }
            (None, None) => unreachable!("a scene has a database"),
        }
    }
}

// === impl Process ===

impl Process {
    /// Runs something inside the process.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Engine, Store) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let work = work(self.engine.clone(), self.store.clone());
        self.handle.spawn(work).await.unwrap()
    }

    /// Ends the process at once. Whatever it was about to do does not happen.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) async fn start(&self, start: StartSaga) -> Result<String, Error> {
        self.run(|engine, _| async move { Ok(engine.start(start, None).await?.0.id) })
            .await
    }

    pub(crate) async fn get(&self, id: &str) -> SagaView {
        let id = id.to_owned();
        self.run(|engine, _| async move { engine.get(&id).await })
            .await
            .unwrap()
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<SagaEventView> {
        let id = id.to_owned();
        self.run(|engine, _| async move { engine.events(&id, 0, 10_000).await })
            .await
            .unwrap()
    }

    pub(crate) async fn steer(&self, id: &str, verb: Verb) -> Result<SagaView, Error> {
        let id = id.to_owned();
        self.run(|engine, _| async move { engine.steer(&id, verb, "me", "because").await })
            .await
    }

    /// Waits until a saga is as wanted.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&SagaView) -> bool) -> SagaView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.get(id).await;
            if wanted(&view) {
                return view;
            }
            assert!(
                Instant::now() < deadline,
                "{id} owned by {:?}, wakes {:?}: {:?}",
                view.owner,
                view.wake_time,
                view.saga
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn until_state(&self, id: &str, state: State) -> SagaView {
        self.until(id, |view| view.saga.state == state).await
    }

    /// Waits until it ended, or needs a person.
    pub(crate) async fn until_rest(&self, id: &str) -> SagaView {
        self.until(id, |view| {
            view.saga.state.has_ended() || view.saga.state == State::Stuck
        })
        .await
    }

    /// Waits until the executor has its lease: only then are sagas taken in hand as they are started.
    pub(crate) async fn until_alive(&self) {
        let plain = StartSaga {
            kind: "probe".to_owned(),
            ..start(vec![noop("ready")])
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let id = self.start(plain.clone()).await.unwrap();
            let events = {
                self.until_state(&id, State::Completed).await;
                self.events(&id).await
            };
            // The first transition is part of the start when the saga is taken in hand at once.
            let first = events[0].seq;
            let at_once = events
                .iter()
                .any(|event| event.kind == "step_started" && event.seq < first + 16);
            if at_once {
                return;
            }
            assert!(Instant::now() < deadline, "the executor has no lease");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
