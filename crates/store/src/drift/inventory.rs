//! Inventories: looks at everything within a scope. Only one that ends as complete says that something is missing.

mod missing;

use sqlx::FromRow;
use uuid::Uuid;

use super::{
    clock::tick,
    due::{self, Due},
    json, seen,
};
use crate::{
    Error, Store,
    engine::{Tx, statements},
    lease::micros,
    log,
};

/// Resources marked in one statement.
const PAGE: i64 = 5_000;

/// What is selected of an inventory; one that runs is counted by its calls.
macro_rules! columns {
    () => {
        "SELECT i.key, i.id, i.provider, i.types, i.source, i.state, i.start_us, i.end_us, i.missed, i.error, \
         CAST(i.reported + coalesce((SELECT sum(s.reported) FROM drift_seen s WHERE s.inventory = i.key), 0) AS BIGINT) AS reported, \
         CAST(i.changed + coalesce((SELECT sum(s.changed) FROM drift_seen s WHERE s.inventory = i.key), 0) AS BIGINT) AS changed \
         FROM drift_inventory i "
    };
}

statements! {
    /// Begins one.
    BEGIN = "drift_inventory_begin" => [
        "INSERT INTO drift_inventory (start_us, end_us, reported, changed, missed, id, provider, types, source, state, error) \
         VALUES ($5, NULL, 0, 0, 0, $1, $2, $3, $4, 'running', '')"
    ];
    /// One of them.
    GET = "drift_inventory_get" => [(columns!()) "WHERE i.id = $1"];
    /// Those before an id, newest first.
    LIST = "drift_inventory_list" => [
        postgres {
            (columns!()) "WHERE i.id < $1 AND ($2 = '' OR i.provider = $2) \
            AND ($3 = '' OR i.state = ANY (string_to_array($3, ','))) ORDER BY i.id DESC LIMIT $4"
        }
        sqlite {
            (columns!()) "WHERE i.id < $1 AND ($2 = '' OR i.provider = $2) \
            AND ($3 = '' OR instr(',' || $3 || ',', ',' || i.state || ',') > 0) ORDER BY i.id DESC LIMIT $4"
        }
    ];
    /// Keeps one as it is; calls that report within it have ended.
    LOCK = "drift_inventory_lock" => ["SELECT key FROM drift_inventory WHERE id = $1" for_update];
    /// Ends one.
    END = "drift_inventory_end" => [
        "UPDATE drift_inventory SET state = $2, error = $3, missed = $4, reported = $5, changed = $6, end_us = $7 WHERE key = $1"
    ];
    /// Resources of a provider, of one type or of all, that nobody has looked at since they were applied.
    UNSEEN = "drift_inventory_unseen" => [
        "SELECT v.key FROM drift_verdict v JOIN drift_resource r ON r.key = v.key WHERE v.verdict = 'not_observed' AND v.key > $1 \
         AND r.provider = $2 AND ($3 = '' OR r.type = $3) ORDER BY v.key LIMIT $4"
    ];
    /// When the newest inventories of each scope began that failed.
    FAILED = "drift_inventory_failed" => [
        "SELECT provider, types, max(start_us) AS start_us FROM drift_inventory WHERE state = 'failed' GROUP BY provider, types"
    ];
    /// Older complete inventories of a provider of which it is still known what they saw.
    REMEMBERED = "drift_inventory_remembered" => [
        "SELECT i.key, i.types FROM drift_inventory i WHERE i.provider = $1 AND i.state = 'complete' AND i.start_us < $2 \
         AND EXISTS (SELECT 1 FROM drift_seen_block b WHERE b.inventory = i.key)"
    ];
    /// Those that nobody ended in time.
    ABANDONED = "drift_inventory_abandoned" => [
        "SELECT id FROM drift_inventory WHERE state = 'running' AND start_us < " now " - $1 ORDER BY start_us LIMIT 100"
    ];
}

/// An inventory, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct InventoryRow {
    /// Its number.
    pub key: i64,
    /// A UUIDv7.
    pub id: String,
    /// Whose resources it looks at.
    pub provider: String,
    /// JSON, the types that it looks at; `[]` for all.
    pub types: String,
    /// Who looks.
    pub source: String,
    /// `running`, `complete` or `failed`.
    pub state: String,
    /// From when its reports count.
    pub start_us: i64,
    /// When it ended.
    pub end_us: Option<i64>,
    /// Reports that it brought.
    pub reported: i64,
    /// Those of them that were new, or changed something.
    pub changed: i64,
    /// Resources of its scope that it did not report.
    pub missed: i64,
    /// Why it failed.
    pub error: String,
}

/// Which inventories to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InventoryFilter {
    /// Only those of this provider; empty for all.
    pub provider: String,
    /// Only those in one of these states; empty for all.
    pub states: Vec<String>,
}

/// How an inventory ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryEnd {
    /// It saw everything in its scope.
    pub complete: bool,
    /// Why it did not.
    pub error: String,
}

/// What became of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventoryEnded {
    /// It has ended now.
    Now(Box<InventoryRow>),
    /// It had ended before, in this way or another.
    Before(Box<InventoryRow>),
    /// There is no such inventory.
    Unknown,
}

#[derive(FromRow)]
struct KeyRow {
    #[sqlx(rename = "key")]
    _key: i64,
}

#[derive(FromRow)]
struct KeyOnlyRow {
    key: i64,
}

/// When the newest inventory of a scope began that failed.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct FailedLook {
    /// Whose resources it looked at.
    pub provider: String,
    /// JSON, the types that it looked at; `[]` for all.
    pub types: String,
    /// When it began.
    pub start_us: i64,
}

/// Every statement about inventories.
#[cfg(any(test, feature = "faults"))]
pub(super) fn all_statements() -> Vec<&'static crate::engine::Sql> {
    [STATEMENTS, missing::STATEMENTS].concat()
}

#[derive(FromRow)]
struct IdRow {
    id: String,
}

#[derive(FromRow)]
struct RememberedRow {
    key: i64,
    types: String,
}

// === impl InventoryRow ===

impl InventoryRow {
    /// The types that it looks at; none for all.
    #[must_use]
    pub fn type_list(&self) -> Vec<String> {
        types_of(&self.types)
    }
}

fn types_of(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}

impl Store {
    /// Begins an inventory of the given types, or of all if there are none.
    ///
    /// # Errors
    /// If the database does not answer; after a lost answer one may have begun that nobody knows.
    pub async fn begin_inventory(
        &self,
        provider: &str,
        types: &[String],
        source: &str,
    ) -> Result<InventoryRow, Error> {
        let id = Uuid::now_v7().to_string();
        let mut tx = self.db().begin().await?;
        let start_us = tick(&mut tx).await?;
        tx.statement(&BEGIN)
            .bind(&id)
            .bind(provider)
            .bind(json(types)?)
            .bind(source)
            .bind(start_us)
            .execute()
            .await?;
        let row = tx.statement(&GET).bind(&id).one().await?;
        tx.commit().await?;
        Ok(row)
    }

    /// One inventory.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn inventory(&self, id: &str) -> Result<Option<InventoryRow>, Error> {
        self.db().read(&GET).bind(id).optional().await
    }

    /// Inventories older than an id (the empty id means all), newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn inventories(
        &self,
        filter: &InventoryFilter,
        before: &str,
        limit: i64,
    ) -> Result<Vec<InventoryRow>, Error> {
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        self.db()
            .read(&LIST)
            .bind(before)
            .bind(&filter.provider)
            .bind(filter.states.join(","))
            .bind(limit)
            .all()
            .await
    }

    /// When the newest inventory of each scope began that failed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn failed_looks(&self) -> Result<Vec<FailedLook>, Error> {
        self.db().read(&FAILED).all().await
    }

    /// Ends an inventory. What a complete one did not see is missing, or gone if the one before did not see it either.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn end_inventory(
        &self,
        id: &str,
        end: &InventoryEnd,
    ) -> Result<InventoryEnded, Error> {
        let mut tx = self.db().begin().await?;
        let _: Option<KeyRow> = tx.statement(&LOCK).bind(id).optional().await?;
        let row: Option<InventoryRow> = tx.statement(&GET).bind(id).optional().await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(InventoryEnded::Unknown);
        };
        if row.state != "running" {
            tx.rollback().await?;
            return Ok(InventoryEnded::Before(Box::new(row)));
        }
        // After everything that was looked at, and before every inventory that begins from now on.
        let end_us = tick(&mut tx).await?;
        let mut changes = Vec::new();
        let mut missed = 0;
        if end.complete {
            let seen = seen::collect(&mut tx, row.key).await?;
            (missed, changes) = missing::miss(&mut tx, &row, end_us, &seen).await?;
            seen::settle(&mut tx, row.key, Some(&seen)).await?;
            drop_covered(&mut tx, &row).await?;
        } else {
            seen::settle(&mut tx, row.key, None).await?;
            mark_unseen(&mut tx, &row).await?;
        }
        tx.statement(&END)
            .bind(row.key)
            .bind(if end.complete { "complete" } else { "failed" })
            .bind(if end.complete { "" } else { &end.error })
            .bind(missed)
            .bind(row.reported)
            .bind(row.changed)
            .bind(end_us)
            .execute()
            .await?;
        let row = tx.statement(&GET).bind(id).one().await?;
        if !changes.is_empty() {
            log::append_one(&mut tx, &changes).await?;
        }
        tx.commit().await?;
        Ok(InventoryEnded::Now(Box::new(row)))
    }

    /// Lets inventories fail that began longer ago than `age` and that nobody ended; a hundred at a time. Returns how many.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn fail_abandoned_inventories(&self, age: std::time::Duration) -> Result<u64, Error> {
        let abandoned = self.db().read(&ABANDONED).bind(micros(age));
        let abandoned: Vec<IdRow> = abandoned.all().await?;
        let end = InventoryEnd {
            complete: false,
            error: "nobody ended it".to_owned(),
        };
        let mut failed = 0;
        for row in abandoned {
            let ended = self.end_inventory(&row.id, &end).await?;
            failed += u64::from(matches!(ended, InventoryEnded::Now(_)));
        }
        Ok(failed)
    }
}

/// What nobody has looked at since it was applied is due: now there was a look, and it failed.
async fn mark_unseen(tx: &mut Tx, inventory: &InventoryRow) -> Result<(), Error> {
    let mut types = inventory.type_list();
    if types.is_empty() {
        types.push(String::new());
    }
    for kind in types {
        let mut after = 0;
        loop {
            let rows: Vec<KeyOnlyRow> = tx
                .statement(&UNSEEN)
                .bind(after)
                .bind(&inventory.provider)
                .bind(&kind)
                .bind(PAGE)
                .all()
                .await?;
            let due: Vec<Due> = rows.iter().map(|row| Due::now(row.key)).collect();
            let Some(last) = due.last() else {
                break;
            };
            after = last.key;
            due::mark(tx, &due).await?;
        }
    }
    Ok(())
}

/// Forgets what older inventories saw whose scope this one covers.
async fn drop_covered(tx: &mut Tx, inventory: &InventoryRow) -> Result<(), Error> {
    let older: Vec<RememberedRow> = tx
        .statement(&REMEMBERED)
        .bind(&inventory.provider)
        .bind(inventory.start_us)
        .all()
        .await?;
    let own = inventory.type_list();
    for old in older {
        let types = types_of(&old.types);
        let covered = !types.is_empty() && types.iter().all(|kind| own.contains(kind));
        if own.is_empty() || covered {
            seen::drop_blocks(tx, old.key).await?;
        }
    }
    Ok(())
}
