//! Inventories: looks at everything within a scope. Only one that ends as complete says that something is missing.

mod end;
mod missing;

use sqlx::FromRow;
use uuid::Uuid;

use super::{clock::tick, json};
use crate::{Error, Store, engine::statements, lease::micros};

/// What is selected of an inventory; one that runs is counted by its calls.
macro_rules! columns {
    () => {
        "SELECT i.key, i.id, i.provider, i.types, i.source, i.state, i.ending, i.start_us, i.ending_us, i.end_us, i.missed, i.error, \
         CAST(i.reported + CASE WHEN i.state = 'running' AND i.ending = '' THEN \
             coalesce((SELECT sum(s.reported) FROM drift_seen s WHERE s.inventory = i.key), 0) ELSE 0 END AS BIGINT) AS reported, \
         CAST(i.changed + CASE WHEN i.state = 'running' AND i.ending = '' THEN \
             coalesce((SELECT sum(s.changed) FROM drift_seen s WHERE s.inventory = i.key), 0) ELSE 0 END AS BIGINT) AS changed \
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
    /// When the newest inventories of each scope began that failed: one step for each scope.
    FAILED = "drift_inventory_failed" => [
        postgres {
            "WITH RECURSIVE newest (key) AS (\
             SELECT (SELECT i.key FROM drift_inventory i WHERE i.state = 'failed' \
                 ORDER BY i.provider, i.types, i.start_us DESC LIMIT 1) \
             UNION ALL SELECT (SELECT i.key FROM drift_inventory i WHERE i.state = 'failed' \
                 AND (i.provider, i.types) > (b.provider, b.types) ORDER BY i.provider, i.types, i.start_us DESC LIMIT 1) \
             FROM newest n CROSS JOIN LATERAL (SELECT * FROM drift_inventory f WHERE f.key = n.key LIMIT 1) b) \
             SELECT i.provider, i.types, i.start_us FROM newest n CROSS JOIN LATERAL (SELECT * FROM drift_inventory f WHERE f.key = n.key LIMIT 1) i"
        }
        sqlite {
            "WITH RECURSIVE newest (key) AS (\
             SELECT (SELECT i.key FROM drift_inventory i WHERE i.state = 'failed' \
                 ORDER BY i.provider, i.types, i.start_us DESC LIMIT 1) \
             UNION ALL SELECT (SELECT i.key FROM drift_inventory i WHERE i.state = 'failed' \
                 AND (i.provider, i.types) > (b.provider, b.types) ORDER BY i.provider, i.types, i.start_us DESC LIMIT 1) \
             FROM newest n CROSS JOIN drift_inventory b ON b.key = n.key) \
             SELECT i.provider, i.types, i.start_us FROM newest n CROSS JOIN drift_inventory i ON i.key = n.key"
        }
    ];
    /// Those that nobody ended in time.
    ABANDONED = "drift_inventory_abandoned" => [
        "SELECT id FROM drift_inventory WHERE state = 'running' AND ending = '' AND start_us < " now " - $1 ORDER BY start_us LIMIT 100"
    ];
    /// Those whose end was begun and is not finished for a while.
    HALFWAY = "drift_inventory_halfway" => [
        "SELECT id FROM drift_inventory WHERE ending <> '' AND ending_us < " now " - $1 ORDER BY key LIMIT 100"
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
    /// `complete` or `failed` while it is being brought to that end: see [`Store::end_inventory`]. Empty otherwise.
    pub ending: String,
    /// From when its reports count.
    pub start_us: i64,
    /// When it was asked to end.
    pub ending_us: Option<i64>,
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
    /// It had ended before, in this way or another; or another way was begun, and is not finished.
    Before(Box<InventoryRow>),
    /// There is no such inventory.
    Unknown,
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
    [STATEMENTS, end::STATEMENTS, missing::STATEMENTS].concat()
}

#[derive(FromRow)]
struct IdRow {
    id: String,
}

// === impl InventoryRow ===

impl InventoryRow {
    /// The types that it looks at; none for all.
    #[must_use]
    pub fn type_list(&self) -> Vec<String> {
        types_of(&self.types)
    }

    /// The scope, type by type; one empty text stands for all.
    fn scopes(&self) -> Vec<String> {
        let mut types = self.type_list();
        if types.is_empty() {
            types.push(String::new());
        }
        types
    }

    /// Whether it has ended as complete, or is about to; `None` while it is open.
    #[must_use]
    pub fn ended_complete(&self) -> Option<bool> {
        match (self.state.as_str(), self.ending.as_str()) {
            ("running", "") => None,
            ("complete", _) | ("running", "complete") => Some(true),
            _ => Some(false),
        }
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

    /// Lets inventories fail that began longer ago than `age` and that nobody ended; a hundred at a time. Returns their ids.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn fail_abandoned_inventories(
        &self,
        age: std::time::Duration,
    ) -> Result<Vec<String>, Error> {
        let abandoned = self.db().read(&ABANDONED).bind(micros(age));
        let abandoned: Vec<IdRow> = abandoned.all().await?;
        let end = InventoryEnd {
            complete: false,
            error: "nobody ended it".to_owned(),
        };
        let mut failed = Vec::new();
        for row in abandoned {
            let ended = self.end_inventory(&row.id, &end).await?;
            failed.extend(matches!(ended, InventoryEnded::Now(_)).then_some(row.id));
        }
        Ok(failed)
    }

    /// Brings inventories to their ends that were asked for longer ago than `age` and are not finished: who was at it was killed, or
    /// the database was away. A hundred at a time. Returns their ids.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resume_inventory_ends(
        &self,
        age: std::time::Duration,
    ) -> Result<Vec<String>, Error> {
        let halfway = self.db().read(&HALFWAY).bind(micros(age));
        let halfway: Vec<IdRow> = halfway.all().await?;
        let mut resumed = Vec::new();
        for row in halfway {
            let ended = self.finish_inventory(&row.id).await?;
            resumed.extend(ended.is_some().then_some(row.id));
        }
        Ok(resumed)
    }
}
