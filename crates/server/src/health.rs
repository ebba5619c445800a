//! Whether this replica is alive, and whether it is useful.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use steadfast_watch::Hub;

/// Revisions that memory may be behind the database before the replica counts as not useful.
const READY_LAG_REVISIONS: i64 = 10_000;

/// What `/readyz` and the health service answer from.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    hub: Hub,
    draining: Arc<AtomicBool>,
}

/// How useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Everything works.
    Ready,
    /// Lookups are served from memory; the database does not answer.
    Degraded,
    /// Memory is too far behind.
    Behind {
        /// Revisions.
        lag: i64,
    },
    /// Shutting down.
    Draining,
}

// === impl Health ===

impl Health {
    pub(crate) fn new(hub: Hub) -> Self {
        Self {
            hub,
            draining: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::Draining;
        }
        let position = *self.hub.position().borrow();
        let lag = position.head.0 - position.applied.revision.0;
        if position.degraded {
            // Still of use: if every replica left the balancer with the database, nothing could be looked up.
            Readiness::Degraded
        } else if lag > READY_LAG_REVISIONS {
            Readiness::Behind { lag }
        } else {
            Readiness::Ready
        }
    }
}

impl Readiness {
    pub(crate) fn is_useful(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

impl std::fmt::Display for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Degraded => f.write_str(
                "ready, degraded: the database does not answer; lookups are served from memory, writes are refused",
            ),
            Self::Behind { lag } => write!(
                f,
                "not ready: memory is {lag} revisions behind the database (limit {READY_LAG_REVISIONS})"
            ),
            Self::Draining => f.write_str("not ready: shutting down"),
        }
    }
}
