//! What a saga does: ordered steps, each with its undo and its manners.
//!
//! These types are also the stored form: a saga keeps a snapshot of the definition that it started with, so their names and
//! defaults are part of the data.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Direction;

/// Ordered steps under a name and version; immutable once created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// For example `provision-droplet`.
    pub name: String,
    /// Counts up; a changed body needs another one.
    pub version: i32,
    /// At least one.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in the definition; templates of later steps refer to it.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// How that is undone.
    pub undo: Undo,
    /// When to try again, in both directions.
    #[serde(default)]
    pub retry: Retry,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Its failure does not fail the saga.
    #[serde(default)]
    pub optional: bool,
    /// What its failure leads to.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What to do when nobody knows whether an attempt had an effect.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// Its undo makes a late forward call with the same idempotency key fail.
    #[serde(default)]
    pub undo_blocks_late: bool,
    /// The pivot: once done, there is no way back.
    #[serde(default)]
    pub irreversible: bool,
}

/// How a step is undone. Saying nothing is not a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// There is nothing to undo.
    None,
    /// By an action that receives the step's recorded output.
    #[serde(untagged)]
    By(Action),
}

/// Something that can be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// By a remote worker.
    Task {
        /// The kind of task; workers poll for kinds.
        #[serde(rename = "type")]
        task_type: String,
        /// A template.
        #[serde(default)]
        input: serde_json::Value,
    },
    /// By an HTTP request.
    Http(Http),
    /// By waiting.
    Wait(Wait),
    /// By something that this program has.
    Builtin {
        /// For example `registry.refresh`.
        name: String,
        /// A template.
        #[serde(default)]
        input: serde_json::Value,
    },
}

/// An HTTP request. All texts are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// In upper case.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Beside the idempotency key and the attempt, which every request carries.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Sent as JSON; `null` for none.
    #[serde(default)]
    pub body: serde_json::Value,
}

/// A durable timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// How long, in milliseconds.
    pub duration_ms: u64,
}

/// When to try again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all; at least 1.
    pub attempts: u32,
    /// The first wait, in milliseconds.
    pub initial_backoff_ms: u64,
    /// No wait is longer, in milliseconds.
    pub max_backoff_ms: u64,
    /// Each wait is this many times the one before; at least 1.
    pub multiplier: f64,
    /// The share of each wait that is random, 0 to 1.
    pub jitter: f64,
    /// Error codes after which trying again is pointless.
    pub non_retryable_codes: Vec<String>,
}

/// How long things may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For a worker to take the task; 0 for as long as it takes.
    pub waiting_ms: u64,
    /// For one attempt, once it runs.
    pub running_ms: u64,
    /// Between two heartbeats of a worker.
    pub heartbeat_ms: u64,
}

/// What a step's failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Everything done so far is undone.
    #[default]
    Compensate,
    /// The saga stops for a person.
    Stop,
}

/// What to do when nobody knows whether an attempt had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Send it again, with the same idempotency key.
    #[default]
    Retry,
    /// Ask the action what became of it.
    Reconcile,
    /// The saga stops for a person.
    Stop,
}

// === impl Step ===

impl Step {
    /// What it does in this direction, if anything.
    pub(crate) fn action_in(&self, direction: Direction) -> Option<&Action> {
        match (direction, &self.undo) {
            (Direction::Forward, _) => Some(&self.action),
            (Direction::Backward, Undo::By(action)) => Some(action),
            (Direction::Backward, Undo::None) => None,
        }
    }
}

// === impl Retry ===

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            initial_backoff_ms: 1_000,
            max_backoff_ms: 60_000,
            multiplier: 2.0,
            jitter: 0.2,
            non_retryable_codes: Vec::new(),
        }
    }
}

impl Retry {
    /// The wait after attempt number `attempt` (from 1), with `random` in 0..1 for the jitter.
    #[must_use]
    pub fn wait(&self, attempt: u32, random: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_backoff_ms as f64 * self.multiplier.powi(exponent);
        let capped = grown.min(self.max_backoff_ms as f64);
        let jittered = capped * (1.0 - self.jitter * random);
        Duration::from_micros((jittered * 1_000.0) as u64)
    }

    /// Whether an error with this code may pass.
    #[must_use]
    pub fn may_pass(&self, code: &str) -> bool {
        !self.non_retryable_codes.iter().any(|listed| listed == code)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            waiting_ms: 0,
            running_ms: 60_000,
            heartbeat_ms: 30_000,
        }
    }
}
