//! Own commits, told to whoever follows the log in this process.
//!
//! A replica that reads back what it has just written spends a statement, and a second process of the database, on what it knows
//! already. So commits whose revisions come back with their answers are told here. What is told carries the mark of the revision
//! before it: a follower that stands there with that mark knows that its history goes on; any other reads the log.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::FromRow;
use steadfast_types::{Mark, Revision, Timestamp};
use tokio::sync::broadcast;

use crate::{Change, Entry, Store, log};

/// Commits that a follower may be behind by before it has to read the log.
const HELD: usize = 64;

/// What this process appended to the log.
#[derive(Debug)]
pub enum OwnCommit {
    /// Consecutive revisions.
    Told(Appended),
    /// Nobody knows where it landed: read the log.
    Untold,
}

/// Consecutive revisions, and what they continue.
#[derive(Debug)]
pub struct Appended {
    /// The mark of the revision before the first.
    pub after: Mark,
    /// In order; at least one.
    pub entries: Vec<Entry>,
}

/// Where a transaction's revisions begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The revision before the first.
    pub(crate) head: Revision,
    /// Its mark.
    pub(crate) mark: Mark,
    /// The time of all of them.
    pub(crate) time: Timestamp,
}

/// The same as functions of the database return it: all of it, or nothing.
#[derive(Debug, FromRow)]
pub(crate) struct TailRow {
    head: Option<i64>,
    head_mark: Option<i64>,
    now_us: Option<i64>,
}

/// Tells of own commits.
#[derive(Debug, Clone)]
pub(crate) struct OwnCommits {
    followers: broadcast::Sender<Arc<OwnCommit>>,
}

/// The same later: what was committed is kept until [`LaterCommits::tell_now`]. Those who are told are ready to run at once, and so
/// in the way of a writer whose next write waits for nothing but this one.
#[derive(Debug)]
pub(crate) struct LaterCommits {
    own: OwnCommits,
    kept: Mutex<Vec<OwnCommit>>,
}

// === impl Tail ===

impl Tail {
    /// From a function of the database that returns all of it, or nothing.
    pub(crate) fn of(head: Option<i64>, mark: Option<i64>, time_us: Option<i64>) -> Option<Self> {
        Some(Self {
            head: Revision(head?),
            mark: Mark::from_sql(mark?),
            time: Timestamp(time_us?),
        })
    }
}

// === impl TailRow ===

impl TailRow {
    pub(crate) fn tail(&self) -> Option<Tail> {
        Tail::of(self.head, self.head_mark, self.now_us)
    }
}

// === impl OwnCommits ===

impl OwnCommits {
    pub(crate) fn new() -> Self {
        Self {
            followers: broadcast::Sender::new(HELD),
        }
    }

    /// Tells of revisions, each by its mark, its origin and its changes, that were appended after `tail`.
    pub(crate) fn tell<'a>(
        &self,
        tail: Tail,
        revisions: impl IntoIterator<Item = (Mark, &'a str, Vec<Change>)>,
    ) {
        if let Some(told) = self.told(tail, revisions) {
            self.send(told);
        }
    }

    /// What there is to tell; nothing if nobody follows.
    fn told<'a>(
        &self,
        tail: Tail,
        revisions: impl IntoIterator<Item = (Mark, &'a str, Vec<Change>)>,
    ) -> Option<OwnCommit> {
        if self.followers.receiver_count() == 0 {
            return None;
        }
        let numbered = (tail.head.0 + 1..).zip(revisions);
        let entries = numbered.map(|(revision, (mark, origin, changes))| Entry {
            revision: Revision(revision),
            mark,
            origin: origin.to_owned(),
            time: tail.time,
            changes,
        });
        Some(OwnCommit::Told(Appended {
            after: tail.mark,
            entries: entries.collect(),
        }))
    }

    /// The same for changes as the log has them.
    pub(crate) fn tell_encoded<'a>(
        &self,
        tail: Tail,
        revisions: impl IntoIterator<Item = (Mark, &'a str, &'a str)>,
    ) {
        let decoded = revisions.into_iter().map(|(mark, origin, changes)| {
            log::decode_changes(changes).map(|changes| (mark, origin, changes))
        });
        match decoded.collect::<Result<Vec<_>, _>>() {
            Ok(revisions) => self.tell(tail, revisions),
            Err(_) => self.untold(),
        }
    }

    /// Says that something was appended, or may have been.
    pub(crate) fn untold(&self) {
        self.send(OwnCommit::Untold);
    }

    fn send(&self, commit: OwnCommit) {
        // Without followers there is nobody to tell.
        drop(self.followers.send(Arc::new(commit)));
    }
}

// === impl LaterCommits ===

impl LaterCommits {
    pub(crate) fn new(own: OwnCommits) -> Self {
        Self {
            own,
            kept: Mutex::default(),
        }
    }

    /// Keeps the news of one revision.
    pub(crate) fn tell(&self, tail: Tail, mark: Mark, changes: Vec<Change>) {
        let told = self.own.told(tail, [(mark, "", changes)]);
        self.with(|kept| kept.extend(told));
    }

    /// Keeps that something was appended, or may have been.
    pub(crate) fn untold(&self) {
        self.with(|kept| kept.push(OwnCommit::Untold));
    }

    /// Whether there is something to tell.
    pub(crate) fn has_news(&self) -> bool {
        self.with(|kept| !kept.is_empty())
    }

    /// Tells it, in its order.
    pub(crate) fn tell_now(&self) {
        for commit in self.with(std::mem::take) {
            self.own.send(commit);
        }
    }

    fn with<T>(&self, with: impl FnOnce(&mut Vec<OwnCommit>) -> T) -> T {
        with(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// What this process commits from now on, as far as it tells: publishes, starts and transitions of sagas. One who lags behind
    /// has to read the log.
    #[must_use]
    pub fn own_commits(&self) -> broadcast::Receiver<Arc<OwnCommit>> {
        self.own().followers.subscribe()
    }
}
