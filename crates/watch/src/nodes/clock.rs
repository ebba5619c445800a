//! The database's clock, as this replica knows it between two signs of life.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What the last sign of life told.
#[derive(Debug)]
pub(super) struct Clock {
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// When that was.
    at: Instant,
    /// What time it was in the database.
    us: i64,
    /// After an outage: leases that ended after this time count, until then.
    forgiving: Option<(i64, Instant)>,
}

// === impl Clock ===

impl Clock {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            state: Mutex::new(State {
                at: Instant::now(),
                us: 0,
                forgiving: None,
            }),
        }
    }

    /// A sign of life was answered at this time.
    pub(super) fn set(&self, us: i64) {
        self.set_at(us, Instant::now());
    }

    fn set_at(&self, us: i64, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // This replica's own lease had ended: the database was away, or the replica was asleep, and what others could not renew
        // meanwhile says nothing about them. They get a lease's time to say that they live.
        if state.us > 0 && now.duration_since(state.at) >= self.lease {
            state.forgiving = Some((state.us, now + self.lease));
        }
        (state.at, state.us) = (now, us);
    }

    /// The database's time, in microseconds. It goes on while this process is stopped.
    pub(super) fn now_us(&self) -> i64 {
        self.now_us_at(Instant::now())
    }

    fn now_us_at(&self, now: Instant) -> i64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.duration_since(state.at).as_micros();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        state.us.saturating_add(since)
    }

    /// Leases that ended after this time count as if they lasted. Later than any time, but after an outage.
    pub(super) fn since_us(&self) -> i64 {
        self.since_us_at(Instant::now())
    }

    fn since_us_at(&self, now: Instant) -> i64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.forgiving {
            Some((us, until)) if now < until => us,
            _ => i64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_in_an_outage_counts_for_a_lease_after_it() {
        let clock = Clock::new(Duration::from_secs(10));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        clock.set_at(1_000_000, begin);
        assert_eq!(clock.now_us_at(at(3)), 4_000_000);
        clock.set_at(4_000_000, at(3));
        assert_eq!(clock.since_us_at(at(3)), i64::MAX, "nothing was missed");
        clock.set_at(44_000_000, at(43));
        assert_eq!(clock.since_us_at(at(43)), 4_000_000);
        clock.set_at(47_000_000, at(46));
        assert_eq!(clock.since_us_at(at(52)), 4_000_000);
        assert_eq!(clock.since_us_at(at(53)), i64::MAX);
    }
}
