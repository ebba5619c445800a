//! The write pipeline: writes of one kind that arrive together are committed as one transaction, each with its own outcome.
//!
//! There is one committer per kind. While it waits for a commit, further writes gather; the next batch takes them all. So a
//! lone writer waits for nobody, and under load the cost of a commit is shared. A kind whose writers compute much between two
//! writes may have a second transaction under way, so that database and writers need not take turns. Errors are sorted (see [`Error`]): refused
//! data is bisected until the culprit is alone, contention is tried again, and after a lost answer the same write ids are sent
//! again, which finds out what happened instead of guessing. A write whose caller has gone before its batch begins is dropped,
//! so that a database which was away for a while is not met by a backlog that nobody waits for. When a batch fails because the
//! database is away, those that gathered meanwhile fail with it: each would only wait as long again.

#[cfg(test)]
mod tests;

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt as _};
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

/// So many writes must wait before a transaction begins beside another one: fewer cost less together with those to come.
const LANE: usize = 16;

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

    /// Two writes with equal keys are never in one batch, nor under way at once.
    fn conflict_key(input: &Self::Input) -> Option<String>;

    /// How many transactions of this kind may be under way at once.
    fn lanes(&self) -> usize {
        1
    }

    /// Roughly how many bytes it is.
    fn size(input: &Self::Input) -> usize;

    /// Commits the inputs as one transaction and returns their outcomes in the same order. Called again with the same inputs
    /// after an unknown outcome, it must return what the first call did.
    fn commit(
        &self,
        inputs: &[Arc<Self::Input>],
    ) -> impl Future<Output = Result<Vec<Result<Self::Output, Error>>, Error>> + Send;

    /// How long to stay awake for the answer to a write that came alone, if such answers come within that.
    fn busy_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// A write came alone, after one that was alone, and is about to be sent.
    fn came_alone(&self) {}

    /// Whether batches that have ended left something to tell to others than their writers.
    fn has_news(&self) -> bool {
        false
    }

    /// Tells it. That is put off until the next transaction is on its way, or nothing else is ready to run.
    fn tell_news(&self) {}
}

type Reply<K> = oneshot::Sender<Result<<K as Kind>::Output, Error>>;

struct Job<K: Kind> {
    input: Arc<K::Input>,
    reply: Reply<K>,
    /// Its part of [`QUEUE_BYTES`], given back when its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// A batch all of whose writes have an outcome.
struct Settled {
    /// What others may touch again.
    keys: Vec<String>,
    /// The database turned out to be away: what to tell those that were not sent yet.
    away: Option<Error>,
    /// How long it took, if it was a write that came alone.
    alone_for: Option<Duration>,
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
    let lanes = kind.lanes();
    let (kind, mut is_open) = (&kind, true);
    let mut waiting: Vec<Job<K>> = Vec::new();
    let mut under_way = FuturesUnordered::new();
    let mut busy = HashSet::new();
    let mut last_size = 0;
    // As long as the last write that came alone took.
    let mut alone_for = Duration::ZERO;
    loop {
        let mut is_alone = false;
        if under_way.is_empty() && waiting.is_empty() {
            let taken = tokio::select! {
                biased;
                taken = jobs.recv_many(&mut waiting, BATCH), if is_open => taken,
                () = tokio::task::yield_now(), if kind.has_news() => {
                    kind.tell_news();
                    continue;
                }
                else => 0,
            };
            if taken == 0 {
                kind.tell_news();
                return;
            }
            is_alone = last_size <= 1 && waiting.len() == 1;
        } else {
            // Those held back by a conflict come first; take what else is there without waiting.
            take_ready(&mut jobs, &mut waiting);
        }
        if under_way.is_empty() || (under_way.len() < lanes && waiting.len() >= LANE) {
            if is_alone {
                kind.came_alone();
            } else {
                kind.tell_news();
                gather(&mut jobs, &mut waiting).await;
            }
            let (batch, rest) = select::<K>(waiting, &mut busy);
            waiting = rest;
            if !batch.is_empty() {
                last_size = batch.len();
                metrics::histogram!(crate::metric::BATCH_SIZE, "kind" => K::NAME)
                    .record(batch.len() as f64);
                let awake = is_alone.then(|| kind.busy_wait()).map(|longest| {
                    if alone_for < longest {
                        longest
                    } else {
                        Duration::ZERO
                    }
                });
                under_way.push(settle(kind, batch, Instant::now() + deadline, awake));
            } else if under_way.is_empty() {
                continue;
            }
        }
        let may_begin = is_open && under_way.len() < lanes && waiting.len() < BATCH;
        let limit = BATCH.saturating_sub(waiting.len());
        tokio::select! {
            biased;
            Some(settled) = under_way.next() => {
                for key in settled.keys {
                    busy.remove(&key);
                }
                alone_for = settled.alone_for.unwrap_or(alone_for);
                if let Some(away) = settled.away {
                    while let Ok(job) = jobs.try_recv() {
                        waiting.push(job);
                    }
                    if !waiting.is_empty() {
                        refuse(std::mem::take(&mut waiting), away);
                    }
                }
            }
            taken = jobs.recv_many(&mut waiting, limit), if may_begin => is_open = taken > 0,
            // What is under way was sent.
            () = std::future::ready(()), if kind.has_news() => kind.tell_news(),
        }
    }
}

/// Lets whoever is ready to write come along: those that the last commit answered, and calls whose bytes have arrived. It spares the
/// database half-empty transactions under load. A writer that was alone before, and came alone, need not wait for whatever else the
/// process has to do meanwhile.
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

/// Takes as many as fit, in order, holding back those whose key is `busy` and dropping those whose callers have gone. The keys of
/// those taken are busy then.
fn select<K: Kind>(waiting: Vec<Job<K>>, busy: &mut HashSet<String>) -> (Vec<Job<K>>, Vec<Job<K>>) {
    let (mut batch, mut rest) = (Vec::with_capacity(waiting.len()), Vec::new());
    let mut bytes = 0;
    for job in waiting {
        if job.reply.is_closed() {
            continue;
        }
        let key = K::conflict_key(&job.input);
        bytes += K::size(&job.input);
        let fits = batch.is_empty() || (batch.len() < BATCH && bytes <= BATCH_BYTES);
        if fits && key.is_none_or(|key| busy.insert(key)) {
            batch.push(job);
        } else {
            rest.push(job);
        }
    }
    (batch, rest)
}

/// Brings every write of the batch to an outcome. `awake` is for a write that came alone: how long not to sleep.
async fn settle<K: Kind>(
    kind: &K,
    batch: Vec<Job<K>>,
    deadline: Instant,
    awake: Option<Duration>,
) -> Settled {
    let began = std::time::Instant::now();
    let keys = batch.iter().filter_map(|job| K::conflict_key(&job.input));
    let (keys, mut away) = (keys.collect(), None);
    // Once an answer was lost, a later refusal no longer means that nothing was written.
    let mut unknown = false;
    let mut stack = vec![batch];
    while let Some(batch) = stack.pop() {
        let inputs: Vec<_> = batch.iter().map(|job| Arc::clone(&job.input)).collect();
        let committing = commit(kind, &inputs, deadline, &mut unknown);
        match attended(committing, awake.unwrap_or_default()).await {
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
    Settled {
        keys,
        away,
        alone_for: awake.map(|_| began.elapsed()),
    }
}

/// Waits, for so long without letting the thread sleep. Whatever else is ready to run goes first.
async fn attended<T>(waited: impl Future<Output = T>, awake: Duration) -> T {
    if awake.is_zero() {
        return waited.await;
    }
    let mut waited = std::pin::pin!(waited);
    let began = std::time::Instant::now();
    let attention = async {
        while began.elapsed() < awake {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = &mut waited => return done,
        () = attention => {}
    }
    waited.await
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
        // Boxed, as it is large and would be moved from hand to hand.
        let committing = Box::pin(kind.commit(inputs));
        let error = match tokio::time::timeout_at(deadline, committing).await {
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
