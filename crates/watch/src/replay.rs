//! Pages of the log for streams that are off the ring, read once for all that are at about the same place.
//!
//! When a replica has restarted, its ring is empty, and all of its streams come back within seconds of each other, from cursors
//! that differ by a few revisions. So a page begins at a multiple of [`BLOCK`] revisions, is kept for a while, and whoever waits for
//! one that another stream is reading waits for that.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use steadfast_store::{Error, Page, Read, Store};
use steadfast_types::{Cursor, Revision as Number};
use tokio::sync::{Mutex as Turn, MutexGuard};

use crate::Revision;

/// Where pages begin: near streams share them, and little is read that nobody wants.
const BLOCK: i64 = 64;

/// Pages that are read at the same time: fewer than the fewest connections, which are SQLite's four. Streams off the ring must not
/// take the database's connections from publishes, from lookups, and from the tailer.
const TURNS: usize = 3;

/// Revisions that take the same turn.
const TURN: i64 = 4_096;

/// Pages kept, and their bytes in memory, roughly; at least the newest.
const PAGES: usize = 8;
const PAGES_BYTES: usize = 12 << 20;

/// How long pages are kept for streams that are yet to come back.
const KEPT: Duration = Duration::from_secs(10);

/// Consecutive revisions of the log.
#[derive(Debug)]
pub(crate) struct ReplayPage {
    after: Cursor,
    revisions: Vec<Arc<Revision>>,
    bytes: usize,
}

/// What was found after a cursor.
#[derive(Debug)]
pub(crate) enum Found {
    /// What comes after it; empty if there is nothing yet.
    Page(Arc<ReplayPage>),
    /// What comes after it is gone: the log begins after this.
    Compacted(Cursor),
    /// It is a place in another history.
    Diverged,
}

/// Pages for streams off the ring.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    turns: [Turn<()>; TURNS],
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The newest in front.
    pages: VecDeque<Arc<ReplayPage>>,
    bytes: usize,
    /// Streams off the ring.
    readers: usize,
    /// When the last of them was level.
    idle_since: Option<Instant>,
}

// === impl ReplayPage ===

impl ReplayPage {
    fn new(page: Page) -> Self {
        let after = page.after;
        let entries = page.entries.iter();
        let revisions: Vec<_> = entries
            .map(|entry| Arc::new(Revision::encode(after.store_id, entry)))
            .collect();
        Self {
            after,
            bytes: revisions.iter().map(|one| one.memory_bytes()).sum(),
            revisions,
        }
    }

    /// What comes after the cursor in it, if it goes on from there with at least one revision.
    pub(crate) fn after(&self, cursor: Cursor) -> Option<&[Arc<Revision>]> {
        let offset = usize::try_from(cursor.revision.0 - self.after.revision.0).ok()?;
        let rest = self
            .revisions
            .get(offset..)
            .filter(|rest| !rest.is_empty())?;
        let at = match offset.checked_sub(1) {
            None => self.after,
            Some(index) => self.revisions[index].cursor(self.after.store_id),
        };
        (at == cursor).then_some(rest)
    }
}

// === impl Replay ===

impl Replay {
    /// The page after a cursor, if another stream has read it.
    pub(crate) fn held(&self, cursor: Cursor) -> Option<Arc<ReplayPage>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = held.pages.iter();
        pages
            .filter(|page| page.after(cursor).is_some())
            // The one that goes furthest.
            .max_by_key(|page| page.after.revision.0 + page.revisions.len() as i64)
            .cloned()
    }

    /// Waits for the turn to read what comes after a cursor. Near streams have the same turn.
    pub(crate) async fn turn(&self, cursor: Cursor) -> MutexGuard<'_, ()> {
        let turn = usize::try_from(cursor.revision.0 / TURN).unwrap_or(0) % TURNS;
        self.turns[turn].lock().await
    }

    /// The page after a cursor: what was read while this stream waited for its turn, or one that is read now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(crate) async fn page(
        &self,
        _turn: MutexGuard<'_, ()>,
        store: &Store,
        cursor: Cursor,
        compacted: Number,
        limit: u32,
    ) -> Result<Found, Error> {
        match self.held(cursor) {
            Some(page) => Ok(Found::Page(page)),
            // Large, and of those who wait for the same turn only one gets here: the others would have room for it too.
            None => Box::pin(self.read(store, cursor, compacted, limit)).await,
        }
    }

    /// Reads a page that others may begin in too, or just the one after the cursor if that would not reach it.
    async fn read(
        &self,
        store: &Store,
        cursor: Cursor,
        compacted: Number,
        limit: u32,
    ) -> Result<Found, Error> {
        let begin = Number((cursor.revision.0 / BLOCK * BLOCK).max(compacted.0));
        if begin < cursor.revision {
            let read = store.read_log_from(cursor.store_id, begin, limit).await?;
            if let Read::Page(page) = read {
                let page = Arc::new(ReplayPage::new(page));
                if page.after(cursor).is_some() {
                    self.keep(&page);
                    return Ok(Found::Page(page));
                }
            }
        }
        Ok(match store.read_log(cursor, limit).await? {
            Read::Page(page) => {
                let page = Arc::new(ReplayPage::new(page));
                self.keep(&page);
                Found::Page(page)
            }
            Read::Compacted { compacted, .. } => Found::Compacted(compacted),
            Read::Diverged { .. } => Found::Diverged,
        })
    }

    fn keep(&self, page: &Arc<ReplayPage>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if page.revisions.is_empty() {
            return;
        }
        held.bytes += page.bytes;
        held.pages.push_front(Arc::clone(page));
        while held.pages.len() > 1 && (held.pages.len() > PAGES || held.bytes > PAGES_BYTES) {
            let Some(oldest) = held.pages.pop_back() else {
                break;
            };
            held.bytes -= oldest.bytes;
        }
    }

    /// Counts a stream that has fallen off the ring.
    pub(crate) fn enter(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.readers += 1;
    }

    /// Counts one that is level, or closed.
    pub(crate) fn leave(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.readers = held.readers.saturating_sub(1);
        held.idle_since = (held.readers == 0).then(Instant::now);
    }

    /// Lets the pages go when nobody has been off the ring for a while. Not at once: those who come back together do not come at
    /// one moment, and each may be level before the next.
    pub(crate) fn expire(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| since.elapsed() >= KEPT;
        if held.readers == 0 && held.idle_since.is_some_and(is_over) && !held.pages.is_empty() {
            (held.pages, held.bytes) = (VecDeque::new(), 0);
        }
    }

    /// Forgets everything: the history is another one.
    pub(crate) fn clear(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.pages, held.bytes) = (VecDeque::new(), 0);
    }
}
