//! Fetching an icon that somebody asked for: once in the whole fleet.
//!
//! A row per package and shape says who does it. Whoever claims it draws an owner, and what it brings is stored only while the row
//! is still its own: a replica that was away for too long writes nothing over what came after it. And it is stored only where nothing
//! is known: what a refresh or an import wrote while the upstream was asked is newer than its answer. Whoever forgets an icon takes
//! the row away, as nothing else would tell that something was known meanwhile.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error, Landed, Store,
    engine::{Tx, statements},
    icon::{IconWrite, fill_icons},
    lease::micros,
    log,
};

statements! {
    /// Takes a fetch that nobody does.
    CLAIM = "icon_fetch_claim" => [
        "INSERT INTO icon_fetch (package, shape, owner, expires_us, failures) \
         VALUES ($1, $2, $3, " now " + $4, 0) ON CONFLICT (package, shape) DO UPDATE SET \
             owner = excluded.owner, expires_us = excluded.expires_us \
         WHERE icon_fetch.expires_us <= " now " RETURNING failures"
    ];
    /// Proves inside a transaction that the fetch is still the caller's.
    GUARD = "icon_fetch_guard" => [
        "SELECT failures FROM icon_fetch WHERE package = $1 AND shape = $2 AND owner = $3" for_update
    ];
    /// Keeps the package there until the transaction ends.
    PACKAGE = "icon_fetch_package" => [
        "SELECT name FROM package WHERE name = $1" for_share
    ];
    /// Nothing is left to fetch.
    DONE = "icon_fetch_done" => [
        "DELETE FROM icon_fetch WHERE package = $1 AND shape = $2 AND owner = $3"
    ];
    /// It failed: nobody tries again before.
    FAILED = "icon_fetch_failed" => [
        "UPDATE icon_fetch SET failures = failures + 1, expires_us = " now " + $4 \
         WHERE package = $1 AND shape = $2 AND owner = $3"
    ];
    /// Forgets the fetches of a package.
    FORGET = "icon_fetch_forget" => ["DELETE FROM icon_fetch WHERE package = $1"];
}

/// A fetch that this process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IconClaim {
    /// The package.
    pub package: String,
    /// `square` or `rectangle`.
    pub shape: String,
    /// How often in a row it failed.
    pub failures: i64,
    owner: String,
}

/// What became of what a fetch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchedIcons {
    /// Where it landed; `None` if nothing was stored.
    pub landed: Option<Landed>,
    /// How many icons were not stored, because something else was written meanwhile.
    pub late: usize,
}

#[derive(FromRow)]
struct ClaimRow {
    failures: i64,
}

#[derive(FromRow)]
struct PackageName {
    #[expect(dead_code, reason = "that there is a row is what is asked")]
    name: String,
}

impl Store {
    /// Takes a fetch for as long as `duration`, unless somebody does it, or it failed a short while ago.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn claim_icon(
        &self,
        package: &str,
        shape: &str,
        duration: Duration,
    ) -> Result<Option<IconClaim>, Error> {
        let owner = Uuid::now_v7().to_string();
        let claim = self.db().write(&CLAIM).bind(package).bind(shape);
        let claim = claim.bind(&owner).bind(micros(duration));
        let row: Option<ClaimRow> = claim.optional().await?;
        Ok(row.map(|row| IconClaim {
            package: package.to_owned(),
            shape: shape.to_owned(),
            failures: row.failures,
            owner,
        }))
    }

    /// Stores what a fetch brought where nothing is known, and ends it. Nothing is stored if the fetch is somebody else's by now, or
    /// the package is gone.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn save_fetched_icons(
        &self,
        claim: &IconClaim,
        writes: &[IconWrite],
    ) -> Result<FetchedIcons, Error> {
        let mut tx = self.db().begin().await?;
        let package = tx.statement(&PACKAGE).bind(&claim.package);
        let package: Option<PackageName> = package.optional().await?;
        let guard = tx.statement(&GUARD).bind(&claim.package);
        let guard = guard.bind(&claim.shape).bind(&claim.owner);
        let held: Option<ClaimRow> = guard.optional().await?;
        if held.is_none() {
            tx.rollback().await?;
            return Ok(FetchedIcons {
                landed: None,
                late: writes.len(),
            });
        }
        let done = tx.statement(&DONE).bind(&claim.package);
        done.bind(&claim.shape).bind(&claim.owner).execute().await?;
        let (changes, late) = match package {
            Some(_) => fill_icons(&mut tx, &claim.package, writes).await?,
            None => (Vec::new(), writes.len()),
        };
        let landed = if changes.is_empty() {
            None
        } else {
            Some(log::append(&mut tx, &changes).await?)
        };
        tx.commit().await?;
        Ok(FetchedIcons { landed, late })
    }

    /// Ends a fetch that failed; nobody tries again for `pause`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn fail_icon(&self, claim: &IconClaim, pause: Duration) -> Result<(), Error> {
        let failed = self.db().write(&FAILED).bind(&claim.package);
        let failed = failed.bind(&claim.shape).bind(&claim.owner);
        failed.bind(micros(pause)).execute().await?;
        Ok(())
    }
}

/// Forgets the fetches of a package that goes.
pub(crate) async fn forget_fetches(tx: &mut Tx, package: &str) -> Result<(), Error> {
    tx.statement(&FORGET).bind(package).execute().await?;
    Ok(())
}
