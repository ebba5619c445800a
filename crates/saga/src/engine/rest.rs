//! Who waits for a saga to rest: until it has ended, or needs a person.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

/// Sagas that somebody waits for, in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Rests {
    waited: Arc<Waited>,
}

#[derive(Debug, Default)]
struct Waited {
    /// Those in the map; zero spares the lock.
    count: AtomicUsize,
    sagas: Mutex<HashMap<String, (watch::Sender<()>, usize)>>,
}

/// One who waits. Dropped, it waits no longer.
#[derive(Debug)]
pub(super) struct Rest {
    id: String,
    news: watch::Receiver<()>,
    rests: Rests,
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
        let first = || (watch::Sender::new(()), 0);
        let (news, waiting) = sagas.entry(id.to_owned()).or_insert_with(first);
        *waiting += 1;
        let news = news.subscribe();
        self.waited.count.store(sagas.len(), Ordering::Release);
        Rest {
            id: id.to_owned(),
            news,
            rests: self.clone(),
        }
    }

    /// Says that a saga rests.
    pub(super) fn came(&self, id: &str) {
        if self.waited.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let sagas = self
            .waited
            .sagas
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((news, _)) = sagas.get(id) {
            news.send_replace(());
        }
    }
}

// === impl Rest ===

impl Rest {
    /// Returns when the saga was said to rest.
    pub(super) async fn came(&mut self) {
        // The sender is in the map for as long as this is.
        let _ = self.news.changed().await;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let waited = &self.rests.waited;
        let mut sagas = waited.sagas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, waiting)) = sagas.get_mut(&self.id) {
            *waiting -= 1;
            if *waiting == 0 {
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
        rests.came("a");
        first.came().await;
        second.came().await;
        assert!(futures::poll!(Box::pin(other.came())).is_pending());
        drop((first, second, other));
        rests.came("a");
        assert!(rests.waited.sagas.lock().expect("unpoisoned").is_empty());
        assert_eq!(rests.waited.count.load(Ordering::Relaxed), 0);
    }
}
