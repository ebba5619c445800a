//! A host that fails again and again is left alone for a while: asking on costs time that others wait for, and it nothing but
//! trouble.
//!
//! Closed, everything passes, and failures in a row are counted. After so many it opens: nothing passes. After a pause one attempt
//! passes, alone, and decides, while the others wait for it: an answer closes it, a failure opens it for another pause. Any answer counts as one, also 404 and
//! 429: the host is there. What failed before it opened, and comes back later, decides nothing.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// The breaker of one host.
#[derive(Debug)]
pub(super) struct Breaker {
    /// So many failures in a row open it; 0 means none ever do.
    failures_max: u32,
    pause: Duration,
    state: Mutex<State>,
    /// Something was decided.
    decided: Notify,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// What the last failure was.
    problem: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    probing: bool,
}

/// Leave to make one attempt. Dropped without a word, it decides nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probes: bool,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// One attempt is under way that decides.
    Undecided,
    /// Nothing passes for a while.
    Open {
        /// How many attempts in a row failed.
        failures: u32,
        /// The last failure.
        problem: String,
        /// How long until the next attempt.
        retry_after: Duration,
    },
}

/// What a word about an attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    None,
    /// From now on nothing passes.
    Opened,
    /// Everything passes again.
    Closed,
}

// === impl Breaker ===

impl Breaker {
    pub(super) fn new(failures_max: u32, pause: Duration) -> Self {
        Self {
            failures_max,
            pause,
            state: Mutex::default(),
            decided: Notify::new(),
        }
    }

    /// Asks for leave.
    pub(super) fn admit(&self, now: Instant) -> Result<Pass<'_>, Refused> {
        let mut state = self.lock();
        let (failures, problem) = (state.failures, state.problem.clone());
        let probes = match &mut state.open {
            None => false,
            Some(open) => {
                let retry_after = open.until.saturating_duration_since(now);
                if open.probing {
                    return Err(Refused::Undecided);
                }
                if !retry_after.is_zero() {
                    return Err(Refused::Open {
                        failures,
                        problem,
                        retry_after,
                    });
                }
                open.probing = true;
                true
            }
        };
        Ok(Pass {
            breaker: self,
            probes,
        })
    }

    /// Ends when something is decided after this call.
    pub(super) fn decided(&self) -> Notified<'_> {
        self.decided.notified()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pass ===

impl Pass<'_> {
    /// The host answered.
    pub(super) fn answered(self) -> Turn {
        let mut state = self.breaker.lock();
        if state.open.is_some() && !self.probes {
            return Turn::None;
        }
        state.failures = 0;
        match state.open.take() {
            Some(_) => Turn::Closed,
            None => Turn::None,
        }
    }

    /// It did not, or it is broken.
    pub(super) fn failed(self, problem: String, now: Instant) -> Turn {
        let breaker = self.breaker;
        let mut state = breaker.lock();
        if state.open.is_some() && !self.probes {
            return Turn::None;
        }
        state.failures = state.failures.saturating_add(1);
        state.problem = problem;
        if breaker.failures_max == 0 || state.failures < breaker.failures_max {
            return Turn::None;
        }
        let turn = match state.open {
            None => Turn::Opened,
            Some(_) => Turn::None,
        };
        state.open = Some(Open {
            until: now + breaker.pause,
            probing: false,
        });
        turn
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probes
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
        if self.probes {
            self.breaker.decided.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    fn fail(breaker: &Breaker, now: Instant) -> Turn {
        let pass = breaker.admit(now).expect("passes");
        pass.failed("status 503".to_owned(), now)
    }

    #[test]
    fn rule_5_a_host_that_fails_in_a_row_is_left_alone_then_probed_once() {
        let breaker = Breaker::new(3, PAUSE);
        let mut now = Instant::now();
        assert_eq!(fail(&breaker, now), Turn::None);
        assert_eq!(fail(&breaker, now), Turn::None);
        // One answer, and the row begins anew.
        assert_eq!(breaker.admit(now).expect("passes").answered(), Turn::None);
        assert_eq!([fail(&breaker, now), fail(&breaker, now)], [Turn::None; 2]);
        let late = breaker.admit(now).expect("passes");
        assert_eq!(fail(&breaker, now), Turn::Opened);
        let open = |failures, problem: &str| Refused::Open {
            failures,
            problem: problem.to_owned(),
            retry_after: PAUSE,
        };
        assert_eq!(breaker.admit(now).expect_err("open"), open(3, "status 503"));
        // What was under way when it opened decides nothing.
        assert_eq!(late.answered(), Turn::None);
        assert!(breaker.admit(now).is_err());

        now += PAUSE;
        let probe = breaker.admit(now).expect("half open");
        let refused = breaker.admit(now).expect_err("one at a time");
        assert_eq!(refused, Refused::Undecided);
        assert_eq!(probe.failed("again".to_owned(), now), Turn::None);
        assert_eq!(breaker.admit(now).expect_err("open"), open(4, "again"));

        now += PAUSE;
        drop(breaker.admit(now).expect("half open"));
        let probe = breaker.admit(now);
        let probe = probe.expect("the one that left decided nothing");
        assert_eq!(probe.answered(), Turn::Closed);
        assert_eq!([fail(&breaker, now), fail(&breaker, now)], [Turn::None; 2]);
        assert!(breaker.admit(now).is_ok());
    }

    #[test]
    fn without_a_limit_it_never_opens() {
        let breaker = Breaker::new(0, PAUSE);
        for _ in 0..100 {
            assert_eq!(fail(&breaker, Instant::now()), Turn::None);
        }
    }
}
