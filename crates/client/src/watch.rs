//! A watch that outlives its streams.
//!
//! A stream ends for many reasons: a deploy, a lost network, a server that was killed. [`WatchStream`] opens the next one
//! after its last cursor. Two things need care. A revision that a server splits over several messages is handed out only when
//! it is complete: its first part would come again after a reconnect. And whoever asked for "now" must mean the first now, not
//! the moment of each reconnect, so the cursor is taken from the first `Opened`.

use std::time::Duration;

use steadfast_api::watch::v1::{
    Change, Filter, Node, OnCompacted, ResetReason as ApiResetReason, Start, WatchRequest,
    WatchResponse, start::Position, watch_response::Event,
    watch_service_client::WatchServiceClient,
};
use steadfast_types::Cursor;
use tokio::time::Instant;
use tonic::{Code, Streaming, transport::Channel};

use crate::{Connection, Error, cursor_from_api, cursor_to_api};

/// The first wait is at most this long, and each further one at most twice the one before.
const FIRST_WAIT_MAX: Duration = Duration::from_millis(100);
/// No wait of our own is longer; the server may ask for a longer one.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A stream that lived this long was healthy: the next loss is a new one, and waits begin anew.
const HEALTHY: Duration = Duration::from_secs(10);
/// A stream on which nothing came for this many progress intervals is dead, whatever the connection says.
const SILENT_INTERVALS: u32 = 3;
/// The most changes that are held back for the rest of their revision.
const MAX_HELD_CHANGES: usize = 100_000;

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// A change is delivered if any filter keeps it; none means every change.
    pub filters: Vec<Filter>,
    /// Where to begin.
    pub start: WatchStart,
    /// Who watches; needed for changes to be marked `own`.
    pub node: Option<Node>,
    /// End with an error where the history is gone, instead of with [`WatchEvent::Reset`].
    pub fail_on_compacted: bool,
    /// How often the server tells how far it is while nothing else comes; 1 s to 10 min.
    pub progress_interval: Duration,
    /// Changes of packages and schemas carry their present values.
    pub include_values: bool,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// What comes later than the first opening.
    Now,
    /// Everything that is still in the log.
    Earliest,
    /// Everything later than this.
    After(Cursor),
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// A stream is open, the first or another one.
    Opened {
        /// The newest revision at that moment.
        head: Cursor,
        /// The oldest cursor that can still be resumed from.
        compacted: Cursor,
    },
    /// Whole revisions, in order, and none of them twice.
    Batch {
        /// The changes that the filters keep.
        changes: Vec<Change>,
        /// Store it once the changes are applied.
        cursor: Cursor,
    },
    /// Nothing at or below the cursor is still to come.
    Progress {
        /// Store it.
        cursor: Cursor,
    },
    /// The history is gone: reload everything, then go on from `head`.
    Reset {
        /// Why.
        reason: ResetReason,
        /// What comes next is later than this.
        head: Cursor,
        /// The oldest cursor that can still be resumed from.
        compacted: Cursor,
    },
    /// The stream was lost. The next call waits, and opens another one.
    Disconnected {
        /// Why.
        error: Error,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// Why a watcher must reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The revisions after the cursor are no longer in the log.
    Compacted,
    /// The store's history is another one.
    StoreChanged,
    /// A reason that this client does not know yet.
    Other,
}

/// A watch that reconnects from its last cursor.
#[derive(Debug)]
pub struct WatchStream {
    client: WatchServiceClient<Channel>,
    options: WatchOptions,
    cursor: Option<Cursor>,
    state: State,
    /// Changes of a revision that is not complete yet.
    held: Vec<Change>,
    /// Losses since the last healthy stream.
    losses: u32,
}

#[derive(Debug)]
enum State {
    /// A stream is to be opened, not before this instant.
    Closed { until: Instant },
    /// A stream is open.
    Open {
        stream: Box<Streaming<WatchResponse>>,
        since: Instant,
    },
}

// === impl WatchOptions ===

impl Default for WatchOptions {
    /// Every change from now on.
    fn default() -> Self {
        Self {
            filters: Vec::new(),
            start: WatchStart::Now,
            node: None,
            fail_on_compacted: false,
            progress_interval: Duration::from_secs(15),
            include_values: false,
        }
    }
}

// === impl WatchStream ===

impl WatchStream {
    /// A watch on this connection; nothing is sent before the first [`WatchStream::next`].
    #[must_use]
    pub fn new(connection: &Connection, options: WatchOptions) -> Self {
        let cursor = match options.start {
            WatchStart::After(cursor) => Some(cursor),
            WatchStart::Now | WatchStart::Earliest => None,
        };
        Self {
            client: connection.watch_streams(),
            options,
            cursor,
            state: State::Closed {
                until: Instant::now(),
            },
            held: Vec::new(),
            losses: 0,
        }
    }

    /// Everything at or below it was delivered; `None` before the first stream was open.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// The next event. It may be dropped while it waits, and called again, without losing anything.
    ///
    /// # Errors
    /// What no repetition mends, such as a malformed filter or, with `fail_on_compacted`, a lost history.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            match &mut self.state {
                State::Closed { until } => {
                    tokio::time::sleep_until(*until).await;
                    match self.open().await {
                        Ok(stream) => {
                            self.state = State::Open {
                                stream: Box::new(stream),
                                since: Instant::now(),
                            };
                        }
                        Err(error) => return self.lost(error, Duration::ZERO),
                    }
                }
                State::Open { stream, since } => {
                    let silence = self.options.progress_interval * SILENT_INTERVALS;
                    let lived = since.elapsed();
                    let error = match tokio::time::timeout(silence, stream.message()).await {
                        Ok(Ok(Some(message))) => {
                            if let Some(event) = self.accept(message)? {
                                return Ok(event);
                            }
                            continue;
                        }
                        Ok(Ok(None)) => {
                            let message = "the server ended the stream without a reason";
                            Error::local(Code::Unavailable, "STREAM_ENDED", message)
                        }
                        Ok(Err(status)) => Error::from(status),
                        Err(_) => silent(silence),
                    };
                    return self.lost(error, lived);
                }
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<WatchResponse>, Error> {
        let position = match (self.cursor, self.options.start) {
            (Some(cursor), _) => Position::After(cursor_to_api(cursor)),
            (None, WatchStart::Earliest) => Position::Earliest(()),
            (None, WatchStart::Now | WatchStart::After(_)) => Position::Now(()),
        };
        let on_compacted = if self.options.fail_on_compacted {
            OnCompacted::Fail
        } else {
            OnCompacted::Reset
        };
        let request = WatchRequest {
            filters: self.options.filters.clone(),
            start: Some(Start {
                position: Some(position),
            }),
            node: self.options.node.clone(),
            on_compacted: on_compacted.into(),
            progress_interval: self.options.progress_interval.try_into().ok(),
            include_values: self.options.include_values,
            suppress_own: false,
        };
        let silence = self.options.progress_interval * SILENT_INTERVALS;
        match tokio::time::timeout(silence, self.client.watch(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(silent(silence)),
        }
    }

    fn lost(&mut self, error: Error, lived: Duration) -> Result<WatchEvent, Error> {
        self.held.clear();
        if lived >= HEALTHY {
            self.losses = 0;
        }
        let retry_in = wait(self.losses, rand::random()).max(error.retry_after.unwrap_or_default());
        self.losses = self.losses.saturating_add(1);
        self.state = State::Closed {
            until: Instant::now() + retry_in,
        };
        if error.is_transient() {
            Ok(WatchEvent::Disconnected { error, retry_in })
        } else {
            Err(error)
        }
    }

    fn accept(&mut self, message: WatchResponse) -> Result<Option<WatchEvent>, Error> {
        let event = match message.event {
            Some(Event::Opened(opened)) => {
                let head = cursor_from_api(opened.head)?;
                let compacted = cursor_from_api(opened.compacted)?;
                if self.cursor.is_none() {
                    self.cursor = Some(match self.options.start {
                        WatchStart::Earliest => compacted,
                        WatchStart::Now | WatchStart::After(_) => head,
                    });
                }
                WatchEvent::Opened { head, compacted }
            }
            Some(Event::Batch(batch)) => {
                let cursor = cursor_from_api(batch.cursor)?;
                let changes = self.whole_revisions(batch.changes, batch.more)?;
                self.cursor = Some(cursor);
                if changes.is_empty() {
                    return Ok(None);
                }
                WatchEvent::Batch { changes, cursor }
            }
            Some(Event::Progress(progress)) => {
                let cursor = cursor_from_api(progress.cursor)?;
                self.cursor = Some(cursor);
                WatchEvent::Progress { cursor }
            }
            Some(Event::Reset(reset)) => {
                let head = cursor_from_api(reset.head)?;
                self.held.clear();
                self.cursor = Some(head);
                WatchEvent::Reset {
                    reason: match ApiResetReason::try_from(reset.reason) {
                        Ok(ApiResetReason::Compacted) => ResetReason::Compacted,
                        Ok(ApiResetReason::StoreChanged) => ResetReason::StoreChanged,
                        Ok(ApiResetReason::Unspecified) | Err(_) => ResetReason::Other,
                    },
                    head,
                    compacted: cursor_from_api(reset.compacted)?,
                }
            }
            // An event that a newer server knows: the cursor stays, so nothing is lost.
            None => return Ok(None),
        };
        Ok(Some(event))
    }

    /// What can be handed out, with what was held back before it; the rest is held back.
    fn whole_revisions(&mut self, changes: Vec<Change>, more: bool) -> Result<Vec<Change>, Error> {
        let mut whole = std::mem::take(&mut self.held);
        whole.extend(changes);
        if more && let Some(last) = whole.last().map(|change| change.revision) {
            let complete = whole.partition_point(|change| change.revision < last);
            self.held = whole.split_off(complete);
        }
        if self.held.len() > MAX_HELD_CHANGES {
            let message = format!("one revision has more than {MAX_HELD_CHANGES} changes");
            return Err(Error::local(Code::Internal, "MALFORMED_ANSWER", message));
        }
        Ok(whole)
    }
}

fn silent(silence: Duration) -> Error {
    let message = format!("nothing came for {silence:?}");
    Error::local(Code::Unavailable, "STREAM_SILENT", message)
}

/// Exponential with full jitter, after "Exponential Backoff And Jitter" (M. Brooker, 2015): anywhere between nothing and the
/// ceiling, so that the watchers of a lost server spread out at once. `share` is from 0 to 1.
pub(crate) fn wait(losses: u32, share: f64) -> Duration {
    let ceiling = FIRST_WAIT_MAX
        .saturating_mul(2_u32.saturating_pow(losses))
        .min(WAIT_MAX);
    ceiling.mul_f64(share)
}

#[cfg(test)]
mod tests;
