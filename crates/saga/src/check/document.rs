//! Reading a document, and checking it on the way.
//!
//! The derived reader stops at the first error and speaks of types; authors need all of them, by path. So the document is compared
//! with a table first. Whatever passes is then read in the derived way, step by step and without the members that did not pass, so
//! that neither a bad step nor a bad member hides what is wrong with the next. What has a default and yet has to be stated can only be seen here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Outline, Problem, Problems, action, check_head, check_steps,
    shape::{DEFINITION, Shape, check_shape, member_path},
};
use crate::{Definition, KnownActions, Step};

/// Bytes of a document at most.
pub const DEFINITION_BYTES_MAX: usize = 1024 * 1024;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259.
    Json,
    /// TOML 1; a definition's steps are `[[steps]]`.
    Toml,
}

/// Reads a definition and checks it whole. Without `known`, what only a server can tell is left out: which builtins there are.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(
    text: &str,
    format: Format,
    known: Option<&KnownActions>,
) -> Result<Definition, Vec<Problem>> {
    let mut problems = Problems::default();
    let document = document(text, format)?;
    check_shape("", &document, Shape::Object(DEFINITION), &mut problems);
    check_nul("", &document, &mut problems);
    let name = document.get("name").and_then(Value::as_str);
    let version = document
        .get("version")
        .and_then(Value::as_i64)
        .and_then(|version| i32::try_from(version).ok());
    check_head(name, version, &mut problems);
    let steps = steps_of(document.get("steps"), known, &mut problems);
    match (name, version, steps) {
        (Some(name), Some(version), Some(steps)) if problems.found.is_empty() => Ok(Definition {
            name: name.to_owned(),
            version,
            steps,
        }),
        _ => Err(problems.found),
    }
}

/// Reads the steps of a saga that has no stored definition, a JSON array, and checks them.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse_steps(text: &str, known: Option<&KnownActions>) -> Result<Vec<Step>, Vec<Problem>> {
    let mut problems = Problems::default();
    let document = document(text, Format::Json)?;
    check_shape("steps", &document, Shape::Steps, &mut problems);
    check_nul("steps", &document, &mut problems);
    match steps_of(Some(&document), known, &mut problems) {
        Some(steps) if problems.found.is_empty() => Ok(steps),
        Some(_) | None => Err(problems.found),
    }
}

fn document(text: &str, format: Format) -> Result<Value, Vec<Problem>> {
    let whole = |message: String| {
        vec![Problem {
            path: String::new(),
            message,
        }]
    };
    if text.len() > DEFINITION_BYTES_MAX {
        return Err(whole(format!(
            "{} bytes; a definition has at most {DEFINITION_BYTES_MAX}",
            text.len()
        )));
    }
    match format {
        Format::Json => {
            serde_json::from_str(text).map_err(|error| whole(format!("it is no JSON: {error}")))
        }
        Format::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|error| {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(1, |before| before.matches('\n').count() + 1);
                whole(format!("it is no TOML: line {line}: {}", error.message()))
            })?;
            Ok(from_toml(toml::Value::Table(table)))
        }
    }
}

/// Dates become texts; JSON has neither them nor numbers that are none.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(is) => Value::Bool(is),
        toml::Value::Datetime(moment) => Value::String(moment.to_string()),
        toml::Value::Array(items) => items.into_iter().map(from_toml).collect(),
        toml::Value::Table(members) => members
            .into_iter()
            .map(|(name, member)| (name, from_toml(member)))
            .collect(),
    }
}

/// Reads and checks every step, and returns them; those with problems in what can be read of them.
fn steps_of(
    steps: Option<&Value>,
    known: Option<&KnownActions>,
    problems: &mut Problems,
) -> Option<Vec<Step>> {
    let documents = steps?.as_array()?;
    let mut read = Vec::with_capacity(documents.len());
    for (index, document) in documents.iter().enumerate() {
        let path = format!("steps[{index}]");
        let wrong = wrong_members(&path, problems);
        check_stated(&path, document, problems);
        let step = if !wrong.is_empty() {
            without(document, &wrong)
        } else {
            match serde_json::from_value::<Step>(document.clone()) {
                Ok(step) => Some(step),
                Err(error) => {
                    problems.add(path, error.to_string());
                    None
                }
            }
        };
        read.push(step);
    }
    let outlines: Vec<Outline<'_>> = documents
        .iter()
        .zip(&read)
        .map(|(document, step)| Outline {
            name: document.get("name").and_then(Value::as_str),
            step: step.as_ref(),
        })
        .collect();
    check_steps(&outlines, known, problems);
    read.into_iter().collect()
}

/// The members of a step that are not what they must be; the empty name for the step as a whole.
fn wrong_members(path: &str, problems: &Problems) -> BTreeSet<String> {
    let of_step = problems.found.iter().filter_map(|problem| {
        let rest = problem.path.strip_prefix(path)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| rest.trim_start_matches('.'))
    });
    of_step
        .map(|rest| rest.split(['.', '[']).next().unwrap_or(rest).to_owned())
        .collect()
}

/// What can be read of a step if its wrong members are left out, so that they do not hide what is wrong with the others. What
/// has to be there is replaced by something that has no problems of its own, nor makes any together with the rest.
fn without(document: &Value, wrong: &BTreeSet<String>) -> Option<Step> {
    let mut members = document.as_object()?.clone();
    members.retain(|name, _| !wrong.contains(name));
    for (name, stand_in, meaningless) in [
        ("name", json!("unnamed"), None),
        (
            "action",
            json!({ "wait": { "duration_ms": 1 } }),
            Some("on_unknown"),
        ),
        ("undo", json!("none"), Some("undo_blocks_late")),
    ] {
        if wrong.contains(name) {
            members.insert(name.to_owned(), stand_in);
            meaningless.and_then(|name| members.remove(name));
        }
    }
    serde_json::from_value(Value::Object(members)).ok()
}

/// What has a default, and yet has to be decided by the author.
fn check_stated(path: &str, step: &Value, problems: &mut Problems) {
    if step.get("on_unknown").is_some() {
        return;
    }
    let method = |leg: &str| {
        let method = step.get(leg)?.get("http")?.get("method")?.as_str()?;
        action::has_to_state_unknown(method).then_some(method)
    };
    if let Some(method) = method("action").or_else(|| method("undo")) {
        problems.add(
            format!("{path}.on_unknown"),
            format!(
                "a {method} whose answer is lost may have had its effect: say \"retry\" if the server honours the \
                 Idempotency-Key header, else \"stop\""
            ),
        );
    }
}

/// A text with a NUL character cannot be kept by every database.
fn check_nul(path: &str, value: &Value, problems: &mut Problems) {
    let mut refuse = |path: &str| problems.add(path, "NUL characters are not accepted");
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => {
            if text.contains('\0') {
                refuse(path);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_nul(&format!("{path}[{index}]"), item, problems);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                if name.contains('\0') {
                    problems.add(path, "NUL characters are not accepted in names");
                }
                check_nul(&member_path(path, name), member, problems);
            }
        }
    }
}
