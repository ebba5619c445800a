//! The writes of the refresh that runs.
//!
//! A run is taken under a lease. Each write of it locks the lease's row first and the run's row second, so that a replica which
//! lost the lease can write nothing more, and items are numbered without gaps in the order in which they become visible.

use std::{borrow::Cow, collections::BTreeSet, iter::Sum};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{ReplicaId, Timestamp};

use crate::{
    Change, Error, Landed, Lease, Op, RefreshItemRow, RefreshRow, Store,
    engine::{Tx, statements},
    icon::{IconWrite, write_icons},
    log,
    package::{PACKAGE_TOPIC, PackageRow, put_checked, put_etag, put_package},
    refresh::{CountRow, run_in, underway_in},
    schema::{SchemaWrite, prune_blobs, write_schemas},
    source::{put_absent, remove},
};

/// Refreshes pruned at a time.
const PRUNE_RUNS: i64 = 1_000;

/// What is said of an item, or of a run, is cut after so many bytes: it may quote what a registry answered.
const WORDS_BYTES_MAX: usize = 2_048;

statements! {
    /// Takes a run.
    TAKE = "refresh_take" => [
        "UPDATE refresh_run SET state = 'running', owner = $2, attempts = attempts + 1, \
         start_us = coalesce(start_us, " now ") WHERE id = $1"
    ];
    /// Says how far reading may have come.
    BEGIN = "refresh_begin" => [
        "UPDATE refresh_run SET begun_through = $2, packages_listed = $3 WHERE id = $1 AND state = 'running'"
    ];
    /// Counts items and numbers them.
    COUNT = "refresh_count" => [
        "UPDATE refresh_run SET item_count = item_count + $2, \
         packages_changed = packages_changed + $3, packages_unchanged = packages_unchanged + $4, \
         packages_failed = packages_failed + $5, schemas_listed = schemas_listed + $6, \
         schemas_changed = schemas_changed + $7, schemas_unchanged = schemas_unchanged + $8, \
         schemas_failed = schemas_failed + $9, icons_listed = icons_listed + $10, \
         icons_changed = icons_changed + $11, icons_unchanged = icons_unchanged + $12, \
         icons_failed = icons_failed + $13 \
         WHERE id = $1 AND state = 'running' RETURNING item_count AS count"
    ];
    /// Adds items.
    ITEMS = "refresh_add_items" => [
        postgres {
            "INSERT INTO refresh_item (run_id, seq, kind, package, version, source, outcome, reason, message, revision) \
             SELECT $1, e.seq, e.kind, e.package, e.version, e.source, e.outcome, e.reason, e.message, e.revision \
             FROM json_to_recordset($2::json) AS e(seq bigint, kind text, package text, version text, source text, \
                 outcome text, reason text, message text, revision bigint)"
        }
        sqlite {
            "INSERT INTO refresh_item (run_id, seq, kind, package, version, source, outcome, reason, message, revision) \
             SELECT $1, e.value ->> 'seq', e.value ->> 'kind', e.value ->> 'package', \
                    e.value ->> 'version', e.value ->> 'source', e.value ->> 'outcome', e.value ->> 'reason', \
                    e.value ->> 'message', e.value ->> 'revision' FROM json_each($2) e"
        }
    ];
    /// Whether an item is there.
    RECORDED = "refresh_recorded" => [
        "SELECT count(*) AS count FROM refresh_item \
         WHERE run_id = $1 AND kind = $2 AND package = $3 AND version = $4"
    ];
    /// The packages that have items.
    DONE = "refresh_done" => [
        "SELECT DISTINCT package AS name FROM refresh_item WHERE run_id = $1 AND source = ''"
    ];
    /// The packages about which there was no answer: an error other than that there is no such package.
    UNANSWERED = "refresh_unanswered" => [
        "SELECT DISTINCT package AS name FROM refresh_item WHERE run_id = $1 AND kind = 'packages' \
         AND source = '' AND outcome = 'failed' AND reason <> $2"
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
    /// Icons that there were to have.
    pub icons_listed: i64,
    /// Of these, stored anew, or gone.
    pub icons_changed: i64,
    /// Of these, as they were.
    pub icons_unchanged: i64,
    /// Of these, not read.
    pub icons_failed: i64,
}

/// What a refresh brought of one package, or of some that did not change; all of it is committed at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// What is new. Its changes are one revision.
    pub write: Option<PackageWrite>,
    /// What the run's report says of it.
    pub items: Vec<RefreshItemRow>,
    /// What the run's counters say of it.
    pub deltas: RefreshDeltas,
}

/// What is to be stored of one package.
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
    /// Whether its registry has it no longer, which is remembered of an unlisted package.
    pub absent: Option<bool>,
    /// Remove it with all that is known of it; nothing else is written then.
    pub remove: bool,
    /// What its source said of its icons.
    pub icons: Vec<IconWrite>,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

#[derive(Serialize)]
struct ItemEntry<'a> {
    seq: i64,
    kind: &'a str,
    package: &'a str,
    version: &'a str,
    source: &'a str,
    outcome: &'a str,
    reason: &'a str,
    message: Cow<'a, str>,
    revision: Option<i64>,
}

// === impl RefreshDeltas ===

impl Sum for RefreshDeltas {
    fn sum<I: Iterator<Item = Self>>(deltas: I) -> Self {
        deltas.fold(Self::default(), |a, b| Self {
            packages_changed: a.packages_changed + b.packages_changed,
            packages_unchanged: a.packages_unchanged + b.packages_unchanged,
            packages_failed: a.packages_failed + b.packages_failed,
            schemas_listed: a.schemas_listed + b.schemas_listed,
            schemas_changed: a.schemas_changed + b.schemas_changed,
            schemas_unchanged: a.schemas_unchanged + b.schemas_unchanged,
            schemas_failed: a.schemas_failed + b.schemas_failed,
            icons_listed: a.icons_listed + b.icons_listed,
            icons_changed: a.icons_changed + b.icons_changed,
            icons_unchanged: a.icons_unchanged + b.icons_unchanged,
            icons_failed: a.icons_failed + b.icons_failed,
        })
    }
}

// === impl PackageWrite ===

impl PackageWrite {
    /// Whether it may change something that callers can see: what is said of icons is compared when it is written.
    #[must_use]
    pub fn takes_revision(&self) -> bool {
        self.package.is_some()
            || self.schemas.iter().any(|schema| !schema.silent)
            || !self.gone.is_empty()
            || !self.icons.is_empty()
            || self.remove
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.takes_revision()
            || !self.schemas.is_empty()
            || self.etag.is_some()
            || self.absent.is_some()
    }
}

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
        let underway = underway_in(&mut tx).await?;
        let Some(next) = underway.into_iter().next() else {
            tx.rollback().await?;
            return Ok(None);
        };
        tx.statement(&TAKE)
            .bind(&next.id)
            .bind(owner.to_string())
            .execute()
            .await?;
        let run = run_in(&mut tx, &next.id).await?;
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

    /// Commits what a refresh brought of some packages, with their items, as one transaction: a revision for each that changes
    /// something. Returns where the last one landed. `again` says that the same was sent before and its answer lost: if that
    /// was committed after all, nothing is written now.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn save_refreshed(
        &self,
        lease: &Lease,
        run_id: &str,
        brought: &[Refreshed],
        again: bool,
    ) -> Result<Option<Landed>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let items = brought.iter().map(|refreshed| refreshed.items.len()).sum();
        let deltas = brought.iter().map(|refreshed| refreshed.deltas).sum();
        let last = count_items(&mut tx, lease, run_id, items, deltas).await?;
        // Only now that the run's row is locked: the earlier attempt may have been committing until then.
        if again && is_recorded(&mut tx, run_id, brought).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let mut revisions = Vec::new();
        for refreshed in brought {
            if let Some(write) = &refreshed.write {
                revisions.push(apply(&mut tx, write).await?);
            } else {
                revisions.push(Vec::new());
            }
        }
        let forgets = |write: &PackageWrite| write.remove || !write.gone.is_empty();
        let mut writes = brought.iter().filter_map(|one| one.write.as_ref());
        if writes.any(forgets) {
            prune_blobs(&mut tx).await?;
        }
        let landed = log::append_each(&mut tx, &revisions).await?;
        let landed_items = brought.iter().zip(&landed).flat_map(|(refreshed, landed)| {
            let revision = landed.map(|landed| landed.revision.0);
            refreshed.items.iter().map(move |item| (item, revision))
        });
        add_items(&mut tx, run_id, last, landed_items.collect()).await?;
        tx.commit().await?;
        Ok(landed.into_iter().flatten().last())
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
        let finished = tx
            .statement(&FINISH)
            .bind(run_id)
            .bind(state)
            .bind(&*storable(error))
            .execute()
            .await?;
        let run = run_in(&mut tx, run_id).await?;
        // Not if it was cancelled a moment ago.
        if let Some(start_us) = run.start_us.filter(|_| finished > 0) {
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

/// Adds items, each with the revision that stored what it is about; `last` is the number of the last of them.
pub(crate) async fn add_items(
    tx: &mut Tx,
    run_id: &str,
    last: i64,
    items: Vec<(&RefreshItemRow, Option<i64>)>,
) -> Result<(), Error> {
    if items.is_empty() {
        return Ok(());
    }
    // New rows under a number that is ours: no lock that anyone else could hold.
    let first = last - i64::try_from(items.len()).unwrap_or(i64::MAX) + 1;
    let rows: Vec<ItemEntry<'_>> = (first..)
        .zip(items)
        .map(|(seq, (item, revision))| ItemEntry {
            seq,
            kind: &item.kind,
            package: &item.package,
            version: &item.version,
            source: &item.source,
            outcome: &item.outcome,
            reason: &item.reason,
            message: storable(&item.message),
            revision: revision.filter(|_| item.outcome == "changed"),
        })
        .collect();
    let rows = serde_json::to_string(&rows).map_err(|_| Error::Corrupt("refresh item"))?;
    let added = tx.statement(&ITEMS).bind(run_id).bind(rows);
    added.execute().await?;
    Ok(())
}

/// Words for people as every database takes them: not too many, and without NUL, which PostgreSQL refuses.
fn storable(words: &str) -> Cow<'_, str> {
    let cut = words.floor_char_boundary(WORDS_BYTES_MAX);
    let kept = &words[..cut];
    let is_whole = cut == words.len();
    if is_whole && !kept.contains('\0') {
        return Cow::Borrowed(words);
    }
    let mut kept = kept.replace('\0', "\u{fffd}");
    if !is_whole {
        kept.push('…');
    }
    Cow::Owned(kept)
}

/// Locks the run's row, counts, and returns the number of the last item.
pub(crate) async fn count_items(
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
        .bind(deltas.icons_listed)
        .bind(deltas.icons_changed)
        .bind(deltas.icons_unchanged)
        .bind(deltas.icons_failed)
        .optional()
        .await?;
    // A run that is not running was ended by another owner.
    let counted = counted.ok_or_else(|| Error::Fenced {
        lease: lease.name.clone(),
    })?;
    Ok(counted.count)
}

/// Whether this was committed before; items of one call are committed together, so the first tells.
async fn is_recorded(tx: &mut Tx, run_id: &str, brought: &[Refreshed]) -> Result<bool, Error> {
    let Some(first) = brought.iter().flat_map(|refreshed| &refreshed.items).next() else {
        return Ok(false);
    };
    let recorded = tx.statement(&RECORDED);
    let recorded = recorded.bind(run_id).bind(&first.kind);
    let recorded = recorded.bind(&first.package).bind(&first.version);
    let row: CountRow = recorded.one().await?;
    Ok(row.count > 0)
}

/// Writes a package's rows and returns what to announce.
pub(crate) async fn apply(tx: &mut Tx, write: &PackageWrite) -> Result<Vec<Change>, Error> {
    if write.remove {
        return remove(tx, &write.name).await;
    }
    if let Some(absent) = write.absent {
        put_absent(tx, &write.name, absent).await?;
    }
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
    changes.extend(write_icons(tx, &write.name, &write.icons).await?);
    Ok(changes)
}
