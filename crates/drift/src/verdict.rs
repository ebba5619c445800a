//! Whether a resource may be compared, whether it exists, and what it is called afterwards.
//!
//! A comparison with a look from before the spec was applied says nothing, and neither does one that an inventory began and
//! did not bring to its end: both are told from "in sync" and from "drifted" by a verdict of their own. [`readiness`] is the one
//! place where that is decided.

use steadfast_types::Timestamp;

/// What a resource is called. `None` in a row means that it was never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Everything that the spec says is so.
    InSync,
    /// Something is not so, hidden or not.
    Drifted,
    /// Recorded, and not applied yet.
    Pending,
    /// A saga holds it, or the provider is changing it.
    Busy,
    /// The last look at it since it was applied failed or was incomplete; or nothing else differs, and what is secret in it is hashed
    /// with two keys.
    Unreadable,
    /// Nobody looked at it since it was applied.
    NotObserved,
}

/// Whether the provider has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Presence {
    /// Nobody has reported it yet.
    Unknown,
    /// It was seen.
    Present,
    /// The last complete inventory did not have it.
    Missed,
    /// The provider said that it is not there, or two complete inventories, one after the other, did not have it.
    Gone,
}

/// Where an observation comes from, and so whether it may be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// A report on its own.
    Direct,
    /// An inventory that has not ended yet.
    Running,
    /// An inventory that saw everything.
    Complete,
    /// An inventory that did not.
    Failed,
}

/// What is known of a resource, apart from its two documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Somebody recorded a spec.
    pub recorded: bool,
    /// When it was last applied; `None` while it is pending.
    pub applied: Option<Timestamp>,
    /// A saga has its concurrency key.
    pub held: bool,
    /// The provider reports that a change is under way.
    pub in_transition: bool,
    /// Whether it exists.
    pub presence: Presence,
    /// From when the last observation counts, and where it comes from. An observation is also that a complete inventory missed
    /// it, or that the provider said that it is gone.
    pub observed: Option<(Timestamp, Look)>,
    /// When the newest inventory began that covers it and failed.
    pub failed: Option<Timestamp>,
    /// The type is declared so that resources which nobody recorded are drifts.
    pub reports_unmanaged: bool,
}

/// What is to be done about a resource that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Compare the documents; [`Verdict::of_comparison`] says the verdict.
    Compare,
    /// The resource itself is gone: one drift about all of it, those about its fields are stale. The verdict is DRIFTED.
    Gone,
    /// Nobody recorded it, and it is there: one drift about all of it. The verdict is DRIFTED.
    Unmanaged,
    /// Nobody recorded it, and nothing is to be said: every open drift of it is stale, and it has no verdict.
    Nothing,
    /// Nobody recorded it, and whether it is there cannot be told now: its drifts about fields are stale, what is open about all of it
    /// stays. It remains due.
    Unsure,
    /// Open nothing, close nothing, and call it this.
    Hold(Verdict),
    /// An inventory that has seen it is still under way: leave everything as it is, it is due again at the end of that.
    Wait,
}

// === impl Verdict ===

impl Verdict {
    /// After the documents were compared.
    #[must_use]
    pub fn of_comparison(divergences: usize) -> Self {
        if divergences == 0 {
            Self::InSync
        } else {
            Self::Drifted
        }
    }

    /// As it is kept and counted.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Drifted => "drifted",
            Self::Pending => "pending",
            Self::Busy => "busy",
            Self::Unreadable => "unreadable",
            Self::NotObserved => "not_observed",
        }
    }
}

/// Whether a resource may be compared.
///
/// What a saga or the provider is changing, and what is not applied yet, is not looked at. An observation counts if it began
/// after the spec was applied; the same moment is not after it.
#[must_use]
pub fn readiness(facts: &Facts) -> Readiness {
    let Facts {
        recorded,
        applied,
        held,
        in_transition,
        presence,
        observed,
        failed,
        reports_unmanaged,
    } = *facts;
    if !recorded {
        let there = matches!(presence, Presence::Present | Presence::Missed);
        let unsure = matches!(observed, Some((_, Look::Running | Look::Failed)));
        return match there && reports_unmanaged {
            true if unsure || held || in_transition => Readiness::Unsure,
            true => Readiness::Unmanaged,
            // Whatever is there: there is nothing that it could differ from.
            false => Readiness::Nothing,
        };
    }
    let Some(applied) = applied else {
        return Readiness::Hold(Verdict::Pending);
    };
    if held {
        return Readiness::Hold(Verdict::Busy);
    }
    match observed.filter(|(time, _)| *time > applied) {
        Some((_, Look::Running)) => Readiness::Wait,
        Some((_, Look::Failed)) => Readiness::Hold(Verdict::Unreadable),
        None if failed.is_some_and(|time| time > applied) => Readiness::Hold(Verdict::Unreadable),
        None => Readiness::Hold(Verdict::NotObserved),
        Some((_, Look::Direct | Look::Complete)) => match presence {
            Presence::Gone => Readiness::Gone,
            // One miss proves nothing: paging skips a row when another one is deleted meanwhile.
            Presence::Missed | Presence::Unknown => Readiness::Hold(Verdict::NotObserved),
            Presence::Present if in_transition => Readiness::Hold(Verdict::Busy),
            // A newer look that failed, and did not bring this resource, says nothing against one that succeeded.
            Presence::Present => Readiness::Compare,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIED: Timestamp = Timestamp(100);

    fn facts() -> Facts {
        Facts {
            recorded: true,
            applied: Some(APPLIED),
            held: false,
            in_transition: false,
            presence: Presence::Present,
            observed: Some((Timestamp(101), Look::Complete)),
            failed: None,
            reports_unmanaged: false,
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Readiness {
        let mut facts = facts();
        change(&mut facts);
        readiness(&facts)
    }

    #[test]
    fn only_an_observation_from_after_the_apply_is_compared() {
        let seen_at = |time| with(|facts| facts.observed = Some((Timestamp(time), Look::Complete)));
        assert_eq!(seen_at(101), Readiness::Compare);
        assert_eq!(seen_at(100), Readiness::Hold(Verdict::NotObserved));
        assert_eq!(seen_at(99), Readiness::Hold(Verdict::NotObserved));
        assert_eq!(
            with(|facts| facts.observed = None),
            Readiness::Hold(Verdict::NotObserved)
        );
        assert_eq!(
            with(|facts| facts.observed = Some((Timestamp(101), Look::Direct))),
            Readiness::Compare
        );
    }

    #[test]
    fn an_unreadable_inventory_opens_and_closes_nothing() {
        let unreadable = Readiness::Hold(Verdict::Unreadable);
        let of = |look| with(|facts| facts.observed = Some((Timestamp(101), look)));
        assert_eq!(of(Look::Failed), unreadable);
        assert_eq!(of(Look::Running), Readiness::Wait);
        let failed_at = |observed, failed| {
            with(|facts| {
                facts.observed = Some((Timestamp(observed), Look::Complete));
                facts.failed = Some(Timestamp(failed));
            })
        };
        assert_eq!(failed_at(99, 101), unreadable);
        // It failed before the apply: nobody has tried since.
        assert_eq!(failed_at(98, 99), Readiness::Hold(Verdict::NotObserved));
        // What was seen after the apply holds, whoever failed later.
        assert_eq!(failed_at(101, 102), Readiness::Compare);
        // Nothing proves that it is gone.
        let gone = with(|facts| {
            facts.presence = Presence::Gone;
            facts.observed = Some((Timestamp(101), Look::Failed));
        });
        assert_eq!(gone, unreadable);
    }

    #[test]
    fn what_is_changing_is_left_alone() {
        let busy = Readiness::Hold(Verdict::Busy);
        assert_eq!(with(|facts| facts.held = true), busy);
        assert_eq!(with(|facts| facts.in_transition = true), busy);
        assert_eq!(
            with(|facts| {
                facts.applied = None;
                facts.held = true;
            }),
            Readiness::Hold(Verdict::Pending)
        );
        // A transition that was seen before the apply says nothing about now.
        assert_eq!(
            with(|facts| {
                facts.in_transition = true;
                facts.observed = Some((Timestamp(99), Look::Complete));
            }),
            Readiness::Hold(Verdict::NotObserved)
        );
    }

    #[test]
    fn gone_needs_proof() {
        assert_eq!(
            with(|facts| facts.presence = Presence::Gone),
            Readiness::Gone
        );
        assert_eq!(
            with(|facts| facts.presence = Presence::Missed),
            Readiness::Hold(Verdict::NotObserved)
        );
        // Gone before it was applied again: that may have created it.
        assert_eq!(
            with(|facts| {
                facts.presence = Presence::Gone;
                facts.observed = Some((Timestamp(99), Look::Complete));
            }),
            Readiness::Hold(Verdict::NotObserved)
        );
    }

    #[test]
    fn what_nobody_recorded_is_a_drift_only_where_declared() {
        let unrecorded = |reports, presence| {
            with(|facts| {
                facts.recorded = false;
                facts.applied = None;
                facts.reports_unmanaged = reports;
                facts.presence = presence;
            })
        };
        assert_eq!(unrecorded(true, Presence::Present), Readiness::Unmanaged);
        assert_eq!(unrecorded(true, Presence::Missed), Readiness::Unmanaged);
        assert_eq!(unrecorded(true, Presence::Gone), Readiness::Nothing);
        assert_eq!(unrecorded(false, Presence::Present), Readiness::Nothing);
        let running = with(|facts| {
            facts.recorded = false;
            facts.reports_unmanaged = true;
            facts.observed = Some((Timestamp(101), Look::Running));
        });
        assert_eq!(running, Readiness::Unsure);
    }

    #[test]
    fn what_nobody_asks_for_differs_from_nothing_whoever_looks_or_changes_it() {
        for (look, held, in_transition) in [
            (Look::Running, false, false),
            (Look::Failed, false, false),
            (Look::Direct, true, false),
            (Look::Complete, false, true),
        ] {
            for (reports_unmanaged, expected) in
                [(false, Readiness::Nothing), (true, Readiness::Unsure)]
            {
                let found = with(|facts| {
                    facts.recorded = false;
                    facts.applied = None;
                    facts.observed = Some((Timestamp(101), look));
                    (facts.held, facts.in_transition) = (held, in_transition);
                    facts.reports_unmanaged = reports_unmanaged;
                });
                assert_eq!(found, expected, "{look:?} {held} {in_transition}");
            }
        }
    }

    #[test]
    fn one_divergence_is_enough() {
        assert_eq!(Verdict::of_comparison(0), Verdict::InSync);
        assert_eq!(Verdict::of_comparison(1), Verdict::Drifted);
    }
}
