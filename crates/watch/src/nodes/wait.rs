//! Waiting until nodes have applied a revision.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use steadfast_store::{NodeRow, NodeState, NodeTally, NodeWanted};
use steadfast_types::{Cursor, Revision};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{NodeError, Nodes, Shared, WAITS};

/// How often the database is asked without news: what other replicas write down without being heard is found by it.
const POLL: Duration = Duration::from_millis(75);

/// How often at most, with news: nodes report one after another.
const SPACING: Duration = Duration::from_millis(10);

/// How often the other replicas are asked to write down at once what they know.
const ASK: Duration = Duration::from_secs(1);

/// What a wait came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Everybody has it.
    pub complete: bool,
    /// What was waited for.
    pub cursor: Cursor,
    /// Who has it.
    pub applied: Vec<NodeRow>,
    /// Who has not. Of a node that is named and does not live, its newest incarnation.
    pub lagging: Vec<NodeRow>,
    /// Those that were named and of which nothing is known.
    pub unknown: Vec<String>,
}

/// Counts a call that waits.
struct Waiting(Arc<Shared>);

// === impl Waiting ===

impl Waiting {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Waited ===

impl Waited {
    fn names_somebody(&self) -> bool {
        !self.lagging.is_empty() || !self.unknown.is_empty()
    }
}

// === impl Nodes ===

impl Nodes {
    /// Waits until the nodes that are wanted have applied a revision, or until `deadline`. Without a cursor's store, the revision of the
    /// present history is meant.
    ///
    /// # Errors
    /// If the cursor is of another history or older than the log; if too many calls wait; if the database does not answer.
    pub async fn wait(
        &self,
        cursor: Cursor,
        any_history: bool,
        wanted: &NodeWanted,
        deadline: Instant,
    ) -> Result<Waited, NodeError> {
        let shared = &self.shared;
        let Ok(_place) = shared.waits.try_acquire() else {
            return Err(NodeError::TooManyWaits { limit: WAITS });
        };
        let _waiting = Waiting::new(shared);
        // What is known here counts from the first moment, also for a call that does not wait.
        drop(timeout_at(deadline, shared.write_apart()).await);
        let mut written = shared.written.subscribe();
        let mut news = shared.wakeups.subscribe_to_nodes();
        let mut ask = Instant::now();
        let mut cursor = cursor;
        let mut any_history = any_history;
        loop {
            let began = Instant::now();
            if began >= ask {
                shared.wakeups.ask_about_nodes(false);
                ask = began + ASK;
            }
            written.mark_unchanged();
            news.mark_unchanged();
            let tally = match shared.tally(cursor.revision, wanted).await {
                Ok(tally) => tally,
                // It may be back in time.
                Err(NodeError::Store(error)) if error.is_unavailable() && began < deadline => {
                    sleep_until(deadline.min(Instant::now() + POLL)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            cursor = judge(cursor, any_history, &tally)?;
            any_history = false;
            let complete = tally.level == required(wanted, &tally);
            if complete || began >= deadline {
                let waited = self.answer(cursor, wanted, complete).await?;
                if complete || waited.names_somebody() {
                    return Ok(waited);
                }
                // Those who lagged have it since: that is for the next look to say.
                continue;
            }
            let next = deadline.min(Instant::now() + POLL);
            tokio::select! {
                () = sleep_until(next) => {}
                _ = written.changed() => {}
                _ = news.changed() => {}
            }
            sleep_until(deadline.min(began + SPACING)).await;
        }
    }

    /// Names who has it and who has not.
    async fn answer(
        &self,
        cursor: Cursor,
        wanted: &NodeWanted,
        complete: bool,
    ) -> Result<Waited, NodeError> {
        let shared = &self.shared;
        let rows = {
            let _turn = shared.reads.acquire().await;
            let since_us = shared.clock.since_us();
            shared.store.wanted_nodes(wanted, since_us).await?
        };
        let unknown = wanted.names.iter().filter(|name| {
            let known = rows.binary_search_by(|row| row.name.node.as_str().cmp(name.as_str()));
            known.is_err()
        });
        let unknown: Vec<String> = unknown.cloned().collect();
        let (applied, lagging): (Vec<_>, Vec<_>) = newest(rows)
            .into_iter()
            .partition(|row| has(row, cursor.revision));
        // Whoever came since it was complete is not what was waited for.
        Ok(Waited {
            complete,
            cursor,
            applied,
            lagging: if complete { Vec::new() } else { lagging },
            unknown: if complete { Vec::new() } else { unknown },
        })
    }
}

// === impl Shared ===

impl Shared {
    pub(super) async fn tally(
        &self,
        revision: Revision,
        wanted: &NodeWanted,
    ) -> Result<NodeTally, NodeError> {
        let _turn = self.reads.acquire().await;
        let since_us = self.clock.since_us();
        Ok(self.store.tally_nodes(revision, wanted, since_us).await?)
    }
}

/// The cursor as it stands in the database.
fn judge(cursor: Cursor, any_history: bool, tally: &NodeTally) -> Result<Cursor, NodeError> {
    if !any_history && tally.compacted.store_id != cursor.store_id {
        return Err(NodeError::StoreChanged);
    }
    if cursor.revision > tally.head {
        return Err(if any_history {
            NodeError::NoRevision { head: tally.head }
        } else {
            NodeError::StoreChanged
        });
    }
    if cursor.revision < tally.compacted.revision {
        return Err(NodeError::Compacted {
            compacted: tally.compacted.revision,
            head: tally.head,
        });
    }
    match tally.at {
        Some(at) if any_history || at.mark == cursor.mark => Ok(at),
        _ => Err(NodeError::StoreChanged),
    }
}

/// How many nodes must have it. Of each name one incarnation lives at most.
fn required(wanted: &NodeWanted, tally: &NodeTally) -> i64 {
    if wanted.names.is_empty() {
        tally.live
    } else {
        i64::try_from(wanted.names.len()).unwrap_or(i64::MAX)
    }
}

fn lives(row: &NodeRow) -> bool {
    matches!(row.state, NodeState::Connected | NodeState::Vanished)
}

fn has(row: &NodeRow, revision: Revision) -> bool {
    lives(row)
        && row
            .applied
            .is_some_and(|applied| applied.revision >= revision)
}

/// One row for each node: the incarnation that lives, else the newest. They come by id, the newest incarnation last.
fn newest(rows: Vec<NodeRow>) -> Vec<NodeRow> {
    let mut newest: Vec<NodeRow> = Vec::with_capacity(rows.len());
    for row in rows {
        match newest.last_mut() {
            Some(last) if last.name.node == row.name.node => {
                if lives(&row) || !lives(last) {
                    *last = row;
                }
            }
            _ => newest.push(row),
        }
    }
    newest
}
