//! Forgetting history, in short batches.

use std::time::Duration;

use sqlx::FromRow;

use super::seen;
use crate::{Error, Store, engine::statements, lease::micros};

/// Rows deleted in one transaction.
const BATCH: i64 = 1_000;

statements! {
    /// Closed drifts that are older than an age.
    DRIFTS = "drift_prune_drifts" => [
        "DELETE FROM drift WHERE id IN (SELECT id FROM drift WHERE resolved_us < (SELECT " now ") - $1 \
         ORDER BY resolved_us LIMIT $2)"
    ];
    /// Events that are older than an age; the first ones are the oldest.
    EVENTS = "drift_prune_events" => [
        "DELETE FROM drift_event WHERE seq IN (SELECT seq FROM (SELECT seq, time_us FROM drift_event ORDER BY seq LIMIT $2) AS first \
         WHERE time_us < (SELECT " now ") - $1)"
    ];
    /// The oldest ended inventory beyond a number.
    INVENTORY = "drift_prune_inventory" => [
        "SELECT i.key, i.state FROM drift_inventory i WHERE i.state <> 'running' \
         AND NOT EXISTS (SELECT 1 FROM drift_seen_block b WHERE b.inventory = i.key) ORDER BY i.id DESC LIMIT $2 OFFSET $1"
    ];
    /// Observations of one that failed stay what they are: not to be compared.
    UNREADABLE = "drift_prune_unreadable" => ["UPDATE drift_live SET inventory = -1 WHERE inventory = $1"];
    /// Forgets one.
    FORGET = "drift_prune_forget" => ["DELETE FROM drift_inventory WHERE key = $1"];
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftRetention {
    /// Closed drifts for this long.
    pub drifts: Duration,
    /// Events for this long.
    pub events: Duration,
    /// So many ended inventories; those of which it matters what they saw are kept besides.
    pub inventories: i64,
}

#[derive(FromRow)]
struct InventoryRow {
    key: i64,
    state: String,
}

impl Store {
    /// Forgets what need not be kept, a batch at a time. Returns how many rows; call again while it is not 0.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_drift(&self, keep: &DriftRetention) -> Result<u64, Error> {
        let drifts = self.db().write(&DRIFTS).bind(micros(keep.drifts));
        let mut pruned = drifts.bind(BATCH).execute().await?;
        let events = self.db().write(&EVENTS).bind(micros(keep.events));
        pruned += events.bind(BATCH).execute().await?;
        let old = self.db().read(&INVENTORY).bind(keep.inventories);
        let old: Vec<InventoryRow> = old.bind(10_i64).all().await?;
        for inventory in old {
            let mut tx = self.db().begin().await?;
            if inventory.state == "failed" {
                let kept = tx.statement(&UNREADABLE).bind(inventory.key);
                kept.execute().await?;
            }
            seen::drop_blocks(&mut tx, inventory.key).await?;
            pruned += tx.statement(&FORGET).bind(inventory.key).execute().await?;
            tx.commit().await?;
        }
        Ok(pruned)
    }
}
