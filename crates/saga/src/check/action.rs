//! One action, forward or as an undo.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Place, Problems, YEAR_MS, nearest, reference};
use crate::{Action, Http, OnUnknown, Step};

/// The methods that `http` knows.
pub(super) const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// Headers that the request gets without being asked for, or that belong to the connection.
const RESERVED_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "steadfast-attempt",
    "transfer-encoding",
    "upgrade",
];

/// Headers of one request at most.
const HEADERS_MAX: usize = 64;
/// Bytes of a task type or a builtin's name at most.
const KIND_BYTES_MAX: usize = 128;

/// Checks an action.
pub(super) fn check(
    path: &str,
    action: &Action,
    is_undo: bool,
    place: &Place<'_>,
    problems: &mut Problems,
) {
    match action {
        Action::Task { task_type, input } => {
            if !is_kind(task_type) {
                problems.add(
                    format!("{path}.task.type"),
                    format!("1 to {KIND_BYTES_MAX} letters, digits, `.`, `_`, `-` and `/`"),
                );
            }
            if place.known.is_some_and(|known| !known.task) {
                problems.add(
                    format!("{path}.task"),
                    "this server hands no tasks to workers",
                );
            }
            let path = format!("{path}.task.input");
            reference::check(&path, input, is_undo, place, problems);
        }
        Action::Http(http) => {
            if place.known.is_some_and(|known| !known.http) {
                problems.add(format!("{path}.http"), "this server sends no HTTP requests");
            }
            check_http(&format!("{path}.http"), http, is_undo, place, problems);
        }
        Action::Wait(wait) => {
            if !(1..=YEAR_MS).contains(&wait.duration_ms) {
                problems.add(
                    format!("{path}.wait.duration_ms"),
                    format!("{}; it is 1 to {YEAR_MS} (365 days)", wait.duration_ms),
                );
            }
        }
        Action::Builtin { name, input } => {
            if let Some(known) = place.known
                && !known.builtins.contains_key(name)
            {
                let names = known.builtins.keys().map(String::as_str);
                problems.add(
                    format!("{path}.builtin.name"),
                    format!(
                        "there is no builtin `{}`{}",
                        name.chars().take(KIND_BYTES_MAX).collect::<String>(),
                        nearest(name, names)
                    ),
                );
            }
            let path = format!("{path}.builtin.input");
            reference::check(&path, input, is_undo, place, problems);
        }
    }
}

/// `reconcile` asks the action, which only some can answer.
pub(super) fn check_reconcile(path: &str, step: &Step, place: &Place<'_>, problems: &mut Problems) {
    if step.on_unknown != OnUnknown::Reconcile {
        return;
    }
    let cannot = match &step.action {
        Action::Task { .. } => "a task".to_owned(),
        Action::Http(_) => "an HTTP request".to_owned(),
        Action::Wait(_) => "a wait".to_owned(),
        Action::Builtin { name, .. } => {
            // One that is not known is told elsewhere.
            let Some(known) = place
                .known
                .filter(|known| known.builtins.contains_key(name))
            else {
                return;
            };
            if known.can_probe(&step.action) {
                return;
            }
            format!("`{name}`")
        }
    };
    problems.add(
        format!("{path}.on_unknown"),
        format!("{cannot} cannot be asked what became of it: say \"retry\" or \"stop\""),
    );
}

/// Whether the method may have an effect that a repetition would double, so that a choice has to be stated.
pub(super) fn has_to_state_unknown(method: &str) -> bool {
    ["POST", "PATCH"]
        .iter()
        .any(|stated| method.eq_ignore_ascii_case(stated))
}

fn is_kind(kind: &str) -> bool {
    (1..=KIND_BYTES_MAX).contains(&kind.len())
        && kind
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

fn check_http(path: &str, http: &Http, is_undo: bool, place: &Place<'_>, problems: &mut Problems) {
    if !METHODS.contains(&http.method.as_str()) {
        problems.add(
            format!("{path}.method"),
            format!(
                "it is one of {}, in upper case{}",
                METHODS.join(", "),
                nearest(&http.method.to_uppercase(), METHODS.into_iter())
            ),
        );
    }
    if ["GET", "HEAD"].contains(&http.method.as_str()) && !http.body.is_null() {
        problems.add(
            format!("{path}.body"),
            format!("a {} carries no body", http.method),
        );
    }
    if let Some(problem) = url_problem(&http.url) {
        problems.add(format!("{path}.url"), problem);
    }
    check_headers(path, http, problems);
    let mut template = |field: &str, template: &Value| {
        let path = format!("{path}.{field}");
        reference::check(&path, template, is_undo, place, problems);
    };
    template("url", &Value::from(http.url.as_str()));
    template("body", &http.body);
    for (name, value) in &http.headers {
        template(&format!("headers.{name}"), &Value::from(value.as_str()));
    }
}

/// What can be told before the templates in it are rendered.
fn url_problem(url: &str) -> Option<&'static str> {
    if url.starts_with("{{") {
        // Checked when it is rendered.
        return None;
    }
    let Some(rest) = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
    else {
        return Some("it begins with http:// or https://, or with `{{` for the whole of it");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let fixed = authority
        .split_once("{{")
        .map_or(authority, |(before, _)| before);
    if authority.is_empty() {
        return Some("it has no host");
    }
    if fixed.contains('@') {
        return Some(
            "no user or password here: send them in a header, with the secret as `{{ secret.NAME }}`",
        );
    }
    None
}

fn check_headers(path: &str, http: &Http, problems: &mut Problems) {
    if http.headers.len() > HEADERS_MAX {
        problems.add(
            format!("{path}.headers"),
            format!("{} headers; at most {HEADERS_MAX}", http.headers.len()),
        );
    }
    let mut seen = BTreeSet::new();
    for (name, value) in http.headers.iter().take(HEADERS_MAX) {
        let path = format!("{path}.headers.{name}");
        let lower = name.to_ascii_lowercase();
        let is_token = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        if !is_token {
            problems.add(&path, "it is no name of a header");
        } else if RESERVED_HEADERS.contains(&lower.as_str()) {
            problems.add(&path, "this header is set by the server itself");
        } else if !seen.insert(lower) {
            problems.add(
                &path,
                "it is there twice: names of headers ignore upper and lower case",
            );
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            problems.add(&path, "control characters are not accepted");
        }
    }
}
