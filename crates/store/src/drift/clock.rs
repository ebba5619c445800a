//! Which came first: an apply, an inventory or a report. The database's clock says so, made strict where it is too coarse.
//!
//! An apply has its time before it is committed. A look that begins in between is later than the apply and yet cannot see it: its
//! report would find nothing new, and what it saw would count for nothing. So reports wait for applies of the same provider that are
//! under way, and applies for reports; reports do not wait for each other. On SQLite there is one writer anyway.

use std::collections::BTreeSet;

use sqlx::FromRow;

use crate::{
    Engine, Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// A time that is after every one given before.
    TICK = "drift_clock_tick" => [
        postgres { "SELECT " now " AS now_us" }
        sqlite { "UPDATE drift_clock SET at_us = max(at_us + 1, " now ") WHERE id = 1 RETURNING at_us AS now_us" }
    ];
    /// Keeps reports of some providers, and other applies, from the database until the transaction ends.
    APPLY = "drift_clock_apply" => [
        postgres {
            "SELECT pg_advisory_xact_lock(1685219942, s.provider) FROM \
             (SELECT DISTINCT hashtext(p) AS provider FROM unnest($1::text[]) AS p ORDER BY 1) AS s"
        }
    ];
    /// Keeps applies of some providers from it.
    REPORT = "drift_clock_report" => [
        postgres {
            "SELECT pg_advisory_xact_lock_shared(1685219942, s.provider) FROM \
             (SELECT DISTINCT hashtext(p) AS provider FROM unnest($1::text[]) AS p ORDER BY 1) AS s"
        }
    ];
    /// A time that is after every one given before, and is given to nobody.
    LOOK = "drift_clock_look" => [
        postgres { "SELECT " now " AS now_us" }
        sqlite { "SELECT max(at_us + 1, " now ") AS now_us FROM drift_clock" }
    ];
}

#[derive(FromRow)]
struct NowRow {
    now_us: i64,
}

/// The time of an apply, or of the beginning or the end of an inventory: after all that were given before.
pub(super) async fn tick(tx: &mut Tx) -> Result<i64, Error> {
    let row: NowRow = tx.statement(&TICK).one().await?;
    Ok(row.now_us)
}

/// Begins a transaction of applies. First of all it does: whoever waits holds nothing that others wait for.
pub(super) async fn apply(tx: &mut Tx, providers: BTreeSet<&str>) -> Result<(), Error> {
    if tx.engine() == Engine::Postgres {
        let providers = providers.into_iter().collect();
        let locked = tx.statement(&APPLY).bind_column::<&str>(providers);
        locked.execute().await?;
    }
    Ok(())
}

/// Begins a transaction of reports, likewise.
pub(super) async fn report(tx: &mut Tx, providers: BTreeSet<&str>) -> Result<(), Error> {
    if tx.engine() == Engine::Postgres {
        let providers = providers.into_iter().collect();
        let locked = tx.statement(&REPORT).bind_column::<&str>(providers);
        locked.execute().await?;
    }
    Ok(())
}

impl Store {
    /// The database's clock, in microseconds; after every apply that was recorded and every inventory that began.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn database_time(&self) -> Result<i64, Error> {
        let row: NowRow = self.db().read(&LOOK).one().await?;
        Ok(row.now_us)
    }
}
