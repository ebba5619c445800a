//! Forgetting history, in short batches.

use std::{collections::BTreeSet, time::Duration};

use sqlx::FromRow;

use super::{ResourceName, json, resource, seen};
use crate::{
    Change, Engine, Error, Op, Store,
    engine::{Sql, Statement, Tx, statements},
    lease::micros,
    log,
};

/// Rows deleted in one transaction.
const BATCH: i64 = 1_000;

/// Calls of a failed inventory looked at in one transaction; each wrote a thousand rows at most.
const CALLS: i64 = 4;

statements! {
    /// Closed drifts that are older than an age.
    DRIFTS = "drift_prune_drifts" => [
        "DELETE FROM drift WHERE id IN (SELECT id FROM drift WHERE resolved_us < (SELECT " now ") - $1 \
         ORDER BY resolved_us LIMIT $2" for_update ")"
    ];
    /// Events that are older than an age; the first ones are the oldest.
    EVENTS = "drift_prune_events" => [
        "DELETE FROM drift_event WHERE seq IN (SELECT seq FROM (SELECT seq, time_us FROM drift_event ORDER BY seq LIMIT $2" for_update
        ") AS first WHERE time_us < (SELECT " now ") - $1)"
    ];
    /// The oldest ended inventory beyond a number.
    INVENTORY = "drift_prune_inventory" => [
        "SELECT i.key, i.state FROM drift_inventory i WHERE i.state <> 'running' \
         AND NOT EXISTS (SELECT 1 FROM drift_seen_block b WHERE b.inventory = i.key) ORDER BY i.id DESC LIMIT $2 OFFSET $1"
    ];
    /// Keeps one from being looked at before it is forgotten.
    LOCK_INVENTORY = "drift_prune_lock_inventory" => ["SELECT key FROM drift_inventory WHERE key = $1" for_update];
    /// Observations of one that failed stay what they are: not to be compared.
    UNREADABLE = "drift_prune_unreadable" => [
        postgres {
            "UPDATE drift_live SET inventory = -1 WHERE key = ANY (ARRAY(\
             SELECT l.key FROM drift_live l WHERE l.key = ANY ($1::bigint[]) AND l.inventory = $2 ORDER BY l.key FOR UPDATE))"
        }
        sqlite { "UPDATE drift_live SET inventory = -1 WHERE key IN (SELECT value FROM json_each($1)) AND inventory = $2" }
    ];
    /// Forgets one.
    FORGET = "drift_prune_forget" => ["DELETE FROM drift_inventory WHERE key = $1"];
    /// Where the hand stands that goes round all resources.
    HAND = "drift_prune_hand" => ["SELECT value FROM drift_generation WHERE name = 'pruned'"];
    /// Moves it.
    MOVE = "drift_prune_move" => [
        "INSERT INTO drift_generation (name, value) VALUES ('pruned', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    ];
    /// The end of the next piece of all resources.
    PIECE = "drift_prune_piece" => [
        "SELECT max(key) AS key, count(*) AS count FROM \
         (SELECT key FROM drift_resource WHERE key > $1 ORDER BY key LIMIT $2) AS piece"
    ];
    /// Resources of a piece of which nothing is left but their rows: nobody recorded them, they are gone for certain or were never
    /// seen, nothing is to be compared, and there is no history. The newest number is kept, so that it is not given again.
    NOBODYS = "drift_prune_nobodys" => [
        "SELECT r.key, r.provider, r.type AS kind, r.id, r.writes, coalesce(l.version, 0) AS live_version \
         FROM drift_resource r LEFT JOIN drift_live l ON l.key = r.key LEFT JOIN drift_inventory i ON i.key = l.inventory \
         WHERE r.key > $1 AND r.key <= $2 AND NOT r.recorded AND r.key < (SELECT max(n.key) FROM drift_resource n) \
         AND (l.key IS NULL OR (l.misses = 2 AND l.inventory >= 0 AND coalesce(i.state, 'complete') = 'complete')) \
         AND NOT EXISTS (SELECT 1 FROM drift_due d WHERE d.key = r.key) \
         AND NOT EXISTS (SELECT 1 FROM drift o WHERE o.key = r.key) \
         AND NOT EXISTS (SELECT 1 FROM drift_event e WHERE e.key = r.key) ORDER BY r.key"
    ];
    /// Locks those of a piece that nobody is busy with.
    LOCK = "drift_prune_lock" => [
        postgres {
            "SELECT key FROM drift_resource WHERE key = ANY ($1::bigint[]) AND NOT recorded ORDER BY key FOR UPDATE SKIP LOCKED"
        }
        sqlite { "SELECT r.key FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value AND NOT r.recorded" }
    ];
    /// Forgets what was there of some.
    DROP_LIVE = "drift_prune_live" => [
        postgres { "DELETE FROM drift_live WHERE key = ANY ($1::bigint[])" }
        sqlite { "DELETE FROM drift_live WHERE key IN (SELECT value FROM json_each($1))" }
    ];
    /// Forgets what was told of some.
    DROP_TOLD = "drift_prune_told" => [
        postgres { "DELETE FROM drift_told WHERE key = ANY ($1::bigint[])" }
        sqlite { "DELETE FROM drift_told WHERE key IN (SELECT value FROM json_each($1))" }
    ];
    /// Forgets what was said of some.
    DROP_VERDICT = "drift_prune_verdict" => [
        postgres { "DELETE FROM drift_verdict WHERE key = ANY ($1::bigint[])" }
        sqlite { "DELETE FROM drift_verdict WHERE key IN (SELECT value FROM json_each($1))" }
    ];
    /// Forgets them.
    DROP = "drift_prune_resource" => [
        postgres { "DELETE FROM drift_resource WHERE key = ANY ($1::bigint[])" }
        sqlite { "DELETE FROM drift_resource WHERE key IN (SELECT value FROM json_each($1))" }
    ];
    /// Takes away of a piece what is to be compared and is not there: it was forgotten while somebody made everything due.
    DROP_DUE = "drift_prune_due" => [
        "DELETE FROM drift_due WHERE key IN (SELECT d.key FROM drift_due d WHERE d.key > $1 AND d.key <= $2 \
         AND NOT EXISTS (SELECT 1 FROM drift_resource r WHERE r.key = d.key) ORDER BY d.key" for_update ")"
    ];
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

#[derive(FromRow)]
struct HandRow {
    value: String,
}

#[derive(FromRow)]
struct PieceRow {
    key: Option<i64>,
    count: i64,
}

#[derive(FromRow)]
struct KeyRow {
    key: i64,
}

#[derive(FromRow)]
struct NobodysRow {
    key: i64,
    provider: String,
    kind: String,
    id: String,
    writes: i64,
    live_version: i64,
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
            pruned += self.forget_inventory(&inventory).await?;
        }
        Ok(pruned + self.prune_resources().await?)
    }

    /// Forgets an inventory, or some of the calls of a failed one that wrote anything. Returns how many rows.
    async fn forget_inventory(&self, inventory: &InventoryRow) -> Result<u64, Error> {
        let calls = match inventory.state.as_str() {
            "failed" => seen::wrote(self.db(), inventory.key, CALLS).await?,
            _ => Vec::new(),
        };
        let mut tx = self.db().begin().await?;
        let lock = tx.statement(&LOCK_INVENTORY).bind(inventory.key);
        let _: Option<KeyRow> = lock.optional().await?;
        if calls.is_empty() {
            seen::drop_blocks(&mut tx, inventory.key).await?;
            let forgotten = tx.statement(&FORGET).bind(inventory.key);
            let forgotten = forgotten.execute().await?;
            tx.commit().await?;
            return Ok(forgotten);
        }
        let wrote: BTreeSet<i64> = calls.iter().flat_map(|(_, wrote)| wrote).copied().collect();
        let wrote: Vec<i64> = wrote.into_iter().collect();
        let unreadable = about(&mut tx, &UNREADABLE, &wrote)?.bind(inventory.key);
        unreadable.execute().await?;
        for (write_id, _) in &calls {
            seen::drop_call(&mut tx, inventory.key, write_id).await?;
        }
        tx.commit().await?;
        Ok(calls.len() as u64)
    }

    /// Forgets the resources of the next piece that nobody needs. Each call looks at one piece, so that a call costs the same
    /// however many resources there are, and goes round them all.
    async fn prune_resources(&self) -> Result<u64, Error> {
        let hand: Option<HandRow> = self.db().read(&HAND).optional().await?;
        let after = hand.and_then(|hand| hand.value.parse().ok()).unwrap_or(0);
        let piece = self.db().read(&PIECE).bind(after).bind(BATCH);
        let piece: PieceRow = piece.one().await?;
        let mut pruned = 0;
        if let Some(through) = piece.key {
            let orphans = self.db().write(&DROP_DUE).bind(after).bind(through);
            pruned += orphans.execute().await?;
            let nobodys = self.db().read(&NOBODYS).bind(after).bind(through);
            let nobodys: Vec<NobodysRow> = nobodys.all().await?;
            if !nobodys.is_empty() {
                pruned += self.forget_resources(&nobodys, (after, through)).await?;
            }
        }
        let is_last = piece.count < BATCH;
        let next = piece.key.filter(|_| !is_last).unwrap_or(0);
        if next != after {
            let moved = self.db().write(&MOVE).bind(next.to_string());
            moved.execute().await?;
        }
        Ok(pruned)
    }

    /// Forgets resources of a piece, those of them that are still so once they are locked.
    async fn forget_resources(
        &self,
        nobodys: &[NobodysRow],
        (after, through): (i64, i64),
    ) -> Result<u64, Error> {
        let keys: Vec<i64> = nobodys.iter().map(|row| row.key).collect();
        let mut tx = self.db().begin().await?;
        let locked: Vec<KeyRow> = about(&mut tx, &LOCK, &keys)?.all().await?;
        let still = tx.statement(&NOBODYS).bind(after).bind(through);
        let mut still: Vec<NobodysRow> = still.all().await?;
        still.retain(|row| locked.iter().any(|locked| locked.key == row.key));
        let keys: Vec<i64> = still.iter().map(|row| row.key).collect();
        for sql in [&DROP_LIVE, &DROP_VERDICT, &DROP_TOLD, &DROP] {
            about(&mut tx, sql, &keys)?.execute().await?;
        }
        // Of a mere number nobody ever heard.
        let known = still.iter().filter(|row| row.live_version > 0);
        let changes: Vec<Change> = known
            .map(|row| Change {
                op: Op::Delete,
                ..resource::change(row.name(), row.writes, row.live_version)
            })
            .collect();
        if !changes.is_empty() {
            log::append_one(&mut tx, &changes).await?;
        }
        tx.commit().await?;
        Ok(keys.len() as u64)
    }
}

// === impl NobodysRow ===

impl NobodysRow {
    fn name(&self) -> ResourceName {
        ResourceName {
            provider: self.provider.clone(),
            kind: self.kind.clone(),
            id: self.id.clone(),
        }
    }
}

/// A statement about some resources.
fn about<'c>(tx: &'c mut Tx, sql: &'static Sql, keys: &[i64]) -> Result<Statement<'c>, Error> {
    Ok(match tx.engine() {
        Engine::Postgres => tx.statement(sql).bind_column(keys.to_vec()),
        Engine::Sqlite => tx.statement(sql).bind(json(keys)?),
    })
}
