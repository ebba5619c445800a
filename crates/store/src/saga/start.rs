//! Starting sagas, in batches: one transaction and one revision for all that arrive together. The first intent is part of the
//! start, so that a saga that is taken in hand at once costs no commit more.
//!
//! A start carries its saga's id, which is new: sent again after a lost answer, it finds its own saga.

use std::{collections::HashSet, sync::Arc};

use sqlx::FromRow;
use steadfast_types::Mark;
use uuid::Uuid;

use super::{SAGA_TOPIC, definition::put_plan, row::SagaRow, transition::etag};
use crate::{
    Change, Error, Op, SagaPlanRow, Store,
    engine::{Db, Tx, statements},
    log,
    own::{OwnCommits, Tail},
    pipeline::Kind,
};

statements! {
    /// Adds sagas that have no key to wait for, in one call, which is one transaction. `added` is NULL if all of them are new.
    START = "saga_start" => [
        postgres {
            "SELECT now_us, added, head, head_mark FROM saga_start($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
                 $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)"
        }
    ];
    /// The same for one saga, if it is new. NULL if it is not.
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

/// Commits batches of starts.
pub(crate) struct SagaStarts {
    pub(crate) db: Db,
    /// Who is told.
    pub(crate) own: OwnCommits,
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

#[derive(FromRow)]
struct AddedRow {
    now_us: i64,
    /// A JSON array of ids.
    added: Option<String>,
    head: Option<i64>,
    head_mark: Option<i64>,
}

/// Of one start.
#[derive(FromRow)]
struct OneRow {
    now_us: Option<i64>,
    head: Option<i64>,
    head_mark: Option<i64>,
}

impl Store {
    /// Starts a saga, together with whatever else is being started.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn start_saga(&self, new: NewSaga) -> Result<StartedSaga, Error> {
        self.saga_starts().submit(new).await
    }
}

impl Kind for SagaStarts {
    type Input = NewSaga;
    type Output = StartedSaga;

    const NAME: &'static str = "saga_start";

    fn conflict_key(input: &NewSaga) -> Option<String> {
        input.row.request_key.clone()
    }

    fn size(input: &NewSaga) -> usize {
        let row = &input.row;
        let documents = row.inputs.len() + row.context.len() + row.labels.len();
        documents + input.free.machine.len() + 512
    }

    async fn commit(
        &self,
        inputs: &[Arc<NewSaga>],
    ) -> Result<Vec<Result<StartedSaga, Error>>, Error> {
        let keyed = inputs.iter().any(|new| new.row.concurrency_key.is_some());
        if keyed || matches!(self.db, Db::Sqlite { .. }) {
            return self.start_each(inputs).await;
        }
        self.start_free(inputs).await
    }
}

impl SagaStarts {
    /// In one transaction, one after the other.
    async fn start_each(
        &self,
        inputs: &[Arc<NewSaga>],
    ) -> Result<Vec<Result<StartedSaga, Error>>, Error> {
        let mut tx = self.db.begin().await?;
        let mut outcomes = Vec::with_capacity(inputs.len());
        let mut changes = Vec::new();
        let mut planned = HashSet::new();
        for new in inputs {
            if planned.insert(new.plan.hash.as_str()) {
                put_plan(&mut tx, &new.plan).await?;
            }
            let started = match start_in(&mut tx, new).await {
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
        if changes.is_empty() {
            tx.rollback().await?;
            return Ok(outcomes);
        }
        let (mark, tail) = log::append_told(&mut tx, &changes).await?;
        tx.commit().await?;
        match tail {
            Some(tail) => self.own.tell(tail, [(mark, "", changes)]),
            None => self.own.untold(),
        }
        Ok(outcomes)
    }

    /// In one call: sagas without keys need no decision on the way.
    async fn start_free(
        &self,
        inputs: &[Arc<NewSaga>],
    ) -> Result<Vec<Result<StartedSaga, Error>>, Error> {
        fn column<'a, T>(inputs: &'a [Arc<NewSaga>], of: impl Fn(&'a NewSaga) -> T) -> Vec<T> {
            inputs.iter().map(|new| of(new)).collect()
        }
        let changes = column(inputs, |new| change(&new.row.id, &new.free.state));
        let mark = Mark::random();
        if let [alone] = inputs
            && let Some(tail) = self.start_one(alone, mark, &changes).await?
        {
            self.own.tell(tail, [(mark, "", changes)]);
            return Ok(vec![Ok(StartedSaga {
                row: added_row(alone, &alone.free, tail.time.0),
                replayed: false,
                waits: false,
            })]);
        }
        let mut planned = HashSet::new();
        let plans = inputs.iter().map(|new| &new.plan);
        let plans: Vec<&SagaPlanRow> = plans.filter(|plan| planned.insert(&plan.hash)).collect();
        let added: AddedRow = self
            .db
            .write(&START)
            .bind(mark.to_sql())
            .bind(Uuid::now_v7().to_string())
            .bind(log::encode_changes(&changes))
            .bind_column(plans.iter().map(|plan| plan.hash.as_str()).collect())
            .bind_column(plans.iter().map(|plan| plan.document.as_str()).collect())
            .bind_column(column(inputs, |new| new.row.id.as_str()))
            .bind_column(column(inputs, |new| new.row.kind.as_str()))
            .bind_column(column(inputs, |new| new.row.definition_name.as_str()))
            .bind_column(column(inputs, |new| new.row.definition_version))
            .bind_column(column(inputs, |new| new.row.plan_hash.as_str()))
            .bind_column(column(inputs, |new| new.row.deployment_id.as_str()))
            .bind_column(column(inputs, |new| new.row.triggered_by.as_str()))
            .bind_column(column(inputs, |new| new.row.labels.as_str()))
            .bind_column(column(inputs, |new| new.row.inputs.as_str()))
            .bind_column(column(inputs, |new| new.row.context.as_str()))
            .bind_column(column(inputs, |new| new.row.priority))
            .bind_column(column(inputs, |new| new.row.request_key.as_deref()))
            .bind_column(column(inputs, |new| new.row.body_hash.as_str()))
            .bind_column(column(inputs, |new| new.row.deadline_us))
            .bind_column(column(inputs, |new| new.free.state.as_str()))
            .bind_column(column(inputs, |new| new.free.machine.as_str()))
            .bind_column(column(inputs, |new| new.row.last_write.as_str()))
            .bind_column(column(inputs, |new| new.free.owner.as_str()))
            .bind_column(column(inputs, |new| new.free.wake_us))
            .bind_column(column(inputs, |new| new.free.records.as_str()))
            .one()
            .await?;
        let added_ids: Option<HashSet<String>> = match &added.added {
            None => {
                match Tail::of(added.head, added.head_mark, Some(added.now_us)) {
                    Some(tail) => self.own.tell(tail, [(mark, "", changes)]),
                    None => self.own.untold(),
                }
                None
            }
            Some(ids) => {
                self.own.untold();
                Some(serde_json::from_str(ids).map_err(|_| Error::Corrupt("started sagas"))?)
            }
        };
        let mut outcomes = Vec::with_capacity(inputs.len());
        for new in inputs {
            let is_new = added_ids
                .as_ref()
                .is_none_or(|ids| ids.contains(&new.row.id));
            outcomes.push(if is_new {
                Ok(StartedSaga {
                    row: added_row(new, &new.free, added.now_us),
                    replayed: false,
                    waits: false,
                })
            } else {
                let own = self.db.read(&ADDED).bind(&new.row.id).optional().await?;
                let found = match own {
                    Some(own) => own,
                    None => self.db.read(&FIND).bind(&new.row.request_key).one().await?,
                };
                started_before(new, found)
            });
        }
        Ok(outcomes)
    }

    /// Where it landed, if it is new.
    async fn start_one(
        &self,
        new: &NewSaga,
        mark: Mark,
        changes: &[Change],
    ) -> Result<Option<Tail>, Error> {
        let (row, first) = (&new.row, &new.free);
        let one: OneRow = self
            .db
            .write(&START_ONE)
            .bind(mark.to_sql())
            .bind(Uuid::now_v7().to_string())
            .bind(log::encode_changes(changes))
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
        Ok(Tail::of(one.head, one.head_mark, one.now_us))
    }
}

fn change(id: &str, state: &str) -> Change {
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
