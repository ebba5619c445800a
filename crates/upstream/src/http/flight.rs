//! One flight per request: callers that want the same thing at the same time wait for one answer.
//!
//! Nobody owns a flight: it is polled by whoever waits for it, so that the first caller's impatience does not fail the others, and
//! it ends when the last of them goes. An answer is never kept beyond its flight; this is not a cache.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

type Flight<V> = Shared<BoxFuture<'static, V>>;

/// The flights under way.
pub(super) struct Flights<K, V: Clone> {
    open: Arc<Mutex<Open<K, V>>>,
}

struct Open<K, V: Clone> {
    by_key: HashMap<K, (u64, WeakShared<BoxFuture<'static, V>>)>,
    next_number: u64,
}

/// Strikes the flight off the board when it ends, or when everyone has left.
struct Landing<K: Eq + Hash, V: Clone> {
    open: Arc<Mutex<Open<K, V>>>,
    key: K,
    number: u64,
}

// === impl Flights ===

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self {
            open: Arc::new(Mutex::new(Open {
                by_key: HashMap::new(),
                next_number: 0,
            })),
        }
    }

    /// The flight for `key`: the one under way, or the one `start` makes. No flight is ever dropped under the lock, since its
    /// landing takes the lock again.
    pub(super) fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Flight<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut open = lock(&self.open);
        if let Some(flight) = open.by_key.get(&key).and_then(|(_, weak)| weak.upgrade()) {
            return flight;
        }
        let number = open.next_number;
        open.next_number += 1;
        let landing = Landing {
            open: Arc::clone(&self.open),
            key: key.clone(),
            number,
        };
        let work = start();
        let flight = async move {
            let _landing = landing;
            work.await
        }
        .boxed()
        .shared();
        let weak = flight
            .downgrade()
            .expect("a flight that was never polled has not landed");
        open.by_key.insert(key, (number, weak));
        flight
    }
}

// === impl Landing ===

impl<K: Eq + Hash, V: Clone> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if open
            .by_key
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            open.by_key.remove(&self.key);
        }
    }
}

/// A panic elsewhere leaves the map whole: every change to it is one call.
fn lock<K, V: Clone>(open: &Mutex<Open<K, V>>) -> MutexGuard<'_, Open<K, V>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn flights() -> Flights<&'static str, usize> {
        Flights::new()
    }

    #[tokio::test]
    async fn overlapping_callers_share_and_later_ones_do_not() {
        let flights = flights();
        let count = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let start = || {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            async move {
                gate.notified().await;
                count.fetch_add(1, Ordering::SeqCst)
            }
        };
        let (first, second) = (flights.join("a", start), flights.join("a", start));
        gate.notify_one();
        assert_eq!(tokio::join!(first, second), (0, 0));
        gate.notify_one();
        assert_eq!(flights.join("a", start).await, 1);
        assert!(lock(&flights.open).by_key.is_empty());
    }

    #[tokio::test]
    async fn the_first_caller_may_leave_and_the_last_one_ends_it() {
        let flights = flights();
        let gate = Arc::new(Notify::new());
        let waiting = Arc::clone(&gate);
        let first = flights.join("a", || async move {
            waiting.notified().await;
            7
        });
        let second = flights.join("a", || async { 8 });
        drop(first);
        gate.notify_one();
        assert_eq!(second.await, 7);

        drop(flights.join("a", std::future::pending));
        assert!(lock(&flights.open).by_key.is_empty());
    }
}
