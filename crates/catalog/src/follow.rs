//! Keeping memory level with the log.
//!
//! One task owns the snapshot's progress. It is woken by a subscription to the topics it shows, but takes nothing from it except
//! that there is something new: log page, head and rows are read in one database snapshot, and memory is stamped with that
//! snapshot's head. Taking rows now and the revision from elsewhere would give a wrong stamp sooner or later.
//!
//! While the database is away, memory stays as it is and lookups go on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use steadfast_store::{Followed, ICON_TOPIC, PACKAGE_TOPIC, SCHEMA_TOPIC, Store};
use steadfast_types::{Backoff, Cursor};
use steadfast_watch::{
    End, Event, Filters, Hub, OnLost, Pace, Start, SubscribeOptions, Subscription,
};
use tokio::sync::{Notify, watch};

use crate::{
    compiled::CompiledSchemas,
    error::Error,
    icon_bytes::IconBytes,
    load, metric,
    snapshot::{CheckedTimes, Snapshot},
};

/// Memory, as its readers see it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// The cursor of `snapshot`, for those who wait.
    pub(crate) applied: watch::Sender<Cursor>,
    /// The sources' checked times may have moved.
    pub(crate) recheck: Notify,
}

/// The one writer of memory.
pub(crate) struct Follower {
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) compiled: CompiledSchemas,
    pub(crate) icons: IconBytes,
    pub(crate) memory: Arc<Memory>,
    pub(crate) checked_poll_interval: Duration,
}

// === impl Memory ===

impl Memory {
    fn replace(&self, snapshot: Snapshot) {
        let cursor = snapshot.stamp.cursor;
        metrics::gauge!(metric::PACKAGES).set(snapshot.content.packages().len() as f64);
        metrics::gauge!(metric::APPLIED_REVISION).set(cursor.revision.0 as f64);
        self.snapshot.store(Arc::new(snapshot));
        self.applied.send_replace(cursor);
    }
}

// === impl Follower ===

impl Follower {
    /// Loads everything.
    pub(crate) async fn load(
        store: &Store,
        compiled: &CompiledSchemas,
        icons: &IconBytes,
    ) -> Result<Snapshot, steadfast_store::Error> {
        let mut rows = store.load_catalog().await?;
        icons.load(&rows.icons).await?;
        let (cursor, checked) = (rows.cursor, std::mem::take(&mut rows.checked));
        let compiled = compiled.clone();
        let content = tokio::task::spawn_blocking(move || load::content(rows, &compiled))
            .await
            .map_err(|_| steadfast_store::Error::Corrupt("the catalogue cannot be loaded"))?;
        Ok(Snapshot::new(Arc::new(content), cursor, checked))
    }

    /// Opens a subscription after what memory reflects.
    pub(crate) async fn subscribe(&self) -> Result<Subscription, steadfast_watch::Error> {
        let filters = Filters::parse([(PACKAGE_TOPIC, ""), (SCHEMA_TOPIC, ""), (ICON_TOPIC, "")])?;
        let options = SubscribeOptions {
            filters,
            start: Start::After(self.cursor()),
            on_lost: OnLost::Reset,
            pace: Pace::AtOnce,
            incarnation: String::new(),
            suppress_own: false,
            values: None,
        };
        self.hub.subscribe(options).await
    }

    /// Follows until the server drains.
    pub(crate) async fn run(self, mut subscription: Subscription) {
        let mut poll = tokio::time::interval(self.checked_poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = subscription.next() => match event {
                    Ok(event) => self.take(event).await,
                    Err(End::Draining) => return,
                    Err(end) => {
                        tracing::warn!(?end, "the catalogue's own subscription ended; opening it again");
                        subscription = self.reopen().await;
                    }
                },
                // Boxed, as it is large and the loop turns with every revision.
                _ = poll.tick() => Box::pin(self.recheck()).await,
                () = self.memory.recheck.notified() => Box::pin(self.recheck()).await,
            }
        }
    }

    async fn take(&self, event: Event) {
        match event {
            Event::Opened { .. } => {}
            Event::Progress(cursor) => {
                if cursor.store_id == self.cursor().store_id && self.is_behind(cursor) {
                    let snapshot = self.memory.snapshot.load();
                    let checked = snapshot.stamp.checked().clone();
                    self.memory.replace(snapshot.stamped(cursor, checked));
                }
            }
            Event::Batch(batch) => {
                if self.is_behind(batch.cursor) || batch.cursor.store_id != self.cursor().store_id {
                    Box::pin(self.until_done(false)).await;
                }
            }
            Event::Reset { reason, .. } => {
                tracing::info!(?reason, "loading the catalogue anew");
                Box::pin(self.until_done(true)).await;
            }
        }
    }

    /// Reads what changed, or everything, trying as long as the database is away.
    async fn until_done(&self, mut reload: bool) {
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            let outcome = if reload {
                Self::load(&self.store, &self.compiled, &self.icons)
                    .await
                    .map(|snapshot| {
                        self.memory.replace(snapshot);
                        true
                    })
            } else {
                self.catch_up().await
            };
            match outcome {
                Ok(true) => return,
                Ok(false) => reload = true,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the catalogue cannot be read; lookups go on from memory"
                    );
                    let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Applies what changed since memory's cursor. False if everything has to be loaded.
    async fn catch_up(&self) -> Result<bool, steadfast_store::Error> {
        let snapshot = self.memory.snapshot.load_full();
        let cursor = snapshot.stamp.cursor;
        // Held until they are used: one that only a refresh had compiled could be dropped meanwhile.
        let held = Mutex::new(Vec::new());
        let has_blob = |hash: &str| {
            let schema = self.compiled.get(hash);
            let found = schema.is_some();
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.extend(schema);
            found
        };
        let followed = self.store.follow_catalog(cursor, has_blob).await?;
        let Followed::Changes { touched, mut rows } = followed else {
            return Ok(false);
        };
        let (cursor, checked) = (rows.cursor, std::mem::take(&mut rows.checked));
        // Before anybody is told of them, so that nobody waits.
        self.icons.load(&rows.icons).await?;
        let compiled = self.compiled.clone();
        let mut read = tokio::task::spawn_blocking(move || load::entries(rows, &compiled))
            .await
            .map_err(|_| steadfast_store::Error::Corrupt("a change cannot be applied"))?;
        let changed = touched
            .into_iter()
            .map(|name| {
                let entry = read.remove(&name);
                (name, entry)
            })
            .collect();
        let content = Arc::new(snapshot.content.with(changed));
        self.memory.replace(Snapshot::new(content, cursor, checked));
        Ok(true)
    }

    /// Takes over when the sources were last asked, which moves without a revision.
    async fn recheck(&self) {
        let checked: CheckedTimes = match self.store.sources_checked().await {
            Ok(checked) => checked,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot read when the sources were asked"
                );
                return;
            }
        };
        let snapshot = self.memory.snapshot.load();
        if *snapshot.stamp.checked() != checked {
            let cursor = snapshot.stamp.cursor;
            self.memory.replace(snapshot.stamped(cursor, checked));
        }
    }

    async fn reopen(&self) -> Subscription {
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            match self.subscribe().await {
                Ok(subscription) => return subscription,
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot subscribe to the log"
                    );
                    let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.memory.snapshot.load().stamp.cursor
    }

    fn is_behind(&self, cursor: Cursor) -> bool {
        self.cursor().revision < cursor.revision
    }
}

impl From<steadfast_watch::Error> for Error {
    fn from(error: steadfast_watch::Error) -> Self {
        match error {
            steadfast_watch::Error::Store(error) => Self::Store(error),
            other => {
                tracing::error!(
                    error = &other as &dyn std::error::Error,
                    "cannot follow the log"
                );
                Self::Internal("subscription")
            }
        }
    }
}
