//! The write pipeline: writes of one kind that arrive together are committed as one transaction, each with its own outcome.
//!
//! There is one committer per kind. While it waits for a commit, further writes gather; the next batch takes them all. So a
//! lone writer waits for nobody, and under load the cost of a commit is shared. Errors are sorted (see [`Error`]): refused
//! data is bisected until the culprit is alone, contention is tried again, and after a lost answer the same write ids are sent
//! again, which finds out what happened instead of guessing. A write whose caller has gone before its batch begins is dropped,
//! so that a database which was away for a while is not met by a backlog that nobody waits for. When a batch fails because the
//! database is away, those that gathered meanwhile fail with it: each would only wait as long again.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use steadfast_types::Backoff;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{Error, Outcome};

/// Writes waiting at most; one more is [`Error::Overloaded`].
const QUEUE: usize = 16_384;

/// Bytes waiting at most, roughly, with those being committed; one more write is [`Error::Overloaded`].
const QUEUE_BYTES: u32 = 128 << 20;

/// Writes in one transaction at most.
const BATCH: usize = 512;

/// How often others are let go first before a transaction begins, at most.
const GATHERINGS: usize = 8;

/// Bytes in one transaction at most, roughly.
const BATCH_BYTES: usize = 4 << 20;

/// How a kind of write is committed.
pub(crate) trait Kind: Send + Sync + 'static {
    /// One logical write. It is kept until its outcome is known.
    type Input: Send + Sync + 'static;
    /// What its caller gets.
    type Output: Send + 'static;

    /// A metric label.
    const NAME: &'static str;

    /// Two writes with equal keys are never in one batch.
    fn conflict_key(input: &Self::Input) -> Option<String>;

    /// Roughly how many bytes it is.
    fn size(input: &Self::Input) -> usize;

    /// Commits the inputs as one transaction and returns their outcomes in the same order. Called again with the same inputs
    /// after an unknown outcome, it must return what the first call did.
    fn commit(
        &self,
        inputs: &[Arc<Self::Input>],
    ) -> impl Future<Output = Result<Vec<Result<Self::Output, Error>>, Error>> + Send;
}

type Reply<K> = oneshot::Sender<Result<<K as Kind>::Output, Error>>;

struct Job<K: Kind> {
    input: Arc<K::Input>,
    reply: Reply<K>,
    /// Its part of [`QUEUE_BYTES`], given back when its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// The entrance to one kind's committer. The committer ends when all entrances are dropped.
pub(crate) struct Pipeline<K: Kind> {
    queue: mpsc::Sender<Job<K>>,
    room: Arc<Semaphore>,
}

// === impl Pipeline ===

impl<K: Kind> Pipeline<K> {
    /// Starts the committer. A write is tried again for at most `deadline`.
    pub(crate) fn start(kind: K, deadline: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(kind, jobs, deadline));
        Self {
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
        }
    }

    /// Commits one write, together with whatever else is waiting. If the caller goes away the write may still be committed.
    pub(crate) async fn submit(&self, input: K::Input) -> Result<K::Output, Error> {
        let bytes =
            u32::try_from(K::size(&input)).map_or(QUEUE_BYTES, |size| size.min(QUEUE_BYTES));
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Error::Overloaded)?;
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            input: Arc::new(input),
            reply,
            _room: room,
        };
        self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        outcome.await.map_err(|_| Error::Closed)?
    }
}

async fn run<K: Kind>(kind: K, mut jobs: mpsc::Receiver<Job<K>>, deadline: Duration) {
    let mut waiting: Vec<Job<K>> = Vec::new();
    loop {
        if waiting.is_empty() {
            if jobs.recv_many(&mut waiting, BATCH).await == 0 {
                return;
            }
        } else {
            // Those held back by a conflict come first; take what else is there without waiting.
            take_ready(&mut jobs, &mut waiting);
        }
        gather(&mut jobs, &mut waiting).await;
        let (batch, rest) = select(waiting);
        waiting = rest;
        if batch.is_empty() {
            continue;
        }
        metrics::histogram!(crate::metric::BATCH_SIZE, "kind" => K::NAME)
            .record(batch.len() as f64);
        if let Some(away) = settle(&kind, batch, Instant::now() + deadline).await {
            while let Ok(job) = jobs.try_recv() {
                waiting.push(job);
            }
            if !waiting.is_empty() {
                refuse(std::mem::take(&mut waiting), away);
            }
        }
    }
}

/// Lets whoever is ready to write come along: those that the last commit answered, and calls whose bytes have arrived. It costs a
/// lone writer nothing, and spares the database half-empty transactions under load.
async fn gather<K: Kind>(jobs: &mut mpsc::Receiver<Job<K>>, waiting: &mut Vec<Job<K>>) {
    for _ in 0..GATHERINGS {
        tokio::task::yield_now().await;
        if take_ready(jobs, waiting) == 0 {
            return;
        }
    }
}

/// Takes what is there without waiting, and says how much.
fn take_ready<K: Kind>(jobs: &mut mpsc::Receiver<Job<K>>, waiting: &mut Vec<Job<K>>) -> usize {
    let before = waiting.len();
    while waiting.len() < BATCH {
        let Ok(job) = jobs.try_recv() else { break };
        waiting.push(job);
    }
    waiting.len() - before
}

/// Takes as many as fit, in order, holding back the second of two with one key and dropping those whose callers have gone.
fn select<K: Kind>(waiting: Vec<Job<K>>) -> (Vec<Job<K>>, Vec<Job<K>>) {
    let mut keys = HashSet::new();
    let (mut batch, mut rest) = (Vec::with_capacity(waiting.len()), Vec::new());
    let mut bytes = 0;
    for job in waiting {
        if job.reply.is_closed() {
            continue;
        }
        let key = K::conflict_key(&job.input);
        bytes += K::size(&job.input);
        let fits = batch.is_empty() || (batch.len() < BATCH && bytes <= BATCH_BYTES);
        if fits && key.is_none_or(|key| keys.insert(key)) {
            batch.push(job);
        } else {
            rest.push(job);
        }
    }
    (batch, rest)
}

/// Brings every write of the batch to an outcome. If the database turned out to be away, returns what to tell those that were
/// not sent yet.
async fn settle<K: Kind>(kind: &K, batch: Vec<Job<K>>, deadline: Instant) -> Option<Error> {
    let mut away = None;
    // Once an answer was lost, a later refusal no longer means that nothing was written.
    let mut unknown = false;
    let mut stack = vec![batch];
    while let Some(batch) = stack.pop() {
        let inputs: Vec<_> = batch.iter().map(|job| Arc::clone(&job.input)).collect();
        match commit(kind, &inputs, deadline, &mut unknown).await {
            Ok(outcomes) => {
                for (job, outcome) in batch.into_iter().zip(outcomes) {
                    // A caller that went away does not need its outcome.
                    drop(job.reply.send(outcome));
                }
            }
            Err(Error::Data { statement, source }) if batch.len() > 1 => {
                tracing::warn!(
                    kind = K::NAME,
                    writes = batch.len(),
                    statement,
                    error = %source,
                    "a batch was refused; looking for the write at fault"
                );
                let mut left = batch;
                let right = left.split_off(left.len() / 2);
                stack.push(right);
                stack.push(left);
            }
            Err(error) => {
                away = error.before_sending().or(away);
                refuse(batch, error);
            }
        }
    }
    away
}

/// Commits, trying again while that can help.
async fn commit<K: Kind>(
    kind: &K,
    inputs: &[Arc<K::Input>],
    deadline: Instant,
    unknown: &mut bool,
) -> Result<Vec<Result<K::Output, Error>>, Error> {
    let mut waits = Backoff {
        initial: Duration::from_millis(5),
        ..Backoff::RECONNECT
    }
    .waits();
    loop {
        let error = match tokio::time::timeout_at(deadline, kind.commit(inputs)).await {
            Ok(Ok(outcomes)) => return Ok(outcomes),
            Ok(Err(error)) => error,
            Err(_) => Error::silent(),
        };
        let again = match &error {
            Error::Contended { .. } => true,
            Error::Unavailable { outcome, .. } => {
                *unknown |= *outcome == Outcome::Unknown;
                *unknown
            }
            Error::NotWritable { .. } => *unknown,
            _ => false,
        };
        let wait = waits.next().unwrap_or(deadline - Instant::now());
        if !again || Instant::now() + wait >= deadline {
            return Err(if *unknown {
                error.after_lost_answer()
            } else {
                error
            });
        }
        tracing::debug!(kind = K::NAME, error = %error, "trying a batch again");
        tokio::time::sleep(wait).await;
    }
}

/// Gives one error to all writes of a batch. The driver's error cannot be copied: it is logged once here, and each caller gets
/// its kind.
fn refuse<K: Kind>(batch: Vec<Job<K>>, error: Error) {
    tracing::warn!(
        kind = K::NAME,
        writes = batch.len(),
        error = &error as &dyn std::error::Error,
        "writes were refused"
    );
    for job in batch {
        drop(job.reply.send(Err(error.kind_only())));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use tokio::sync::Notify;

    use super::*;

    /// Answers each commit as it was told to, waits for a sign before each, and keeps what it was asked to commit.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<Error>>,
        asked: Mutex<Vec<Vec<usize>>>,
        begun: Notify,
        go: Notify,
    }

    impl Kind for Arc<Scripted> {
        type Input = usize;
        type Output = usize;

        const NAME: &'static str = "scripted";

        fn conflict_key(_: &usize) -> Option<String> {
            None
        }

        fn size(input: &usize) -> usize {
            *input
        }

        async fn commit(&self, inputs: &[Arc<usize>]) -> Result<Vec<Result<usize, Error>>, Error> {
            self.begun.notify_one();
            self.go.notified().await;
            let inputs: Vec<usize> = inputs.iter().map(|input| **input).collect();
            let lock = |poisoned: PoisonError<_>| poisoned.into_inner();
            self.asked.lock().unwrap_or_else(lock).push(inputs.clone());
            let answer = self
                .answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match answer {
                Some(error) => {
                    self.go.notify_one();
                    Err(error)
                }
                None => Ok(inputs.into_iter().map(Ok).collect()),
            }
        }
    }

    fn scripted(answers: impl IntoIterator<Item = Error>) -> Arc<Scripted> {
        Arc::new(Scripted {
            answers: Mutex::new(answers.into_iter().collect()),
            ..Scripted::default()
        })
    }

    fn source() -> sqlx::Error {
        sqlx::Error::PoolTimedOut
    }

    fn lost() -> Error {
        Error::Unavailable {
            outcome: Outcome::Unknown,
            statement: "",
            source: source(),
        }
    }

    #[tokio::test]
    async fn after_a_lost_answer_no_refusal_says_that_nothing_was_written() {
        let refusals: [fn() -> Error; 2] = [
            || Error::Contended {
                statement: "",
                source: source(),
            },
            || Error::NotWritable {
                reason: "it is read-only",
                source: source(),
            },
        ];
        for refusal in refusals {
            let kind = scripted(std::iter::once(lost()).chain((0..1_000).map(|_| refusal())));
            kind.go.notify_one();
            let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_millis(100));
            let outcome = pipeline.submit(1).await;
            assert!(
                matches!(
                    outcome,
                    Err(Error::Unavailable {
                        outcome: Outcome::Unknown,
                        ..
                    })
                ),
                "{outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_write_whose_caller_has_gone_is_not_begun() {
        let kind = scripted([]);
        let pipeline = Arc::new(Pipeline::start(Arc::clone(&kind), Duration::from_secs(5)));
        let mut first = Box::pin(pipeline.submit(1));
        assert!(futures::poll!(&mut first).is_pending());
        kind.begun.notified().await;
        let mut gone = Box::pin(pipeline.submit(2));
        assert!(futures::poll!(&mut gone).is_pending());
        let mut last = Box::pin(pipeline.submit(3));
        assert!(futures::poll!(&mut last).is_pending());
        drop(gone);
        kind.go.notify_one();
        assert!(first.await.is_ok());
        kind.begun.notified().await;
        kind.go.notify_one();
        assert!(last.await.is_ok());
        let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*asked, [[1], [3]]);
    }

    #[tokio::test]
    async fn what_gathers_while_the_database_is_away_fails_with_the_batch() {
        let kind = scripted([Error::Unavailable {
            outcome: Outcome::NotWritten,
            statement: "",
            source: source(),
        }]);
        let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
        let mut first = Box::pin(pipeline.submit(1));
        assert!(futures::poll!(&mut first).is_pending());
        kind.begun.notified().await;
        let mut second = Box::pin(pipeline.submit(2));
        assert!(futures::poll!(&mut second).is_pending());
        kind.go.notify_one();
        for outcome in [first.await, second.await] {
            assert!(
                matches!(
                    outcome,
                    Err(Error::Unavailable {
                        outcome: Outcome::NotWritten,
                        ..
                    })
                ),
                "{outcome:?}"
            );
        }
        let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*asked, [[1]]);
    }

    #[tokio::test]
    async fn a_commit_that_is_never_answered_is_given_up_at_the_deadline() {
        let kind = scripted([]);
        let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_millis(50));
        let outcome = pipeline.submit(1).await;
        assert!(
            matches!(
                outcome,
                Err(Error::Unavailable {
                    outcome: Outcome::Unknown,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes() {
        let kind = scripted([]);
        let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
        let half = QUEUE_BYTES as usize / 2;
        let (first, refused) = tokio::join!(
            biased;
            async { tokio::join!(pipeline.submit(half), pipeline.submit(half)) },
            async {
                let refused = pipeline.submit(1).await;
                // Each of the two is a transaction of its own.
                for _ in 0..2 {
                    kind.begun.notified().await;
                    kind.go.notify_one();
                }
                refused
            },
        );
        assert!(matches!(refused, Err(Error::Overloaded)), "{refused:?}");
        assert!(first.0.is_ok() && first.1.is_ok());
        kind.go.notify_one();
        assert!(pipeline.submit(1).await.is_ok(), "room was given back");
    }
}
