//! Who waits for a saga to rest: until it has ended, or needs a person.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use steadfast_types::Timestamp;
use tokio::sync::watch;

use super::SagaView;
use crate::Saga;

/// Sagas that somebody waits for, in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Rests {
    waited: Arc<Waited>,
}

#[derive(Debug, Default)]
struct Waited {
    /// Those in the map; zero spares the lock.
    count: AtomicUsize,
    sagas: Mutex<HashMap<String, Waiting>>,
}

/// Those who wait for one saga.
#[derive(Debug)]
struct Waiting {
    news: watch::Sender<Option<Rested>>,
    count: usize,
}

/// One who waits. Dropped, it waits no longer.
#[derive(Debug)]
pub(super) struct Rest {
    id: String,
    news: watch::Receiver<Option<Rested>>,
    rests: Rests,
}

/// How a saga came to rest in this process's hand.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rested {
    pub(super) saga: Saga,
    pub(super) version: i64,
    /// Of the transition.
    pub(super) time: Timestamp,
}

// === impl Rested ===

impl Rested {
    /// The saga as it would be read now, made from how it was when it was started. Nothing if it could have changed otherwise
    /// than by its own steps, or may yet go on.
    pub(super) fn ended(self, started: &SagaView) -> Option<SagaView> {
        let as_it_began = self.saga.control_version == started.saga.control_version;
        if !self.saga.state.has_ended() || !as_it_began || started.start_time.is_none() {
            return None;
        }
        let mut saga = self.saga;
        for step in &mut saga.steps {
            // Stored apart, and not part of the view.
            step.output = None;
        }
        Some(SagaView {
            saga,
            version: self.version,
            end_time: Some(self.time),
            owner: None,
            wake_time: None,
            ..started.clone()
        })
    }
}

// === impl Rests ===

impl Rests {
    /// Begins to wait for a saga.
    pub(super) fn wait_for(&self, id: &str) -> Rest {
        let mut sagas = self
            .waited
            .sagas
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first = || Waiting {
            news: watch::Sender::new(None),
            count: 0,
        };
        let waiting = sagas.entry(id.to_owned()).or_insert_with(first);
        waiting.count += 1;
        let news = waiting.news.subscribe();
        self.waited.count.store(sagas.len(), Ordering::Release);
        Rest {
            id: id.to_owned(),
            news,
            rests: self.clone(),
        }
    }

    /// Says that a saga rests; and how, where that is known without reading it.
    pub(super) fn came(&self, id: &str, rested: Option<Rested>) {
        if self.waited.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let sagas = self
            .waited
            .sagas
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = sagas.get(id) {
            waiting.news.send_replace(rested);
        }
    }
}

// === impl Rest ===

impl Rest {
    /// Returns when the saga was said to rest, and what was said.
    pub(super) async fn came(&mut self) -> Option<Rested> {
        // The sender is in the map for as long as this is.
        let _ = self.news.changed().await;
        self.news.borrow_and_update().clone()
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let waited = &self.rests.waited;
        let mut sagas = waited.sagas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = sagas.get_mut(&self.id) {
            waiting.count -= 1;
            if waiting.count == 0 {
                sagas.remove(&self.id);
            }
        }
        waited.count.store(sagas.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_told_and_nobody_is_remembered() {
        let rests = Rests::default();
        let (mut first, mut second, mut other) = (
            rests.wait_for("a"),
            rests.wait_for("a"),
            rests.wait_for("b"),
        );
        rests.came("a", None);
        assert_eq!(first.came().await, None);
        assert_eq!(second.came().await, None);
        assert!(futures::poll!(Box::pin(other.came())).is_pending());
        drop((first, second, other));
        rests.came("a", None);
        assert!(rests.waited.sagas.lock().expect("unpoisoned").is_empty());
        assert_eq!(rests.waited.count.load(Ordering::Relaxed), 0);
    }
}
