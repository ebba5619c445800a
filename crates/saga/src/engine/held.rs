//! Which sagas tasks of this process carry, so that what the database says it has in hand can be compared with that.

use std::sync::{PoisonError, atomic::Ordering};

use super::Engine;
use crate::metric;

/// A task that carries a saga, from its beginning to its end, whichever way that comes.
pub(super) struct Held {
    engine: Engine,
    id: String,
}

// === impl Held ===

impl Held {
    pub(super) fn new(engine: &Engine, id: &str) -> Self {
        let hands = engine.inner.hands.lock();
        *hands
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id.to_owned())
            .or_default() += 1;
        engine.inner.in_hand.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(metric::IN_HAND).increment(1);
        Self {
            engine: engine.clone(),
            id: id.to_owned(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let hands = self.engine.inner.hands.lock();
        let mut hands = hands.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = hands.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                hands.remove(&self.id);
            }
        }
        drop(hands);
        let in_hand = self.engine.inner.in_hand.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(metric::IN_HAND).decrement(1);
        if in_hand >= self.engine.inner.options.running {
            // There is room again.
            self.engine.inner.poke.notify_one();
        }
    }
}

impl Engine {
    /// How many tasks carry a saga.
    pub(super) fn hands(&self, id: &str) -> usize {
        let hands = self.inner.hands.lock();
        let hands = hands.unwrap_or_else(PoisonError::into_inner);
        hands.get(id).copied().unwrap_or(0)
    }
}
