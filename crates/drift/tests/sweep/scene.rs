//! A database, what is recorded and reported in it, and sweeps of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_drift::{
    AcceptRefusal, Comparator, Declaration, HashKey, Rules, SweepOptions, SweepTally, Sweeper,
    accept,
};
use steadfast_store::{
    AcceptWrite, Accepted, DriftFilter, DriftRow, InventoryEnd, InventoryEnded, NewRecord,
    NewReports, NewSweep, Observed, Recorded, ReportOutcome, Reported, ResourceName, ResourceRow,
    SnoozeWrite, Store, SweepRow, Wakeups,
    fault::{Fault, Faults, Point},
};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::ReplicaId;
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one statement on a SQLite file and prints rows as psql does.
const SQLITE: &str = r#"
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as connection:
    for row in connection.execute(sys.argv[2]):
        print("|".join("" if value is None else str(value) for value in row))
"#;

/// What a plan says of a place.
type Planned = Arc<dyn Fn(&Point<'_>) -> Fault + Send + Sync>;

/// What was committed, and what is to go wrong.
#[derive(Default)]
pub(crate) struct Ledger {
    committed: Mutex<Vec<Vec<&'static str>>>,
    planned: Mutex<Option<Planned>>,
}

/// A thread that stands at a place until it is let go, or this is dropped. The runtime needs another one.
pub(crate) struct Halted {
    reached: Arc<Notify>,
    go: std::sync::mpsc::Sender<()>,
}

/// A database with a sweeper.
pub(crate) struct Scene {
    pub(crate) store: Store,
    pub(crate) sweeper: Sweeper,
    pub(crate) rules: Arc<Rules>,
    pub(crate) ledger: Arc<Ledger>,
    options: steadfast_store::Options,
    pub(crate) wakeups: Wakeups,
    running: Option<JoinHandle<()>>,
    stop: CancellationToken,
    pub(crate) database: Option<Arc<TestDatabase>>,
    folder: Option<Arc<TempDir>>,
}

/// What a resource differs by: path, kind, expected, actual.
pub(crate) type Difference = (String, String, Option<String>, Option<String>);

impl Ledger {
    /// The transactions that were committed since the last call, by their statements.
    pub(crate) fn take(&self) -> Vec<Vec<&'static str>> {
        std::mem::take(&mut self.committed.lock().unwrap())
    }

    pub(crate) fn plan(&self, plan: impl Fn(&Point<'_>) -> Fault + Send + Sync + 'static) {
        *self.planned.lock().unwrap() = Some(Arc::new(plan));
    }

    /// Lets the first that comes to such a place wait there.
    pub(crate) fn halt(&self, at: impl Fn(&Point<'_>) -> bool + Send + Sync + 'static) -> Halted {
        let reached = Arc::new(Notify::new());
        let (go, let_go) = std::sync::mpsc::channel();
        let (signal, let_go) = (Arc::clone(&reached), Mutex::new(Some(let_go)));
        self.plan(move |point| {
            if at(point)
                && let Some(let_go) = let_go.lock().unwrap().take()
            {
                signal.notify_one();
                tokio::task::block_in_place(|| let_go.recv_timeout(PATIENCE)).ok();
            }
            Fault::None
        });
        Halted { reached, go }
    }

    /// Lets the first that comes to such a place go no further.
    pub(crate) fn stop(
        &self,
        at: impl Fn(&Point<'_>) -> bool + Send + Sync + 'static,
    ) -> Arc<Notify> {
        let reached = Arc::new(Notify::new());
        let signal = Arc::clone(&reached);
        let stopped = AtomicBool::new(false);
        self.plan(move |point| {
            if !at(point) || stopped.swap(true, Ordering::SeqCst) {
                return Fault::None;
            }
            signal.notify_one();
            Fault::Stop
        });
        reached
    }

    fn pass(&self, point: &Point<'_>) -> Fault {
        if let Point::Committed(names) = point {
            self.committed.lock().unwrap().push(names.to_vec());
        }
        // Not under the lock: a plan may wait.
        let planned = self.planned.lock().unwrap().clone();
        planned.map_or(Fault::None, |plan| plan(point))
    }
}

impl Halted {
    pub(crate) async fn reached(&self) {
        tokio::time::timeout(PATIENCE, self.reached.notified())
            .await
            .expect("nobody came to the place");
    }

    pub(crate) fn go(self) {
        let _ = self.go.send(());
    }
}

impl Scene {
    pub(crate) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = steadfast_store::Options {
            data_dir: folder.path().to_owned(),
            ..steadfast_store::Options::default()
        };
        Self::connect(options, None, Some(Arc::new(folder)), declared()).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = TestDatabase::create_empty().await;
        let options = steadfast_store::Options {
            url: database.url(),
            max_connections: 8,
            ..steadfast_store::Options::default()
        };
        Self::connect(options, Some(Arc::new(database)), None, declared()).await
    }

    /// Another process on the same database; PostgreSQL only.
    pub(crate) async fn replica(&self) -> Self {
        assert!(self.database.is_some(), "one process per SQLite file");
        let (database, folder) = (self.database.clone(), self.folder.clone());
        let options = self.options.clone();
        Self::connect(options, database, folder, Arc::clone(&self.rules)).await
    }

    async fn connect(
        options: steadfast_store::Options,
        database: Option<Arc<TestDatabase>>,
        folder: Option<Arc<TempDir>>,
        rules: Arc<Rules>,
    ) -> Self {
        let ledger = Arc::new(Ledger::default());
        let passes = Arc::clone(&ledger);
        let faults = Faults::planned(move |point| passes.pass(&point));
        let options = steadfast_store::Options { faults, ..options };
        let store = Store::open(&options).await.unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let replica = ReplicaId::random();
        let wakeups = Wakeups::start(&store, replica, Duration::from_millis(5), &stop, &tasks);
        let sweeper = Sweeper::new(
            store.clone(),
            wakeups.clone(),
            Arc::clone(&rules),
            Self::manners(replica),
        );
        let mut scene = Self {
            store,
            sweeper,
            rules,
            ledger,
            options,
            wakeups,
            running: None,
            stop,
            database,
            folder,
        };
        scene.sweeper.adopt_rules().await.unwrap();
        scene.start();
        scene
    }

    fn manners(replica: ReplicaId) -> SweepOptions {
        SweepOptions {
            lease_duration: Duration::from_secs(1),
            poll_interval: Duration::from_millis(100),
            ..SweepOptions::new(replica)
        }
    }

    /// Another sweeper in its place, with other manners.
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut SweepOptions)) {
        self.kill();
        let mut manners = Self::manners(ReplicaId::random());
        change(&mut manners);
        let (store, rules) = (self.store.clone(), Arc::clone(&self.rules));
        self.sweeper = Sweeper::new(store, self.wakeups.clone(), rules, manners);
        self.start();
    }

    /// The same, with other rules.
    pub(crate) async fn redeclare(&mut self, rules: Rules) {
        self.rules = Arc::new(rules);
        self.restart(|_| {});
        self.sweeper.adopt_rules().await.unwrap();
    }

    fn start(&mut self) {
        let sweeper = self.sweeper.clone();
        self.running = Some(tokio::spawn(sweeper.run(self.stop.clone())));
    }

    /// It goes no further, wherever it is, and hands nothing back.
    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    pub(crate) async fn record(&self, id: &str, spec: &str) -> i64 {
        self.record_as(id, spec, false).await
    }

    pub(crate) async fn record_as(&self, id: &str, spec: &str, pending: bool) -> i64 {
        let record = NewRecord {
            name: name(id),
            spec: spec.to_owned(),
            labels: r#"{"team":"blue"}"#.to_owned(),
            recorded_by: "ann".to_owned(),
            saga_id: String::new(),
            pending,
            expected_version: None,
        };
        match self.store.record_resource(record).await.unwrap() {
            Recorded::Done { version, .. } => version,
            Recorded::Changed { .. } => panic!("no version was expected"),
        }
    }

    pub(crate) fn observed(&self, id: &str, attributes: Option<&str>) -> Observed {
        let name = name(id);
        let rules = self.rules.of(&name.provider, &name.kind);
        let digest = attributes.map(|attributes| rules.digest(attributes).unwrap());
        let hex = |digest: [u8; 16]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Observed {
            name,
            attributes: attributes.unwrap_or_default().to_owned(),
            digest: digest.map(hex).unwrap_or_default(),
            transition: String::new(),
            gone: attributes.is_none(),
            age: Duration::ZERO,
        }
    }

    pub(crate) async fn report_all(
        &self,
        inventory: Option<&str>,
        observed: Vec<Observed>,
    ) -> Vec<ReportOutcome> {
        let reports = NewReports {
            inventory: inventory.map(str::to_owned),
            observed,
        };
        match self.store.report_resources(reports).await.unwrap() {
            Reported::Done(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// A report on its own; no attributes mean that it is gone.
    pub(crate) async fn report(&self, id: &str, attributes: Option<&str>) -> ReportOutcome {
        self.report_all(None, vec![self.observed(id, attributes)])
            .await[0]
    }

    pub(crate) async fn begin(&self) -> String {
        self.begin_of(&[]).await
    }

    /// An inventory of some types.
    pub(crate) async fn begin_of(&self, types: &[String]) -> String {
        let begun = self.store.begin_inventory("cloud", types, "tests").await;
        begun.unwrap().id
    }

    pub(crate) async fn end(&self, inventory: &str, complete: bool) -> i64 {
        let end = InventoryEnd {
            complete,
            error: "it was cut".to_owned(),
        };
        match self.store.end_inventory(inventory, &end).await.unwrap() {
            InventoryEnded::Now(row) => row.missed,
            other => panic!("{other:?}"),
        }
    }

    /// A complete inventory of these.
    pub(crate) async fn inventory(&self, there: &[(&str, &str)]) -> Vec<ReportOutcome> {
        let inventory = self.begin().await;
        let observed = there
            .iter()
            .map(|(id, attributes)| self.observed(id, Some(attributes)));
        let observed: Vec<Observed> = observed.collect();
        let outcomes = if observed.is_empty() {
            Vec::new()
        } else {
            self.report_all(Some(&inventory), observed).await
        };
        self.end(&inventory, true).await;
        outcomes
    }

    /// Sweeps what is due.
    pub(crate) async fn sweep(&self) -> SweepTally {
        self.sweep_as(false).await
    }

    pub(crate) async fn sweep_as(&self, forced: bool) -> SweepTally {
        let new = NewSweep {
            forced,
            triggered_by: "tests".to_owned(),
            ..NewSweep::default()
        };
        let asked = self.sweeper.ask(&new).await.unwrap();
        let row = self.until_swept(&asked.row.id).await;
        assert_eq!(row.state, "completed", "{row:?}");
        SweepTally::read(&row.tally)
    }

    pub(crate) async fn until_swept(&self, id: &str) -> SweepRow {
        let row = self.sweeper.wait(id, PATIENCE).await.unwrap().unwrap();
        assert_ne!(row.state, "running", "{row:?}");
        row
    }

    pub(crate) async fn resource(&self, id: &str) -> ResourceRow {
        self.store.resource(&name(id)).await.unwrap().unwrap()
    }

    pub(crate) async fn verdict(&self, id: &str) -> String {
        self.resource(id).await.verdict
    }

    /// Drifts of a resource, in any of some states, oldest first.
    pub(crate) async fn drifts(&self, id: &str, states: &[&str]) -> Vec<DriftRow> {
        let filter = DriftFilter {
            states: states.iter().map(|&state| state.to_owned()).collect(),
            provider: "cloud".to_owned(),
            resource_kind: name(id).kind,
            resource_id: id.to_owned(),
            include_suppressed: true,
            ..DriftFilter::default()
        };
        let mut rows = self.store.drifts(&filter, "", 1_000).await.unwrap();
        rows.reverse();
        rows
    }

    pub(crate) async fn open(&self, id: &str) -> Vec<Difference> {
        let mut open: Vec<Difference> = self
            .drifts(id, &["open"])
            .await
            .into_iter()
            .map(|row| (row.path, row.kind, row.expected, row.actual))
            .collect();
        open.sort();
        open
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<String> {
        let key = self.resource(id).await.key;
        let events = self.store.resource_events(key, 0, 1_000).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn accept(&self, drift: &DriftRow) -> Result<ResourceRow, AcceptRefusal> {
        self.accept_seen(&drift.id, &drift.etag()).await
    }

    pub(crate) async fn accept_seen(
        &self,
        id: &str,
        etag: &str,
    ) -> Result<ResourceRow, AcceptRefusal> {
        let (rules, etag) = (Arc::clone(&self.rules), etag.to_owned());
        let accepted = self
            .store
            .accept_drift(id, move |scene| {
                accept(scene, &etag, &rules).map(|spec| AcceptWrite {
                    spec,
                    actor: "ann".to_owned(),
                    reason: "it is better".to_owned(),
                })
            })
            .await
            .unwrap();
        match accepted {
            Accepted::Done(scene) => Ok(scene.resource),
            Accepted::Refused(refusal) => Err(refusal),
            Accepted::Unknown => panic!("no such drift"),
        }
    }

    /// Every drift there ever was: its id, its state and its version.
    pub(crate) async fn all_drifts(&self) -> Vec<(String, String, i64)> {
        let states = ["open", "accepted", "reverted", "stale"];
        let filter = DriftFilter {
            states: states.map(str::to_owned).to_vec(),
            include_suppressed: true,
            ..DriftFilter::default()
        };
        let (mut all, mut before) = (Vec::new(), String::new());
        loop {
            let rows = self.store.drifts(&filter, &before, 1_000).await.unwrap();
            let Some(last) = rows.last() else { return all };
            before.clone_from(&last.id);
            all.extend(rows.into_iter().map(|row| (row.id, row.state, row.version)));
        }
    }

    /// Hides a drift for a time from now.
    pub(crate) async fn snooze(&self, id: &str, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.snooze_until(id, Some(micros)).await;
    }

    /// Hides a drift for a time from now, in microseconds, or shows it again. Returns until when it is hidden.
    pub(crate) async fn snooze_until(&self, id: &str, micros: Option<i64>) -> Option<i64> {
        let snoozed = self
            .store
            .snooze_drift::<()>(id, move |_, now_us| {
                Ok(SnoozeWrite {
                    until_us: micros.map(|micros| now_us + micros),
                    actor: "ann".to_owned(),
                    reason: "later".to_owned(),
                })
            })
            .await
            .unwrap();
        match snoozed {
            Accepted::Done(scene) => scene.drift.suppressed_until_us,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a statement behind everybody's back, and returns what it prints.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        let Some(database) = &self.database else {
            let file = self.file("steadfast.db");
            let python = tokio::process::Command::new("python3")
                .args(["-c", SQLITE])
                .arg(file)
                .arg(sql)
                .output();
            let output = python.await.unwrap();
            assert!(output.status.success(), "{output:?}");
            return String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned();
        };
        database.psql(sql).await
    }

    /// A file of the SQLite database.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.as_ref().unwrap().path().join(name)
    }

    pub(crate) async fn revision(&self) -> i64 {
        self.store.head().await.unwrap().cursor.revision.0
    }

    /// Waits, on the database's clock, until a moment has passed.
    pub(crate) async fn pass(&self, moment_us: i64) {
        while self.store.database_time().await.unwrap() <= moment_us {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A machine, unless its id says that it is a disk.
pub(crate) fn name(id: &str) -> ResourceName {
    let kind = if id.starts_with("disk") { "disk" } else { "vm" };
    ResourceName {
        provider: "cloud".to_owned(),
        kind: kind.to_owned(),
        id: id.to_owned(),
    }
}

/// A secret path, and nothing else.
fn declared() -> Arc<Rules> {
    Arc::new(rules(&[]))
}

pub(crate) fn rules(unmanaged: &[&str]) -> Rules {
    rules_of(&[], unmanaged)
}

pub(crate) fn declaration(path: &str, comparator: Comparator) -> Declaration {
    Declaration {
        provider: "cloud".to_owned(),
        kind: "vm".to_owned(),
        path: path.to_owned(),
        comparator,
    }
}

/// The secret path, and what else is declared.
pub(crate) fn rules_of(more: &[Declaration], unmanaged: &[&str]) -> Rules {
    let secret = declaration("/password", Comparator::Secret);
    let declared = [&[secret], more].concat();
    let unmanaged: BTreeSet<String> = unmanaged.iter().map(|&kind| kind.to_owned()).collect();
    let key = HashKey::new("0123456789abcdef0123456789abcdef");
    Rules::new(&declared, &unmanaged, key).unwrap()
}

pub(crate) fn changed(path: &str, expected: &str, actual: &str) -> Difference {
    let text = |text: &str| Some(text.to_owned());
    (
        path.to_owned(),
        "changed".to_owned(),
        text(expected),
        text(actual),
    )
}
