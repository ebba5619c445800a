//! What listings and searches of the sources told: the names of packages, and which of them are no longer listed. And the way out
//! for a package that nothing lists any more.

use serde::Serialize;
use sqlx::FromRow;

use crate::{
    Change, Error, Landed, Lease, RefreshDeltas, RefreshItemRow, Store,
    engine::{Tx, statements},
    log,
    refresh::{gate, underway_in},
    refresh_run::{add_items, count_items},
    removal::remove_package,
    schema::prune_blobs,
};

statements! {
    /// All names of all sources.
    ALL = "source_name_all" => [
        "SELECT source, package, found_by, unlisted, absent_us FROM source_name ORDER BY source, package"
    ];
    /// The sources that know a package.
    OF_PACKAGE = "source_name_of_package" => [
        "SELECT source, package, found_by, unlisted, absent_us FROM source_name WHERE package = $1 ORDER BY source"
    ];
    /// Stores what a listing told, and keeps since when a name is not found.
    PUT = "source_name_put" => [
        postgres {
            "INSERT INTO source_name (source, package, found_by, unlisted, absent_us) \
             SELECT $1, e.package, e.found_by, e.unlisted, e.absent_us \
             FROM json_to_recordset($2::json) AS e(package text, found_by text, unlisted boolean, absent_us bigint) \
             ORDER BY 2 \
             ON CONFLICT (source, package) DO UPDATE SET found_by = excluded.found_by, \
             unlisted = excluded.unlisted, absent_us = excluded.absent_us"
        }
        sqlite {
            "INSERT INTO source_name (source, package, found_by, unlisted, absent_us) \
             SELECT $1, e.value ->> 'package', e.value ->> 'found_by', e.value ->> 'unlisted', \
                    e.value ->> 'absent_us' FROM json_each($2) e WHERE true \
             ON CONFLICT (source, package) DO UPDATE SET found_by = excluded.found_by, \
             unlisted = excluded.unlisted, absent_us = excluded.absent_us"
        }
    ];
    /// Remembers since when a package is not found.
    ABSENT = "source_name_absent" => [
        "UPDATE source_name SET absent_us = coalesce(absent_us, " now ") WHERE package = $1"
    ];
    /// Forgets that it was not.
    PRESENT = "source_name_present" => [
        "UPDATE source_name SET absent_us = NULL WHERE package = $1"
    ];
    /// Forgets a name.
    FORGET = "source_name_forget" => ["DELETE FROM source_name WHERE package = $1"];
    /// The sources whose listings a run has dealt with.
    LISTED = "refresh_listed" => [
        "SELECT source, outcome, reason, message FROM refresh_item WHERE run_id = $1 AND source <> '' ORDER BY seq"
    ];
}

/// A name that a source told.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize)]
pub struct SourceNameRow {
    /// The configured source.
    pub source: String,
    /// The package.
    pub package: String,
    /// `listing` or `search`.
    pub found_by: String,
    /// The last listing no longer had it.
    pub unlisted: bool,
    /// Since when its registry does not have it, if that is so; only of packages that are unlisted.
    pub absent_us: Option<i64>,
}

/// What a run recorded of a source's listing.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ListingRow {
    /// The configured source.
    pub source: String,
    /// `changed`, `unchanged` or `failed`.
    pub outcome: String,
    /// Why it failed, for programs.
    pub reason: String,
    /// What it brought, or why it failed, for people.
    pub message: String,
}

/// What became of a package that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageRemoval {
    /// It is gone as of here.
    Removed(Landed),
    /// There is none of that name.
    Unknown,
    /// This source still lists it, so that it would come back.
    Listed(String),
    /// This refresh is running and may bring it back.
    Refreshing(String),
}

impl Store {
    /// The names that sources told, by source and name.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn source_names(&self) -> Result<Vec<SourceNameRow>, Error> {
        self.db().read(&ALL).all().await
    }

    /// The sources that told this name.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sources_of(&self, package: &str) -> Result<Vec<SourceNameRow>, Error> {
        self.db().read(&OF_PACKAGE).bind(package).all().await
    }

    /// The listings that a run has dealt with.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refresh_listings(&self, run_id: &str) -> Result<Vec<ListingRow>, Error> {
        self.db().read(&LISTED).bind(run_id).all().await
    }

    /// Commits what the listing of a source brought: the names that changed, and the item that says so.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn save_listing(
        &self,
        lease: &Lease,
        run_id: &str,
        item: &RefreshItemRow,
        changed: &[SourceNameRow],
    ) -> Result<(), Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let seq = count_items(&mut tx, lease, run_id, 1, RefreshDeltas::default()).await?;
        if !changed.is_empty() {
            let rows = serde_json::to_string(changed).map_err(|_| Error::Corrupt("source name"))?;
            let put = tx.statement(&PUT).bind(&item.source).bind(rows);
            put.execute().await?;
        }
        add_items(&mut tx, run_id, seq, vec![(item, None)]).await?;
        tx.commit().await
    }

    /// Removes a package with its schemas, unless one of the sources in `asking` still lists it or a refresh is running.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn remove_package(
        &self,
        name: &str,
        asking: &[&str],
    ) -> Result<PackageRemoval, Error> {
        let mut tx = self.db().begin().await?;
        let _: (i16,) = gate(&mut tx).await?;
        let underway = underway_in(&mut tx).await?;
        if let Some(run) = underway.iter().find(|run| run.state == "running") {
            let id = run.id.clone();
            tx.rollback().await?;
            return Ok(PackageRemoval::Refreshing(id));
        }
        let told: Vec<SourceNameRow> = tx.statement(&OF_PACKAGE).bind(name).all().await?;
        let lists = |row: &SourceNameRow| !row.unlisted && asking.contains(&row.source.as_str());
        if let Some(listed) = told.into_iter().find(lists) {
            tx.rollback().await?;
            return Ok(PackageRemoval::Listed(listed.source));
        }
        let changes = remove(&mut tx, name).await?;
        if changes.is_empty() {
            tx.rollback().await?;
            return Ok(PackageRemoval::Unknown);
        }
        prune_blobs(&mut tx).await?;
        let landed = log::append(&mut tx, &changes).await?;
        tx.commit().await?;
        Ok(PackageRemoval::Removed(landed))
    }
}

/// Removes a package's rows and returns what to announce; nothing if there is no such package.
pub(crate) async fn remove(tx: &mut Tx, name: &str) -> Result<Vec<Change>, Error> {
    tx.statement(&FORGET).bind(name).execute().await?;
    remove_package(tx, name).await
}

/// Remembers that an unlisted package is not found, or is found again.
pub(crate) async fn put_absent(tx: &mut Tx, name: &str, absent: bool) -> Result<(), Error> {
    let statement = if absent { &ABSENT } else { &PRESENT };
    tx.statement(statement).bind(name).execute().await?;
    Ok(())
}
