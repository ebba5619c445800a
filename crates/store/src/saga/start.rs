//! Starting sagas. The first intent is part of the start, so that a saga that is taken in hand at once costs no commit more.

use sqlx::FromRow;
use uuid::Uuid;

use super::{SAGA_TOPIC, definition::put_plan, row::SagaRow, transition::etag};
use crate::{
    Change, Error, Op, SagaPlanRow, Store,
    engine::{Tx, statements},
    log,
};

statements! {
    /// Adds a saga, unless its request was made before.
    ADD = "saga_add" => [
        "INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, \
         triggered_by, labels, inputs, context, priority, concurrency_key, request_key, body_hash, \
         deadline_us, state, machine, version, last_write, owner, wake_us, crashes, created_us, started_us, \
         ended_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1, \
         $18, $19, $20, 0, " now ", CASE WHEN $16 = 'pending' THEN NULL ELSE " now " END, NULL) ON CONFLICT (request_key) DO NOTHING"
    ];
    /// The saga that a request led to.
    FIND = "saga_find_request" => ["SELECT * FROM saga WHERE request_key = $1"];
    /// The saga as it was added.
    ADDED = "saga_added" => ["SELECT * FROM saga WHERE id = $1"];
    /// Remembers the start.
    REMEMBER = "saga_remember_start" => [
        "INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records) \
         VALUES ($1, 1, " now ", $2, '', $3)"
    ];
    /// Lets a saga begin that got its key at once.
    SETTLE = "saga_settle" => [
        "UPDATE saga SET state = $2, machine = $3, owner = $4, wake_us = $5, \
         started_us = CASE WHEN $2 = 'pending' THEN NULL ELSE " now " END WHERE id = $1"
    ];
    /// Takes a concurrency key, or learns who holds it; locks its row either way.
    KEY = "saga_key_take" => [
        "INSERT INTO saga_key (name, holder) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET holder = saga_key.holder RETURNING holder"
    ];
}

/// A saga to be started.
#[derive(Debug, Clone)]
pub struct NewSaga {
    /// Its steps.
    pub plan: SagaPlanRow,
    /// Everything else; times, version and last write are filled in.
    pub row: SagaRow,
    /// Who has it, when it may be taken, its state, machine and records, if it does not have to wait for its key.
    pub free: SagaFirst,
    /// The same if it has to wait.
    pub waiting: SagaFirst,
}

/// How a saga begins.
#[derive(Debug, Clone)]
pub struct SagaFirst {
    /// The replica that has it; empty for none.
    pub owner: String,
    /// When it may be taken.
    pub wake_us: Option<i64>,
    /// In lower case.
    pub state: String,
    /// JSON.
    pub machine: String,
    /// JSON.
    pub records: String,
}

/// What a start led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedSaga {
    /// The saga.
    pub row: SagaRow,
    /// It had been started before, by the same request.
    pub replayed: bool,
    /// It waits for its concurrency key.
    pub waits: bool,
}

#[derive(FromRow)]
struct Holder {
    holder: String,
}

impl Store {
    /// Starts a saga.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn start_saga(&self, new: &NewSaga) -> Result<StartedSaga, Error> {
        let mut tx = self.db().begin().await?;
        let started = start_in(&mut tx, new).await?;
        if !started.replayed {
            let version = etag(&started.row.state, 1);
            let change = Change::new(SAGA_TOPIC, started.row.id.as_str(), Op::Upsert, version);
            log::append(&mut tx, &[change]).await?;
        }
        tx.commit().await?;
        Ok(started)
    }

    /// Starts many sagas as one transaction and one revision, in their order. Each has its own outcome.
    ///
    /// # Errors
    /// If the database does not answer; nothing was started then.
    pub async fn start_sagas(
        &self,
        new: &[NewSaga],
    ) -> Result<Vec<Result<StartedSaga, Error>>, Error> {
        let mut tx = self.db().begin().await?;
        let mut outcomes = Vec::with_capacity(new.len());
        let mut changes = Vec::new();
        for new in new {
            let outcome = match start_in(&mut tx, new).await {
                Err(Error::RequestIdReused) => Err(Error::RequestIdReused),
                other => Ok(other?),
            };
            if let Ok(started) = &outcome
                && !started.replayed
            {
                let version = etag(&started.row.state, 1);
                let id = started.row.id.as_str();
                changes.push(Change::new(SAGA_TOPIC, id, Op::Upsert, version));
            }
            outcomes.push(outcome);
        }
        if !changes.is_empty() {
            log::append(&mut tx, &changes).await?;
        }
        tx.commit().await?;
        Ok(outcomes)
    }
}

async fn start_in(tx: &mut Tx, new: &NewSaga) -> Result<StartedSaga, Error> {
    put_plan(tx, &new.plan).await?;
    let row = &new.row;
    // With a key it is added as one that waits: a repeated request must not take the key for a saga that is not there.
    let first = if row.concurrency_key.is_some() {
        &new.waiting
    } else {
        &new.free
    };
    let added = tx
        .statement(&ADD)
        .bind(&row.id)
        .bind(&row.kind)
        .bind(&row.definition_name)
        .bind(row.definition_version)
        .bind(&row.plan_hash)
        .bind(&row.deployment_id)
        .bind(&row.triggered_by)
        .bind(&row.labels)
        .bind(&row.inputs)
        .bind(&row.context)
        .bind(row.priority)
        .bind(&row.concurrency_key)
        .bind(&row.request_key)
        .bind(&row.body_hash)
        .bind(row.deadline_us)
        .bind(&first.state)
        .bind(&first.machine)
        .bind(Uuid::now_v7().to_string())
        .bind(&first.owner)
        .bind(first.wake_us)
        .execute()
        .await?;
    if added == 0 {
        let found: SagaRow = tx.statement(&FIND).bind(&row.request_key).one().await?;
        if found.body_hash != row.body_hash {
            return Err(Error::RequestIdReused);
        }
        return Ok(StartedSaga {
            row: found,
            replayed: true,
            waits: false,
        });
    }
    let mut waits = false;
    let mut first = first;
    if let Some(key) = &row.concurrency_key {
        let holder: Holder = tx.statement(&KEY).bind(key).bind(&row.id).one().await?;
        waits = holder.holder != row.id;
        if !waits {
            first = &new.free;
            tx.statement(&SETTLE)
                .bind(&row.id)
                .bind(&first.state)
                .bind(&first.machine)
                .bind(&first.owner)
                .bind(first.wake_us)
                .execute()
                .await?;
        }
    }
    tx.statement(&REMEMBER)
        .bind(&row.id)
        .bind(&row.triggered_by)
        .bind(&first.records)
        .execute()
        .await?;
    Ok(StartedSaga {
        row: tx.statement(&ADDED).bind(&row.id).one().await?,
        replayed: false,
        waits,
    })
}
