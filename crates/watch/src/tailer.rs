//! The tailer: brings the log into the ring.
//!
//! What this process commits is told by the store with its revision, and goes into the ring at once if it continues what is there.
//! All else is read: what other replicas commit, what was told out of turn for longer than a moment, and everything once in a
//! while.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use steadfast_store::{Entry, Error, OwnCommit, Page, Read, Wakeups};
use steadfast_types::{Backoff, Cursor, Mark, StoreId};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep_until},
};

use crate::{Revision, hub::Inner, metric, ring::Found};

/// Between two looks that wake-ups ask for: news after a pause is read at once, and a stream of commits in pages instead of one
/// by one, which would take more from the database than the commits leave.
const SPACING: Duration = Duration::from_millis(2);

/// How long a commit that was told out of turn waits for those before it.
const OUT_OF_TURN: Duration = Duration::from_millis(1);

/// Commits that wait for those before them; with more the log is read.
const EARLY: usize = 64;

/// What one look at the log came to.
enum Look {
    /// There may be more.
    Full,
    /// Level with the database; whether anything new was found.
    Level(bool),
}

/// What became of commits that were told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// They are in the ring, now or before.
    Held,
    /// Something before them is missing.
    Early,
    /// They do not continue the history in the ring.
    Astray,
}

/// Follows the log for as long as the process lives. What this process commits does not wait for a page that is being read.
pub(crate) async fn run(inner: Arc<Inner>, wakeups: Wakeups) {
    let mut woken = wakeups.subscribe();
    let mut own = inner.store.own_commits();
    let mut early = BTreeMap::new();
    let mut waits = Backoff::RECONNECT.waits();
    let reading = read(&inner);
    tokio::pin!(reading);
    // What was committed before anybody was told is found at once.
    let mut begun = Instant::now();
    let mut is_reading = true;
    let mut next = begun + inner.options.poll_interval;
    let mut earliest = begun;
    // Whether anything announced news before the page that is being read, and since.
    let (mut asked, mut announced) = (true, false);
    loop {
        tokio::select! {
            // A stream of own commits must not keep the log from being read.
            biased;
            page = &mut reading, if is_reading => {
                is_reading = false;
                let looked = match page {
                    Ok((after, page)) => admit(&inner, after, page).await,
                    Err(error) => Err(error),
                };
                match looked {
                    Ok(Look::Full) => {
                        announced = true;
                        next = begun;
                    }
                    Ok(Look::Level(found)) => {
                        if found && !announced && !asked {
                            metrics::counter!(metric::POLL_FOUND_FIRST).increment(1);
                        }
                        waits = Backoff::RECONNECT.waits();
                        set_degraded(&inner, false);
                        inner.replay.expire();
                        earliest = if found { begun + SPACING } else { begun };
                        next = next.max(earliest);
                    }
                    Err(error) => {
                        if set_degraded(&inner, true) {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "cannot read the change log: lookups are served from memory until the database is back"
                            );
                        }
                        next = Instant::now() + waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                    }
                }
                admit_early(&inner, &mut early);
            }
            () = sleep_until(next), if !is_reading => {
                begun = Instant::now();
                woken.mark_unchanged();
                asked = std::mem::take(&mut announced);
                reading.set(read(&inner));
                is_reading = true;
                next = begun + inner.options.poll_interval;
                // Wake-ups from now on ask for another look.
                earliest = begun;
            }
            told = own.recv() => {
                let told = match &told {
                    Ok(commit) => match &**commit {
                        OwnCommit::Told(appended) => {
                            let told = take_own(&inner, appended.after, &appended.entries);
                            if told == Told::Held {
                                admit_early(&inner, &mut early);
                            } else if let Some(first) = appended.entries.first() {
                                early.insert(first.revision, Arc::clone(commit));
                            }
                            told
                        }
                        OwnCommit::Untold => Told::Astray,
                    },
                    Err(broadcast::error::RecvError::Lagged(_)) => Told::Astray,
                    // The store ends with the process.
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                if early.len() > EARLY {
                    early.clear();
                }
                match told {
                    Told::Held => {}
                    Told::Early => next = next.min(earliest.max(Instant::now() + OUT_OF_TURN)),
                    Told::Astray => next = next.min(earliest),
                }
                announced = true;
            }
            changed = woken.changed() => {
                if changed.is_err() {
                    return;
                }
                next = next.min(earliest);
                announced = true;
            }
        }
    }
}

/// Reads the page after what is in the ring.
async fn read(inner: &Inner) -> Result<(Cursor, Read), Error> {
    let after = inner.position.borrow().applied;
    let page = inner.store.read_log(after, inner.options.page_revisions);
    Ok((after, page.await?))
}

/// Puts revisions that this process committed into the ring, if they continue what is there. The mark before them proves it.
fn take_own(inner: &Inner, after: Mark, entries: &[Entry]) -> Told {
    let applied = inner.position.borrow().applied;
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Told::Held;
    };
    if first.revision > applied.revision.next() {
        return Told::Early;
    }
    if last.revision <= applied.revision {
        let cursor = Cursor {
            store_id: applied.store_id,
            revision: last.revision,
            mark: last.mark,
        };
        return match inner.after(cursor, 1) {
            Found::Diverged => Told::Astray,
            _ => Told::Held,
        };
    }
    let held = entries.partition_point(|entry| entry.revision <= applied.revision);
    let before = held.checked_sub(1).map_or(after, |last| entries[last].mark);
    if before != applied.mark {
        return Told::Astray;
    }
    push(inner, applied.store_id, &entries[held..]);
    Told::Held
}

/// Takes what was told too early and is not any more.
fn admit_early(inner: &Inner, early: &mut BTreeMap<steadfast_types::Revision, Arc<OwnCommit>>) {
    while let Some(first) = early.first_entry() {
        let OwnCommit::Told(appended) = &**first.get() else {
            first.remove();
            continue;
        };
        if take_own(inner, appended.after, &appended.entries) == Told::Early {
            return;
        }
        // What leads astray is found by the log's next page.
        first.remove();
    }
}

/// Puts a page that was read after a cursor into the ring.
async fn admit(inner: &Inner, cursor: Cursor, read: Read) -> Result<Look, Error> {
    match read {
        Read::Page(page) => Ok(take(inner, cursor.store_id, page)),
        Read::Compacted { compacted, .. } => {
            // Asleep for longer than the log is kept: subscribers that were level learn it from the log.
            tracing::warn!(
                applied = cursor.revision.0,
                compacted = compacted.revision.0,
                "the log was compacted beyond what this replica had read"
            );
            restart(inner, false).await?;
            Ok(Look::Full)
        }
        Read::Diverged { store_id } => {
            if store_id == cursor.store_id {
                inner.store.declare_new_history(store_id).await?;
            }
            tracing::error!(
                applied = cursor.revision.0,
                "the database's history is not the one that was being followed (a restored backup, or a failover that lost \
                 commits): all streams are reset"
            );
            metrics::counter!(metric::RESETS).increment(1);
            restart(inner, true).await?;
            Ok(Look::Full)
        }
    }
}

/// Puts a page into the ring and tells the subscribers.
fn take(inner: &Inner, store_id: StoreId, page: Page) -> Look {
    // A page ends at a number of revisions or of bytes, whichever comes first.
    let full = page
        .entries
        .last()
        .is_some_and(|newest| newest.revision < page.head);
    // What this process committed while the page was read may be in the ring already.
    let applied = inner.position.borrow().applied;
    let held = page
        .entries
        .partition_point(|entry| entry.revision <= applied.revision);
    let is_other = |before: &Entry| {
        let cursor = Cursor {
            store_id,
            revision: before.revision,
            mark: before.mark,
        };
        matches!(inner.after(cursor, 1), Found::Diverged)
    };
    let before = held.checked_sub(1).map(|last| &page.entries[last]);
    if applied.store_id != store_id || before.is_some_and(is_other) {
        // The next page is read after another cursor, and tells which history is the database's.
        return Look::Full;
    }
    let found = held < page.entries.len();
    push(inner, store_id, &page.entries[held..]);
    inner.position.send_if_modified(|position| {
        position.head = position.head.max(page.head);
        position.compacted = page.compacted;
        // Subscribers wait for `applied`; a moved compaction point is no reason to wake them.
        false
    });
    let behind = page.head.0 - inner.position.borrow().applied.revision.0;
    metrics::gauge!(metric::LAG).set(behind.max(0) as f64);
    if full { Look::Full } else { Look::Level(found) }
}

/// Adds the revisions after the newest, and tells the subscribers.
fn push(inner: &Inner, store_id: StoreId, entries: &[Entry]) {
    // Encoded before the lock is taken.
    let encoded: Vec<_> = entries
        .iter()
        .map(|entry| Arc::new(Revision::encode(store_id, entry)))
        .collect();
    let Some(newest) = encoded.last() else {
        return;
    };
    let applied = newest.cursor(store_id);
    let size = {
        let mut ring = inner.ring.write().unwrap_or_else(PoisonError::into_inner);
        for revision in encoded {
            ring.push(revision);
        }
        ring.size()
    };
    inner.position.send_modify(|position| {
        position.applied = applied;
        position.head = position.head.max(applied.revision);
    });
    metrics::gauge!(metric::APPLIED).set(applied.revision.0 as f64);
    metrics::gauge!(metric::RING_REVISIONS).set(size.0 as f64);
    metrics::gauge!(metric::RING_BYTES).set(size.1 as f64);
}

/// Begins again at the database's head.
async fn restart(inner: &Inner, another_history: bool) -> Result<(), Error> {
    let head = inner.store.head().await?;
    inner.restart_at(&head, another_history);
    Ok(())
}

/// Returns whether this is news.
fn set_degraded(inner: &Inner, degraded: bool) -> bool {
    let news = inner.position.borrow().degraded != degraded;
    if news {
        inner
            .position
            .send_modify(|position| position.degraded = degraded);
        if !degraded {
            let Cursor { revision, .. } = inner.position.borrow().applied;
            tracing::info!(applied = revision.0, "the change log can be read again");
        }
    }
    news
}
