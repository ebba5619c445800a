//! The tailer: reads the log into the ring.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use steadfast_store::{Error, Page, Read, Wakeups};
use steadfast_types::{Backoff, Cursor, StoreId};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{Revision, hub::Inner, metric};

/// Between two looks that wake-ups ask for: news after a pause is read at once, and a stream of commits in pages instead of one
/// by one, which would take more from the database than the commits leave.
const SPACING: Duration = Duration::from_millis(2);

/// What one look at the log came to.
enum Look {
    /// There may be more.
    Full,
    /// Level with the database; whether anything new was found.
    Level(bool),
}

/// Follows the log for as long as the process lives.
pub(crate) async fn run(inner: Arc<Inner>, wakeups: Wakeups) {
    let mut woken = wakeups.subscribe();
    let mut waits = Backoff::RECONNECT.waits();
    let mut announced = true;
    loop {
        let looked = Instant::now();
        match look(&inner).await {
            Ok(Look::Full) => continue,
            Ok(Look::Level(found)) => {
                if found && !announced {
                    metrics::counter!(metric::POLL_FOUND_FIRST).increment(1);
                }
                waits = Backoff::RECONNECT.waits();
                set_degraded(&inner, false);
                let poll = Instant::now() + inner.options.poll_interval;
                announced = matches!(timeout_at(poll, woken.changed()).await, Ok(Ok(())));
                if found {
                    sleep_until(looked + SPACING).await;
                    woken.mark_unchanged();
                }
            }
            Err(error) => {
                if set_degraded(&inner, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the change log: lookups are served from memory until the database is back"
                    );
                }
                sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum)).await;
            }
        }
    }
}

/// Reads one page and puts it into the ring.
async fn look(inner: &Inner) -> Result<Look, Error> {
    let cursor = inner.position.borrow().applied;
    let limit = inner.options.page_revisions;
    match inner.store.read_log(cursor, limit).await? {
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
    let found = !page.entries.is_empty();
    // Encoded before the lock is taken.
    let encoded: Vec<_> = page
        .entries
        .into_iter()
        .map(|entry| Arc::new(Revision::encode(store_id, entry)))
        .collect();
    let applied = encoded.last().map(|newest| newest.cursor(store_id));
    let size = {
        let mut ring = inner.ring.write().unwrap_or_else(PoisonError::into_inner);
        for revision in encoded {
            ring.push(revision);
        }
        ring.size()
    };
    inner.position.send_if_modified(|position| {
        let before = *position;
        position.applied = applied.unwrap_or(position.applied);
        position.head = page.head;
        position.compacted = page.compacted;
        // Subscribers wait for `applied`; a moved compaction point is no reason to wake them.
        position.applied != before.applied
    });
    let behind = page.head.0 - inner.position.borrow().applied.revision.0;
    metrics::gauge!(metric::APPLIED).set(inner.position.borrow().applied.revision.0 as f64);
    metrics::gauge!(metric::LAG).set(behind as f64);
    metrics::gauge!(metric::RING_REVISIONS).set(size.0 as f64);
    metrics::gauge!(metric::RING_BYTES).set(size.1 as f64);
    if full { Look::Full } else { Look::Level(found) }
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
