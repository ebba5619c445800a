//! Which came first: an apply, an inventory or a report. The database's clock says so, made strict where it is too coarse.

use sqlx::FromRow;

use crate::{
    Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// A time that is after every one given before.
    TICK = "drift_clock_tick" => [
        postgres { "SELECT " now " AS now_us" }
        sqlite { "UPDATE drift_clock SET at_us = max(at_us + 1, " now ") WHERE id = 1 RETURNING at_us AS now_us" }
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

/// The time of an apply, or of the beginning of an inventory: after all that were given before.
pub(super) async fn tick(tx: &mut Tx) -> Result<i64, Error> {
    let row: NowRow = tx.statement(&TICK).one().await?;
    Ok(row.now_us)
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
