//! One subscriber: a cursor that is pulled along the log.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use steadfast_api::watch::v1 as api;
use steadfast_types::{Backoff, Cursor, Revision as Number};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout_at},
};

use crate::{
    End, Filters, Position, Revision, Values,
    batch::{Assembled, Reader, STEP, Wants},
    frame::frame,
    hub::{Inner, Judged, StreamPermit},
    metric,
    replay::ReplayPage,
    revision::message_of,
    ring::Found,
};

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
    /// Leaves out what that incarnation caused, instead of marking it.
    pub suppress_own: bool,
    /// Where the values come from that go with the changes, if they are wanted. A change comes when they reflect it.
    pub values: Option<Arc<dyn Values>>,
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

/// Changes, framed as the answer that carries them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Everything at or below it that matches was delivered.
    pub cursor: Cursor,
    /// How many changes.
    pub changes: usize,
    frame: Bytes,
}

/// An open stream. It holds no buffer: [`Subscription::next`] takes what is there when it is called.
#[derive(Debug)]
pub struct Subscription {
    inner: Arc<Inner>,
    _permit: StreamPermit,
    position: watch::Receiver<Position>,
    wants: Arc<Wants>,
    on_lost: OnLost,
    pace: Pace,
    incarnation: String,
    suppress_own: bool,
    /// How far the values have come that go with the changes.
    values: Option<watch::Receiver<Cursor>>,
    cursor: Cursor,
    /// Changes of the revision after the cursor that were delivered already, with `more`.
    delivered_of_next: usize,
    epoch: u64,
    /// Told at the first call.
    greeting: Option<Position>,
    lost: Option<ResetReason>,
    /// What was read of the log, while the cursor is off the ring.
    page: Option<Arc<ReplayPage>>,
    parked: bool,
    next_progress: Instant,
    /// Wakes at `next_progress` or before: it is set anew when it has, not with every event, which would cost two turns at the
    /// runtime's timer.
    silence: Pin<Box<Sleep>>,
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
        now: Position,
        cursor: Cursor,
        options: SubscribeOptions,
    ) -> Self {
        Self {
            position: inner.position.subscribe(),
            inner,
            _permit: permit,
            on_lost: options.on_lost,
            pace: options.pace,
            incarnation: options.incarnation,
            suppress_own: options.suppress_own,
            values: options.values.as_ref().map(|values| values.reached()),
            wants: Arc::new(Wants {
                filters: options.filters,
                values: options.values,
            }),
            cursor,
            delivered_of_next: 0,
            epoch: now.epoch,
            greeting: Some(now),
            lost: None,
            page: None,
            parked: false,
            next_progress: Instant::now(),
            silence: Box::pin(sleep_until(Instant::now())),
            untold: false,
            farewell: false,
        }
    }

    /// Begins as it was judged: with the position that this was done by, with what was read for it, or with a reset.
    pub(crate) fn beginning(
        mut self,
        position: watch::Receiver<Position>,
        page: Option<Arc<ReplayPage>>,
        lost: Option<ResetReason>,
    ) -> Self {
        self.set_parked(page.is_some());
        (self.position, self.page, self.lost) = (position, page, lost);
        self
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
            if now.draining {
                // The cursor first, once; then the end.
                if std::mem::replace(&mut self.farewell, true) {
                    return Err(End::Draining);
                }
                return Ok(self.progress());
            }
            if !self.is_level() {
                if let Some(event) = self.step().await {
                    return Ok(event);
                }
                if self.lost.is_some() {
                    continue;
                }
            }
            if self.untold && self.pace == Pace::AtOnce && self.is_level() {
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
        if self.delivered_of_next == 0
            && let Some(shared) = self
                .inner
                .batches
                .find(self.cursor, &self.wants, self.reader())
        {
            return self.take(shared);
        }
        // Batches end where those of others do.
        let limit = STEP - usize::try_from(self.cursor.revision.0).unwrap_or(0) % STEP;
        match self.inner.after(self.cursor, limit) {
            // Ahead: the database has the cursor, this replica's memory does not yet.
            Found::Level | Found::Ahead => self.set_parked(false),
            Found::Next(revisions) => {
                self.set_parked(false);
                return self.deliver(&revisions);
            }
            Found::Diverged => self.lost = Some(ResetReason::StoreChanged),
            Found::Behind => {
                self.set_parked(true);
                let goes_on = |page: &Arc<ReplayPage>| page.after(self.cursor).is_some();
                let page = match self.page.take().filter(goes_on) {
                    Some(page) => Some(page),
                    // Rare, and large: every stream would carry it along.
                    None => Box::pin(self.read_page()).await,
                };
                let event = page.as_ref().and_then(|page| {
                    let rest = page.after(self.cursor)?;
                    self.deliver(&rest[..rest.len().min(limit)])
                });
                self.page = page;
                return event;
            }
        }
        None
    }

    /// Reads the log after the cursor, waiting for the database as long as it takes: the subscriber is behind anyway. Returns
    /// without a page when it is time to say something else.
    async fn read_page(&mut self) -> Option<Arc<ReplayPage>> {
        let draining = self.inner.draining.clone();
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            let inner = &self.inner;
            let read = async {
                if let Some(page) = inner.replay.held(self.cursor) {
                    return Some(Ok(Judged::GoesOn(Some(page))));
                }
                let turn = inner.replay.turn(self.cursor);
                let turn = match self.pace {
                    Pace::Every(_) => timeout_at(self.next_progress, turn).await.ok()?,
                    Pace::AtOnce => turn.await,
                };
                Some(inner.read_page(turn, self.cursor).await)
            };
            match draining.run_until_cancelled(read).await?? {
                Ok(Judged::GoesOn(page)) => return page,
                Ok(Judged::Lost(reason)) => {
                    self.lost = Some(reason);
                    return None;
                }
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a parked stream cannot read the log"
                    );
                    let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                    draining
                        .run_until_cancelled(tokio::time::sleep(wait))
                        .await?;
                    if self.is_due() {
                        return None;
                    }
                }
            }
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            wants: &self.wants,
            incarnation: &self.incarnation,
            suppress_own: self.suppress_own,
        }
    }

    /// Puts together what comes next, for this stream and for others at its place.
    fn deliver(&mut self, revisions: &[Arc<Revision>]) -> Option<Event> {
        let reached = self.reached();
        let known = revisions.partition_point(|revision| revision.number <= reached);
        let (revisions, skip) = (&revisions[..known], self.delivered_of_next);
        let reader = self.reader();
        let assembled = reader.assemble(self.cursor, skip, revisions);
        if skip == 0 {
            let batches = &self.inner.batches;
            batches.keep(self.cursor, &self.wants, reader, revisions, &assembled);
        }
        self.take(assembled)
    }

    /// Moves the cursor past what was put together.
    fn take(&mut self, assembled: Assembled) -> Option<Event> {
        self.untold |= assembled.through.revision > self.cursor.revision;
        self.cursor = assembled.through;
        self.delivered_of_next = assembled.of_next;
        if assembled.changes == 0 {
            return None;
        }
        self.inner.delivered.increment(assembled.changes as u64);
        self.told();
        Some(Event::Batch(Batch {
            cursor: self.cursor,
            changes: assembled.changes,
            frame: assembled.frame,
        }))
    }

    /// Waits until something may have changed; after a silent while, tells the cursor.
    async fn wait(&mut self) -> Option<Event> {
        let (paced, next_progress) = (self.pace != Pace::AtOnce, self.next_progress);
        let silence = &mut self.silence;
        let silent = async {
            if !paced {
                std::future::pending::<()>().await;
            }
            loop {
                silence.as_mut().await;
                if silence.deadline() >= next_progress {
                    return;
                }
                silence.as_mut().reset(next_progress);
            }
        };
        let values = async {
            match &mut self.values {
                Some(values) => values.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The senders live as long as what this holds: they cannot close.
            _ = self.position.changed() => None,
            _ = values => None,
            () = silent => Some(self.progress()),
        }
    }

    fn is_level(&self) -> bool {
        let applied = self.position.borrow().applied.revision;
        applied.min(self.reached()) <= self.cursor.revision
    }

    /// How far the values have come that go with the changes: changes after it wait for theirs.
    fn reached(&self) -> Number {
        match &self.values {
            None => Number(i64::MAX),
            Some(values) => {
                let reached = *values.borrow();
                if reached.store_id == self.cursor.store_id {
                    reached.revision
                } else {
                    Number(0)
                }
            }
        }
    }

    /// Whether the subscriber has heard nothing for as long as it wants to. A long way through changes that it does not want, or
    /// a database that is away, must not look like a dead connection.
    fn is_due(&self) -> bool {
        matches!(self.pace, Pace::Every(_)) && Instant::now() >= self.next_progress
    }

    fn progress(&mut self) -> Event {
        self.told();
        Event::Progress(self.cursor)
    }

    fn told(&mut self) {
        self.untold = false;
        if let Pace::Every(interval) = self.pace {
            self.next_progress = Instant::now() + interval;
        }
    }

    fn reset(&mut self, reason: ResetReason) -> Result<Event, End> {
        let now = *self.position.borrow_and_update();
        if self.on_lost == OnLost::Fail {
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
        self.page = None;
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
                self.inner.replay.enter();
                metrics::gauge!(metric::PARKED).increment(1);
            } else {
                self.page = None;
                self.inner.replay.leave();
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
    /// The `WatchResponse` as gRPC sends it: a flag that it is not compressed, its length in four bytes, big-endian, and the encoded
    /// message. The bytes of a batch are shared with other streams.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        use api::watch_response::{self as response, Event as E};
        let event = match self {
            Self::Batch(batch) => return batch.frame.clone(),
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
        frame(&api::WatchResponse { event: Some(event) })
    }
}
