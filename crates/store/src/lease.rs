//! Leases: work that several replicas could do is done by the one that holds its lease.
//!
//! Times are the database's. The fence counts owners: a write of an old owner is refused because it locks the row that holds
//! the fence in its own transaction, not because of what it believes about the time.

use std::time::Duration;

use sqlx::FromRow;
use steadfast_types::{Fence, ReplicaId};

use crate::{
    Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// Takes a lease that is free or has run out.
    CLAIM = "lease_claim" => [
        "INSERT INTO lease (name, owner, fence, expires_us) VALUES ($1, $2, 1, " now " + $3) \
         ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, fence = lease.fence + 1, \
             expires_us = excluded.expires_us WHERE lease.expires_us <= " now " RETURNING fence"
    ];
    /// Prolongs a lease that is still the caller's, even if it has run out meanwhile.
    RENEW = "lease_renew" => [
        "UPDATE lease SET expires_us = " now " + $4 WHERE name = $1 AND fence = $2 AND owner = $3"
    ];
    /// Hands a lease back.
    RELEASE = "lease_release" => [
        "UPDATE lease SET expires_us = 0 WHERE name = $1 AND fence = $2 AND owner = $3"
    ];
    /// Proves inside a transaction that the lease is still held; a claim waits until the transaction ends.
    GUARD = "lease_guard" => [
        "SELECT fence FROM lease WHERE name = $1 AND fence = $2 AND owner = $3" for_share
    ];
}

/// A lease that this replica took. It is handed back by [`Store::release_lease`], or runs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it covers.
    pub name: String,
    /// The proof, together with the owner: a restored copy of the database counts again from an older fence.
    pub fence: Fence,
    /// The replica that holds it.
    pub owner: ReplicaId,
    /// How long it lasts without being renewed; renew it at a third of this.
    pub duration: Duration,
}

#[derive(FromRow)]
struct Row {
    fence: i64,
}

// === impl Lease ===

impl Lease {
    /// Locks the lease's row in the transaction, so that it cannot change hands before the transaction ends.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it has changed hands.
    pub(crate) async fn guard(&self, tx: &mut Tx) -> Result<(), Error> {
        let held: Option<Row> = tx
            .statement(&GUARD)
            .bind(&self.name)
            .bind(self.fence.0)
            .bind(self.owner.to_string())
            .optional()
            .await?;
        held.map(|_| ()).ok_or_else(|| self.lost())
    }

    fn lost(&self) -> Error {
        Error::Fenced {
            lease: self.name.clone(),
        }
    }
}

impl Store {
    /// Takes the lease if it is free or has run out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn claim_lease(
        &self,
        name: &str,
        owner: ReplicaId,
        duration: Duration,
    ) -> Result<Option<Lease>, Error> {
        let row: Option<Row> = self
            .db()
            .write(&CLAIM)
            .bind(name)
            .bind(owner.to_string())
            .bind(micros(duration))
            .optional()
            .await?;
        Ok(row.map(|row| {
            metrics::gauge!(crate::metric::LEASES_HELD, "lease" => name.to_owned()).set(1);
            Lease {
                name: name.to_owned(),
                fence: Fence(row.fence),
                owner,
                duration,
            }
        }))
    }

    /// Prolongs the lease.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it has changed hands: stop the work.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<(), Error> {
        let renewed = self
            .db()
            .write(&RENEW)
            .bind(&lease.name)
            .bind(lease.fence.0)
            .bind(lease.owner.to_string())
            .bind(micros(lease.duration))
            .execute()
            .await?;
        if renewed == 0 {
            metrics::gauge!(crate::metric::LEASES_HELD, "lease" => lease.name.clone()).set(0);
            return Err(lease.lost());
        }
        Ok(())
    }

    /// Hands the lease back, so that another replica need not wait for it to run out. Does nothing if it has changed hands.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), Error> {
        self.db()
            .write(&RELEASE)
            .bind(&lease.name)
            .bind(lease.fence.0)
            .bind(lease.owner.to_string())
            .execute()
            .await?;
        metrics::gauge!(crate::metric::LEASES_HELD, "lease" => lease.name.clone()).set(0);
        Ok(())
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
