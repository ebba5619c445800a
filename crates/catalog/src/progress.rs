//! Following refreshes: whoever runs one, and through whichever replica it is watched.
//!
//! What happened is in the database and nowhere else, so that any replica can tell it. A watched run is looked at by one task of this
//! replica, however many watch it: when something moves here, when the change log moves, and every so often for what moves no revision.
//! Those who watch are woken only when the run's row is another, and then read what they have not seen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use steadfast_api::registry::v1::{WatchRefreshRequest, WatchRefreshResponse};
use steadfast_store::{RefreshRow, Store};
use steadfast_types::{Backoff, Cursor};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Error,
    refresh::{MAX_ITEMS, parse_id},
    report::{has_ended, item_to_proto, to_proto},
};

/// Streams that may be open at once.
pub const MAX_WATCHES: usize = 1_000;

/// A run is looked at no more often than this.
const LOOKS_APART: Duration = Duration::from_millis(100);

/// All that is watched through this replica.
#[derive(Debug)]
pub struct RefreshProgress {
    pub(crate) store: Store,
    /// Something moved here.
    pub(crate) pulse: watch::Sender<()>,
    /// The log moved.
    pub(crate) applied: watch::Sender<Cursor>,
    /// How often to look without being woken.
    pub(crate) look_interval: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) watched: Mutex<HashMap<String, Weak<watch::Sender<Option<RefreshRow>>>>>,
}

/// One stream.
#[derive(Debug)]
pub struct RefreshWatch {
    store: Store,
    id: String,
    /// How many items were told.
    seen: i64,
    /// Whether there may be something to tell.
    is_due: bool,
    /// Whether everything was told.
    ended: bool,
    /// What was told last.
    told: Option<RefreshRow>,
    /// The row as it was last looked at; none if it is gone.
    row: watch::Receiver<Option<RefreshRow>>,
    /// Keeps the run looked at.
    _looked_at: Arc<watch::Sender<Option<RefreshRow>>>,
}

// === impl RefreshProgress ===

impl RefreshProgress {
    /// Begins to follow a refresh, from where the caller left off.
    ///
    /// # Errors
    /// [`Error::RefreshNotFound`], [`Error::InvalidArgument`], [`Error::TooManyWatches`], or if the database does not answer.
    pub async fn watch(&self, request: &WatchRefreshRequest) -> Result<RefreshWatch, Error> {
        if request.skip_items < 0 {
            return Err(Error::InvalidArgument {
                field: "skip_items",
                message: "how many items were seen: 0 or more".to_owned(),
            });
        }
        let id = parse_id(&request.id)?;
        let found = self.store.refresh(&id, 0, 0).await?;
        let (row, _) = found.ok_or_else(|| Error::RefreshNotFound { id: id.clone() })?;
        let looked_at = self.look_at(&id, row)?;
        Ok(RefreshWatch {
            store: self.store.clone(),
            row: looked_at.subscribe(),
            id,
            seen: i64::from(request.skip_items),
            is_due: true,
            ended: false,
            told: None,
            _looked_at: looked_at,
        })
    }

    /// The sender of a run's row; the first one to ask has it looked at from now on.
    fn look_at(
        &self,
        id: &str,
        row: RefreshRow,
    ) -> Result<Arc<watch::Sender<Option<RefreshRow>>>, Error> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let open = watched.values().filter_map(Weak::upgrade);
        let open: usize = open.map(|sender| sender.receiver_count()).sum();
        if open >= MAX_WATCHES {
            return Err(Error::TooManyWatches { limit: MAX_WATCHES });
        }
        if let Some(sender) = watched.get(id).and_then(Weak::upgrade) {
            return Ok(sender);
        }
        watched.retain(|_, sender| sender.strong_count() > 0);
        let sender = Arc::new(watch::Sender::new(Some(row)));
        watched.insert(id.to_owned(), Arc::downgrade(&sender));
        let look = Look {
            store: self.store.clone(),
            id: id.to_owned(),
            sender: Arc::downgrade(&sender),
            pulse: self.pulse.subscribe(),
            applied: self.applied.subscribe(),
            interval: self.look_interval,
        };
        let stop = self.stop.clone();
        self.tasks
            .spawn(stop.run_until_cancelled_owned(look.until_the_end()));
        Ok(sender)
    }
}

/// Looks at one run for all who watch it.
struct Look {
    store: Store,
    id: String,
    sender: Weak<watch::Sender<Option<RefreshRow>>>,
    pulse: watch::Receiver<()>,
    applied: watch::Receiver<Cursor>,
    interval: Duration,
}

// === impl Look ===

impl Look {
    /// Ends with the run, or when nobody watches it any more.
    async fn until_the_end(mut self) {
        let mut often = interval(self.interval);
        often.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick is at once: what happened between the first reading and now is seen.
            tokio::select! {
                _ = often.tick() => {}
                Ok(()) = self.pulse.changed() => {}
                Ok(()) = self.applied.changed() => {}
            }
            let found = self.store.refresh(&self.id, 0, 0).await;
            let Some(sender) = self.sender.upgrade() else {
                return;
            };
            match found {
                Ok(found) => {
                    let row = found.map(|(row, _)| row);
                    let is_over = row.as_ref().is_none_or(has_ended);
                    sender.send_if_modified(|told| {
                        let is_other = *told != row;
                        *told = row;
                        is_other
                    });
                    if is_over {
                        return;
                    }
                }
                // Those who watch wait on; the next look is soon enough.
                Err(error) => tracing::debug!(
                    refresh = self.id,
                    error = &error as &dyn std::error::Error,
                    "a watched refresh cannot be read"
                ),
            }
            drop(sender);
            sleep(LOOKS_APART).await;
        }
    }
}

// === impl RefreshWatch ===

impl RefreshWatch {
    /// What there is to tell next; `None` after the end was told. May be dropped and called again.
    ///
    /// # Errors
    /// [`Error::RefreshNotFound`] if the run was pruned meanwhile. While the database is away, it waits.
    pub async fn next(&mut self) -> Result<Option<WatchRefreshResponse>, Error> {
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            if self.ended {
                return Ok(None);
            }
            if !self.is_due {
                // The sender is in `self`, so waiting cannot fail.
                let _ = self.row.changed().await;
                self.is_due = true;
            }
            if self.row.borrow_and_update().is_none() {
                return Err(self.gone());
            }
            match self.store.refresh(&self.id, self.seen, MAX_ITEMS).await {
                Ok(Some((row, items))) => {
                    let came = i64::try_from(items.len()).unwrap_or(i64::MAX);
                    // There may be more than one answer holds.
                    self.is_due = came >= MAX_ITEMS;
                    self.seen = self.seen.saturating_add(came);
                    self.ended = has_ended(&row) && !self.is_due;
                    let is_new = came > 0 || self.told.as_ref() != Some(&row);
                    if !is_new && !self.ended {
                        continue;
                    }
                    let answer = WatchRefreshResponse {
                        refresh: Some(to_proto(&row)),
                        items: items.into_iter().map(item_to_proto).collect(),
                    };
                    self.told = Some(row);
                    return Ok(Some(answer));
                }
                Ok(None) => return Err(self.gone()),
                Err(error) if error.is_unavailable() => {
                    sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn gone(&self) -> Error {
        Error::RefreshNotFound {
            id: self.id.clone(),
        }
    }
}
