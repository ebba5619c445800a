//! What a new schema asks for that an old one did not, so that an operator sees which documents would no longer fit. Pure.
//!
//! # What it promises
//!
//! If any document fits the old schema and not the new one, at least one change is breaking or possibly breaking. The other way round
//! it promises nothing: a change that is called breaking may concern no document that anybody has.
//!
//! # How
//!
//! A schema is a conjunction of keywords. For each of the new one there must be something in the old one that implies it, found by
//! comparing keyword with keyword; what is not implied is breaking. Alternatives (`anyOf`, `oneOf`), conditions, negations and the like
//! are equal or are not understood: then the change is said to be possibly breaking. References are followed as long as they point into
//! the schema itself and do not go round in circles.
//!
//! Keywords that no validator acts upon, titles above all, are cosmetic. The values of secret fields that a schema has, as their
//! default or as what is allowed, are never part of a message.

mod answer;
mod keywords;
mod numbers;
mod parts;
mod same;
mod telling;

use std::sync::LazyLock;

use serde_json::{Map, Value};
use steadfast_api::schema::v1::{SchemaChange, SchemaChangeClass as Class};

use crate::schema::Compiled;
use same::{Side, accepts_all, same};

/// No answer lists more changes; the gravest are kept.
pub const MAX_CHANGES: usize = 1_000;

/// Pairs of schemas that are compared at most: references may lead to the same place again and again.
const MAX_STEPS: usize = 20_000;

/// How deep a comparison goes: schemas are not so deep, but references may lead on and on.
const MAX_DEPTH: usize = 128;

/// The longest value of a schema's own that a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 120;

/// An item of any list, in a pointer, and a property of any other name.
const ANY: &str = "*";

/// Accepts everything, as a missing schema does.
static ANYTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// Compares two schemas: the gravest changes first, each class in the order of the pointers.
#[must_use]
pub fn diff(old: &Compiled, new: &Compiled) -> Vec<SchemaChange> {
    let mut comparison = Comparison {
        old: Side::new(old),
        new: Side::new(new),
        changes: Vec::new(),
        steps: 0,
        depth: 0,
        references: Vec::new(),
    };
    if old.draft != new.draft {
        let message = "is written in another dialect of JSON Schema, in which the same words may mean something else";
        comparison.push(&[], "$schema", Class::PossiblyBreaking, message);
    }
    comparison.compare(&old.document, &new.document, &mut Vec::new());
    if comparison.steps > MAX_STEPS {
        let message = "the schemas are too large to be compared to their ends";
        comparison.push(&[], "", Class::PossiblyBreaking, message);
    }
    let mut changes = comparison.changes;
    changes.sort_by_cached_key(|change| {
        (
            change.class,
            change.pointer.clone(),
            change.keyword.clone(),
            change.message.clone(),
        )
    });
    changes.dedup();
    changes.truncate(MAX_CHANGES);
    changes
}

/// The gravest class; unspecified if nothing has changed.
#[must_use]
pub fn gravest(changes: &[SchemaChange]) -> Class {
    let gravest = changes.iter().map(SchemaChange::class);
    gravest
        .min_by_key(|class| *class as i32)
        .unwrap_or_default()
}

struct Comparison<'a> {
    old: Side<'a>,
    new: Side<'a>,
    changes: Vec<SchemaChange>,
    steps: usize,
    depth: usize,
    /// The references that are being followed, so that none goes round in a circle.
    references: Vec<(&'a Value, &'a Value)>,
}

// === impl Comparison: the walk ===

impl<'a> Comparison<'a> {
    /// Compares two schemas for the same place of a document.
    fn compare(&mut self, old: &'a Value, new: &'a Value, path: &mut Vec<String>) {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return;
        }
        if self.depth >= MAX_DEPTH {
            return self.unclear(path, "", "its schema is nested too deeply");
        }
        self.depth += 1;
        self.compare_here(old, new, path);
        self.depth -= 1;
    }

    fn compare_here(&mut self, old: &'a Value, new: &'a Value, path: &mut Vec<String>) {
        match (old, new) {
            (Value::Bool(false), Value::Bool(false)) => {}
            // What they leave open is the same at every level below.
            (Value::Object(before), Value::Object(after))
                if accepts_all(old) && accepts_all(new) =>
            {
                self.compare_annotations(before, after, path);
            }
            (_, Value::Bool(true)) => {
                if !accepts_all(old) {
                    self.push(path, "", Class::Compatible, "accepts anything now");
                }
            }
            (Value::Bool(false), _) => {
                self.push(path, "", Class::Compatible, "is allowed now");
            }
            (_, Value::Bool(false)) => {
                self.push(path, "", Class::Breaking, "is not allowed any more");
            }
            (Value::Bool(true), _) => self.compare(&ANYTHING, new, path),
            (Value::Object(before), Value::Object(after)) => {
                if before.contains_key("$ref") || after.contains_key("$ref") {
                    self.compare_references(old, new, path);
                } else {
                    self.compare_objects(old, new, before, after, path);
                }
            }
            _ => self.unclear(path, "", "is no schema that could be compared"),
        }
    }

    /// At least one of the two refers to elsewhere.
    fn compare_references(&mut self, old: &'a Value, new: &'a Value, path: &mut Vec<String>) {
        let (before, after) = (self.old.target(old), self.new.target(new));
        if same(&self.old, old, &self.new, new) {
            if before != after || old != new {
                let message = "what it refers to reads differently, and means the same";
                self.push(path, "$ref", Class::Cosmetic, message);
            }
            return;
        }
        let is_round = self
            .references
            .iter()
            .any(|(a, b)| std::ptr::eq(*a, old) && std::ptr::eq(*b, new));
        match (before, after) {
            (Some(before), Some(after)) if !is_round => {
                self.references.push((old, new));
                self.compare(before, after, path);
                self.references.pop();
            }
            _ => self.unclear(path, "$ref", "its `$ref` leads to something else"),
        }
    }

    fn compare_objects(
        &mut self,
        old: &'a Value,
        new: &'a Value,
        before: &'a Map<String, Value>,
        after: &'a Map<String, Value>,
        path: &mut Vec<String>,
    ) {
        self.compare_types(before, after, path);
        self.compare_values(before, after, path);
        self.compare_numbers(before, after, path);
        self.compare_counts(before, after, path);
        self.compare_texts(before, after, path);
        self.compare_properties(before, after, path);
        self.compare_items(before, after, path);
        self.compare_the_rest(old, new, path);
        self.compare_annotations(before, after, path);
    }

    /// The gravest class of what would be said about a pair of schemas.
    fn judge(&mut self, old: &'a Value, new: &'a Value, path: &mut Vec<String>) -> Class {
        let mark = self.changes.len();
        self.compare(old, new, path);
        gravest(&self.changes.split_off(mark))
    }
}

const fn is_grave(class: Class) -> bool {
    matches!(class, Class::Breaking | Class::PossiblyBreaking)
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "diff_promise_tests.rs"]
mod promise_tests;
#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
