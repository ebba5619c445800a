//! Which resources are to be compared, and from when on. Marking one again is a new generation: a comparison that was under way
//! does not take it away then.

use serde::Serialize;
use sqlx::FromRow;

use super::json;
use crate::{
    Engine, Error, Store,
    engine::{Tx, statements},
};

/// Resources marked in one transaction.
const BATCH: i64 = 5_000;

statements! {
    /// Marks resources. The numbers are in order, so that no two transactions wait for each other in a circle.
    MARK = "drift_due_mark" => [
        postgres {
            "INSERT INTO drift_due (key, generation, due_us) \
             SELECT e.key, 1, coalesce(e.due_us, " now ") FROM unnest($1::bigint[], $2::bigint[]) AS e(key, due_us) ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET generation = drift_due.generation + 1, \
                 due_us = least(drift_due.due_us, excluded.due_us)"
        }
        sqlite {
            "INSERT INTO drift_due (key, generation, due_us) \
             SELECT e.value ->> 'key', 1, coalesce(e.value ->> 'due_us', " now ") FROM json_each($1) e WHERE true \
             ON CONFLICT (key) DO UPDATE SET generation = drift_due.generation + 1, \
                 due_us = min(drift_due.due_us, excluded.due_us)"
        }
    ];
    /// The next resources after a number.
    SOME = "drift_due_some" => ["SELECT key, true AS is_meant FROM drift_resource WHERE key > $1 ORDER BY key LIMIT $2"];
    /// The next resources after a number that have open drifts, and whether they are of either of two providers or all are meant.
    DRIFTED = "drift_due_drifted" => [
        postgres {
            "SELECT o.key, $3 = '' OR r.provider = $3 OR r.provider = $4 AS is_meant FROM \
             (SELECT DISTINCT key FROM drift WHERE state = 'open' AND key > $1 ORDER BY key LIMIT $2) o \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = o.key LIMIT 1) r ORDER BY o.key"
        }
        sqlite {
            "SELECT o.key, $3 = '' OR r.provider = $3 OR r.provider = $4 AS is_meant FROM \
             (SELECT DISTINCT key FROM drift WHERE state = 'open' AND key > $1 ORDER BY key LIMIT $2) o \
             CROSS JOIN drift_resource r ON r.key = o.key ORDER BY o.key"
        }
    ];
    /// How many are due.
    COUNT = "drift_due_count" => [
        "SELECT count(*) AS key FROM drift_due WHERE due_us <= (SELECT " now ")"
    ];
}

/// A resource that is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Due {
    pub(super) key: i64,
    /// Not before this; `None` for now.
    pub(super) due_us: Option<i64>,
}

#[derive(FromRow)]
struct KeyRow {
    key: i64,
}

#[derive(FromRow)]
struct NextRow {
    key: i64,
    is_meant: bool,
}

// === impl Due ===

impl Due {
    pub(super) fn now(key: i64) -> Self {
        Self { key, due_us: None }
    }
}

/// Marks resources; each must be there once, in order of the numbers.
pub(super) async fn mark(tx: &mut Tx, due: &[Due]) -> Result<(), Error> {
    if due.is_empty() {
        return Ok(());
    }
    debug_assert!(due.is_sorted_by(|one, next| one.key < next.key));
    let marked = match tx.engine() {
        Engine::Postgres => {
            let (keys, times) = due.iter().map(|due| (due.key, due.due_us)).unzip();
            tx.statement(&MARK)
                .bind_column::<i64>(keys)
                .bind_column::<Option<i64>>(times)
        }
        Engine::Sqlite => tx.statement(&MARK).bind(json(due)?),
    };
    marked.execute().await?;
    Ok(())
}

/// Makes resources due that have open drifts, of either of two providers; the empty text stands for all. It is all that a change of
/// policies can concern.
pub(super) async fn mark_drifted(tx: &mut Tx, (one, other): (&str, &str)) -> Result<(), Error> {
    let (one, other) = (one.min(other), one.max(other));
    let mut after = 0;
    loop {
        let drifted = tx.statement(&DRIFTED).bind(after).bind(BATCH);
        let rows: Vec<NextRow> = drifted.bind(one).bind(other).all().await?;
        let Some((last, _)) = mark_next(tx, rows).await? else {
            return Ok(());
        };
        after = last;
    }
}

/// Marks those of the next batch that are meant. Returns the last one of it, and how many are marked.
async fn mark_next(tx: &mut Tx, rows: Vec<NextRow>) -> Result<Option<(i64, u64)>, Error> {
    let meant = rows.iter().filter(|row| row.is_meant);
    let due: Vec<Due> = meant.map(|row| Due::now(row.key)).collect();
    mark(tx, &due).await?;
    Ok(rows.last().map(|last| (last.key, due.len() as u64)))
}

impl Store {
    /// How many resources are due.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn due_resources(&self) -> Result<i64, Error> {
        let row: KeyRow = self.db().read(&COUNT).one().await?;
        Ok(row.key)
    }

    /// Makes all resources due; a batch at a time. Returns how many.
    ///
    /// # Errors
    /// If the database does not answer; some may be due then.
    pub async fn make_due(&self) -> Result<u64, Error> {
        let (mut after, mut made) = (0, 0);
        loop {
            let mut tx = self.db().begin().await?;
            let rows = tx.statement(&SOME).bind(after).bind(BATCH).all().await?;
            let Some((last, marked)) = mark_next(&mut tx, rows).await? else {
                tx.rollback().await?;
                return Ok(made);
            };
            tx.commit().await?;
            after = last;
            made += marked;
        }
    }
}
