//! What a sweep found, as it is handed over to be written.

use std::collections::HashSet;

use super::super::generation::{JudgedBy, Outdated};

/// What a sweep found of one page.
#[derive(Debug, Clone, Default)]
pub struct SweepWrite {
    /// The sweep.
    pub sweep_id: String,
    /// What it was judged by.
    pub judged_by: JudgedBy,
    /// Up to this number it is done.
    pub cursor_key: i64,
    /// The resources of which anything is to be written, in the order of their numbers.
    pub compared: Vec<Compared>,
    /// What is kept as [`crate::SweepRow::failed`]; empty if that stays as it is.
    pub failed: String,
}

/// What was found of one resource.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    /// Its number.
    pub key: i64,
    /// What was read; 0 if it was not due.
    pub generation: i64,
    /// What was read; see [`crate::SweepResource::writes`].
    pub writes: i64,
    /// What was read.
    pub live_version: i64,
    /// What was read.
    pub spec_version: i64,
    /// What it says now, if that is new.
    pub verdict: Option<&'static str>,
    /// It is compared: not due any more.
    pub done: bool,
    /// It is due again at this time.
    pub next_us: Option<i64>,
    /// Differences that are new.
    pub opens: Vec<DriftOpen>,
    /// Differences that are not as they were.
    pub updates: Vec<DriftUpdate>,
    /// Differences that are no more.
    pub closes: Vec<DriftClose>,
}

/// A difference that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftOpen {
    /// Where in the spec; empty for the whole resource.
    pub path: String,
    /// `changed`, `missing`, `gone` or `unmanaged`.
    pub kind: &'static str,
    /// Higher is worse.
    pub severity: i64,
    /// What was asked for; `None` if nothing was.
    pub expected: Option<String>,
    /// What is there; `None` if nothing is.
    pub actual: Option<String>,
    /// Both are hashes.
    pub secret: bool,
    /// How often it came back or changed.
    pub flips: i64,
    /// `policy`, `snooze` or `window`; empty if it is not hidden.
    pub suppressed_by: &'static str,
    /// The policy that hides it.
    pub suppressed_policy: String,
    /// Until when.
    pub suppressed_until_us: Option<i64>,
}

/// A difference that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftUpdate {
    /// Which drift.
    pub id: String,
    /// What was read.
    pub version: i64,
    /// The version of the spec that it holds against.
    pub spec_version: i64,
    /// What it is now.
    pub now: DriftOpen,
    /// The actual value is another one: that is an event.
    pub value_changed: bool,
    /// Only the version of the spec is another one: nobody needs to know.
    pub silent: bool,
}

/// A difference that is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftClose {
    /// Which drift.
    pub id: String,
    /// What was read.
    pub version: i64,
    /// Where.
    pub path: String,
    /// `stale` or `reverted`.
    pub state: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is written.
    Page(AppliedPage),
    /// Nothing is written: it was judged by what is no longer so.
    Outdated(Outdated),
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppliedPage {
    /// Resources that changed since they were read, of which nothing was written.
    pub overtaken: HashSet<i64>,
    /// Drifts that were opened.
    pub opened: Vec<OpenedDrift>,
    /// Drifts that were changed.
    pub updated: i64,
    /// Drifts that were closed.
    pub closed: i64,
    /// There are new revisions.
    pub announced: bool,
    /// The sweep is to stop.
    pub cancelled: bool,
}

/// A drift that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedDrift {
    /// The number of its resource.
    pub key: i64,
    /// Where in the spec.
    pub path: String,
    /// A UUIDv7.
    pub id: String,
}

// === impl Compared ===

impl Compared {
    pub(super) fn touches_drifts(&self) -> bool {
        !(self.opens.is_empty() && self.updates.is_empty() && self.closes.is_empty())
    }
}
