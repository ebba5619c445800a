//! One stream of a node: what it was sent, and what is yet to be written down of it.

use std::sync::{Arc, Mutex, PoisonError};

use steadfast_store::{NodeName, NodeWrite};
use steadfast_types::Cursor;
use uuid::Uuid;

use super::Shared;

/// Cursors that were sent last and are kept to prove reports with, when the ring no longer has them: a node is a few batches behind.
const RECENT: usize = 4;

/// A stream that is its node's own. When it is dropped, the stream has ended.
#[derive(Debug)]
pub struct NodeStream {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
}

/// What is known of a stream. Its id tells it from others of the same node: those change nothing of what this one is.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) name: NodeName,
    pub(super) stream: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The newest cursors that the stream was sent, the newest first.
    sent: [Cursor; RECENT],
    /// What the fleet knows of it.
    written: Cursor,
    /// What was reported and is not written down.
    applied: Option<Cursor>,
    error: Option<String>,
    seen: bool,
    ended: bool,
    /// It is in the writer's queue.
    queued: bool,
    /// To register it again.
    labels: String,
    opened_us: i64,
}

// === impl Seat ===

impl Seat {
    pub(super) fn new(name: NodeName, cursor: Cursor) -> Arc<Self> {
        Arc::new(Self {
            name,
            stream: Uuid::new_v4().to_string(),
            state: Mutex::new(State {
                sent: [cursor; RECENT],
                written: cursor,
                applied: None,
                error: None,
                seen: false,
                ended: false,
                queued: false,
                labels: String::new(),
                opened_us: 0,
            }),
        })
    }

    /// How far the stream was sent.
    pub(super) fn sent(&self) -> Cursor {
        self.with(|state| state.sent[0])
    }

    /// Whether the stream was sent exactly this lately.
    pub(super) fn was_sent(&self, cursor: Cursor) -> bool {
        self.with(|state| state.sent.contains(&cursor))
    }

    pub(super) fn keep(&self, labels: String, opened_us: i64) {
        self.with(|state| (state.labels, state.opened_us) = (labels, opened_us));
    }

    /// What it was registered with.
    pub(super) fn kept(&self) -> (String, i64) {
        self.with(|state| (state.labels.clone(), state.opened_us))
    }

    /// Takes a proven report in.
    pub(super) fn report(&self, applied: Option<Cursor>, error: String) {
        self.with(|state| {
            if let Some(applied) = applied {
                let above = state.applied.is_none_or(|before| {
                    before.store_id != applied.store_id || before.revision < applied.revision
                });
                if above {
                    state.applied = Some(applied);
                }
            }
            state.error = Some(error);
            state.seen = true;
        });
    }

    /// Takes over what another stream of the same incarnation had reported and nobody has written down. Says whether there was anything.
    pub(super) fn inherit(&self, before: &Self) -> bool {
        let (applied, error, seen) = before.with(|state| {
            (
                state.applied.take(),
                state.error.take(),
                std::mem::take(&mut state.seen),
            )
        });
        self.with(|state| {
            state.applied = state.applied.or(applied);
            state.error = state.error.take().or(error);
            state.seen |= seen;
        });
        seen
    }

    /// Whether the writer has to be told of it.
    pub(super) fn mark_queued(&self) -> bool {
        self.with(|state| !std::mem::replace(&mut state.queued, true))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.with(|state| state.ended)
    }

    /// Whether the fleet does not know how far it was sent.
    pub(super) fn is_ahead(&self) -> bool {
        self.with(|state| state.written != state.sent[0])
    }

    /// What is to be written down, which counts as written from now on.
    pub(super) fn take(&self) -> NodeWrite {
        self.with(|state| {
            state.queued = false;
            state.written = state.sent[0];
            NodeWrite {
                name: self.name.clone(),
                stream: self.stream.clone(),
                sent: state.sent[0],
                applied: state.applied.take(),
                error: state.error.take(),
                seen: std::mem::take(&mut state.seen),
                ended: state.ended,
            }
        })
    }

    /// What was taken could not be written down.
    pub(super) fn give_back(&self, write: NodeWrite) {
        self.with(|state| {
            // What came since is newer.
            state.applied = state.applied.or(write.applied);
            state.error = state.error.take().or(write.error);
            state.seen |= write.seen;
            state.written = Cursor::default();
        });
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl NodeStream ===

impl NodeStream {
    pub(super) fn new(shared: Arc<Shared>, seat: Arc<Seat>) -> Self {
        Self { shared, seat }
    }

    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Says how far the stream is about to be sent: before the node can have it.
    pub fn sent(&self, cursor: Cursor) {
        self.seat.with(|state| {
            if state.sent[0] != cursor {
                state.sent.rotate_right(1);
                state.sent[0] = cursor;
            }
        });
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        self.seat.with(|state| state.ended = true);
        self.shared.queue(&self.seat);
    }
}
