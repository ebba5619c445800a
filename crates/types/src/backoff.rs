//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// An exponential back-off with full jitter and a cap; the arithmetic is `backon`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// No wait is longer.
    pub maximum: Duration,
    /// How many waits there are; `None` for no end.
    pub attempts: Option<usize>,
}

// === impl Backoff ===

impl Backoff {
    /// For connections to a database or a server that will be back: 50 ms to 2 s, without end.
    pub const RECONNECT: Self = Self {
        initial: Duration::from_millis(50),
        maximum: Duration::from_secs(2),
        attempts: None,
    };

    /// The waits, one by one.
    pub fn waits(self) -> impl Iterator<Item = Duration> + Send + Sync + use<> {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial)
            .with_max_delay(self.maximum)
            .with_factor(2.0);
        match self.attempts {
            Some(attempts) => builder.with_max_times(attempts),
            None => builder.without_max_times(),
        }
        .build()
        // Full jitter: anywhere between nothing and the whole, so that many who failed together do not return together.
        // Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
        .map(|wait| wait.mul_f64(rand::random()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_after_the_attempts_and_stay_below_the_cap() {
        let backoff = Backoff {
            initial: Duration::from_millis(10),
            maximum: Duration::from_millis(40),
            attempts: Some(6),
        };
        let waits: Vec<_> = backoff.waits().collect();
        assert_eq!(waits.len(), 6);
        assert!(waits.iter().all(|wait| *wait <= backoff.maximum));
        assert!(Backoff::RECONNECT.waits().take(1_000).count() == 1_000);
    }
}
