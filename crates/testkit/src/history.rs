//! Judges a change stream: was every committed revision delivered in order, whole, and once, and did every answer tell the truth?
//!
//! The judge is pure. A test records what was committed, what each publisher was answered and what each watcher saw, faults and
//! reconnections included. [`check`] compares the first with the last against the stream's guarantees, [`check_calls`] with the
//! answers. It trusts nothing that was delivered: cursors must carry the committed marks, a cursor may only move past what was
//! delivered, and a stream that was resumed must have been resumed from the last cursor.

mod calls;
mod judge;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

pub use calls::{Answer, Call, CallDefect, CallSummary, check_calls};

use steadfast_types::{Cursor, Mark, Revision, StoreId};

/// The name of what changed. Many watchers see the same ones, so each is held once: see [`key`].
pub type Key = Arc<str>;

/// A key by its text.
#[must_use]
pub fn key(text: &str) -> Key {
    static KEYS: LazyLock<Mutex<HashSet<Key>>> = LazyLock::new(Mutex::default);
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = keys.get(text) {
        return Arc::clone(known);
    }
    let new = Key::from(text);
    keys.insert(Arc::clone(&new));
    new
}

/// All that was committed under one identity of the store, in order, including revisions that no watcher asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The identity.
    pub store_id: StoreId,
    /// Its revisions.
    pub committed: Vec<Committed>,
}

/// One committed revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub revision: Revision,
    /// Its mark.
    pub mark: Mark,
    /// What changed, in the order of publication.
    pub keys: Vec<Key>,
}

/// What one watcher saw, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatcherLog {
    /// A name for messages.
    pub name: String,
    /// It asked for keys that begin with any of these; for all when empty.
    pub prefixes: Vec<String>,
    /// Its connections, in order.
    pub segments: Vec<Segment>,
    /// It had time to see everything, so its last cursor must be at the end.
    pub finished: bool,
}

/// One connection of a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it asked to begin.
    pub start: StartAt,
    /// What came, in order.
    pub events: Vec<Event>,
}

/// Where a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// After a cursor.
    After(Cursor),
    /// With the oldest revision in the log, which is the first committed one.
    Earliest,
    /// At the head that its `Opened` names.
    Now,
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream is open.
    Opened {
        /// The head at that moment.
        head: Cursor,
    },
    /// Some changes.
    Batch {
        /// Revision and key of each.
        changes: Vec<(Revision, Key)>,
        /// Where the watcher now stands.
        cursor: Cursor,
        /// The last revision continues in the next batch.
        more: bool,
    },
    /// Nothing at or below the cursor will come later.
    Progress {
        /// Where the watcher now stands.
        cursor: Cursor,
    },
    /// The watcher must reload and goes on from the head.
    Reset {
        /// Where it goes on.
        head: Cursor,
    },
}

/// A broken guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// The committed revisions are not dense: the one after the first is absent.
    Hole {
        /// The revision before.
        after: Revision,
        /// The one found.
        found: Revision,
    },
    /// A committed change that the cursor moved past without.
    Missing {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: Key,
    },
    /// A change that came again on the same stream.
    Doubled {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: Key,
    },
    /// A change that came after one of a later revision, or in another order than it was published.
    OutOfOrder {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: Key,
    },
    /// A change that was never committed, or that the filters should have kept out.
    Unasked {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: Key,
    },
    /// A change above the cursor of its batch, which did not say that more follows.
    BeyondCursor {
        /// Its revision.
        revision: Revision,
    },
    /// A cursor below the one before.
    Backwards {
        /// The cursor before.
        from: Cursor,
        /// The cursor now.
        to: Cursor,
    },
    /// A cursor under another identity of the store than the one before, without a reset between them.
    OtherStore {
        /// The cursor before.
        from: Cursor,
        /// The cursor now.
        to: Cursor,
    },
    /// A cursor of a revision that was never committed, or with another mark.
    UnknownCursor {
        /// The cursor.
        cursor: Cursor,
    },
    /// A connection that began elsewhere than where the one before ended.
    ResumedElsewhere {
        /// The last cursor seen.
        stood: Option<Cursor>,
        /// Where the connection began.
        began: StartAt,
    },
    /// A stream that did not begin with `Opened`, or that repeated it.
    NotOpened,
    /// The watcher had time to see everything and did not.
    Unfinished {
        /// Its last cursor.
        stood: Option<Cursor>,
        /// The last committed revision.
        last: Revision,
    },
}

/// A broken guarantee and who saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The watcher's name; empty for the committed history itself.
    pub watcher: String,
    /// Which connection, from 0.
    pub segment: usize,
    /// What was broken.
    pub defect: Defect,
}

/// What a sound history amounts to, to show that the test was not empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Committed revisions.
    pub revisions: usize,
    /// Changes delivered to all watchers together.
    pub delivered: usize,
    /// Connections after the first, over all watchers.
    pub resumptions: usize,
    /// Resets over all watchers.
    pub resets: usize,
}

/// Compares what was committed with what was seen, where the store has had one identity only.
///
/// Cursors of a store other than the one named are judged as unknown.
///
/// # Errors
///
/// Every broken guarantee found.
pub fn check(
    store_id: StoreId,
    committed: &[Committed],
    watchers: &[WatcherLog],
) -> Result<Summary, Vec<Finding>> {
    let history = History {
        store_id,
        committed: committed.to_vec(),
    };
    check_histories(&[history], watchers)
}

/// The same where the store's identity has changed: its histories in their order, each with all that was ever committed under its
/// identity. A watcher may only come from one to another by a reset, and ends in the last.
///
/// # Errors
///
/// Every broken guarantee found.
pub fn check_histories(
    histories: &[History],
    watchers: &[WatcherLog],
) -> Result<Summary, Vec<Finding>> {
    let mut findings = Vec::new();
    let holes = histories.iter().flat_map(|history| {
        let pairs = history.committed.windows(2);
        pairs.filter_map(|pair| match pair {
            [before, after] if after.revision != before.revision.next() => Some(Finding {
                watcher: String::new(),
                segment: 0,
                defect: Defect::Hole {
                    after: before.revision,
                    found: after.revision,
                },
            }),
            _ => None,
        })
    });
    findings.extend(holes);
    let mut summary = Summary {
        revisions: histories
            .iter()
            .map(|history| history.committed.len())
            .sum(),
        ..Summary::default()
    };
    judge::judge(histories, watchers, &mut findings, &mut summary);
    if findings.is_empty() {
        Ok(summary)
    } else {
        Err(findings)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on connection {}: {:?}",
            self.watcher, self.segment, self.defect
        )
    }
}
