//! What a sweep found so far, as it is kept with it.

use serde::{Deserialize, Serialize};

use crate::Verdict;

/// Counts of one sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepTally {
    /// Resources looked at.
    pub compared: i64,
    /// Leaves of specs compared.
    pub fields: i64,
    /// Of the resources: everything is as asked for.
    pub in_sync: i64,
    /// Something is not.
    pub drifted: i64,
    /// Not applied yet.
    pub pending: i64,
    /// Held by a saga, or changing.
    pub busy: i64,
    /// The last look failed.
    pub unreadable: i64,
    /// Nobody looked.
    pub not_observed: i64,
    /// Drifts opened.
    pub opened: i64,
    /// Drifts whose actual value changed.
    pub changed: i64,
    /// Drifts closed.
    pub closed: i64,
    /// Drifts that a policy accepted.
    pub accepted: i64,
    /// Resources that could not be compared.
    pub failed: i64,
}

// === impl SweepTally ===

impl SweepTally {
    /// What is kept with a sweep; nothing if that cannot be read.
    #[must_use]
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// As it is kept.
    #[must_use]
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How many resources are called that.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> i64 {
        match verdict {
            Verdict::InSync => self.in_sync,
            Verdict::Drifted => self.drifted,
            Verdict::Pending => self.pending,
            Verdict::Busy => self.busy,
            Verdict::Unreadable => self.unreadable,
            Verdict::NotObserved => self.not_observed,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.fields += other.fields;
        self.in_sync += other.in_sync;
        self.drifted += other.drifted;
        self.pending += other.pending;
        self.busy += other.busy;
        self.unreadable += other.unreadable;
        self.not_observed += other.not_observed;
        self.opened += other.opened;
        self.changed += other.changed;
        self.closed += other.closed;
        self.accepted += other.accepted;
        self.failed += other.failed;
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        let count = match verdict {
            Verdict::InSync => &mut self.in_sync,
            Verdict::Drifted => &mut self.drifted,
            Verdict::Pending => &mut self.pending,
            Verdict::Busy => &mut self.busy,
            Verdict::Unreadable => &mut self.unreadable,
            Verdict::NotObserved => &mut self.not_observed,
        };
        *count += 1;
    }
}
