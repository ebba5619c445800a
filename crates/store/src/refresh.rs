//! Refreshes: who asked, what runs, what became of each item, and the fenced writes of the one that runs.
//!
//! A run is taken under a lease. Each write of it locks the lease's row first and the run's row second, so that a replica which
//! lost the lease can write nothing more, and items are numbered without gaps in the order in which they become visible.

use std::collections::BTreeSet;

use sqlx::FromRow;
use steadfast_types::{ReplicaId, Revision, Timestamp};
use uuid::Uuid;

use crate::{
    Change, Error, Landed, Lease, Op, Request, Store,
    engine::{Tx, statements},
    log,
    package::{PACKAGE_TOPIC, PackageRow, put_checked, put_etag, put_package},
    schema::{SchemaWrite, prune_blobs, write_schemas},
};

/// Refreshes pruned at a time.
const PRUNE_RUNS: i64 = 1_000;

statements! {
    /// Lets one request at a time look for a run to join.
    GATE = "refresh_gate" => ["SELECT id FROM refresh_gate WHERE id = 1" for_update];
    /// Runs that have not ended, the running one first.
    UNDERWAY = "refresh_underway" => [
        "SELECT * FROM refresh_run WHERE state IN ('queued', 'running') ORDER BY state DESC, id" for_update
    ];
    /// Whether there is anything to do.
    PENDING = "refresh_pending" => [
        "SELECT count(*) AS count FROM refresh_run WHERE state IN ('queued', 'running')"
    ];
    /// Whether anything was ever brought.
    ANY_PACKAGE = "refresh_any_package" => [
        "SELECT count(*) AS count FROM (SELECT name FROM package LIMIT 1) AS one"
    ];
    /// Adds a run.
    QUEUE = "refresh_queue" => [
        "INSERT INTO refresh_run (id, state, packages, schemas, package, cause, requested_by, create_us, \
         start_us, end_us, owner, attempts, error, begun_through, item_count, packages_listed, \
         packages_changed, packages_unchanged, packages_failed, schemas_listed, schemas_changed, \
         schemas_unchanged, schemas_failed) VALUES ($1, 'queued', $2, $3, $4, $5, $6, " now ", \
         NULL, NULL, '', 0, '', NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0)"
    ];
    /// Takes a run.
    TAKE = "refresh_take" => [
        "UPDATE refresh_run SET state = 'running', owner = $2, attempts = attempts + 1, \
         start_us = coalesce(start_us, " now ") WHERE id = $1"
    ];
    /// One run.
    GET = "refresh_get" => ["SELECT * FROM refresh_run WHERE id = $1"];
    /// Runs before an id, newest first.
    LIST = "refresh_list" => [
        "SELECT * FROM refresh_run WHERE id < $1 ORDER BY id DESC LIMIT $2"
    ];
    /// Says how far reading may have come.
    BEGIN = "refresh_begin" => [
        "UPDATE refresh_run SET begun_through = $2, packages_listed = $3 WHERE id = $1"
    ];
    /// Counts items and numbers them.
    COUNT = "refresh_count" => [
        "UPDATE refresh_run SET item_count = item_count + $2, \
         packages_changed = packages_changed + $3, packages_unchanged = packages_unchanged + $4, \
         packages_failed = packages_failed + $5, schemas_listed = schemas_listed + $6, \
         schemas_changed = schemas_changed + $7, schemas_unchanged = schemas_unchanged + $8, \
         schemas_failed = schemas_failed + $9 \
         WHERE id = $1 AND state = 'running' RETURNING item_count AS count"
    ];
    /// Adds an item.
    ITEM = "refresh_item" => [
        "INSERT INTO refresh_item (run_id, seq, kind, package, version, outcome, reason, message, revision) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
    ];
    /// Items after a number.
    ITEMS = "refresh_items" => [
        "SELECT kind, package, version, outcome, reason, message, revision FROM refresh_item \
         WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
    ];
    /// The packages that have items.
    DONE = "refresh_done" => [
        "SELECT DISTINCT package AS name FROM refresh_item WHERE run_id = $1"
    ];
    /// The packages about which there was no answer: an error other than that there is no such package.
    UNANSWERED = "refresh_unanswered" => [
        "SELECT DISTINCT package AS name FROM refresh_item WHERE run_id = $1 AND kind = 'packages' \
         AND outcome = 'failed' AND reason <> $2"
    ];
    /// Ends a run.
    FINISH = "refresh_finish" => [
        "UPDATE refresh_run SET state = $2, error = $3, end_us = " now " \
         WHERE id = $1 AND state = 'running'"
    ];
    /// Forgets the items of old runs.
    PRUNE_ITEMS = "refresh_prune_items" => [
        "DELETE FROM refresh_item WHERE run_id IN (SELECT id FROM refresh_run \
         WHERE state NOT IN ('queued', 'running') ORDER BY id DESC LIMIT $2 OFFSET $1)"
    ];
    /// Forgets old runs.
    PRUNE = "refresh_prune" => [
        "DELETE FROM refresh_run WHERE id IN (SELECT id FROM refresh_run \
         WHERE state NOT IN ('queued', 'running') ORDER BY id DESC LIMIT $2 OFFSET $1)"
    ];
}

/// A refresh, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RefreshRow {
    /// A UUIDv7.
    pub id: String,
    /// `queued`, `running`, `succeeded`, `partial` or `failed`.
    pub state: String,
    /// It reads package metadata.
    pub packages: bool,
    /// It reads schemas.
    pub schemas: bool,
    /// Only of this package.
    pub package: Option<String>,
    /// `request`, `schedule` or `empty_catalogue`.
    pub cause: String,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub create_us: i64,
    /// When it was first taken.
    pub start_us: Option<i64>,
    /// When it ended.
    pub end_us: Option<i64>,
    /// The replica that took it last.
    pub owner: String,
    /// How often it was taken.
    pub attempts: i64,
    /// Why it is not a success as a whole.
    pub error: String,
    /// Packages up to this name may have been read.
    pub begun_through: Option<String>,
    /// How many items it has.
    pub item_count: i64,
    /// How many packages there were to read.
    pub packages_listed: i64,
    /// Of these, stored anew.
    pub packages_changed: i64,
    /// Of these, as they were.
    pub packages_unchanged: i64,
    /// Of these, not read.
    pub packages_failed: i64,
    /// How many versions' schemas there were to have.
    pub schemas_listed: i64,
    /// Of these, read now.
    pub schemas_changed: i64,
    /// Of these, known before.
    pub schemas_unchanged: i64,
    /// Of these, not read.
    pub schemas_failed: i64,
}

/// What became of one package or of one version's schema.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RefreshItemRow {
    /// `packages` or `schemas`.
    pub kind: String,
    /// The package.
    pub package: String,
    /// The version, for a schema.
    pub version: String,
    /// `changed`, `unchanged` or `failed`.
    pub outcome: String,
    /// Why it failed, for programs.
    pub reason: String,
    /// Why it failed, for people.
    pub message: String,
    /// The revision that stored it; filled in by the store.
    pub revision: Option<i64>,
}

/// A refresh to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRefresh {
    /// Read package metadata.
    pub packages: bool,
    /// Read schemas.
    pub schemas: bool,
    /// Only of this package.
    pub package: Option<String>,
}

/// Where a request for a refresh goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshPlacement {
    /// To the run with this id.
    Join(String),
    /// To a new run.
    Queue(NewRefresh),
}

/// Who or what asks for a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshAsk {
    /// `request`, `schedule` or `empty_catalogue`.
    pub cause: &'static str,
    /// The caller's identity, or a schedule's name.
    pub requested_by: String,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
    /// Ask for nothing unless there is no package and nothing underway.
    pub only_if_empty: bool,
}

/// What became of a request for a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshAsked {
    /// It led to a run.
    Placed {
        /// The run.
        run: Box<RefreshRow>,
        /// The run was there before.
        joined: bool,
    },
    /// The call was a repetition, and the run that it led to is no longer kept.
    Forgotten {
        /// The run's id.
        id: String,
    },
    /// `only_if_empty`, and it is not.
    HeldBack,
}

/// How many items ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefreshDeltas {
    /// Packages stored anew.
    pub packages_changed: i64,
    /// Packages as they were.
    pub packages_unchanged: i64,
    /// Packages not read.
    pub packages_failed: i64,
    /// Versions whose schemas there were to have.
    pub schemas_listed: i64,
    /// Of these, read now.
    pub schemas_changed: i64,
    /// Of these, known before.
    pub schemas_unchanged: i64,
    /// Of these, not read.
    pub schemas_failed: i64,
}

/// What a refresh brought of one package; all of it is committed at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackageWrite {
    /// The package's name.
    pub name: String,
    /// New or changed content.
    pub package: Option<PackageRow>,
    /// Only the upstream's etag is new.
    pub etag: Option<String>,
    /// What tarballs held.
    pub schemas: Vec<SchemaWrite>,
    /// Versions whose schemas are to be forgotten.
    pub gone: Vec<String>,
}

#[derive(FromRow)]
struct CountRow {
    count: i64,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

// === impl PackageWrite ===

impl PackageWrite {
    /// Whether it changes anything that callers can see.
    #[must_use]
    pub fn takes_revision(&self) -> bool {
        self.package.is_some() || !self.schemas.is_empty() || !self.gone.is_empty()
    }
}

// === impl Store: asking ===

impl Store {
    /// Asks for a refresh: `place` decides, given the runs that have not ended (the running one first), whether the caller joins
    /// one.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn ask_refresh(
        &self,
        ask: &RefreshAsk,
        place: impl FnOnce(&[RefreshRow]) -> RefreshPlacement + Send,
    ) -> Result<RefreshAsked, Error> {
        let mut tx = self.db().begin().await?;
        if let Some(request) = &ask.request
            && let Some(outcome) = request.begin(&mut tx).await?
        {
            let (id, joined): (String, bool) = serde_json::from_str(&outcome)
                .map_err(|_| Error::Corrupt("request_outcome.outcome"))?;
            let run: Option<RefreshRow> = tx.statement(&GET).bind(&id).optional().await?;
            tx.rollback().await?;
            return Ok(match run {
                Some(run) => RefreshAsked::Placed {
                    run: Box::new(run),
                    joined,
                },
                None => RefreshAsked::Forgotten { id },
            });
        }
        let _: (i16,) = gate(&mut tx).await?;
        let underway: Vec<RefreshRow> = tx.statement(&UNDERWAY).all().await?;
        if ask.only_if_empty {
            let any: CountRow = tx.statement(&ANY_PACKAGE).one().await?;
            if any.count > 0 || !underway.is_empty() {
                tx.rollback().await?;
                return Ok(RefreshAsked::HeldBack);
            }
        }
        let (id, joined) = match place(&underway) {
            RefreshPlacement::Join(id) => (id, true),
            RefreshPlacement::Queue(new) => {
                let id = Uuid::now_v7().to_string();
                tx.statement(&QUEUE)
                    .bind(&id)
                    .bind(new.packages)
                    .bind(new.schemas)
                    .bind(&new.package)
                    .bind(ask.cause)
                    .bind(&ask.requested_by)
                    .execute()
                    .await?;
                (id, false)
            }
        };
        if let Some(request) = &ask.request {
            let outcome = serde_json::to_string(&(&id, joined))
                .map_err(|_| Error::Corrupt("request_outcome.outcome"))?;
            request.finish(&mut tx, &outcome).await?;
        }
        let run: RefreshRow = tx.statement(&GET).bind(&id).one().await?;
        tx.commit().await?;
        Ok(RefreshAsked::Placed {
            run: Box::new(run),
            joined,
        })
    }

    /// One refresh with its items after the first `skip`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refresh(
        &self,
        id: &str,
        skip: i64,
        limit: i64,
    ) -> Result<Option<(RefreshRow, Vec<RefreshItemRow>)>, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let run: Option<RefreshRow> = tx.statement(&GET).bind(id).optional().await?;
        let items = match run {
            None => Vec::new(),
            Some(_) => {
                let items = tx.statement(&ITEMS).bind(id).bind(skip).bind(limit);
                items.all().await?
            }
        };
        tx.rollback().await?;
        Ok(run.map(|run| (run, items)))
    }

    /// Refreshes older than an id, newest first; the empty id means from the newest.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refreshes(&self, before: &str, limit: i64) -> Result<Vec<RefreshRow>, Error> {
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        self.db().read(&LIST).bind(before).bind(limit).all().await
    }

    /// Whether any refresh is queued or running.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refresh_pending(&self) -> Result<bool, Error> {
        let row: CountRow = self.db().read(&PENDING).one().await?;
        Ok(row.count > 0)
    }
}

// === impl Store: running ===

impl Store {
    /// Takes the run that was interrupted, or else the oldest that is queued, with the packages that it already recorded.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn take_refresh(
        &self,
        lease: &Lease,
        owner: ReplicaId,
    ) -> Result<Option<(RefreshRow, BTreeSet<String>)>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let underway: Vec<RefreshRow> = tx.statement(&UNDERWAY).all().await?;
        let Some(next) = underway.into_iter().next() else {
            tx.rollback().await?;
            return Ok(None);
        };
        tx.statement(&TAKE)
            .bind(&next.id)
            .bind(owner.to_string())
            .execute()
            .await?;
        let run: RefreshRow = tx.statement(&GET).bind(&next.id).one().await?;
        let done: Vec<NameRow> = tx.statement(&DONE).bind(&next.id).all().await?;
        tx.commit().await?;
        Ok(Some((run, done.into_iter().map(|row| row.name).collect())))
    }

    /// Says that packages up to `through` may be read from now on: later requests for them join no more.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn begin_reading(
        &self,
        lease: &Lease,
        run_id: &str,
        through: &str,
        packages_listed: i64,
    ) -> Result<(), Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        tx.statement(&BEGIN)
            .bind(run_id)
            .bind(through)
            .bind(packages_listed)
            .execute()
            .await?;
        tx.commit().await
    }

    /// Commits what a refresh brought of one package, with its items, as one revision; or items alone, without a revision.
    /// Returns where it landed.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn save_refreshed(
        &self,
        lease: &Lease,
        run_id: &str,
        write: Option<&PackageWrite>,
        items: &[RefreshItemRow],
        deltas: RefreshDeltas,
    ) -> Result<Option<Landed>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let last = count_items(&mut tx, lease, run_id, items.len(), deltas).await?;
        let mut landed = None;
        if let Some(write) = write {
            let changes = apply(&mut tx, write).await?;
            if !changes.is_empty() {
                landed = Some(log::append(&mut tx, &changes).await?);
            }
        }
        // New rows under a number that is ours: no lock that anyone else could hold.
        let first = last - i64::try_from(items.len()).unwrap_or(i64::MAX) + 1;
        for (seq, item) in (first..).zip(items) {
            let changed = item.outcome == "changed";
            let revision = landed.filter(|_| changed).map(|landed| landed.revision.0);
            tx.statement(&ITEM)
                .bind(run_id)
                .bind(seq)
                .bind(&item.kind)
                .bind(&item.package)
                .bind(&item.version)
                .bind(&item.outcome)
                .bind(&item.reason)
                .bind(&item.message)
                .bind(revision)
                .execute()
                .await?;
        }
        tx.commit().await?;
        Ok(landed)
    }

    /// The packages of a run that have items.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refreshed_packages(&self, run_id: &str) -> Result<BTreeSet<String>, Error> {
        let rows: Vec<NameRow> = self.db().read(&DONE).bind(run_id).all().await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// The packages of a run that failed for another reason than `absence`, with which the upstream says that there is none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn unanswered_packages(
        &self,
        run_id: &str,
        absence: &str,
    ) -> Result<BTreeSet<String>, Error> {
        let rows = self.db().read(&UNANSWERED).bind(run_id).bind(absence);
        let rows: Vec<NameRow> = rows.all().await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// Ends a run. `checked` names the sources all of whose packages it asked about with success; they were asked since the run
    /// began. Keeps the newest `keep` ended runs.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn finish_refresh(
        &self,
        lease: &Lease,
        run_id: &str,
        state: &str,
        error: &str,
        checked: &[String],
        keep: i64,
    ) -> Result<RefreshRow, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        tx.statement(&FINISH)
            .bind(run_id)
            .bind(state)
            .bind(error)
            .execute()
            .await?;
        let run: RefreshRow = tx.statement(&GET).bind(run_id).one().await?;
        if let Some(start_us) = run.start_us {
            for source in checked {
                put_checked(&mut tx, source, Timestamp(start_us)).await?;
            }
        }
        for statement in [&PRUNE_ITEMS, &PRUNE] {
            tx.statement(statement)
                .bind(keep)
                .bind(PRUNE_RUNS)
                .execute()
                .await?;
        }
        tx.commit().await?;
        Ok(run)
    }
}

async fn gate(tx: &mut Tx) -> Result<(i16,), Error> {
    tx.statement(&GATE).one().await
}

/// Locks the run's row, counts, and returns the number of the last item.
async fn count_items(
    tx: &mut Tx,
    lease: &Lease,
    run_id: &str,
    items: usize,
    deltas: RefreshDeltas,
) -> Result<i64, Error> {
    let counted: Option<CountRow> = tx
        .statement(&COUNT)
        .bind(run_id)
        .bind(i64::try_from(items).unwrap_or(i64::MAX))
        .bind(deltas.packages_changed)
        .bind(deltas.packages_unchanged)
        .bind(deltas.packages_failed)
        .bind(deltas.schemas_listed)
        .bind(deltas.schemas_changed)
        .bind(deltas.schemas_unchanged)
        .bind(deltas.schemas_failed)
        .optional()
        .await?;
    // A run that is not running was ended by another owner.
    let counted = counted.ok_or_else(|| Error::Fenced {
        lease: lease.name.clone(),
    })?;
    Ok(counted.count)
}

/// Writes a package's rows and returns what to announce.
async fn apply(tx: &mut Tx, write: &PackageWrite) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    match (&write.package, &write.etag) {
        (Some(row), _) => {
            put_package(tx, row).await?;
            let hash = row.content_hash.as_str();
            changes.push(Change::new(PACKAGE_TOPIC, &row.name, Op::Upsert, hash));
        }
        (None, Some(etag)) => put_etag(tx, &write.name, etag).await?,
        (None, None) => {}
    }
    changes.extend(write_schemas(tx, &write.name, &write.schemas, &write.gone).await?);
    if !write.gone.is_empty() {
        prune_blobs(tx).await?;
    }
    Ok(changes)
}

// === impl RefreshRow ===

impl RefreshRow {
    /// When it was first taken.
    #[must_use]
    pub fn start(&self) -> Option<Timestamp> {
        self.start_us.map(Timestamp)
    }

    /// When it ended.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.end_us.map(Timestamp)
    }
}

// === impl RefreshItemRow ===

impl RefreshItemRow {
    /// The revision that stored it.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.revision.map(Revision)
    }
}
