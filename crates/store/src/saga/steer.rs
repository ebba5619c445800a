//! Steering: one saga is locked, looked at, and moved on by whoever decides, in one transaction.

use uuid::Uuid;

use super::{
    SAGA_TOPIC,
    claim::{forget_deadline, release_keys},
    row::SagaRow,
    start::take_key,
    transition::etag,
};
use crate::{Change, Error, Op, Store, engine::statements, log};

statements! {
    /// Locks one saga.
    LOCK = "saga_lock" => ["SELECT * FROM saga WHERE id = $1" for_update];
    /// Moves it on.
    MOVE = "saga_steer" => [
        "UPDATE saga SET state = $2, machine = $3, version = version + 1, last_write = $4, owner = $5, \
         wake_us = $6, crashes = $7, ended_us = CASE WHEN $8 THEN " now " END WHERE id = $1"
    ];
    /// Remembers it.
    REMEMBER = "saga_remember_steer" => [
        "INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records) \
         VALUES ($1, $2, " now ", $3, $4, $5)"
    ];
}

/// What was decided about a saga.
#[derive(Debug, Clone)]
pub struct SteerWrite {
    /// Who has it afterwards; empty for nobody.
    pub owner: String,
    /// When it may be taken.
    pub wake_us: Option<i64>,
    /// In lower case.
    pub state: String,
    /// JSON.
    pub machine: String,
    /// JSON.
    pub records: String,
    /// It has ended.
    pub ended: bool,
    /// Its concurrency key goes to the next.
    pub release: bool,
    /// It may begin: at once if its concurrency key is free or its own already, else when it is handed the key.
    pub begin: bool,
    /// Its deadline was dealt with.
    pub deadline_done: bool,
    /// Replicas lost with it in hand.
    pub crashes: i64,
    /// Who decided.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steered<R> {
    /// It was moved on; the row as it is now.
    Moved(Box<SagaRow>),
    /// The decider refused.
    Refused(R),
    /// There is no such saga.
    Unknown,
}

impl Store {
    /// Locks a saga and moves it on as `decide` says.
    ///
    /// # Errors
    /// If the database does not answer; after a lost answer it may have been moved on.
    pub async fn steer_saga<R: Send>(
        &self,
        id: &str,
        decide: impl FnOnce(&SagaRow) -> Result<SteerWrite, R> + Send,
    ) -> Result<Steered<R>, Error> {
        let mut tx = self.db().begin().await?;
        let row: Option<SagaRow> = tx.statement(&LOCK).bind(id).optional().await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(Steered::Unknown);
        };
        let write = match decide(&row) {
            Ok(write) => write,
            Err(refusal) => {
                tx.rollback().await?;
                return Ok(Steered::Refused(refusal));
            }
        };
        let mut wake_us = write.wake_us;
        if write.begin {
            // Who releases the key now sees this saga wait, or has dropped the key before.
            let free = match &row.concurrency_key {
                Some(key) => take_key(&mut tx, key, id).await?,
                None => true,
            };
            wake_us = free.then_some(0);
        }
        tx.statement(&MOVE)
            .bind(id)
            .bind(&write.state)
            .bind(&write.machine)
            .bind(Uuid::now_v7().to_string())
            .bind(&write.owner)
            .bind(wake_us)
            .bind(write.crashes)
            .bind(write.ended)
            .execute()
            .await?;
        let version = row.version + 1;
        tx.statement(&REMEMBER)
            .bind(id)
            .bind(version)
            .bind(&write.actor)
            .bind(&write.reason)
            .bind(&write.records)
            .execute()
            .await?;
        if write.deadline_done {
            forget_deadline(&mut tx, id).await?;
        }
        if write.release {
            release_keys(&mut tx, &[id]).await?;
        }
        let moved: SagaRow = tx.statement(&LOCK).bind(id).one().await?;
        let change = Change::new(SAGA_TOPIC, id, Op::Upsert, etag(&write.state, version));
        log::append(&mut tx, &[change]).await?;
        tx.commit().await?;
        Ok(Steered::Moved(Box::new(moved)))
    }
}
