//! Starting sagas. The first intent is part of the start, so that a saga that is taken in hand at once costs no commit more.
//!
//! A start carries its saga's id, which is new: sent again after a lost answer, it finds its own saga.

use std::collections::HashSet;

use sqlx::FromRow;
use steadfast_types::{Mark, Timestamp};

use super::{
    SAGA_TOPIC,
    definition::put_plan,
    row::SagaRow,
    transition::etag,
    write::{SagaWrite, SagaWritten},
};
use crate::{
    Change, Error, Op, SagaPlanRow, Store,
    engine::{Db, Tx, statements},
    own::{Tail, TailRow},
};

statements! {
    /// Adds a saga that has no key to wait for, in one call, which is one transaction. NULL if it is not new.
    START_ONE = "saga_start_one" => [
        postgres {
            "SELECT now_us, head, head_mark FROM saga_start_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
                 $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)"
        }
    ];
    /// Adds a saga, unless its request was made before.
    ADD = "saga_add" => [
        "INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, \
         triggered_by, labels, inputs, context, priority, concurrency_key, request_key, body_hash, \
         deadline_us, state, machine, version, last_write, owner, wake_us, crashes, created_us, started_us, \
         ended_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1, \
         $18, $19, $20, 0, " now ", CASE WHEN $16 = 'pending' THEN NULL ELSE " now " END, NULL) ON CONFLICT DO NOTHING RETURNING created_us, started_us"
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
         started_us = CASE WHEN $2 = 'pending' THEN NULL ELSE created_us END WHERE id = $1"
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
    /// Everything else; times and version are filled in.
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

#[derive(FromRow)]
struct CreatedRow {
    created_us: i64,
    started_us: Option<i64>,
}

impl Store {
    /// Starts a saga, together with whatever else is being started.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn start_saga(&self, new: NewSaga) -> Result<StartedSaga, Error> {
        match self
            .saga_writes()
            .submit(SagaWrite::Start(Box::new(new)))
            .await?
        {
            SagaWritten::Started(started) => Ok(*started),
            SagaWritten::Moved(_) => Err(Error::Corrupt("saga outcomes")),
        }
    }
}

/// What was there already.
pub(super) async fn found(db: &Db, new: &NewSaga) -> Result<StartedSaga, Error> {
    let own = db.read(&ADDED).bind(&new.row.id).optional().await?;
    let found = match own {
        Some(own) => own,
        None => db.read(&FIND).bind(&new.row.request_key).one().await?,
    };
    started_before(new, found)
}

/// Where it landed, if it is new.
pub(super) async fn start_one(
    db: &Db,
    new: &NewSaga,
    mark: Mark,
    write_id: &str,
    changes: &str,
) -> Result<Option<Tail>, Error> {
    let (row, first) = (&new.row, &new.free);
    let landed: TailRow = db
        .write(&START_ONE)
        .bind(mark.to_sql())
        .bind(write_id)
        .bind(changes)
        .bind(&new.plan.hash)
        .bind(&new.plan.document)
        .bind(&row.id)
        .bind(&row.kind)
        .bind(&row.definition_name)
        .bind(row.definition_version)
        .bind(&row.deployment_id)
        .bind(&row.triggered_by)
        .bind(&row.labels)
        .bind(&row.inputs)
        .bind(&row.context)
        .bind(row.priority)
        .bind(&row.request_key)
        .bind(&row.body_hash)
        .bind(row.deadline_us)
        .bind(&first.state)
        .bind(&first.machine)
        .bind(&row.last_write)
        .bind(&first.owner)
        .bind(first.wake_us)
        .bind(&first.records)
        .one()
        .await?;
    Ok(landed.tail())
}

impl StartedSaga {
    /// One that was just added, without reading it again.
    pub(super) fn now(new: &NewSaga, time: Timestamp) -> Self {
        Self {
            row: added_row(new, &new.free, time.0),
            replayed: false,
            waits: false,
        }
    }
}

/// Roughly how many bytes it is.
pub(super) fn size(new: &NewSaga) -> usize {
    let row = &new.row;
    row.inputs.len() + row.context.len() + row.labels.len() + new.free.machine.len() + 512
}

pub(super) fn change(id: &str, state: &str) -> Change {
    Change::new(SAGA_TOPIC, id, Op::Upsert, etag(state, 1))
}

/// What was just added, without reading it again.
fn added_row(new: &NewSaga, first: &SagaFirst, now_us: i64) -> SagaRow {
    SagaRow {
        state: first.state.clone(),
        machine: first.machine.clone(),
        version: 1,
        owner: first.owner.clone(),
        wake_us: first.wake_us,
        crashes: 0,
        created_us: now_us,
        started_us: (first.state != "pending").then_some(now_us),
        ended_us: None,
        ..new.row.clone()
    }
}

/// A saga that was there already: this very one, whose answer was lost, or the one that the same request led to.
fn started_before(new: &NewSaga, found: SagaRow) -> Result<StartedSaga, Error> {
    if found.id == new.row.id {
        return Ok(StartedSaga {
            waits: found.concurrency_key.is_some() && found.state == "pending",
            row: found,
            replayed: false,
        });
    }
    if found.body_hash != new.row.body_hash {
        return Err(Error::RequestIdReused);
    }
    Ok(StartedSaga {
        row: found,
        replayed: true,
        waits: false,
    })
}

/// Starts one after the other, and says what the log has to tell of them.
pub(super) async fn start_all(
    tx: &mut Tx,
    starts: &[&NewSaga],
) -> Result<(Vec<Result<StartedSaga, Error>>, Vec<Change>), Error> {
    let (mut outcomes, mut changes) = (Vec::with_capacity(starts.len()), Vec::new());
    let mut planned = HashSet::new();
    for new in starts {
        if planned.insert(new.plan.hash.as_str()) {
            put_plan(tx, &new.plan).await?;
        }
        let started = match start_in(tx, new).await {
            Err(Error::RequestIdReused) => Err(Error::RequestIdReused),
            Err(error) => return Err(error),
            Ok((started, is_new)) => {
                if is_new {
                    changes.push(change(&started.row.id, &started.row.state));
                }
                Ok(started)
            }
        };
        outcomes.push(started);
    }
    Ok((outcomes, changes))
}

/// Starts one, and says whether it was added now.
async fn start_in(tx: &mut Tx, new: &NewSaga) -> Result<(StartedSaga, bool), Error> {
    let row = &new.row;
    // With a key it is added as one that waits: a repeated request must not take the key for a saga that is not there.
    let first = if row.concurrency_key.is_some() {
        &new.waiting
    } else {
        &new.free
    };
    let added: Option<CreatedRow> = tx
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
        .bind(&row.last_write)
        .bind(&first.owner)
        .bind(first.wake_us)
        .optional()
        .await?;
    let Some(created) = added else {
        let own: Option<SagaRow> = tx.statement(&ADDED).bind(&row.id).optional().await?;
        let found = match own {
            Some(own) => own,
            None => tx.statement(&FIND).bind(&row.request_key).one().await?,
        };
        return Ok((started_before(new, found)?, false));
    };
    let mut waits = false;
    let mut first = first;
    if let Some(key) = &row.concurrency_key {
        waits = !take_key(tx, key, &row.id).await?;
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
    let started = StartedSaga {
        row: SagaRow {
            // A saga that got its key at once begins as it is created.
            started_us: created
                .started_us
                .or((first.state != "pending").then_some(created.created_us)),
            ..added_row(new, first, created.created_us)
        },
        replayed: false,
        waits,
    };
    Ok((started, true))
}

/// Takes a concurrency key for a saga if it is free, and says whether the saga holds it now.
pub(super) async fn take_key(tx: &mut Tx, key: &str, id: &str) -> Result<bool, Error> {
    let holder: Holder = tx.statement(&KEY).bind(key).bind(id).one().await?;
    Ok(holder.holder == id)
}
