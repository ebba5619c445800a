//! Calls that are safe to repeat: a request id is unique per identity and RPC, with a hash of the arguments.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error, Store,
    engine::{Tx, statements},
    lease::micros,
};

/// How long outcomes are kept.
pub const REQUEST_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Outcomes pruned at a time.
const PRUNE_ROWS: i64 = 1_000;

statements! {
    /// Records a request; waits for one with the same key that has not ended.
    BEGIN = "request_begin" => [
        "INSERT INTO request_outcome (identity, rpc, request_id, body_hash, write_id, created_us) \
         VALUES ($1, $2, $3, $4, $5, " now ") ON CONFLICT (identity, rpc, request_id) DO NOTHING"
    ];
    /// What became of a request.
    FIND = "request_find" => [
        "SELECT body_hash, outcome FROM request_outcome \
         WHERE identity = $1 AND rpc = $2 AND request_id = $3"
    ];
    /// Records what became of it.
    FINISH = "request_finish" => [
        "UPDATE request_outcome SET outcome = $4 WHERE identity = $1 AND rpc = $2 AND request_id = $3"
    ];
    /// Forgets old ones. The time is a subquery, as it would otherwise be asked for each row and no index could be used.
    PRUNE = "request_prune" => [
        "DELETE FROM request_outcome WHERE write_id IN \
         (SELECT write_id FROM request_outcome WHERE created_us < (SELECT " now ") - $1 \
          ORDER BY created_us LIMIT $2)"
    ];
}

/// A call that carries a request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who calls.
    pub identity: String,
    /// The RPC's name.
    pub rpc: &'static str,
    /// The caller's id.
    pub id: String,
    /// Hexadecimal SHA-256 of the arguments, without the id; see [`Request::hash`].
    pub body_hash: String,
}

#[derive(FromRow)]
struct Row {
    body_hash: String,
    outcome: Option<String>,
}

// === impl Request ===

impl Request {
    /// Hashes the encoded arguments.
    #[must_use]
    pub fn hash(body: &[u8]) -> String {
        hex::encode(Sha256::digest(body))
    }

    /// Records the request in the transaction. Returns the stored outcome if it was made before.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`] if it was made with other arguments.
    pub(crate) async fn begin(&self, tx: &mut Tx) -> Result<Option<String>, Error> {
        let new = tx
            .statement(&BEGIN)
            .bind(&self.identity)
            .bind(self.rpc)
            .bind(&self.id)
            .bind(&self.body_hash)
            .bind(Uuid::now_v7().to_string())
            .execute()
            .await?;
        if new == 1 {
            return Ok(None);
        }
        let row: Row = tx
            .statement(&FIND)
            .bind(&self.identity)
            .bind(self.rpc)
            .bind(&self.id)
            .one()
            .await?;
        if row.body_hash != self.body_hash {
            return Err(Error::RequestIdReused);
        }
        row.outcome
            .map(Some)
            .ok_or(Error::Corrupt("request_outcome.outcome"))
    }

    /// Records the outcome in the same transaction.
    pub(crate) async fn finish(&self, tx: &mut Tx, outcome: &str) -> Result<(), Error> {
        tx.statement(&FINISH)
            .bind(&self.identity)
            .bind(self.rpc)
            .bind(&self.id)
            .bind(outcome)
            .execute()
            .await?;
        Ok(())
    }
}

impl Store {
    /// Forgets outcomes older than [`REQUEST_RETENTION`], a batch at a time. Returns how many.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_requests(&self) -> Result<u64, Error> {
        self.db()
            .write(&PRUNE)
            .bind(micros(REQUEST_RETENTION))
            .bind(PRUNE_ROWS)
            .execute()
            .await
    }
}
