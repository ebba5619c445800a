//! What an observation means, given what is known: pure.

use super::{
    ReportOutcome,
    batch::Item,
    rows::{KnownRow, LookRow},
};
use crate::Error;

/// What is to be done with an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Write(ReportOutcome),
    /// Only the time moves.
    Touch {
        /// A comparison can say something else then.
        is_due: bool,
    },
    Nothing(ReportOutcome),
}

/// An inventory that has not failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) key: i64,
    /// The types that it covers; none for all.
    kinds: Vec<String>,
    pub(super) start_us: i64,
    /// It has not ended yet, and what it misses is still to be counted.
    is_running: bool,
}

// === impl Look ===

impl Look {
    /// Whether it would count a resource as missed that it does not report, and that was last seen, as it is known, at a time.
    fn would_miss(&self, kind: &str, observed_us: i64) -> bool {
        let covers = self.kinds.is_empty() || self.kinds.iter().any(|own| own == kind);
        self.is_running && covers && observed_us < self.start_us
    }
}

impl TryFrom<LookRow> for Look {
    type Error = Error;

    fn try_from(row: LookRow) -> Result<Self, Error> {
        let kinds = serde_json::from_str(&row.types);
        Ok(Self {
            key: row.key,
            kinds: kinds.map_err(|_| Error::Corrupt("drift_inventory.types"))?,
            start_us: row.start_us,
            is_running: row.state == "running",
        })
    }
}

/// What an observation means, given what is known of the resource, and the inventories of its provider that run, or began later.
pub(super) fn decide(item: &Item<'_>, row: &KnownRow, looks: &[Look]) -> Decision {
    let (Some(observed_us), Some(misses)) = (row.observed_us, row.misses) else {
        // The provider's word that something does not exist is news only if it is asked for, and was said to be applied before.
        let applied = row.applied_us.filter(|_| row.recorded);
        let expected = applied.is_some_and(|applied| applied < item.observed_us);
        return if item.observed.gone && !expected {
            Decision::Nothing(ReportOutcome::Unchanged)
        } else {
            Decision::Write(ReportOutcome::First)
        };
    };
    if item.observed_us < observed_us.max(row.missed_us.unwrap_or(0)) {
        return Decision::Nothing(ReportOutcome::Outdated);
    }
    if item.observed.gone != (misses == 2) || misses == 1 || row.same != Some(true) {
        let first = row.blank == Some(true) && misses < 2;
        return match (item.observed.gone, misses) {
            // Gone already, whatever was last known of it.
            (true, 2) => freshen(item, row, observed_us, looks),
            _ if first => Decision::Write(ReportOutcome::First),
            _ => Decision::Write(ReportOutcome::Changed),
        };
    }
    freshen(item, row, observed_us, looks)
}

/// Moves the time if what is known does not count as it is, or would not keep an inventory from missing the resource.
fn freshen(item: &Item<'_>, row: &KnownRow, observed_us: i64, looks: &[Look]) -> Decision {
    let applied = row.applied_us.filter(|_| row.recorded);
    let stale = applied.is_some_and(|applied| observed_us <= applied && item.observed_us > applied);
    let own = row.inventory == Some(item.inventory);
    if stale || (row.is_unsettled() && !own) {
        return Decision::Touch { is_due: true };
    }
    // What an inventory saw is remembered without a write; of a report on its own nothing else is left.
    let kind = item.observed.name.kind.as_str();
    let mut running = looks
        .iter()
        .filter(|look| look.would_miss(kind, observed_us));
    if item.inventory == 0 && running.any(|look| look.start_us <= item.observed_us) {
        return Decision::Touch { is_due: false };
    }
    Decision::Nothing(ReportOutcome::Unchanged)
}
