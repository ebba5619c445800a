//! What is to be done about a drift, and whether it is hidden.
//!
//! Each question is answered by the most specific policy that says something about it; the rank of a policy is what it names, and
//! how much of that. Ignoring, a maintenance window and a snooze hide a drift, and close nothing. Whatever is decided holds until a
//! time that the decision names: then the resource is to be compared again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Deserialize, Serialize};
use steadfast_types::Timestamp;

use crate::{DivergenceKind, pointer};

/// Windows of one policy, at most.
pub const MAX_WINDOWS: usize = 16;
/// The longest that a window is open, in seconds.
pub const MAX_WINDOW_S: u64 = 7 * 86_400;
/// The shortest.
pub const MIN_WINDOW_S: u64 = 60;
/// How often one drift may be reverted, at most.
pub const MAX_REVERTS: u32 = 10;

/// What becomes of a drift. The more careful comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// It is hidden.
    Ignore,
    /// It waits for a person.
    Manual,
    /// It is accepted as soon as it is found.
    Accept,
    /// It is to be reverted. Nothing does that yet.
    Revert,
}

/// How much a drift matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// To be looked at.
    Warning,
    /// To be looked at first.
    Critical,
}

/// What a drift is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Another value is there.
    Changed,
    /// Nothing is there.
    Missing,
    /// The whole resource is not there.
    Gone,
    /// Nobody asked for the resource.
    Unmanaged,
}

/// A time in which drifts are expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it opens: five cron fields.
    pub cron: String,
    /// An IANA zone; empty for UTC.
    pub time_zone: String,
    /// How long it is open.
    pub duration_s: u64,
}

/// A policy, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Unique.
    pub name: String,
    /// This provider; empty for any.
    pub provider: String,
    /// This type; empty for any.
    pub kind: String,
    /// Resources with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// This path and what is below it; empty for any, and for whole resources.
    pub path: String,
    /// How drifts are handled; `None` if it does not say.
    pub handling: Option<Handling>,
    /// How severe they are; `None` if it does not say.
    pub severity: Option<Severity>,
    /// When they are expected.
    pub windows: Vec<Window>,
    /// Why.
    pub reason: String,
    /// When it ends to apply.
    pub expires: Option<Timestamp>,
    /// How often one drift may be reverted.
    pub max_reverts: u32,
}

/// Something wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PolicyProblem {
    /// Which of its fields.
    pub field: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// All policies, understood.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    written: Vec<Understood>,
}

#[derive(Debug, Clone)]
struct Understood {
    policy: Policy,
    names: Vec<String>,
    rank: Rank,
    windows: Vec<(Cron, Tz, TimeDelta)>,
}

/// What a policy names: the later is the more specific.
type Rank = (usize, usize, bool, bool);

/// The policies that apply at a moment.
#[derive(Debug)]
pub struct InForce<'p> {
    policies: Vec<(&'p Understood, WindowState)>,
}

#[derive(Debug, Clone, Copy)]
struct WindowState {
    /// Until when a window is open, if one is.
    open_until: Option<Timestamp>,
    /// When that changes.
    next: Option<Timestamp>,
}

/// What a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The resource's provider.
    pub provider: &'a str,
    /// Its type.
    pub kind: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The drift's path; empty if it is about the whole resource.
    pub path: &'a str,
    /// What it is about.
    pub drift: DriftKind,
    /// Its values are known by hashes only.
    pub secret: bool,
    /// It comes and goes.
    pub flapping: bool,
}

/// Why a drift is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HiddenBy {
    /// A policy ignores it.
    Policy(String),
    /// A window of a policy is open.
    Window(String),
    /// A person snoozed it.
    Snooze,
}

/// That a drift is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Why.
    pub by: HiddenBy,
    /// Until when.
    pub until: Timestamp,
}

/// What is to be done about a drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How it is handled. What flaps is never handled by itself, and what is secret is never accepted.
    pub handling: Handling,
    /// The policy that says so; empty if none does.
    pub policy: String,
    /// How severe it is.
    pub severity: Severity,
    /// That a policy hides it.
    pub hidden: Option<Hidden>,
    /// When to decide again; `None` if time changes nothing.
    pub next: Option<Timestamp>,
}

// === impl DriftKind ===

impl From<DivergenceKind> for DriftKind {
    fn from(kind: DivergenceKind) -> Self {
        match kind {
            DivergenceKind::Changed => Self::Changed,
            DivergenceKind::Missing => Self::Missing,
        }
    }
}

impl DriftKind {
    /// How severe it is if no policy says so.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Changed | Self::Missing => Severity::Warning,
            Self::Gone => Severity::Critical,
            Self::Unmanaged => Severity::Info,
        }
    }

    /// As it is kept.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Gone => "gone",
            Self::Unmanaged => "unmanaged",
        }
    }
}

// === impl Window ===

impl Window {
    fn read(&self) -> Result<(Cron, Tz, TimeDelta), (&'static str, String)> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(&self.cron).map_err(|error| {
            let fields = "minute, hour, day of month, month, day of week";
            ("cron", format!("five fields: {fields} ({error})"))
        })?;
        let zone: Tz = match self.time_zone.as_str() {
            "" => Tz::UTC,
            name => name.parse().map_err(|_| {
                let message = "the name of an IANA time zone, for example Europe/Vienna";
                ("time_zone", message.to_owned())
            })?,
        };
        if !(MIN_WINDOW_S..=MAX_WINDOW_S).contains(&self.duration_s) {
            return Err(("duration", format!("{MIN_WINDOW_S} s to {MAX_WINDOW_S} s")));
        }
        let length = TimeDelta::seconds(i64::try_from(self.duration_s).unwrap_or(i64::MAX));
        Ok((cron, zone, length))
    }
}

// === impl Policy ===

impl Policy {
    /// Everything that is wrong with it, apart from the lengths of its texts.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyProblem> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: &str| {
            problems.push(PolicyProblem {
                field: field.to_owned(),
                message: message.to_owned(),
            });
        };
        if !self.kind.is_empty() && self.provider.is_empty() {
            wrong("provider", "a type needs its provider");
        }
        if let Err(error) = pointer::parse(&self.path) {
            wrong("path", &error.to_string());
        }
        if self.handling == Some(Handling::Ignore) {
            if self.reason.is_empty() {
                wrong(
                    "reason",
                    "say why, so that somebody else knows; ignoring needs a reason",
                );
            }
            if self.expires.is_none() {
                wrong(
                    "expire_time",
                    "say until when; ignoring for ever hides what nobody remembers",
                );
            }
        }
        if self.handling.is_none() && self.severity.is_none() && self.windows.is_empty() {
            wrong(
                "handling",
                "the policy says nothing: give a handling, a severity or a window",
            );
        }
        if self.max_reverts > MAX_REVERTS {
            wrong("max_reverts", &format!("at most {MAX_REVERTS}"));
        }
        if self.windows.len() > MAX_WINDOWS {
            wrong("windows", &format!("at most {MAX_WINDOWS}"));
        }
        for (index, window) in self.windows.iter().enumerate() {
            if let Err((field, message)) = window.read() {
                wrong(&format!("windows[{index}].{field}"), &message);
            }
        }
        problems
    }

    fn rank(&self, names: usize) -> Rank {
        let labels = self.labels.len();
        (
            names,
            labels,
            !self.kind.is_empty(),
            !self.provider.is_empty(),
        )
    }
}

// === impl Policies ===

impl Policies {
    /// Understands them. What is wrong in one (see [`Policy::problems`], which nothing that is kept has) does not apply.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let understand = |policy: Policy| {
            let names = pointer::parse(&policy.path).ok()?;
            let names: Vec<String> = names.into_iter().map(Into::into).collect();
            let windows = policy
                .windows
                .iter()
                .filter_map(|window| window.read().ok());
            Some(Understood {
                rank: policy.rank(names.len()),
                windows: windows.collect(),
                names,
                policy,
            })
        };
        let mut written: Vec<_> = policies.into_iter().filter_map(understand).collect();
        // The most specific first; of equals, the same one on every replica.
        written.sort_by(|one, other| {
            let rank = other.rank.cmp(&one.rank);
            rank.then_with(|| one.policy.name.cmp(&other.policy.name))
        });
        Self { written }
    }

    /// Those that apply at a moment.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> InForce<'_> {
        let in_force = self.written.iter().filter(|one| {
            let expires = one.policy.expires;
            expires.is_none_or(|expires| expires > now)
        });
        InForce {
            policies: in_force.map(|one| (one, one.window(now))).collect(),
        }
    }
}

// === impl Understood ===

impl Understood {
    fn window(&self, now: Timestamp) -> WindowState {
        let mut state = WindowState {
            open_until: None,
            next: None,
        };
        let Some(time) = DateTime::<Utc>::from_timestamp_micros(now.0) else {
            return state;
        };
        for (cron, zone, length) in &self.windows {
            let local = time.with_timezone(zone);
            let opened = cron.find_previous_occurrence(&local, true).ok();
            let closes = opened
                .map(|opened| Timestamp((opened + *length).timestamp_micros()))
                .filter(|closes| *closes > now);
            let opens = cron.find_next_occurrence(&local, false).ok();
            let opens = opens.map(|opens| Timestamp(opens.timestamp_micros()));
            state.open_until = state.open_until.max(closes);
            state.next = sooner(state.next, closes.or(opens));
        }
        state
    }

    fn applies(&self, subject: &Subject<'_>, names: &[impl AsRef<str>]) -> bool {
        let policy = &self.policy;
        let any_or = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        any_or(&policy.provider, subject.provider)
            && any_or(&policy.kind, subject.kind)
            && self.names.len() <= names.len()
            && self
                .names
                .iter()
                .zip(names)
                .all(|(wanted, name)| wanted == name.as_ref())
            && policy
                .labels
                .iter()
                .all(|(key, value)| subject.labels.get(key) == Some(value))
    }
}

// === impl InForce ===

impl InForce<'_> {
    /// What is to be done about a drift.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        let names = pointer::parse(subject.path).unwrap_or_default();
        let mut handling: Option<(Rank, Handling, &Policy)> = None;
        let mut severity: Option<(Rank, Severity)> = None;
        let mut window: Option<Hidden> = None;
        let mut next = None;
        let applying = self.policies.iter();
        for (one, state) in applying.filter(|(one, _)| one.applies(subject, &names)) {
            let policy = &one.policy;
            next = sooner(sooner(next, policy.expires), state.next);
            if let Some(says) = policy.handling {
                let wins = handling.is_none_or(|(rank, best, _)| one.rank == rank && says < best);
                if wins {
                    handling = Some((one.rank, says, policy));
                }
            }
            if let Some(says) = policy.severity {
                let wins = severity.is_none_or(|(rank, best)| one.rank == rank && says > best);
                if wins {
                    severity = Some((one.rank, says));
                }
            }
            if let Some(until) = state.open_until
                && window.as_ref().is_none_or(|hidden| hidden.until < until)
            {
                // A window of a policy does not outlast it.
                let until = policy.expires.map_or(until, |expires| expires.min(until));
                let by = HiddenBy::Window(policy.name.clone());
                window = Some(Hidden { by, until });
            }
        }
        let ignored = handling.and_then(|(_, says, policy)| {
            let until = policy.expires.filter(|_| says == Handling::Ignore)?;
            let by = HiddenBy::Policy(policy.name.clone());
            Some(Hidden { by, until })
        });
        let by_itself = |says| match says {
            Handling::Accept => !subject.flapping && !subject.secret,
            Handling::Revert => !subject.flapping,
            Handling::Ignore | Handling::Manual => true,
        };
        Decision {
            handling: handling
                .map(|(_, says, _)| says)
                .filter(|says| by_itself(*says))
                .unwrap_or(Handling::Manual),
            policy: handling.map_or_else(String::new, |(_, _, policy)| policy.name.clone()),
            severity: severity.map_or(subject.drift.severity(), |(_, says)| says),
            hidden: later(ignored, window),
            next,
        }
    }
}

// === impl Decision ===

impl Decision {
    /// Whether the drift is hidden, by a person or by a policy. A snooze that has ended, or that was for another value, is none.
    #[must_use]
    pub fn hidden_with(&self, snoozed_until: Option<Timestamp>, now: Timestamp) -> Option<Hidden> {
        let snooze = snoozed_until
            .filter(|until| *until > now)
            .map(|until| Hidden {
                by: HiddenBy::Snooze,
                until,
            });
        snooze.or_else(|| self.hidden.clone())
    }
}

fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn later(one: Option<Hidden>, other: Option<Hidden>) -> Option<Hidden> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.until > one.until { other } else { one }),
        (one, other) => one.or(other),
    }
}
