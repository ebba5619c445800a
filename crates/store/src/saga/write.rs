//! Starts and transitions of sagas, committed in batches: those that arrive together are one transaction and one revision.
//!
//! Both are under way all the time when sagas come and go, and each transaction holds the lock of the log until it is on disk: in
//! batches of their own they would wait for each other.

use std::{collections::HashSet, sync::Arc, time::Duration};

use sqlx::FromRow;
use steadfast_types::{Mark, Timestamp};
use uuid::Uuid;

use super::{
    NewSaga, SagaPlanRow, StartedSaga, TransitionOutcome, start,
    transition::{self, Moved, Pending},
};
use crate::{
    Change, Error,
    cpu_latency::CpuLatency,
    engine::{Db, Tx, statements},
    log,
    own::{LaterCommits, Tail},
    pipeline::Kind,
};

statements! {
    /// The whole batch in one call, which is one transaction. One row that has landed means that all of it did.
    COMMIT = "saga_commit" => [
        postgres {
            "SELECT ord, landed, fenced, at_us, head, head_mark, added FROM saga_commit($1, $2, $3, $4, $5, $6, \
                 $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, \
                 $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40)"
        }
    ];
}

/// What the pipeline of sagas carries.
pub(crate) enum SagaWrite {
    Start(Box<NewSaga>),
    Move(Box<Pending>),
}

/// What became of it.
pub(crate) enum SagaWritten {
    Started(Box<StartedSaga>),
    Moved(TransitionOutcome),
}

/// Commits batches of them.
pub(crate) struct SagaWrites {
    pub(crate) db: Db,
    /// Who is told, once the next transaction is on its way: a saga's next step waits for this one.
    pub(crate) own: LaterCommits,
    /// See [`crate::Options::busy_wait`].
    pub(crate) busy_wait: Duration,
    /// Whom to tell of commits that come alone.
    pub(crate) cpu_latency: Arc<CpuLatency>,
}

/// A batch by what it is of, each in its order.
#[derive(Default)]
struct Batch<'a> {
    moves: Vec<&'a Pending>,
    starts: Vec<&'a NewSaga>,
}

/// Outcomes in the order of a batch.
struct Written {
    moved: Vec<TransitionOutcome>,
    started: Vec<Result<StartedSaga, Error>>,
}

/// The revision that a batch becomes.
struct LogEntry {
    mark: Mark,
    write_id: String,
    changes: Vec<Change>,
    encoded: String,
}

#[derive(FromRow)]
struct Row {
    ord: Option<i64>,
    landed: bool,
    fenced: bool,
    at_us: Option<i64>,
    head: Option<i64>,
    head_mark: Option<i64>,
    /// A JSON array of ids.
    added: Option<String>,
}

impl Kind for SagaWrites {
    type Input = SagaWrite;
    type Output = SagaWritten;

    const NAME: &'static str = "saga";

    fn conflict_key(input: &SagaWrite) -> Option<String> {
        match input {
            SagaWrite::Start(new) => new.row.request_key.clone(),
            SagaWrite::Move(pending) => Some(pending.transition.id.clone()),
        }
    }

    fn lanes(&self) -> usize {
        match self.db {
            Db::Postgres { .. } => 2,
            // There is one writer.
            Db::Sqlite { .. } => 1,
        }
    }

    fn size(input: &SagaWrite) -> usize {
        match input {
            SagaWrite::Start(new) => start::size(new),
            SagaWrite::Move(pending) => {
                pending.transition.machine.len() + pending.transition.records.len() + 256
            }
        }
    }

    fn busy_wait(&self) -> Duration {
        self.busy_wait
    }

    fn came_alone(&self) {
        self.cpu_latency.came_alone();
    }

    fn has_news(&self) -> bool {
        self.own.has_news()
    }

    fn tell_news(&self) {
        self.own.tell_now();
    }

    async fn commit(
        &self,
        inputs: &[Arc<SagaWrite>],
    ) -> Result<Vec<Result<SagaWritten, Error>>, Error> {
        let mut batch = Batch::default();
        for input in inputs {
            match &**input {
                SagaWrite::Start(new) => batch.starts.push(new),
                SagaWrite::Move(pending) => batch.moves.push(pending),
            }
        }
        let written = match self.db {
            Db::Postgres { .. } => self.commit_postgres(&batch).await?,
            Db::Sqlite { .. } => Box::pin(self.commit_sqlite(&batch)).await?,
        };
        let (mut moved, mut started) = (written.moved.into_iter(), written.started.into_iter());
        let outcomes = inputs.iter().map(|input| match **input {
            SagaWrite::Start(_) => started
                .next()
                .map(|one| one.map(|one| SagaWritten::Started(Box::new(one)))),
            SagaWrite::Move(_) => moved.next().map(|one| Ok(SagaWritten::Moved(one))),
        });
        let outcomes: Option<Vec<_>> = outcomes.collect();
        outcomes.ok_or(Error::Corrupt("saga outcomes"))
    }
}

impl SagaWrites {
    /// A saga with a concurrency key needs decisions on the way, and so a transaction of its own; everything else is one call.
    async fn commit_postgres(&self, batch: &Batch<'_>) -> Result<Written, Error> {
        let is_keyed = |new: &&NewSaga| new.row.concurrency_key.is_some();
        if !batch.starts.iter().any(is_keyed) {
            return self.commit_free(batch).await;
        }
        let started = Box::pin(self.start_each(&batch.starts)).await?;
        if batch.moves.is_empty() {
            return Ok(Written {
                moved: Vec::new(),
                started,
            });
        }
        let moves = Batch {
            moves: batch.moves.clone(),
            starts: Vec::new(),
        };
        // The starts are there by now: sent again they find themselves, but nobody may be told that nothing was written.
        let written = Box::pin(self.commit_free(&moves)).await;
        let moved = written.map_err(Error::after_lost_answer)?.moved;
        Ok(Written { moved, started })
    }

    async fn commit_free(&self, batch: &Batch<'_>) -> Result<Written, Error> {
        let log = LogEntry::of(batch);
        let alone = match (&batch.moves[..], &batch.starts[..]) {
            ([pending], []) if !pending.transition.release => {
                transition::commit_one(&self.db, pending, log.mark, &log.write_id, &log.encoded)
                    .await?
            }
            ([], [new]) => {
                start::start_one(&self.db, new, log.mark, &log.write_id, &log.encoded).await?
            }
            _ => None,
        };
        if let Some(tail) = alone {
            self.own.tell(tail, log.mark, log.changes);
            return Ok(batch.whole(tail.time));
        }
        // What is larger than the common case, or rarer, is boxed, so that the common case is not moved about with room for it.
        let rows = Box::pin(self.commit_many(batch, &log)).await?;
        if let [
            Row {
                landed: true,
                ord: None,
                at_us: Some(at_us),
                head,
                head_mark,
                ..
            },
        ] = rows[..]
        {
            match Tail::of(head, head_mark, Some(at_us)) {
                Some(tail) => self.own.tell(tail, log.mark, log.changes),
                None => self.own.untold(),
            }
            return Ok(batch.whole(Timestamp(at_us)));
        }
        self.own.untold();
        Box::pin(self.in_part(batch, rows)).await
    }

    /// What became of each, when something was in the way of some.
    async fn in_part(&self, batch: &Batch<'_>, rows: Vec<Row>) -> Result<Written, Error> {
        let mut moved = vec![TransitionOutcome::Changed; batch.moves.len()];
        let mut started = Vec::with_capacity(batch.starts.len());
        for row in rows {
            if let Some(ord) = row.ord {
                let outcome = usize::try_from(ord)
                    .ok()
                    .and_then(|ord| moved.get_mut(ord))
                    .ok_or(Error::Corrupt("saga order"))?;
                *outcome = transition::outcome(row.landed, row.fenced);
                continue;
            }
            let added = row
                .added
                .as_deref()
                .ok_or(Error::Corrupt("started sagas"))?;
            let added: HashSet<String> =
                serde_json::from_str(added).map_err(|_| Error::Corrupt("started sagas"))?;
            let time = Timestamp(row.at_us.ok_or(Error::Corrupt("started sagas"))?);
            for new in &batch.starts {
                started.push(if added.contains(&new.row.id) {
                    Ok(StartedSaga::now(new, time))
                } else {
                    start::found(&self.db, new).await
                });
            }
        }
        Ok(Written { moved, started })
    }

    async fn commit_many(&self, batch: &Batch<'_>, log: &LogEntry) -> Result<Vec<Row>, Error> {
        fn column<'a, I, T>(of: &[&'a I], value: impl Fn(&'a I) -> T) -> Vec<T> {
            of.iter().map(|one| value(one)).collect()
        }
        let (moves, starts) = (&batch.moves[..], &batch.starts[..]);
        let lease = moves.first().map(|pending| &pending.transition.lease);
        let mut planned = HashSet::new();
        let plans = starts.iter().map(|new| &new.plan);
        let plans: Vec<&SagaPlanRow> = plans.filter(|plan| planned.insert(&plan.hash)).collect();
        self.db
            .write(&COMMIT)
            .bind(log.mark.to_sql())
            .bind(&log.write_id)
            .bind(&log.encoded)
            .bind(lease.map(|lease| lease.name.as_str()))
            .bind(lease.map(|lease| lease.fence.0))
            .bind(lease.map(|lease| lease.owner.to_string()))
            .bind_column(column(moves, |one| one.transition.id.as_str()))
            .bind_column(column(moves, |one| one.transition.expected))
            .bind_column(column(moves, |one| one.transition.held_by.as_str()))
            .bind_column(column(moves, |one| one.transition.owner.as_str()))
            .bind_column(column(moves, |one| one.transition.wake_us))
            .bind_column(column(moves, |one| one.transition.state.as_str()))
            .bind_column(column(moves, |one| one.transition.machine.as_str()))
            .bind_column(column(moves, |one| one.write_id.as_str()))
            .bind_column(column(moves, |one| one.transition.records.as_str()))
            .bind_column(column(moves, |one| one.transition.ended))
            .bind_column(column(moves, |one| one.transition.release))
            .bind_column(column(moves, |one| one.transition.progress))
            .bind_column(column(&plans, |plan| plan.hash.as_str()))
            .bind_column(column(&plans, |plan| plan.document.as_str()))
            .bind_column(column(starts, |new| new.row.id.as_str()))
            .bind_column(column(starts, |new| new.row.kind.as_str()))
            .bind_column(column(starts, |new| new.row.definition_name.as_str()))
            .bind_column(column(starts, |new| new.row.definition_version))
            .bind_column(column(starts, |new| new.row.plan_hash.as_str()))
            .bind_column(column(starts, |new| new.row.deployment_id.as_str()))
            .bind_column(column(starts, |new| new.row.triggered_by.as_str()))
            .bind_column(column(starts, |new| new.row.labels.as_str()))
            .bind_column(column(starts, |new| new.row.inputs.as_str()))
            .bind_column(column(starts, |new| new.row.context.as_str()))
            .bind_column(column(starts, |new| new.row.priority))
            .bind_column(column(starts, |new| new.row.request_key.as_deref()))
            .bind_column(column(starts, |new| new.row.body_hash.as_str()))
            .bind_column(column(starts, |new| new.row.deadline_us))
            .bind_column(column(starts, |new| new.free.state.as_str()))
            .bind_column(column(starts, |new| new.free.machine.as_str()))
            .bind_column(column(starts, |new| new.row.last_write.as_str()))
            .bind_column(column(starts, |new| new.free.owner.as_str()))
            .bind_column(column(starts, |new| new.free.wake_us))
            .bind_column(column(starts, |new| new.free.records.as_str()))
            .all()
            .await
    }

    async fn commit_sqlite(&self, batch: &Batch<'_>) -> Result<Written, Error> {
        let mut tx = self.db.begin().await?;
        let moved = match transition::move_whole(&mut tx, &batch.moves).await? {
            Some(moved) => moved,
            None => {
                tx.rollback().await?;
                tx = self.db.begin().await?;
                transition::move_possible(&mut tx, &batch.moves).await?
            }
        };
        let Moved {
            outcomes,
            mut changes,
        } = moved;
        let (started, added) = start::start_all(&mut tx, &batch.starts).await?;
        changes.extend(added);
        if changes.is_empty() {
            // At most a plan was written, which no saga needs.
            if started.is_empty() {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
        } else {
            self.append(tx, changes).await?;
        }
        Ok(Written {
            moved: outcomes,
            started,
        })
    }

    /// Starts in one transaction, one after the other.
    async fn start_each(
        &self,
        starts: &[&NewSaga],
    ) -> Result<Vec<Result<StartedSaga, Error>>, Error> {
        let mut tx = self.db.begin().await?;
        let (started, changes) = start::start_all(&mut tx, starts).await?;
        if changes.is_empty() {
            tx.rollback().await?;
        } else {
            self.append(tx, changes).await?;
        }
        Ok(started)
    }

    /// The last step of a transaction: its revision of the log.
    async fn append(&self, mut tx: Tx, changes: Vec<Change>) -> Result<(), Error> {
        let (mark, tail) = log::append_told(&mut tx, &changes).await?;
        tx.commit().await?;
        match tail {
            Some(tail) => self.own.tell(tail, mark, changes),
            None => self.own.untold(),
        }
        Ok(())
    }
}

// === impl Batch ===

impl Batch<'_> {
    /// What everybody hears if all of it landed.
    fn whole(&self, time: Timestamp) -> Written {
        let started = self
            .starts
            .iter()
            .map(|new| Ok(StartedSaga::now(new, time)));
        Written {
            moved: vec![TransitionOutcome::Committed(Some(time)); self.moves.len()],
            started: started.collect(),
        }
    }
}

// === impl LogEntry ===

impl LogEntry {
    fn of(batch: &Batch<'_>) -> Self {
        let moves = batch.moves.iter().map(|pending| pending.change());
        let starts = batch
            .starts
            .iter()
            .map(|new| start::change(&new.row.id, &new.free.state));
        let changes: Vec<Change> = moves.chain(starts).collect();
        Self {
            mark: Mark::random(),
            write_id: Uuid::now_v7().to_string(),
            encoded: log::encode_changes(&changes),
            changes,
        }
    }
}
