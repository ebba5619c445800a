//! One subscriber: a cursor that is pulled along the log.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use steadfast_api::watch::v1 as api;
use steadfast_store::{Read, Store};
use steadfast_types::{Backoff, Cursor};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    End, Filters, Position, Revision,
    hub::{Inner, StreamPermit},
    metric,
    revision::{BatchEncoder, message_of},
    ring::Found,
};

/// Revisions looked at in one go; between two goes other tasks get their turn.
const STEP_REVISIONS: usize = 512;

/// Encoded bytes in one batch, beyond the change that exceeds it: far below the default limit on messages, 4 MiB.
const BATCH_BYTES: usize = 256 << 10;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After this cursor.
    After(Cursor),
    /// With the oldest revision in the log.
    Earliest,
    /// After what this replica knows at the moment.
    Now,
}

/// What to do when the history that the subscriber knows is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    /// Say so with [`Event::Reset`] and go on from the head.
    Reset,
    /// End the stream.
    Fail,
}

/// How often to tell the cursor while nothing else is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// After this long without another event.
    Every(Duration),
    /// Whenever it moved: for followers in the same process.
    AtOnce,
}

/// What a subscriber wants.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    /// Which changes.
    pub filters: Filters,
    /// From where.
    pub start: Start,
    /// When the history is gone.
    pub on_lost: OnLost,
    /// Progress.
    pub pace: Pace,
    /// The subscriber's own incarnation; empty if it has none.
    pub incarnation: String,
}

/// Why a subscriber must reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// What it missed is no longer in the log.
    Compacted,
    /// The history is another one.
    StoreChanged,
}

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Event {
    /// The stream is open; always first.
    Opened {
        /// The newest revision.
        head: Cursor,
        /// The oldest cursor that can be resumed from.
        compacted: Cursor,
    },
    /// Changes.
    Batch(Batch),
    /// Nothing at or below it will come later.
    Progress(Cursor),
    /// Reload everything, then go on from `head`.
    Reset {
        /// Why.
        reason: ResetReason,
        /// The stream goes on after it.
        head: Cursor,
        /// The oldest cursor that can be resumed from.
        compacted: Cursor,
    },
}

/// Changes, encoded as the answer that carries them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Everything at or below it that matches was delivered.
    pub cursor: Cursor,
    /// How many changes.
    pub changes: usize,
    response: Bytes,
}

/// An open stream. It holds no buffer: [`Subscription::next`] takes what is there when it is called.
#[derive(Debug)]
pub struct Subscription {
    inner: Arc<Inner>,
    _permit: StreamPermit,
    position: watch::Receiver<Position>,
    options: SubscribeOptions,
    cursor: Cursor,
    /// Changes of the revision after the cursor that were delivered already, with `more`.
    delivered_of_next: usize,
    epoch: u64,
    /// Told at the first call.
    greeting: Option<Position>,
    lost: Option<ResetReason>,
    /// Revisions read from the log that are yet to be looked at, while the cursor is off the ring.
    page: VecDeque<Arc<Revision>>,
    parked: bool,
    next_progress: Instant,
    /// The cursor moved since it was last told.
    untold: bool,
    /// The last progress of a draining replica was sent.
    farewell: bool,
}

// === impl Subscription ===

impl Subscription {
    pub(crate) fn new(
        inner: Arc<Inner>,
        permit: StreamPermit,
        position: watch::Receiver<Position>,
        now: Position,
        cursor: Cursor,
        lost: Option<ResetReason>,
        options: SubscribeOptions,
    ) -> Self {
        Self {
            inner,
            _permit: permit,
            position,
            options,
            cursor,
            delivered_of_next: 0,
            epoch: now.epoch,
            greeting: Some(now),
            lost,
            page: VecDeque::new(),
            parked: false,
            next_progress: Instant::now(),
            untold: false,
            farewell: false,
        }
    }

    /// Everything at or below it that matches was delivered.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Waits for the next event. It may be dropped while waiting and called again; nothing is lost.
    ///
    /// # Errors
    /// Why the stream has ended.
    pub async fn next(&mut self) -> Result<Event, End> {
        if let Some(now) = self.greeting.take() {
            self.told();
            return Ok(Event::Opened {
                head: now.applied,
                compacted: now.compacted,
            });
        }
        loop {
            if let Some(reason) = self.lost.take() {
                return self.reset(reason);
            }
            let now = *self.position.borrow_and_update();
            if now.epoch != self.epoch {
                self.lost = Some(ResetReason::StoreChanged);
                continue;
            }
            if self.inner.draining.is_cancelled() {
                // The cursor first, once; then the end.
                if std::mem::replace(&mut self.farewell, true) {
                    return Err(End::Draining);
                }
                return Ok(self.progress());
            }
            if let Some(event) = self.step().await {
                return Ok(event);
            }
            if self.lost.is_some() {
                continue;
            }
            if self.untold && self.options.pace == Pace::AtOnce && self.is_level() {
                return Ok(self.progress());
            }
            if !self.is_level() {
                if self.is_due() {
                    return Ok(self.progress());
                }
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(event) = self.wait().await {
                return Ok(event);
            }
        }
    }

    /// Looks at what comes after the cursor, wherever it is to be found. `None` if nothing of it matches.
    async fn step(&mut self) -> Option<Event> {
        if self.page.is_empty() {
            match self.inner.after(self.cursor, STEP_REVISIONS) {
                // Ahead: the database has the cursor, this replica's memory does not yet.
                Found::Level | Found::Ahead => self.set_parked(false),
                Found::Next(revisions) => {
                    self.set_parked(false);
                    return self.deliver(&mut revisions.into());
                }
                Found::Diverged => self.lost = Some(ResetReason::StoreChanged),
                Found::Behind => {
                    self.set_parked(true);
                    // Rare, and large: every stream would carry it along.
                    Box::pin(self.read_page()).await;
                }
            }
        }
        let mut page = std::mem::take(&mut self.page);
        let event = self.deliver(&mut page);
        self.page = page;
        event
    }

    /// Reads the log after the cursor, waiting for the database as long as it takes: the subscriber is behind anyway. Returns
    /// without a page when it is time to say something else.
    async fn read_page(&mut self) {
        let limit = self.inner.options.page_revisions;
        let draining = self.inner.draining.clone();
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            let store: &Store = &self.inner.store;
            let read = async {
                let turn = self.inner.replays.acquire();
                let _turn = match self.options.pace {
                    Pace::Every(_) => timeout_at(self.next_progress, turn).await.ok()?,
                    Pace::AtOnce => turn.await,
                };
                Some(store.read_log(self.cursor, limit).await)
            };
            let Some(Some(read)) = draining.run_until_cancelled(read).await else {
                return;
            };
            match read {
                Ok(Read::Page(page)) => {
                    let store_id = self.cursor.store_id;
                    self.page = page
                        .entries
                        .into_iter()
                        .map(|entry| Arc::new(Revision::encode(store_id, &entry)))
                        .collect();
                    return;
                }
                Ok(Read::Compacted { .. }) => {
                    self.lost = Some(ResetReason::Compacted);
                    return;
                }
                Ok(Read::Diverged { .. }) => {
                    self.lost = Some(ResetReason::StoreChanged);
                    return;
                }
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a parked stream cannot read the log"
                    );
                    let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                    let waited = draining.run_until_cancelled(tokio::time::sleep(wait)).await;
                    if waited.is_none() || self.is_due() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes revisions from the front and moves the cursor past them, until a batch is full. What does not fit stays.
    fn deliver(&mut self, revisions: &mut VecDeque<Arc<Revision>>) -> Option<Event> {
        if let Some(event) = self.deliver_shared(revisions) {
            return Some(event);
        }
        let mut batch = BatchEncoder::default();
        while let Some(revision) = revisions.front() {
            let own = self.is_own(revision);
            let mut index = self.delivered_of_next;
            while let Some(change) = revision.changes.get(index) {
                if self.options.filters.keeps(&change.topic, &change.key) {
                    if batch.count() > 0 && batch.len() + change.encoded_len() > BATCH_BYTES {
                        let more = index > 0;
                        self.delivered_of_next = index;
                        return Some(self.batch(batch, more));
                    }
                    batch.push(change, own);
                }
                index += 1;
            }
            self.delivered_of_next = 0;
            self.cursor = revision.cursor(self.cursor.store_id);
            self.untold = true;
            revisions.pop_front();
        }
        (batch.count() > 0).then(|| self.batch(batch, false))
    }

    /// The common case: one whole revision for a subscriber who wants everything. Its bytes are shared by all.
    fn deliver_shared(&mut self, revisions: &mut VecDeque<Arc<Revision>>) -> Option<Event> {
        let [revision] = revisions.make_contiguous() else {
            return None;
        };
        let whole = self.delivered_of_next == 0
            && self.options.filters.keeps_all()
            && !self.is_own(revision)
            && !revision.changes.is_empty()
            && revision.response().len() <= BATCH_BYTES;
        if !whole {
            return None;
        }
        self.cursor = revision.cursor(self.cursor.store_id);
        let batch = Batch {
            cursor: self.cursor,
            changes: revision.changes.len(),
            response: revision.response().clone(),
        };
        revisions.clear();
        self.told();
        metrics::counter!(metric::DELIVERED).increment(batch.changes as u64);
        Some(Event::Batch(batch))
    }

    fn is_own(&self, revision: &Revision) -> bool {
        !self.options.incarnation.is_empty() && *revision.origin == *self.options.incarnation
    }

    fn batch(&mut self, batch: BatchEncoder, more: bool) -> Event {
        let changes = batch.count();
        metrics::counter!(metric::DELIVERED).increment(changes as u64);
        self.told();
        Event::Batch(Batch {
            cursor: self.cursor,
            changes,
            response: batch.finish(self.cursor, more),
        })
    }

    /// Waits until something may have changed; after a silent while, tells the cursor.
    async fn wait(&mut self) -> Option<Event> {
        let draining = self.inner.draining.clone();
        let silent = async {
            match self.options.pace {
                Pace::Every(_) => tokio::time::sleep_until(self.next_progress).await,
                Pace::AtOnce => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender lives in the hub, which this holds: it cannot close.
            _ = self.position.changed() => None,
            () = draining.cancelled() => None,
            () = silent => Some(self.progress()),
        }
    }

    fn is_level(&self) -> bool {
        self.page.is_empty() && self.position.borrow().applied.revision <= self.cursor.revision
    }

    /// Whether the subscriber has heard nothing for as long as it wants to. A long way through changes that it does not want, or
    /// a database that is away, must not look like a dead connection.
    fn is_due(&self) -> bool {
        matches!(self.options.pace, Pace::Every(_)) && Instant::now() >= self.next_progress
    }

    fn progress(&mut self) -> Event {
        self.told();
        Event::Progress(self.cursor)
    }

    fn told(&mut self) {
        self.untold = false;
        if let Pace::Every(interval) = self.options.pace {
            self.next_progress = Instant::now() + interval;
        }
    }

    fn reset(&mut self, reason: ResetReason) -> Result<Event, End> {
        let now = *self.position.borrow_and_update();
        if self.options.on_lost == OnLost::Fail {
            return Err(match reason {
                ResetReason::StoreChanged => End::StoreChanged,
                ResetReason::Compacted => End::Compacted {
                    compacted: now.compacted.revision,
                    head: now.head,
                },
            });
        }
        self.epoch = now.epoch;
        self.cursor = now.applied;
        self.delivered_of_next = 0;
        self.page.clear();
        self.set_parked(false);
        self.told();
        Ok(Event::Reset {
            reason,
            head: now.applied,
            compacted: now.compacted,
        })
    }

    fn set_parked(&mut self, parked: bool) {
        if self.parked != parked {
            self.parked = parked;
            if parked {
                metrics::gauge!(metric::PARKED).increment(1);
            } else {
                metrics::gauge!(metric::PARKED).decrement(1);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.set_parked(false);
    }
}

// === impl Event ===

impl Event {
    /// The encoded `WatchResponse`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use api::watch_response::{self as response, Event as E};
        let event = match self {
            Self::Batch(batch) => return batch.response.clone(),
            Self::Opened { head, compacted } => E::Opened(response::Opened {
                head: Some(message_of(*head)),
                compacted: Some(message_of(*compacted)),
            }),
            Self::Progress(cursor) => E::Progress(response::Progress {
                cursor: Some(message_of(*cursor)),
            }),
            Self::Reset {
                reason,
                head,
                compacted,
            } => E::Reset(response::Reset {
                reason: match reason {
                    ResetReason::Compacted => api::ResetReason::Compacted,
                    ResetReason::StoreChanged => api::ResetReason::StoreChanged,
                }
                .into(),
                head: Some(message_of(*head)),
                compacted: Some(message_of(*compacted)),
            }),
        };
        api::WatchResponse { event: Some(event) }
            .encode_to_vec()
            .into()
    }
}
