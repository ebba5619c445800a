//! Transitions of sagas in hand.

use std::collections::HashSet;

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{Mark, Timestamp};
use uuid::Uuid;

use super::{
    SAGA_TOPIC,
    claim::release_keys,
    write::{SagaWrite, SagaWritten},
};
use crate::{
    Change, Error, Lease, Op, Store,
    engine::{Db, Tx, statements},
    own::{Tail, TailRow},
};

statements! {
    /// Commits one that releases no key, in one call, which is one transaction. NULL if something is in its way.
    COMMIT_ONE = "saga_commit_one" => [
        postgres {
            "SELECT now_us, head, head_mark FROM saga_commit_one($1, $2, $3, $4, $5, $6, \
                 $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
        }
    ];
    /// Moves those on that are as their writer read them, if the lease is held.
    MOVE = "saga_commit_move" => [
        sqlite {
            "UPDATE saga SET state = e.value ->> 'state', machine = e.value ->> 'machine', \
                 version = saga.version + 1, last_write = e.value ->> 'write_id', \
                 owner = e.value ->> 'owner', wake_us = e.value ->> 'wake_us', \
                 crashes = CASE WHEN e.value ->> 'progress' THEN 0 ELSE saga.crashes END, \
                 started_us = coalesce(saga.started_us, $5), \
                 ended_us = CASE WHEN e.value ->> 'ended' THEN $5 END \
             FROM jsonb_each($1) e WHERE saga.id = e.value ->> 'id' \
             AND saga.version = e.value ->> 'expected' AND saga.owner = e.value ->> 'held_by' \
             AND EXISTS (SELECT 1 FROM lease WHERE name = $2 AND fence = $3 AND owner = $4)"
        }
    ];
    /// What is remembered of them.
    REMEMBER = "saga_commit_remember" => [
        sqlite {
            "INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records) \
             SELECT e.value ->> 'id', (e.value ->> 'expected') + 1, $2, '', '', e.value ->> 'records' \
             FROM jsonb_each($1) e"
        }
    ];
    /// Which are as they were written, now or by a call whose answer was lost.
    LANDED = "saga_commit_landed" => [
        sqlite {
            "SELECT e.value ->> 'ord' AS ord, s.last_write = e.value ->> 'write_id' AS landed \
             FROM json_each($1) e JOIN saga s ON s.id = e.value ->> 'id'"
        }
    ];
}

/// One transition, decided.
#[derive(Debug, Clone)]
pub struct SagaTransition {
    /// Whose.
    pub id: String,
    /// The version that it was decided on.
    pub expected: i64,
    /// The replica that has it in hand.
    pub held_by: String,
    /// Who has it afterwards; empty for nobody.
    pub owner: String,
    /// When nobody has it: when it may be taken.
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
    /// A step ended: replicas lost before do not count any more.
    pub progress: bool,
    /// The proof that the replica is alive.
    pub lease: Lease,
}

/// What became of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitionOutcome {
    /// It is committed; at this time, unless it was an earlier call that did it.
    Committed(Option<Timestamp>),
    /// The saga is no longer as it was read: somebody steered it, or took it over. Read it again.
    Changed,
    /// This replica's lease is lost: it must stop.
    Fenced,
}

/// What became of transitions, and what the log has to tell of them.
pub(super) struct Moved {
    pub(super) outcomes: Vec<TransitionOutcome>,
    pub(super) changes: Vec<Change>,
}

/// On its way through the pipeline.
pub(crate) struct Pending {
    pub(super) write_id: String,
    pub(super) transition: SagaTransition,
}

#[derive(Serialize)]
struct Entry<'a> {
    ord: usize,
    id: &'a str,
    expected: i64,
    held_by: &'a str,
    owner: &'a str,
    wake_us: Option<i64>,
    state: &'a str,
    machine: &'a str,
    write_id: &'a str,
    records: &'a str,
    etag: String,
    ended: bool,
    release: bool,
    progress: bool,
}

#[derive(FromRow)]
struct LandedRow {
    ord: i64,
    landed: bool,
}

impl Store {
    /// Commits one transition, together with whatever else is being committed.
    ///
    /// # Errors
    /// If the database is away for longer than the write deadline.
    pub async fn commit_saga(
        &self,
        transition: SagaTransition,
    ) -> Result<TransitionOutcome, Error> {
        let pending = Pending {
            write_id: Uuid::now_v7().to_string(),
            transition,
        };
        match self
            .saga_writes()
            .submit(SagaWrite::Move(Box::new(pending)))
            .await?
        {
            SagaWritten::Moved(outcome) => Ok(outcome),
            SagaWritten::Started(_) => Err(Error::Corrupt("saga outcomes")),
        }
    }
}

/// Where it landed, unless something is in the way.
pub(super) async fn commit_one(
    db: &Db,
    pending: &Pending,
    mark: Mark,
    write_id: &str,
    changes: &str,
) -> Result<Option<Tail>, Error> {
    let transition = &pending.transition;
    let lease = &transition.lease;
    let landed: TailRow = db
        .write(&COMMIT_ONE)
        .bind(&lease.name)
        .bind(lease.fence.0)
        .bind(lease.owner.to_string())
        .bind(mark.to_sql())
        .bind(write_id)
        .bind(changes)
        .bind(&transition.id)
        .bind(transition.expected)
        .bind(&transition.held_by)
        .bind(&transition.owner)
        .bind(transition.wake_us)
        .bind(&transition.state)
        .bind(&transition.machine)
        .bind(&pending.write_id)
        .bind(&transition.records)
        .bind(transition.ended)
        .bind(transition.progress)
        .one()
        .await?;
    Ok(landed.tail())
}

/// The common case on SQLite in as few statements as there can be. None if something is in the way of any of them: then some may
/// have been moved, and the transaction has to be rolled back.
pub(super) async fn move_whole(tx: &mut Tx, moves: &[&Pending]) -> Result<Option<Moved>, Error> {
    let Some(first) = moves.first() else {
        return Ok(Some(Moved::none()));
    };
    let entries = entries(moves);
    let all = json(&entries)?;
    let (moved, now) = move_all(tx, &first.transition.lease, &all).await?;
    if moved != entries.len() as u64 {
        return Ok(None);
    }
    remember(tx, &all, now, entries.iter()).await?;
    Ok(Some(Moved {
        outcomes: vec![TransitionOutcome::Committed(Some(now)); moves.len()],
        changes: entries.iter().map(Entry::change).collect(),
    }))
}

/// Moves those that nothing is in the way of: the same steps as the function `saga_commit` takes on PostgreSQL.
pub(super) async fn move_possible(tx: &mut Tx, moves: &[&Pending]) -> Result<Moved, Error> {
    let Some(first) = moves.first() else {
        return Ok(Moved::none());
    };
    let lease = &first.transition.lease;
    match lease.guard(tx).await {
        Ok(()) => {}
        Err(Error::Fenced { .. }) => {
            return Ok(Moved {
                outcomes: vec![TransitionOutcome::Fenced; moves.len()],
                changes: Vec::new(),
            });
        }
        Err(error) => return Err(error),
    }
    let entries = entries(moves);
    let all = json(&entries)?;
    let before: Vec<LandedRow> = tx.statement(&LANDED).bind(&all).all().await?;
    let (moved, now) = move_all(tx, lease, &all).await?;
    let after: Vec<LandedRow> = tx.statement(&LANDED).bind(&all).all().await?;
    let mut changes = Vec::new();
    if moved > 0 {
        let ords = |rows: &[LandedRow]| -> HashSet<i64> {
            let landed = rows.iter().filter(|row| row.landed);
            landed.map(|row| row.ord).collect()
        };
        let (earlier, landed) = (ords(&before), ords(&after));
        let moved: Vec<&Entry<'_>> = entries
            .iter()
            .filter(|entry| {
                let ord = entry.ord as i64;
                landed.contains(&ord) && !earlier.contains(&ord)
            })
            .collect();
        remember(tx, &json(&moved)?, now, moved.iter().copied()).await?;
        changes = moved.into_iter().map(Entry::change).collect();
    }
    let mut outcomes = vec![TransitionOutcome::Changed; moves.len()];
    for row in after {
        let at = usize::try_from(row.ord).ok();
        let outcome_of = at.and_then(|at| outcomes.get_mut(at));
        *outcome_of.ok_or(Error::Corrupt("saga order"))? = outcome(row.landed, false);
    }
    Ok(Moved { outcomes, changes })
}

/// Of a transition in whose way something was.
pub(super) fn outcome(landed: bool, fenced: bool) -> TransitionOutcome {
    match (fenced, landed) {
        (true, _) => TransitionOutcome::Fenced,
        (false, true) => TransitionOutcome::Committed(None),
        (false, false) => TransitionOutcome::Changed,
    }
}

/// Moves those that are as they were read; says how many, and the time that they have.
async fn move_all(tx: &mut Tx, lease: &Lease, entries: &str) -> Result<(u64, Timestamp), Error> {
    let now = Timestamp::now();
    let moving = tx
        .statement(&MOVE)
        .bind(entries)
        .bind(&lease.name)
        .bind(lease.fence.0)
        .bind(lease.owner.to_string())
        .bind(now.0);
    Ok((moving.execute().await?, now))
}

/// What belongs to those that were moved: their history and their keys.
async fn remember<'e>(
    tx: &mut Tx,
    json: &str,
    now: Timestamp,
    moved: impl Iterator<Item = &'e Entry<'e>>,
) -> Result<(), Error> {
    tx.statement(&REMEMBER)
        .bind(json)
        .bind(now.0)
        .execute()
        .await?;
    let released = moved.filter(|entry| entry.release);
    let released: Vec<&str> = released.map(|entry| entry.id).collect();
    if !released.is_empty() {
        release_keys(tx, &released).await?;
    }
    Ok(())
}

fn entries<'a>(moves: &[&'a Pending]) -> Vec<Entry<'a>> {
    moves.iter().copied().enumerate().map(Entry::new).collect()
}

// === impl Moved ===

impl Moved {
    fn none() -> Self {
        Self {
            outcomes: Vec::new(),
            changes: Vec::new(),
        }
    }
}

// === impl Pending ===

impl Pending {
    pub(super) fn change(&self) -> Change {
        let transition = &self.transition;
        let etag = etag(&transition.state, transition.expected + 1);
        Change::new(SAGA_TOPIC, &transition.id, Op::Upsert, etag)
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    fn new((ord, pending): (usize, &'a Pending)) -> Self {
        let transition = &pending.transition;
        Self {
            ord,
            id: &transition.id,
            expected: transition.expected,
            held_by: &transition.held_by,
            owner: &transition.owner,
            wake_us: transition.wake_us,
            state: &transition.state,
            machine: &transition.machine,
            write_id: &pending.write_id,
            records: &transition.records,
            etag: etag(&transition.state, transition.expected + 1),
            ended: transition.ended,
            release: transition.release,
            progress: transition.progress,
        }
    }
}

impl Entry<'_> {
    fn change(&self) -> Change {
        Change::new(SAGA_TOPIC, self.id, Op::Upsert, self.etag.as_str())
    }
}

pub(super) fn etag(state: &str, version: i64) -> String {
    format!("{state}/{version}")
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Corrupt("saga"))
}
