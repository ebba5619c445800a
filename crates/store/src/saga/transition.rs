//! Transitions of sagas in hand, committed in batches: one transaction and one revision for all that arrive together.

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{Mark, Timestamp};
use uuid::Uuid;

use super::{SAGA_TOPIC, claim::release_keys};
use crate::{
    Change, Error, Lease, Op, Store,
    engine::{Db, Tx, statements},
    log,
    own::{OwnCommits, Tail},
    pipeline::Kind,
};

statements! {
    /// The whole batch in one call, which is one transaction. A row without `ord` means that all of it landed.
    COMMIT = "saga_commit" => [
        postgres {
            "SELECT ord, landed, fenced, at_us, head, head_mark FROM saga_commit($1, $2, $3, $4, $5, $6, \
                 $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
        }
    ];
    /// The same for one that releases no key, if nothing is in its way. NULL if something is.
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
            "SELECT e.value ->> 'ord' AS ord, s.last_write = e.value ->> 'write_id' AS landed, \
                 false AS fenced, NULL AS at_us, NULL AS head, NULL AS head_mark \
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

/// Commits batches of transitions.
pub(crate) struct SagaTransitions {
    pub(crate) db: Db,
    /// Who is told.
    pub(crate) own: OwnCommits,
}

/// On its way through the pipeline.
pub(crate) struct Pending {
    write_id: String,
    transition: SagaTransition,
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

/// The revision that a batch becomes.
struct LogEntry {
    mark: Mark,
    write_id: String,
    changes: Vec<Change>,
    encoded: String,
}

#[derive(FromRow)]
struct LandedRow {
    ord: Option<i64>,
    landed: bool,
    fenced: bool,
    at_us: Option<i64>,
    head: Option<i64>,
    head_mark: Option<i64>,
}

/// Of one transition.
#[derive(FromRow)]
struct OneRow {
    now_us: Option<i64>,
    head: Option<i64>,
    head_mark: Option<i64>,
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
        self.saga_transitions().submit(pending).await
    }
}

impl Kind for SagaTransitions {
    type Input = Pending;
    type Output = TransitionOutcome;

    const NAME: &'static str = "saga";

    fn conflict_key(input: &Pending) -> Option<String> {
        Some(input.transition.id.clone())
    }

    fn lanes(&self) -> usize {
        match self.db {
            Db::Postgres { .. } => 2,
            // There is one writer.
            Db::Sqlite { .. } => 1,
        }
    }

    fn size(input: &Pending) -> usize {
        input.transition.machine.len() + input.transition.records.len() + 256
    }

    async fn commit(
        &self,
        inputs: &[Arc<Pending>],
    ) -> Result<Vec<Result<TransitionOutcome, Error>>, Error> {
        let Some(first) = inputs.first() else {
            return Ok(Vec::new());
        };
        let lease = &first.transition.lease;
        let rows: Vec<LandedRow> = match &self.db {
            Db::Postgres { .. } => {
                let log = LogEntry::of(inputs);
                if let [alone] = inputs
                    && !alone.transition.release
                    && let Some(tail) = self.commit_one(lease, alone, &log).await?
                {
                    self.tell(tail, log);
                    return Ok(committed(inputs, Some(tail.time)));
                }
                let rows = self.commit_postgres(lease, inputs, &log).await?;
                if let [all @ LandedRow { ord: None, .. }] = &rows[..] {
                    match Tail::of(all.head, all.head_mark, all.at_us) {
                        Some(tail) => self.tell(tail, log),
                        None => self.own.untold(),
                    }
                    return Ok(committed(inputs, all.at_us.map(Timestamp)));
                }
                rows
            }
            Db::Sqlite { .. } => {
                let entries: Vec<Entry<'_>> = inputs.iter().enumerate().map(Entry::new).collect();
                if let Some((now, mark, tail)) = commit_whole(&self.db, lease, &entries).await? {
                    match tail {
                        Some(tail) => {
                            let changes = entries.iter().map(Entry::change).collect();
                            self.own.tell(tail, [(mark, "", changes)]);
                        }
                        None => self.own.untold(),
                    }
                    return Ok(committed(inputs, Some(now)));
                }
                let mut tx = self.db.begin().await?;
                let rows = commit_sqlite(&mut tx, lease, &entries).await?;
                tx.commit().await?;
                rows
            }
        };
        self.own.untold();
        let mut outcomes = vec![TransitionOutcome::Changed; inputs.len()];
        for row in rows {
            let ord = row.ord.and_then(|ord| usize::try_from(ord).ok());
            let outcome = ord.and_then(|ord| outcomes.get_mut(ord));
            let outcome = outcome.ok_or(Error::Corrupt("saga order"))?;
            *outcome = if row.fenced {
                TransitionOutcome::Fenced
            } else if row.landed {
                TransitionOutcome::Committed(None)
            } else {
                TransitionOutcome::Changed
            };
        }
        Ok(outcomes.into_iter().map(Ok).collect())
    }
}

impl SagaTransitions {
    fn tell(&self, tail: Tail, log: LogEntry) {
        self.own.tell(tail, [(log.mark, "", log.changes)]);
    }

    /// Where it landed, unless something is in the way.
    async fn commit_one(
        &self,
        lease: &Lease,
        pending: &Pending,
        log: &LogEntry,
    ) -> Result<Option<Tail>, Error> {
        let transition = &pending.transition;
        let row: OneRow = self
            .db
            .write(&COMMIT_ONE)
            .bind(&lease.name)
            .bind(lease.fence.0)
            .bind(lease.owner.to_string())
            .bind(log.mark.to_sql())
            .bind(&log.write_id)
            .bind(&log.encoded)
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
        Ok(Tail::of(row.head, row.head_mark, row.now_us))
    }

    async fn commit_postgres(
        &self,
        lease: &Lease,
        inputs: &[Arc<Pending>],
        log: &LogEntry,
    ) -> Result<Vec<LandedRow>, Error> {
        fn column<'a, T>(
            inputs: &'a [Arc<Pending>],
            of: impl Fn(&'a SagaTransition) -> T,
        ) -> Vec<T> {
            inputs.iter().map(|input| of(&input.transition)).collect()
        }
        let write_ids: Vec<&str> = inputs.iter().map(|input| input.write_id.as_str()).collect();
        self.db
            .write(&COMMIT)
            .bind(&lease.name)
            .bind(lease.fence.0)
            .bind(lease.owner.to_string())
            .bind(log.mark.to_sql())
            .bind(&log.write_id)
            .bind(&log.encoded)
            .bind_column(column(inputs, |transition| transition.id.as_str()))
            .bind_column(column(inputs, |transition| transition.expected))
            .bind_column(column(inputs, |transition| transition.held_by.as_str()))
            .bind_column(column(inputs, |transition| transition.owner.as_str()))
            .bind_column(column(inputs, |transition| transition.wake_us))
            .bind_column(column(inputs, |transition| transition.state.as_str()))
            .bind_column(column(inputs, |transition| transition.machine.as_str()))
            .bind_column(write_ids)
            .bind_column(column(inputs, |transition| transition.records.as_str()))
            .bind_column(column(inputs, |transition| transition.ended))
            .bind_column(column(inputs, |transition| transition.release))
            .bind_column(column(inputs, |transition| transition.progress))
            .all()
            .await
    }
}

/// The common case in as few statements as there can be: nothing is in the way of any entry. Otherwise nothing is written.
async fn commit_whole(
    db: &Db,
    lease: &Lease,
    entries: &[Entry<'_>],
) -> Result<Option<(Timestamp, Mark, Option<Tail>)>, Error> {
    let all = json(&entries)?;
    let mut tx = db.begin().await?;
    let (moved, now) = move_all(&mut tx, lease, &all).await?;
    if moved != entries.len() as u64 {
        tx.rollback().await?;
        return Ok(None);
    }
    let (mark, tail) = remember(&mut tx, &all, now, entries.iter()).await?;
    tx.commit().await?;
    Ok(Some((now, mark, tail)))
}

/// The same steps as the function `saga_commit` takes on PostgreSQL.
async fn commit_sqlite(
    tx: &mut Tx,
    lease: &Lease,
    entries: &[Entry<'_>],
) -> Result<Vec<LandedRow>, Error> {
    match lease.guard(tx).await {
        Ok(()) => {}
        Err(Error::Fenced { .. }) => {
            let fenced = |entry: &Entry<'_>| LandedRow {
                ord: Some(entry.ord as i64),
                landed: false,
                fenced: true,
                at_us: None,
                head: None,
                head_mark: None,
            };
            return Ok(entries.iter().map(fenced).collect());
        }
        Err(error) => return Err(error),
    }
    let all = json(&entries)?;
    let before: Vec<LandedRow> = tx.statement(&LANDED).bind(&all).all().await?;
    let (moved, now) = move_all(tx, lease, &all).await?;
    let after: Vec<LandedRow> = tx.statement(&LANDED).bind(&all).all().await?;
    if moved > 0 {
        let ords = |rows: &[LandedRow]| -> HashSet<i64> {
            let landed = rows.iter().filter(|row| row.landed);
            landed.filter_map(|row| row.ord).collect()
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
    }
    Ok(after)
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

/// What belongs to those that were moved: their history, their keys and the log.
async fn remember<'e>(
    tx: &mut Tx,
    json: &str,
    now: Timestamp,
    moved: impl Iterator<Item = &'e Entry<'e>> + Clone,
) -> Result<(Mark, Option<Tail>), Error> {
    tx.statement(&REMEMBER)
        .bind(json)
        .bind(now.0)
        .execute()
        .await?;
    let released = moved.clone().filter(|entry| entry.release);
    let released: Vec<&str> = released.map(|entry| entry.id).collect();
    if !released.is_empty() {
        release_keys(tx, &released).await?;
    }
    let changes: Vec<Change> = moved.map(Entry::change).collect();
    log::append_told(tx, &changes).await
}

// === impl LogEntry ===

impl LogEntry {
    fn of(inputs: &[Arc<Pending>]) -> Self {
        let change = |input: &Arc<Pending>| {
            let transition = &input.transition;
            let etag = etag(&transition.state, transition.expected + 1);
            Change::new(SAGA_TOPIC, &transition.id, Op::Upsert, etag)
        };
        let changes: Vec<Change> = inputs.iter().map(change).collect();
        Self {
            mark: Mark::random(),
            write_id: Uuid::now_v7().to_string(),
            encoded: log::encode_changes(&changes),
            changes,
        }
    }
}

/// What everybody hears if all of it landed.
fn committed(
    inputs: &[Arc<Pending>],
    time: Option<Timestamp>,
) -> Vec<Result<TransitionOutcome, Error>> {
    let one = || Ok(TransitionOutcome::Committed(time));
    inputs.iter().map(|_| one()).collect()
}

impl<'a> Entry<'a> {
    fn new((ord, pending): (usize, &'a Arc<Pending>)) -> Self {
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
