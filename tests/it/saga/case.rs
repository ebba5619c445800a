//! What is known about one saga: its record, and what really came of it.

use std::{fmt, sync::Arc};

use steadfast_client::api::saga::v1::{Direction, SagaEvent, SagaEventKind as Kind, SagaState};
use steadfast_testkit::effects::{Call, Entry, Way, What};

use super::load::{STEPS, Told};

/// An attempt of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) step: usize,
    pub(crate) way: Way,
    pub(crate) number: u32,
}

/// One saga before its judge.
pub(crate) struct Case<'a> {
    pub(crate) told: &'a Told,
    pub(crate) entries: &'a [&'a Entry],
    pub(crate) blocks_late: bool,
}

// === impl Case ===

impl Case<'_> {
    pub(crate) fn state(&self) -> SagaState {
        self.told.saga.state()
    }

    pub(crate) fn arrived(&self) -> impl Iterator<Item = &Arc<Call>> {
        let arrived = self
            .entries
            .iter()
            .filter(|entry| entry.what == What::Arrived);
        arrived.map(|entry| &entry.call)
    }

    /// Steps whose effect, or undo, came about, in that order.
    pub(crate) fn happened(&self, way: Way) -> Vec<usize> {
        let happened = self.entries.iter().filter(|entry| match way {
            Way::Do => entry.what == What::Applied,
            Way::Undo => is_undone(entry),
        });
        happened.map(|entry| index(&entry.call.step)).collect()
    }

    /// Steps whose effects are still there.
    pub(crate) fn there(&self) -> Vec<usize> {
        let mut there = Vec::new();
        for entry in self.entries {
            let step = index(&entry.call.step);
            match entry.what {
                What::Applied => there.push(step),
                What::Undone { .. } => there.retain(|other| *other != step),
                What::Arrived | What::Blocked => {}
            }
        }
        there
    }

    pub(crate) fn receipt(&self, step: usize) -> Option<&str> {
        let applied = self
            .entries
            .iter()
            .find(|entry| entry.what == What::Applied && index(&entry.call.step) == step);
        applied.map(|entry| entry.receipt.as_str())
    }

    /// Where the first such entry is; at the end if there is none.
    pub(crate) fn first(&self, is: impl Fn(&Entry) -> bool) -> usize {
        let at = self.entries.iter().position(|entry| is(entry));
        at.unwrap_or(self.entries.len())
    }

    /// Steps with such an event in one direction, in order.
    pub(crate) fn marks(&self, kind: Kind, way: Way) -> Vec<usize> {
        let attempts = self.attempts(kind).into_iter();
        let of_way = attempts.filter(|attempt| attempt.way == way);
        of_way.map(|attempt| attempt.step).collect()
    }

    pub(crate) fn attempts(&self, kind: Kind) -> Vec<Attempt> {
        let events = self.told.events.iter().filter(|event| event.kind() == kind);
        let attempt = |event: &SagaEvent| Attempt {
            step: index(&event.step),
            way: match event.direction() {
                Direction::Backward => Way::Undo,
                Direction::Forward | Direction::Unspecified => Way::Do,
            },
            number: u32::try_from(event.attempt).unwrap_or(0),
        };
        events.map(attempt).collect()
    }
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.told.saga)?;
        for event in &self.told.events {
            let (kind, way) = (event.kind(), event.direction());
            writeln!(
                f,
                "  {} {kind:?} {} {way:?} {} {}",
                event.seq, event.step, event.attempt, event.detail_json
            )?;
        }
        for entry in self.entries {
            let call = &entry.call;
            writeln!(
                f,
                "  {:?} {:?} {} {} {}",
                entry.what, call.way, call.step, call.attempt, call.key
            )?;
        }
        Ok(())
    }
}

pub(crate) fn is_undone(entry: &Entry) -> bool {
    matches!(entry.what, What::Undone { .. })
}

pub(crate) fn is_arrived(entry: &Entry, way: Way) -> bool {
    entry.what == What::Arrived && entry.call.way == way
}

pub(crate) fn index(step: &str) -> usize {
    let at = STEPS.iter().position(|name| *name == step);
    at.unwrap_or_else(|| panic!("there is no step `{step}`"))
}
