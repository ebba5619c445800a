//! Sweeps: who asked for one, how far it is, and how it ended. One runs at a time; who asks for another gets that one.
//!
//! A sweep goes through all of its scope once. What became due meanwhile, behind it, is found on further ways through what is due,
//! until one began after the last request: so whoever asked finds compared what was due when they did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    ResourceName,
    due::{self, Due},
    json,
};
use crate::{
    Error, Lease, Store,
    engine::{Tx, statements},
};

statements! {
    /// Lets one request at a time look for a sweep to join, and a sweep end.
    GATE = "drift_gate" => ["SELECT id FROM drift_gate WHERE id = 1" for_update];
    /// The one that runs.
    RUNNING = "drift_sweep_running" => ["SELECT * FROM drift_sweep WHERE state = 'running'"];
    /// One of them.
    GET = "drift_sweep_get" => ["SELECT * FROM drift_sweep WHERE id = $1"];
    /// Those before an id, newest first.
    LIST = "drift_sweep_list" => [
        postgres {
            "SELECT * FROM drift_sweep WHERE id < $1 AND ($2 = '' OR state = ANY (string_to_array($2, ','))) ORDER BY id DESC LIMIT $3"
        }
        sqlite {
            "SELECT * FROM drift_sweep WHERE id < $1 AND ($2 = '' OR instr(',' || $2 || ',', ',' || state || ',') > 0) \
             ORDER BY id DESC LIMIT $3"
        }
    ];
    /// Adds one.
    ADD = "drift_sweep_add" => [
        "INSERT INTO drift_sweep (id, forced, cancel_requested, only_key, cursor_key, through_key, round, round_us, asked_us, create_us, \
         start_us, end_us, attempts, resources, state, labels, triggered_by, owner, error, tally) \
         VALUES ($1, $2, false, $3, 0, 0, 0, NULL, " now ", " now ", NULL, NULL, 0, 0, 'running', $4, $5, '', '', '')"
    ];
    /// Remembers that it was asked for again. Who asks for more than it covers finds it on the next way through.
    ASK = "drift_sweep_ask" => [
        "UPDATE drift_sweep SET asked_us = " now ", only_key = CASE WHEN only_key = $2 THEN only_key ELSE 0 END, \
         labels = CASE WHEN labels = $3 THEN labels ELSE '{}' END WHERE id = $1"
    ];
    /// Takes it in hand. The first time it learns what there is.
    TAKE = "drift_sweep_take" => [
        "UPDATE drift_sweep SET owner = $2, attempts = attempts + 1, stalls = stalls + 1, start_us = coalesce(start_us, " now "), \
         round_us = coalesce(round_us, " now "), \
         cursor_key = CASE WHEN start_us IS NULL AND only_key > 0 THEN only_key - 1 ELSE cursor_key END, \
         through_key = CASE WHEN start_us IS NOT NULL THEN through_key WHEN only_key > 0 THEN only_key \
             ELSE coalesce((SELECT max(key) FROM drift_resource), 0) END, \
         resources = CASE WHEN start_us IS NOT NULL THEN resources WHEN only_key > 0 THEN 1 \
             WHEN forced THEN (SELECT count(*) FROM drift_resource) \
             ELSE (SELECT count(*) FROM drift_due WHERE due_us <= (SELECT " now ")) END \
         WHERE state = 'running' AND id = $1"
    ];
    /// Begins one more way through what is due, if it was asked for since the last one began.
    AGAIN = "drift_sweep_again" => [
        "UPDATE drift_sweep SET round = round + 1, stalls = 0, round_us = " now ", \
         cursor_key = CASE WHEN only_key > 0 THEN only_key - 1 ELSE 0 END, \
         through_key = CASE WHEN only_key > 0 THEN only_key ELSE coalesce((SELECT max(key) FROM drift_resource), 0) END \
         WHERE id = $1 AND state = 'running' AND asked_us > round_us AND NOT cancel_requested"
    ];
    /// Ends it.
    END = "drift_sweep_end" => [
        "UPDATE drift_sweep SET state = CASE WHEN cancel_requested AND $2 = 'completed' THEN 'cancelled' ELSE $2 END, \
         error = CASE WHEN $3 = '' THEN error ELSE $3 END, end_us = " now ", owner = '' WHERE id = $1 AND state = 'running'"
    ];
    /// Asks it to stop.
    CANCEL = "drift_sweep_cancel" => [
        "UPDATE drift_sweep SET cancel_requested = true, error = CASE WHEN cancel_requested THEN error ELSE $2 END \
         WHERE id = $1 AND state = 'running'"
    ];
    /// Forgets old ones.
    PRUNE = "drift_sweep_prune" => [
        "DELETE FROM drift_sweep WHERE id IN (SELECT id FROM drift_sweep WHERE state <> 'running' ORDER BY id DESC LIMIT 1000 OFFSET $1)"
    ];
}

/// A sweep, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SweepRow {
    /// A UUIDv7.
    pub id: String,
    /// It compares everything in its scope, due or not.
    pub forced: bool,
    /// It is to stop.
    pub cancel_requested: bool,
    /// The number of the only resource that it compares; 0 for all.
    pub only_key: i64,
    /// Up to this number it is done.
    pub cursor_key: i64,
    /// Up to this number it goes.
    pub through_key: i64,
    /// 0 on the first way through; after that it looks at what is due only.
    pub round: i64,
    /// When this way through began.
    pub round_us: Option<i64>,
    /// When it was asked for last.
    pub asked_us: i64,
    /// When it was asked for first.
    pub create_us: i64,
    /// When it was first taken in hand.
    pub start_us: Option<i64>,
    /// When it ended.
    pub end_us: Option<i64>,
    /// How often it was taken in hand.
    pub attempts: i64,
    /// How many resources there seemed to be to compare when it began.
    pub resources: i64,
    /// `running`, `completed`, `cancelled` or `failed`.
    pub state: String,
    /// JSON, text to text: it compares resources that have all of these.
    pub labels: String,
    /// Who or what caused it.
    pub triggered_by: String,
    /// The replica that has it in hand; empty for none.
    pub owner: String,
    /// Why it failed or was cancelled.
    pub error: String,
    /// JSON, or empty: what it found so far.
    pub tally: String,
    /// How often it was taken in hand since it last got any further.
    pub stalls: i64,
    /// JSON, or empty; see [`SweepRow::failures`].
    pub failed: String,
}

/// A resource that a sweep could not compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepFailure {
    /// Which one; of empty parts if not even that could be read.
    pub name: ResourceName,
    /// Why.
    pub reason: String,
}

/// A sweep that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewSweep {
    /// Compare everything in its scope, due or not.
    pub forced: bool,
    /// The number of the only resource to compare.
    pub only_key: Option<i64>,
    /// Compare resources that have all of these.
    pub labels: BTreeMap<String, String>,
    /// Who or what causes it.
    pub triggered_by: String,
}

/// What became of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepAsked {
    /// The sweep.
    pub row: SweepRow,
    /// It was under way already.
    pub joined: bool,
}

// === impl SweepRow ===

impl SweepRow {
    /// Whether it compares what is not due, on this way through.
    #[must_use]
    pub fn compares_all(&self) -> bool {
        self.round == 0 && (self.forced || self.only_key > 0)
    }

    /// The first resources that it could not compare.
    #[must_use]
    pub fn failures(&self) -> Vec<SweepFailure> {
        // Nothing else is ever written.
        serde_json::from_str(&self.failed).unwrap_or_default()
    }
}

impl Store {
    /// Asks for a sweep. If one is under way, it is that one, and it goes through what is due once more before it ends.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ask_sweep(&self, new: &NewSweep) -> Result<SweepAsked, Error> {
        let mut tx = self.db().begin().await?;
        gate(&mut tx).await?;
        let running: Option<SweepRow> = tx.statement(&RUNNING).optional().await?;
        let (id, joined) = match running {
            Some(row) => {
                // In this order: a page of the sweep that is written takes what is due away before it says how far it is.
                if let Some(key) = new.only_key {
                    due::mark(&mut tx, &[Due::now(key)]).await?;
                }
                let asked = tx.statement(&ASK).bind(&row.id);
                let asked = asked.bind(new.only_key.unwrap_or(0));
                asked.bind(json(&new.labels)?).execute().await?;
                (row.id, true)
            }
            None => {
                let id = Uuid::now_v7().to_string();
                tx.statement(&ADD)
                    .bind(&id)
                    .bind(new.forced)
                    .bind(new.only_key.unwrap_or(0))
                    .bind(json(&new.labels)?)
                    .bind(&new.triggered_by)
                    .execute()
                    .await?;
                (id, false)
            }
        };
        let row = tx.statement(&GET).bind(&id).one().await?;
        tx.commit().await?;
        Ok(SweepAsked { row, joined })
    }

    /// Whether a sweep is under way.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sweep_pending(&self) -> Result<bool, Error> {
        let row: Option<SweepRow> = self.db().read(&RUNNING).optional().await?;
        Ok(row.is_some())
    }

    /// One sweep.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sweep(&self, id: &str) -> Result<Option<SweepRow>, Error> {
        self.db().read(&GET).bind(id).optional().await
    }

    /// Sweeps older than an id (the empty id means all), newest first, in any of some states, or in all if there are none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sweeps(
        &self,
        states: &[String],
        before: &str,
        limit: i64,
    ) -> Result<Vec<SweepRow>, Error> {
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        self.db()
            .read(&LIST)
            .bind(before)
            .bind(states.join(","))
            .bind(limit)
            .all()
            .await
    }

    /// Asks a sweep to stop at the next page. Returns how it is now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn cancel_sweep(&self, id: &str, reason: &str) -> Result<Option<SweepRow>, Error> {
        let cancelled = self.db().write(&CANCEL).bind(id).bind(reason);
        cancelled.execute().await?;
        self.sweep(id).await
    }

    /// Takes the sweep in hand that is under way.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn take_sweep(&self, lease: &Lease) -> Result<Option<SweepRow>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let running: Option<SweepRow> = tx.statement(&RUNNING).optional().await?;
        let Some(running) = running else {
            tx.rollback().await?;
            return Ok(None);
        };
        let taken = tx.statement(&TAKE).bind(&running.id);
        taken.bind(lease.owner.to_string()).execute().await?;
        let row = tx.statement(&GET).bind(&running.id).one().await?;
        tx.commit().await?;
        Ok(Some(row))
    }

    /// Ends a way through, and with it the sweep, unless it was asked for since that way began: then it goes on, and says how.
    /// Keeps the newest `keep` ended sweeps.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn finish_sweep(
        &self,
        lease: &Lease,
        id: &str,
        error: Option<&str>,
        keep: i64,
    ) -> Result<SweepRow, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        gate(&mut tx).await?;
        let again = match error {
            Some(_) => 0,
            None => tx.statement(&AGAIN).bind(id).execute().await?,
        };
        if again == 0 {
            let state = if error.is_some() {
                "failed"
            } else {
                "completed"
            };
            let ended = tx.statement(&END).bind(id).bind(state);
            ended.bind(error.unwrap_or_default()).execute().await?;
            tx.statement(&PRUNE).bind(keep).execute().await?;
        }
        let row = tx.statement(&GET).bind(id).one().await?;
        tx.commit().await?;
        Ok(row)
    }
}

async fn gate(tx: &mut Tx) -> Result<(), Error> {
    let _: (i16,) = tx.statement(&GATE).one().await?;
    Ok(())
}
