//! Checking a definition whole, before anything of it runs.
//!
//! A saga that fails at its seventh step because of a misspelled name has six steps to undo. So everything that can be known from
//! the definition alone is known when it is created, and every problem is told at once, each with the path of what it is about:
//! `steps[2].action.http.url`. [`parse`] reads a document and checks it; [`check`] is for a definition that is at hand.

mod action;
mod document;
mod reference;
mod shape;

use std::{collections::BTreeMap, ops::RangeInclusive};

pub use document::{DEFINITION_BYTES_MAX, Format, parse, parse_steps};

use crate::{Definition, KnownActions, OnFailure, Retry, Step, Timeouts, Undo};

/// Steps of a definition at most.
pub const STEPS_MAX: usize = 100;
/// Attempts of one step, in each direction, at most.
pub const ATTEMPTS_MAX: u32 = 100;

/// Bytes of a definition's name at most.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of a step's name at most: it is a part of every idempotency key.
const STEP_NAME_BYTES_MAX: usize = 64;
/// The longest attempt, back-off and silence of a worker: a day, in milliseconds.
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// The longest wait, and the longest time for a worker to take a task: a year, in milliseconds.
const YEAR_MS: u64 = 365 * DAY_MS;
/// A back-off may grow this much at a time.
const MULTIPLIER: RangeInclusive<f64> = 1.0..=100.0;
/// Codes that are not tried again, at most.
const CODES_MAX: usize = 64;
/// Bytes of such a code at most.
const CODE_BYTES_MAX: usize = 128;

/// Something that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For example `steps[2].action.http.url`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// What is wrong with a definition; nothing if it may be used.
#[must_use]
pub fn check(definition: &Definition, known: &KnownActions) -> Vec<Problem> {
    let mut problems = Problems::default();
    check_head(
        Some(&definition.name),
        Some(definition.version),
        &mut problems,
    );
    let steps: Vec<Outline<'_>> = definition.steps.iter().map(Outline::from).collect();
    check_steps(&steps, Some(known), &mut problems);
    problems.found
}

/// Problems as they are found.
#[derive(Debug, Default)]
struct Problems {
    found: Vec<Problem>,
}

/// What is known of a step: all of it, or, if its document cannot be read, perhaps its name.
#[derive(Debug, Clone, Copy)]
struct Outline<'a> {
    name: Option<&'a str>,
    step: Option<&'a Step>,
}

/// A step among the others.
struct Place<'a> {
    steps: &'a [Outline<'a>],
    index: usize,
    known: Option<&'a KnownActions>,
}

fn check_head(name: Option<&str>, version: Option<i32>, problems: &mut Problems) {
    if let Some(name) = name {
        let well_formed = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if !well_formed {
            problems.add(
                "name",
                format!("1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`"),
            );
        }
    }
    if version.is_some_and(|version| version < 1) {
        problems.add("version", "versions count from 1");
    }
}

fn check_steps(steps: &[Outline<'_>], known: Option<&KnownActions>, problems: &mut Problems) {
    if steps.is_empty() || steps.len() > STEPS_MAX {
        problems.add(
            "steps",
            format!("{} steps; a saga has 1 to {STEPS_MAX}", steps.len()),
        );
    }
    let mut names = BTreeMap::new();
    for (index, outline) in steps.iter().enumerate().take(STEPS_MAX) {
        let path = format!("steps[{index}]");
        if let Some(name) = outline.name {
            check_step_name(&path, name, problems);
            if let Some(first) = names.insert(name, index) {
                problems.add(
                    format!("{path}.name"),
                    format!("`{name}` is the name of steps[{first}] too; names are unique"),
                );
                names.insert(name, first);
            }
        }
        if let Some(step) = outline.step {
            check_step(
                &path,
                step,
                &Place {
                    steps,
                    index,
                    known,
                },
                problems,
            );
        }
    }
}

fn check_step_name(path: &str, name: &str, problems: &mut Problems) {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let well_formed = (1..=STEP_NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(rest);
    if !well_formed {
        let may: String = name
            .chars()
            .map(|c| if rest(c) { c } else { '_' })
            .take(STEP_NAME_BYTES_MAX)
            .collect();
        let for_example = if may.starts_with(|c: char| c.is_ascii_alphabetic()) {
            format!(", for example `{may}`")
        } else {
            String::new()
        };
        problems.add(
            format!("{path}.name"),
            format!(
                "1 to {STEP_NAME_BYTES_MAX} letters, digits and `_`, beginning with a letter, so that templates can refer to \
                 it{for_example}"
            ),
        );
    }
}

fn check_step(path: &str, step: &Step, place: &Place<'_>, problems: &mut Problems) {
    action::check(
        &format!("{path}.action"),
        &step.action,
        false,
        place,
        problems,
    );
    if let Undo::By(undo) = &step.undo {
        action::check(&format!("{path}.undo"), undo, true, place, problems);
    }
    check_retry(&format!("{path}.retry"), &step.retry, problems);
    check_timeouts(&format!("{path}.timeouts"), &step.timeouts, problems);
    action::check_reconcile(path, step, place, problems);
    check_combination(path, step, problems);
}

/// What cannot be meant together.
fn check_combination(path: &str, step: &Step, problems: &mut Problems) {
    if step.irreversible && step.undo != Undo::None {
        problems.add(
            format!("{path}.undo"),
            "an irreversible step is never undone: say \"none\", or leave out `irreversible`",
        );
    }
    if step.undo_blocks_late && step.undo == Undo::None {
        problems.add(
            format!("{path}.undo_blocks_late"),
            "there is no undo that could: give one, or leave this out",
        );
    }
    if step.optional && step.on_failure == OnFailure::Stop {
        problems.add(
            format!("{path}.on_failure"),
            "an optional step's failure stops nothing: leave out `optional`, or leave this out",
        );
    }
}

fn check_retry(path: &str, retry: &Retry, problems: &mut Problems) {
    let mut ranged = |field: &str, value: u64, range: RangeInclusive<u64>| {
        if !range.contains(&value) {
            problems.add(
                format!("{path}.{field}"),
                format!("{value}; it is {} to {}", range.start(), range.end()),
            );
        }
    };
    ranged(
        "attempts",
        u64::from(retry.attempts),
        1..=u64::from(ATTEMPTS_MAX),
    );
    ranged("initial_backoff_ms", retry.initial_backoff_ms, 1..=DAY_MS);
    ranged("max_backoff_ms", retry.max_backoff_ms, 1..=DAY_MS);
    if retry.max_backoff_ms < retry.initial_backoff_ms {
        problems.add(
            format!("{path}.max_backoff_ms"),
            format!(
                "{}, which is less than initial_backoff_ms, {}",
                retry.max_backoff_ms, retry.initial_backoff_ms
            ),
        );
    }
    for (field, value, range) in [
        ("multiplier", retry.multiplier, MULTIPLIER),
        ("jitter", retry.jitter, 0.0..=1.0),
    ] {
        if !range.contains(&value) {
            problems.add(
                format!("{path}.{field}"),
                format!("{value}; it is {} to {}", range.start(), range.end()),
            );
        }
    }
    if retry.non_retryable_codes.len() > CODES_MAX {
        problems.add(
            format!("{path}.non_retryable_codes"),
            format!(
                "{} codes; at most {CODES_MAX}",
                retry.non_retryable_codes.len()
            ),
        );
    }
    for (index, code) in retry.non_retryable_codes.iter().enumerate().take(CODES_MAX) {
        if !is_code(code) {
            problems.add(
                format!("{path}.non_retryable_codes[{index}]"),
                "a code has upper-case letters, digits and `_`, beginning with a letter, for example HTTP_404",
            );
        }
    }
}

fn is_code(code: &str) -> bool {
    code.len() <= CODE_BYTES_MAX
        && code.starts_with(|c: char| c.is_ascii_uppercase())
        && code
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn check_timeouts(path: &str, timeouts: &Timeouts, problems: &mut Problems) {
    for (field, value, range) in [
        ("waiting_ms", timeouts.waiting_ms, 0..=YEAR_MS),
        ("running_ms", timeouts.running_ms, 1..=DAY_MS),
        ("heartbeat_ms", timeouts.heartbeat_ms, 1..=DAY_MS),
    ] {
        if !range.contains(&value) {
            problems.add(
                format!("{path}.{field}"),
                format!("{value}; it is {} to {}", range.start(), range.end()),
            );
        }
    }
}

/// `; similar names: …`, or all of them if they are few, or nothing.
fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> String {
    /// How alike a name must be.
    const ALIKE: f64 = 0.5;
    /// How many are told.
    const TOLD: usize = 3;
    let mut alike: Vec<(f64, &str)> = names
        .map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name))
        .filter(|(how, _)| *how >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let alike: Vec<String> = alike
        .iter()
        .take(TOLD)
        .map(|(_, name)| format!("`{name}`"))
        .collect();
    if alike.is_empty() {
        String::new()
    } else {
        format!("; similar: {}", alike.join(", "))
    }
}

// === impl Problems ===

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }
}

// === impl Outline ===

impl<'a> From<&'a Step> for Outline<'a> {
    fn from(step: &'a Step) -> Self {
        Self {
            name: Some(&step.name),
            step: Some(step),
        }
    }
}

#[cfg(test)]
mod tests;
