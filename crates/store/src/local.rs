//! Packages that come from folders: what is stored of them, and the writes of the replica that reads them.
//!
//! Whoever reads a root holds its lease, and each write proves that first. What was compared is locked and compared again inside the
//! write, so that a registry's refresh that wrote meanwhile is not overwritten: [`LocalSaved::Stale`] says to look again.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::FromRow;
use steadfast_types::Timestamp;

use crate::{
    Error, Landed, Lease, Op, PackageWrite, RefreshDeltas, RefreshItemRow, RefreshRow, SchemaRow,
    Store,
    engine::{Tx, statements},
    icon::{IconRow, icons_of_in},
    log,
    package::{json_array, put_checked},
    refresh_run::{add_items, apply, count_items},
    removal::remove_package,
    schema::{prune_blobs, schemas_of_in},
};

statements! {
    /// Where all packages come from.
    ORIGINS = "local_origins" => [
        "SELECT name, source, content_hash, upstream_etag FROM package ORDER BY name"
    ];
    /// Locks what was compared.
    LOCK = "local_lock" => [
        postgres {
            "SELECT name, source, content_hash, upstream_etag FROM package \
             WHERE name IN (SELECT json_array_elements_text($1::json)) ORDER BY name FOR UPDATE"
        }
        sqlite {
            "SELECT name, source, content_hash, upstream_etag FROM package \
             WHERE name IN (SELECT value FROM json_each($1)) ORDER BY name"
        }
    ];
    /// The leases of this kind that are held.
    HELD = "local_held" => [
        "SELECT name FROM lease WHERE expires_us > " now " AND substr(name, 1, 6) = 'local/' ORDER BY name"
    ];
    /// The database's time.
    NOW = "local_now" => ["SELECT " now " AS now_us"];
    /// The refresh that runs.
    RUNNING = "local_running_refresh" => [
        "SELECT * FROM refresh_run WHERE state = 'running' ORDER BY id LIMIT 1"
    ];
    /// The packages that a refresh has items of.
    RECORDED = "local_recorded" => [
        "SELECT DISTINCT package AS name FROM refresh_item WHERE run_id = $1"
    ];
    /// Counts packages that were not known of when the refresh began.
    LISTED = "local_listed" => [
        "UPDATE refresh_run SET packages_listed = packages_listed + $2 WHERE id = $1"
    ];
}

/// Where a stored package comes from.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PackageOrigin {
    /// Its name.
    pub name: String,
    /// The configured source it came from.
    pub source: String,
    /// The SHA-256 of its document, in hexadecimal.
    pub content_hash: String,
    /// What the source called what it was made from.
    pub upstream_etag: String,
}

/// What is stored, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalView {
    /// Of all packages.
    pub origins: Vec<PackageOrigin>,
    /// Of the packages that were asked about.
    pub schemas: Vec<SchemaRow>,
    /// Of the same.
    pub icons: Vec<IconRow>,
    /// The leases of roots that some replica holds.
    pub held: BTreeSet<String>,
}

/// What looking at a root brought; all of it is committed at once, each package that changed as a revision of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalSave {
    /// New and changed packages.
    pub writes: Vec<PackageWrite>,
    /// Packages that are gone.
    pub removals: Vec<String>,
    /// What was stored of the packages above when they were compared; one without an entry was not there.
    pub compared: BTreeMap<String, PackageOrigin>,
    /// Under which key it is remembered that the root was looked at just now; `None` to leave that as it is.
    pub checked: Option<String>,
    /// The refresh that this is done for.
    pub report: Option<LocalReport>,
}

/// What a refresh is told of a root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalReport {
    /// The refresh.
    pub run_id: String,
    /// Packages that there were to read.
    pub listed: i64,
    /// What became of each.
    pub items: Vec<RefreshItemRow>,
    /// The same, counted.
    pub deltas: RefreshDeltas,
}

/// What became of a [`LocalSave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalSaved {
    /// It is stored; where the last change landed, if anything changed.
    Stored(Option<Landed>),
    /// Somebody wrote one of the packages meanwhile: nothing is stored; look again.
    Stale,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

#[derive(FromRow)]
struct NowRow {
    now_us: i64,
}

// === impl LocalSave ===

impl LocalSave {
    /// Only tells a refresh something.
    #[must_use]
    pub fn of_report(report: LocalReport) -> Self {
        Self {
            report: Some(report),
            ..Self::default()
        }
    }
}

// === impl Store ===

impl Store {
    /// What is stored, to compare a root with: the origins of all packages, and the schemas and icons of those that are named or that the
    /// source brought.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn local_view(
        &self,
        source: &str,
        names: &BTreeSet<String>,
    ) -> Result<LocalView, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let origins: Vec<PackageOrigin> = tx.statement(&ORIGINS).all().await?;
        let of_source = origins.iter().filter(|row| row.source == source);
        let names: BTreeSet<&str> = of_source
            .map(|row| row.name.as_str())
            .chain(names.iter().map(String::as_str))
            .collect();
        let names = json_array(names.iter())?;
        let schemas = schemas_of_in(&mut tx, Some(&names)).await?;
        let icons = icons_of_in(&mut tx, Some(&names)).await?;
        let held: Vec<NameRow> = tx.statement(&HELD).all().await?;
        tx.rollback().await?;
        Ok(LocalView {
            origins,
            schemas,
            icons,
            held: held.into_iter().map(|row| row.name).collect(),
        })
    }

    /// Commits what looking at a root brought.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease has changed hands or the refresh has ended, or if the database does not answer.
    pub async fn save_local(&self, lease: &Lease, save: &LocalSave) -> Result<LocalSaved, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let mut last_item = 0;
        if let Some(report) = &save.report {
            let items = report.items.len();
            last_item = count_items(&mut tx, lease, &report.run_id, items, report.deltas).await?;
            let listed = tx.statement(&LISTED).bind(&report.run_id);
            listed.bind(report.listed).execute().await?;
        }
        if is_stale(&mut tx, save).await? {
            tx.rollback().await?;
            return Ok(LocalSaved::Stale);
        }
        let mut names = Vec::new();
        let mut revisions = Vec::new();
        for write in &save.writes {
            names.push(write.name.as_str());
            revisions.push(apply(&mut tx, write).await?);
        }
        for name in &save.removals {
            names.push(name);
            revisions.push(remove_package(&mut tx, name).await?);
        }
        if revisions
            .iter()
            .flatten()
            .any(|change| change.op == Op::Delete)
        {
            prune_blobs(&mut tx).await?;
        }
        if let Some(key) = &save.checked {
            let now: NowRow = tx.statement(&NOW).one().await?;
            put_checked(&mut tx, key, Timestamp(now.now_us)).await?;
        }
        let landed = log::append_each(&mut tx, &revisions).await?;
        if let Some(report) = &save.report {
            let landed: BTreeMap<&str, i64> = names
                .iter()
                .zip(&landed)
                .filter_map(|(name, landed)| Some((*name, landed.as_ref()?.revision.0)))
                .collect();
            let items = report.items.iter().map(|item| {
                let revision = landed.get(item.package.as_str()).copied();
                (item, revision)
            });
            add_items(&mut tx, &report.run_id, last_item, items.collect()).await?;
        }
        tx.commit().await?;
        Ok(LocalSaved::Stored(landed.into_iter().flatten().last()))
    }

    /// The refresh that runs.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn running_refresh(&self) -> Result<Option<RefreshRow>, Error> {
        self.db().read(&RUNNING).optional().await
    }

    /// The packages that a refresh has items of.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn recorded_packages(&self, run_id: &str) -> Result<BTreeSet<String>, Error> {
        let rows: Vec<NameRow> = self.db().read(&RECORDED).bind(run_id).all().await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }
}

/// Locks the rows that are to be written, and tells whether one of them is no longer what it was compared with.
async fn is_stale(tx: &mut Tx, save: &LocalSave) -> Result<bool, Error> {
    let written = save.writes.iter().map(|write| &write.name);
    let names: BTreeSet<&String> = written.chain(&save.removals).collect();
    if names.is_empty() {
        return Ok(false);
    }
    let locked = tx.statement(&LOCK).bind(json_array(names.iter())?);
    let mut stored: Vec<PackageOrigin> = locked.all().await?;
    // By their bytes, as the names are, whatever order the database has.
    stored.sort_by(|a, b| a.name.cmp(&b.name));
    let compared: Vec<&PackageOrigin> = names
        .iter()
        .filter_map(|name| save.compared.get(*name))
        .collect();
    Ok(stored.iter().collect::<Vec<_>>() != compared)
}
