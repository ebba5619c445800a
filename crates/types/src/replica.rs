//! Who does the work.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One process of Steadfast, drawn at each start: a restarted process is another replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub Uuid);

/// Counts the owners of a lease. A write that carries an older fence than the lease's is refused, whatever its author
/// believes about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

// === impl ReplicaId ===

impl ReplicaId {
    /// Draws a new one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
