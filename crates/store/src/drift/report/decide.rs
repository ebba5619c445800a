//! What an observation means, given what is known: pure.

use super::{ReportOutcome, batch::Item, rows::KnownRow};

/// What is to be done with an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Write(ReportOutcome),
    Touch,
    Nothing(ReportOutcome),
}

/// What an observation means, given what is known.
pub(super) fn decide(item: &Item<'_>, row: &KnownRow) -> Decision {
    let (Some(observed_us), Some(misses)) = (row.observed_us, row.misses) else {
        return if item.observed.gone {
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
            (true, 2) => freshen(item, row, observed_us),
            _ if first => Decision::Write(ReportOutcome::First),
            _ => Decision::Write(ReportOutcome::Changed),
        };
    }
    freshen(item, row, observed_us)
}

/// Moves the time if what is known does not count as it is.
fn freshen(item: &Item<'_>, row: &KnownRow, observed_us: i64) -> Decision {
    let applied = row.applied_us.filter(|_| row.recorded);
    let stale = applied.is_some_and(|applied| observed_us <= applied && item.observed_us > applied);
    let own = row.inventory == Some(item.inventory);
    let unsettled = match row.inventory {
        Some(0) | None => false,
        // An inventory that failed and is no longer kept.
        Some(key) if key < 0 => true,
        Some(_) => matches!(row.inventory_state.as_deref(), Some("running" | "failed")),
    };
    if stale || (unsettled && !own) {
        Decision::Touch
    } else {
        Decision::Nothing(ReportOutcome::Unchanged)
    }
}
