//! The one crate that knows the database.
//!
//! [`Store`] is opened once per process and cloned freely. It offers domain operations, one file per aggregate; statements, rows
//! and transactions stay inside. One text serves both engines (see `engine`); every change and its change-log entry commit in
//! one transaction (`log`); hot writes share commits (`pipeline`); work that several replicas could do is covered by a lease
//! whose fence is checked inside the writing transaction (`lease`).

mod bundle;
mod compact;
mod cpu_latency;
mod drift;
mod engine;
mod error;
pub mod fault;
#[cfg(feature = "floors")]
pub mod floor;
mod icon;
mod icon_fetch;
mod lease;
mod local;
mod log;
mod meta;
pub mod metric;
mod migrate;
mod node;
mod options;
mod own;
mod package;
mod pipeline;
mod publish;
mod refresh;
mod refresh_run;
mod removal;
mod request;
mod saga;
mod schedule;
mod schema;
mod source;
#[cfg(test)]
mod test_stores;
#[cfg(test)]
mod tests;
mod wake;

use std::{fs::File, sync::Arc, time::Duration};

pub use bundle::{
    BundleCounts, BundlePackage, CatalogExport, CatalogImport, Imported, ImportedParts,
};
pub use compact::Retention;
pub use drift::{
    AcceptScene, AcceptWrite, Accepted, Applied, AppliedPage, Compared, DRIFT_TOPIC, DriftClose,
    DriftEventRow, DriftFilter, DriftOpen, DriftRetention, DriftRow, DriftUpdate, DueResource,
    FailedLook, InventoryEnd, InventoryEnded, InventoryFilter, InventoryRow, JudgedBy, NewRecord,
    NewReports, NewSweep, Observed, OpenDrift, OpenedDrift, Outdated, POLICY_TOPIC, PastDrift,
    PolicyRow, PolicyWrite, PolicyWritten, RESOURCE_KEY_PREFIX, RESOURCE_TOPIC, Recorded, Redact,
    ReportOutcome, Reported, ResourceFilter, ResourceList, ResourceName, ResourceRow,
    RulesStanding, SnoozeWrite, SweepAsked, SweepFailure, SweepResource, SweepRow, SweepWrite,
};
pub use error::{Error, Outcome};
pub use icon::{ICON_TOPIC, IconBlob, IconContent, IconRow, IconWrite, icon_key};
pub use icon_fetch::{FetchedIcons, IconClaim};
pub use lease::Lease;
pub use local::{LocalReport, LocalSave, LocalSaved, LocalView, PackageOrigin};
pub use log::{Change, Entry, Head, Landed, Located, Op, Page, Read};
pub use migrate::{MigrateReport, schema_version};
pub use node::{
    Beat, NewNode, NodeName, NodeReport, NodeReported, NodeRow, NodeStanding, NodeState, NodeTally,
    NodeWanted, NodeWrite, NodesWritten, Registered,
};
pub use options::{Engine, Options};
pub use own::{Appended, OwnCommit};
pub use package::{CatalogRows, Followed, PACKAGE_TOPIC, PackageRow, SCHEMA_TOPIC};
pub use publish::{Publish, Published};
pub use refresh::{
    NewRefresh, RefreshAsk, RefreshAsked, RefreshCancel, RefreshItemRow, RefreshPlacement,
    RefreshRow,
};
pub use refresh_run::{PackageWrite, RefreshDeltas, Refreshed};
pub use request::{REQUEST_RETENTION, Request};
pub use saga::{
    NewSaga, SAGA_TOPIC, SagaDefinitionRow, SagaEventRow, SagaFirst, SagaListFilter, SagaPlanRow,
    SagaRow, SagaTransition, StartedSaga, SteerWrite, Steered, TransitionOutcome,
};
pub use schedule::Schedule;
pub use schema::{SchemaBlob, SchemaRow, SchemaWrite};
pub use source::{ListingRow, PackageRemoval, SourceNameRow};
pub use wake::{NodeNews, Wakeups};

use cpu_latency::CpuLatency;
use drift::{Records, Reports};
use engine::Db;
use node::{NodeReports, Registrations};
use own::{LaterCommits, OwnCommits};
use pipeline::Pipeline;
use publish::Publishes;
use saga::SagaWrites;

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    publishes: Pipeline<Publishes>,
    sagas: Pipeline<SagaWrites>,
    drift_records: Pipeline<Records>,
    drift_reports: Pipeline<Reports>,
    node_registrations: Pipeline<Registrations>,
    node_reports: Pipeline<NodeReports>,
    own: OwnCommits,
    listen_test_interval: Duration,
    /// Held, not read: it keeps a second server off the same SQLite file.
    _lock: Option<File>,
}

// === impl Store ===

impl Store {
    /// Opens the database. Nothing is written yet, and on PostgreSQL nothing is connected yet: see [`Store::migrate`] and
    /// [`Store::check_schema`].
    ///
    /// # Errors
    /// If the options are wrong, or if another server has the SQLite file open.
    pub async fn open(options: &Options) -> Result<Self, Error> {
        let (db, lock) = engine::open(options).await?;
        let own = OwnCommits::new();
        let publishes = Publishes {
            db: db.clone(),
            own: own.clone(),
        };
        let publishes = Pipeline::start(publishes, options.write_deadline);
        let sagas = SagaWrites {
            db: db.clone(),
            own: LaterCommits::new(own.clone()),
            busy_wait: options.busy_wait_here(),
            cpu_latency: CpuLatency::new(options.cpu_latency_qos),
        };
        let sagas = Pipeline::start(sagas, options.write_deadline);
        let drift_records = Pipeline::start(Records { db: db.clone() }, options.write_deadline);
        let drift_reports = Pipeline::start(Reports { db: db.clone() }, options.write_deadline);
        let registrations = Registrations { db: db.clone() };
        let node_registrations = Pipeline::start(registrations, options.write_deadline);
        let node_reports = Pipeline::start(NodeReports { db: db.clone() }, options.write_deadline);
        Ok(Self {
            inner: Arc::new(Inner {
                db,
                publishes,
                sagas,
                drift_records,
                drift_reports,
                node_registrations,
                node_reports,
                own,
                listen_test_interval: options.listen_test_interval,
                _lock: lock,
            }),
        })
    }

    /// Brings the database to this program's schema and gives it its identity.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`]; [`Error::Migration`]; or if the database does not answer.
    pub async fn migrate(&self) -> Result<MigrateReport, Error> {
        let report = migrate::migrate(self.db()).await?;
        self.ensure_identity().await?;
        Ok(report)
    }

    /// Checks that the database has this program's schema.
    ///
    /// # Errors
    /// [`Error::SchemaTooOld`], [`Error::SchemaTooNew`], or if the database does not answer.
    pub async fn check_schema(&self) -> Result<(), Error> {
        migrate::check(self.db()).await
    }

    /// Which engine it is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.db().engine()
    }

    /// Closes all connections, waiting for those in use.
    pub async fn close(&self) {
        self.db().close().await;
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(crate) fn saga_writes(&self) -> &Pipeline<SagaWrites> {
        &self.inner.sagas
    }

    pub(crate) fn drift_records(&self) -> &Pipeline<Records> {
        &self.inner.drift_records
    }

    pub(crate) fn drift_reports(&self) -> &Pipeline<Reports> {
        &self.inner.drift_reports
    }

    pub(crate) fn node_registrations(&self) -> &Pipeline<Registrations> {
        &self.inner.node_registrations
    }

    pub(crate) fn node_reports(&self) -> &Pipeline<NodeReports> {
        &self.inner.node_reports
    }

    pub(crate) fn listen_test_interval(&self) -> Duration {
        self.inner.listen_test_interval
    }

    pub(crate) fn own(&self) -> &OwnCommits {
        &self.inner.own
    }

    pub(crate) fn publishes(&self) -> &Pipeline<Publishes> {
        &self.inner.publishes
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("engine", &self.engine())
            .finish_non_exhaustive()
    }
}

/// Every statement of the crate.
#[cfg(any(test, feature = "faults"))]
fn all_statements() -> Vec<&'static engine::Sql> {
    [
        bundle::STATEMENTS,
        compact::STATEMENTS,
        &drift::statements(),
        icon::STATEMENTS,
        icon_fetch::STATEMENTS,
        lease::STATEMENTS,
        local::STATEMENTS,
        log::STATEMENTS,
        meta::STATEMENTS,
        migrate::STATEMENTS,
        &node::statements(),
        package::STATEMENTS,
        publish::STATEMENTS,
        refresh::STATEMENTS,
        refresh_run::STATEMENTS,
        removal::STATEMENTS,
        request::STATEMENTS,
        &saga::statements(),
        schedule::STATEMENTS,
        schema::STATEMENTS,
        source::STATEMENTS,
        wake::STATEMENTS,
    ]
    .concat()
}
