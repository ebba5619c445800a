//! Drift: specs, observations, where they differ, and what was decided about it.
//!
//! What a comparison is, is not known here: values are texts, and what differs was decided before it arrives. What is kept here is
//! that a decision is written only if nothing that it rests on has changed since: a finished comparison names the generation that
//! it read, an acceptance locks the resource, what is there, and the drift, in that order.
//!
//! Locks are taken in one order, so that nobody waits in a circle: lease, gate or inventory; resource; live; drift; verdict; due; what was
//! told; the sweep's row; the log last. Rows of one table are taken by their numbers, in one statement: of two that each go by the numbers the
//! second begins again at the lowest. Rows that may not be there yet are no exception: to insert one is to lock its number.
//!
//! Resources have numbers (`key`), which are this database's own and never leave the process.

mod accept;
mod apply;
mod clock;
mod due;
mod event;
mod generation;
mod inventory;
mod page;
mod policy;
mod prune;
mod record;
mod redact;
mod report;
mod resource;
mod row;
mod seen;
mod sweep;
mod told;

use serde::{Deserialize, Serialize};

use crate::Error;

pub use accept::{AcceptScene, AcceptWrite, Accepted, SnoozeWrite};
pub use apply::{
    Applied, AppliedPage, Compared, DriftClose, DriftOpen, DriftUpdate, OpenedDrift, SweepWrite,
};
pub use event::DriftEventRow;
pub use generation::{JudgedBy, Outdated, RulesStanding};
pub use inventory::{FailedLook, InventoryEnd, InventoryEnded, InventoryFilter, InventoryRow};
pub use page::{DueResource, OpenDrift, PastDrift, SweepResource};
pub use policy::{PolicyRow, PolicyWrite, PolicyWritten};
pub use prune::DriftRetention;
pub use record::{NewRecord, Recorded};
pub use redact::Redact;
pub use report::{NewReports, Observed, ReportOutcome, Reported};
pub use resource::{ResourceFilter, ResourceList, ResourceRow};
pub use row::{DriftFilter, DriftRow};
pub use sweep::{NewSweep, SweepAsked, SweepFailure, SweepRow};

pub(crate) use {record::Records, report::Reports};

/// The topic of resources; the key is [`ResourceName`]'s display, the etag [`ResourceRow::etag`].
pub const RESOURCE_TOPIC: &str = "resource";

/// The topic of drifts; the key is the drift's id, the etag [`DriftRow::etag`].
pub const DRIFT_TOPIC: &str = "drift";

/// The topic of policies; the key is the policy's name, the etag [`PolicyRow::etag`].
pub const POLICY_TOPIC: &str = "policy";

/// What a saga's concurrency key begins with that holds a resource; its [`ResourceName`] follows.
pub const RESOURCE_KEY_PREFIX: &str = "resource/";

/// What names a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ResourceName {
    /// Who runs it; without `/`.
    pub provider: String,
    /// Its type; without `/`.
    pub kind: String,
    /// The provider's own id.
    pub id: String,
}

// === impl ResourceName ===

impl std::fmt::Display for ResourceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.provider, self.kind, self.id)
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Corrupt("drift arguments"))
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Statements that list drifts, how many arguments each has, and the indexes that it has to use.
#[cfg(test)]
pub(crate) fn listing() -> [(&'static crate::engine::Sql, usize, &'static [&'static str]); 4] {
    row::listing()
}

#[cfg(any(test, feature = "faults"))]
pub(crate) fn statements() -> Vec<&'static crate::engine::Sql> {
    [
        accept::STATEMENTS,
        apply::STATEMENTS,
        clock::STATEMENTS,
        due::STATEMENTS,
        event::STATEMENTS,
        generation::STATEMENTS,
        &inventory::all_statements(),
        page::STATEMENTS,
        policy::STATEMENTS,
        prune::STATEMENTS,
        record::STATEMENTS,
        redact::STATEMENTS,
        report::STATEMENTS,
        &resource::all_statements(),
        row::STATEMENTS,
        seen::STATEMENTS,
        sweep::STATEMENTS,
        told::STATEMENTS,
    ]
    .concat()
}
