//! The hub: the ring, the tailer that fills it, and the entrance for subscribers.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::Counter;
use steadfast_store::{Head, Located, Store, Wakeups};
use steadfast_types::{Cursor, Revision, StoreId};
use tokio::sync::{MutexGuard, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, OnLost, Pace, Start, SubscribeOptions, Subscription,
    batch::SharedBatches,
    metric,
    replay::{self, Replay, ReplayPage},
    ring::{Found, Limits, Ring},
    subscription::ResetReason,
    tailer,
};

/// Limits of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Revisions held in memory.
    pub ring_revisions: usize,
    /// Bytes held in memory, roughly.
    pub ring_bytes: usize,
    /// How often the log is read without a wake-up.
    pub poll_interval: Duration,
    /// Revisions read at a time.
    pub page_revisions: u32,
    /// Streams at most.
    pub max_streams: usize,
}

/// Where this replica's memory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The newest revision in memory.
    pub applied: Cursor,
    /// The newest revision that the database was seen to have.
    pub head: Revision,
    /// The oldest cursor that can be resumed from.
    pub compacted: Cursor,
    /// Changes each time that the history turns out to be another one.
    pub epoch: u64,
    /// The database did not answer the last time.
    pub degraded: bool,
    /// All streams end.
    pub draining: bool,
}

/// Shared by the tailer and all subscribers. Clones share it.
#[derive(Debug, Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) options: Options,
    pub(crate) ring: RwLock<Ring>,
    pub(crate) position: watch::Sender<Position>,
    pub(crate) draining: CancellationToken,
    pub(crate) replay: Replay,
    pub(crate) batches: SharedBatches,
    /// Changes handed to streams.
    pub(crate) delivered: Counter,
    streams: AtomicUsize,
}

/// Whether a stream can go on from where it wants to.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It can; what comes next, if that was read.
    GoesOn(Option<Arc<ReplayPage>>),
    Lost(ResetReason),
}

/// Counts a caller's open stream until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    inner: Arc<Inner>,
    counted: bool,
}

// === impl Hub ===

impl Hub {
    /// Reads where the log stands and starts to follow it, until `stop`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn start(
        store: Store,
        wakeups: &Wakeups,
        options: Options,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, steadfast_store::Error> {
        let head = store.head().await?;
        let limits = Limits {
            revisions: options.ring_revisions,
            bytes: options.ring_bytes,
        };
        let hub = Self {
            inner: Arc::new(Inner {
                store,
                options,
                ring: RwLock::new(Ring::new(limits, head.cursor)),
                position: watch::Sender::new(Position {
                    applied: head.cursor,
                    head: head.cursor.revision,
                    compacted: head.compacted,
                    epoch: 0,
                    degraded: false,
                    draining: false,
                }),
                draining: CancellationToken::new(),
                replay: Replay::default(),
                batches: SharedBatches::default(),
                delivered: metrics::counter!(metric::DELIVERED),
                streams: AtomicUsize::new(0),
            }),
        };
        let tailer = tailer::run(Arc::clone(&hub.inner), wakeups.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(tailer));
        Ok(hub)
    }

    /// Where this replica's memory stands, now and as it moves.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Position> {
        self.inner.position.subscribe()
    }

    /// The history that is followed.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.inner.position.borrow().applied.store_id
    }

    /// Callers' open streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.inner.streams.load(Ordering::Relaxed)
    }

    /// Ends all streams, each after a last progress message, and takes no new ones.
    pub fn drain(&self) {
        self.inner.draining.cancel();
        // Streams look at this alone: a token is a lock, which all of them would take with every change.
        self.inner
            .position
            .send_modify(|position| position.draining = true);
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// If the cursor is of another history or too old and the subscriber wants an error, if it has to be looked up and the
    /// database does not answer, if there are too many streams, or while draining.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, Error> {
        let permit = self.inner.admit(options.pace)?;
        // Marked as seen before the cursor is judged, so that a reset in between is still noticed by the stream.
        let position = self.inner.position.subscribe();
        let now = *position.borrow();
        let (cursor, judged) = match options.start {
            Start::Now => (now.applied, Judged::GoesOn(None)),
            Start::Earliest => (now.compacted, Judged::GoesOn(None)),
            Start::After(cursor) => (cursor, self.judge(cursor).await?),
        };
        let (page, lost) = match (judged, options.on_lost) {
            (Judged::GoesOn(page), _) => (page, None),
            (Judged::Lost(reason), OnLost::Reset) => (None, Some(reason)),
            (Judged::Lost(ResetReason::StoreChanged), OnLost::Fail) => {
                return Err(Error::StoreChanged);
            }
            (Judged::Lost(ResetReason::Compacted), OnLost::Fail) => {
                // As it is known by now: that it was compacted may have been learnt by judging.
                let known = *position.borrow();
                return Err(Error::Compacted {
                    compacted: known.compacted.revision,
                    head: known.head,
                });
            }
        };
        let subscription = Subscription::new(Arc::clone(&self.inner), permit, now, cursor, options);
        Ok(subscription.beginning(position, page, lost))
    }

    /// Whether a stream can go on after the cursor. The database is asked only where memory cannot tell, and where the log has to be
    /// read anyway, that tells.
    async fn judge(&self, cursor: Cursor) -> Result<Judged, Error> {
        match self.inner.after(cursor, 1) {
            Found::Level | Found::Next(_) => Ok(Judged::GoesOn(None)),
            // Rare, and large: every stream's future would have room for it.
            found => Box::pin(self.ask(cursor, matches!(found, Found::Behind))).await,
        }
    }

    /// The same, of the database.
    async fn ask(&self, cursor: Cursor, is_behind: bool) -> Result<Judged, Error> {
        let inner = &self.inner;
        if is_behind {
            let read = async {
                let turn = inner.replay.turn(cursor).await;
                inner.read_page(turn, cursor).await
            };
            let read = inner.draining.run_until_cancelled(read).await;
            return Ok(read.ok_or(Error::Draining)??);
        }
        Ok(match Box::pin(inner.store.locate(cursor)).await? {
            Located::Here => Judged::GoesOn(None),
            Located::Compacted => Judged::Lost(ResetReason::Compacted),
            Located::Diverged => Judged::Lost(ResetReason::StoreChanged),
        })
    }
}

// === impl Inner ===

impl Inner {
    pub(crate) fn after(&self, cursor: Cursor, limit: usize) -> Found {
        self.ring
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .after(cursor, limit)
    }

    /// The page of the log after a cursor that is off the ring.
    pub(crate) async fn read_page(
        &self,
        turn: MutexGuard<'_, ()>,
        cursor: Cursor,
    ) -> Result<Judged, steadfast_store::Error> {
        let compacted = self.position.borrow().compacted.revision;
        let limit = self.options.page_revisions;
        let reading = self
            .replay
            .page(turn, &self.store, cursor, compacted, limit);
        Ok(match reading.await? {
            replay::Found::Page(page) => Judged::GoesOn(Some(page)),
            replay::Found::Diverged => Judged::Lost(ResetReason::StoreChanged),
            replay::Found::Compacted(compacted) => {
                self.compacted_at(compacted);
                Judged::Lost(ResetReason::Compacted)
            }
        })
    }

    /// Takes note of where the log begins, which the tailer may learn later, before a stream is told.
    fn compacted_at(&self, compacted: Cursor) {
        self.position.send_if_modified(|position| {
            let is_same = compacted.store_id == position.compacted.store_id;
            if is_same && compacted.revision > position.compacted.revision {
                position.compacted = compacted;
            }
            // Nobody waits for it.
            false
        });
    }

    /// Replaces the ring by an empty one that goes on at `head`. The position changes under the same lock, so that a subscriber
    /// which finds the new ring also finds the new position.
    pub(crate) fn restart_at(&self, head: &Head, another_history: bool) {
        let limits = Limits {
            revisions: self.options.ring_revisions,
            bytes: self.options.ring_bytes,
        };
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *ring = Ring::new(limits, head.cursor);
        self.replay.clear();
        self.batches.clear();
        self.position.send_modify(|position| {
            position.applied = head.cursor;
            position.head = head.cursor.revision;
            position.compacted = head.compacted;
            if another_history {
                position.epoch += 1;
            }
        });
    }

    /// Lets a stream in. Followers in this process are few, and must not take places from callers.
    fn admit(self: &Arc<Self>, pace: Pace) -> Result<StreamPermit, Error> {
        if self.draining.is_cancelled() {
            return Err(Error::Draining);
        }
        let counted = matches!(pace, Pace::Every(_));
        if !counted {
            return Ok(StreamPermit {
                inner: Arc::clone(self),
                counted,
            });
        }
        let limit = self.options.max_streams;
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < limit).then_some(open + 1)
            })
            .map_err(|_| Error::TooManyStreams { limit })?;
        metrics::gauge!(metric::SUBSCRIBERS).increment(1);
        Ok(StreamPermit {
            inner: Arc::clone(self),
            counted,
        })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if self.counted {
            self.inner.streams.fetch_sub(1, Ordering::Relaxed);
            metrics::gauge!(metric::SUBSCRIBERS).decrement(1);
        }
    }
}
