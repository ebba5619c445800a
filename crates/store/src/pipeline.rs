//! The write pipeline: writes of one kind that arrive together are committed as one transaction, each with its own outcome.
//!
//! There is one committer per kind. While it waits for a commit, further writes gather; the next batch takes them all. So a
//! lone writer waits for nobody, and under load the cost of a commit is shared. Errors are sorted (see [`Error`]): refused
//! data is bisected until the culprit is alone, contention is tried again, and after a lost answer the same write ids are sent
//! again, which finds out what happened instead of guessing.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use steadfast_types::Backoff;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{Error, Outcome};

/// Writes waiting at most; one more is [`Error::Overloaded`].
const QUEUE: usize = 16_384;

/// Writes in one transaction at most.
const BATCH: usize = 512;

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
}

/// The entrance to one kind's committer. The committer ends when all entrances are dropped.
pub(crate) struct Pipeline<K: Kind> {
    queue: mpsc::Sender<Job<K>>,
}

// === impl Pipeline ===

impl<K: Kind> Pipeline<K> {
    /// Starts the committer. A write is tried again for at most `deadline`.
    pub(crate) fn start(kind: K, deadline: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(kind, jobs, deadline));
        Self { queue }
    }

    /// Commits one write, together with whatever else is waiting. If the caller goes away the write may still be committed.
    pub(crate) async fn submit(&self, input: K::Input) -> Result<K::Output, Error> {
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            input: Arc::new(input),
            reply,
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
            while waiting.len() < BATCH {
                let Ok(job) = jobs.try_recv() else { break };
                waiting.push(job);
            }
        }
        let (batch, rest) = select(waiting);
        waiting = rest;
        metrics::histogram!(crate::metric::BATCH_SIZE, "kind" => K::NAME)
            .record(batch.len() as f64);
        settle(&kind, batch, Instant::now() + deadline).await;
    }
}

/// Takes as many as fit, in order, holding back the second of two with one key.
fn select<K: Kind>(waiting: Vec<Job<K>>) -> (Vec<Job<K>>, Vec<Job<K>>) {
    let mut keys = HashSet::new();
    let (mut batch, mut rest) = (Vec::with_capacity(waiting.len()), Vec::new());
    let mut bytes = 0;
    for job in waiting {
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

/// Brings every write of the batch to an outcome.
async fn settle<K: Kind>(kind: &K, batch: Vec<Job<K>>, deadline: Instant) {
    let mut stack = vec![batch];
    while let Some(batch) = stack.pop() {
        let inputs: Vec<_> = batch.iter().map(|job| Arc::clone(&job.input)).collect();
        match commit(kind, &inputs, deadline).await {
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
            Err(error) => refuse(batch, error),
        }
    }
}

/// Commits, trying again while that can help.
async fn commit<K: Kind>(
    kind: &K,
    inputs: &[Arc<K::Input>],
    deadline: Instant,
) -> Result<Vec<Result<K::Output, Error>>, Error> {
    let mut waits = Backoff {
        initial: Duration::from_millis(5),
        ..Backoff::RECONNECT
    }
    .waits();
    // Once an answer was lost, a later refusal to connect no longer means that nothing was written.
    let mut unknown = false;
    loop {
        let error = match kind.commit(inputs).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) => error,
        };
        let again = match &error {
            Error::Contended { .. } => true,
            Error::Unavailable { outcome, .. } => {
                unknown |= *outcome == Outcome::Unknown;
                unknown
            }
            _ => false,
        };
        let wait = waits.next().unwrap_or(deadline - Instant::now());
        if !again || Instant::now() + wait >= deadline {
            return Err(match error {
                Error::Unavailable {
                    statement, source, ..
                } if unknown => Error::Unavailable {
                    outcome: Outcome::Unknown,
                    statement,
                    source,
                },
                other => other,
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
