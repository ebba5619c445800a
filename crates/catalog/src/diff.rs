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
mod same;

use std::sync::LazyLock;

use serde_json::{Map, Value};
use steadfast_api::schema::v1::{SchemaChange, SchemaChangeClass as Class};

use crate::{field, schema::Compiled};
use same::{Side, accepts_all, is_validating, same, same_parts};

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

// === impl Comparison: objects and lists ===

impl<'a> Comparison<'a> {
    fn compare_properties(
        &mut self,
        old: &'a Map<String, Value>,
        new: &'a Map<String, Value>,
        path: &mut Vec<String>,
    ) {
        let (before, after) = (map_of(old, "properties"), map_of(new, "properties"));
        let others_before = old.get("additionalProperties").unwrap_or(&ANYTHING);
        let others_after = new.get("additionalProperties").unwrap_or(&ANYTHING);
        let has_patterns = map_of(old, "patternProperties").next().is_some();
        let required_before = texts_of(old, "required");
        let required_after = texts_of(new, "required");
        self.compare_patterns(old, new, path);
        for (name, schema) in after {
            let declared = property(old, name);
            path.push(name.clone());
            let is_newly_required = required_after.contains(&name.as_str())
                && !required_before.contains(&name.as_str());
            match declared {
                Some(declared) => self.compare(declared, schema, path),
                None => {
                    // A pattern may have stood for it, and then nothing else did.
                    let allowed = if has_patterns {
                        &ANYTHING
                    } else {
                        others_before
                    };
                    self.added(allowed, schema, is_newly_required, path);
                }
            }
            if is_newly_required && declared.is_some() {
                self.push(path, "required", Class::Breaking, "is required now");
            }
            path.pop();
        }
        for (name, schema) in before {
            if property(new, name).is_none() {
                path.push(name.clone());
                self.removed(schema, others_after, path);
                path.pop();
            }
        }
        for name in &required_after {
            if property(new, name).is_none() && !required_before.contains(name) {
                path.push((*name).to_owned());
                self.push(path, "required", Class::Breaking, "is required now");
                path.pop();
            }
        }
        for name in &required_before {
            if !required_after.contains(name) {
                path.push((*name).to_owned());
                self.push(path, "required", Class::Compatible, "is no longer required");
                path.pop();
            }
        }
        self.compare_others(others_before, others_after, path);
    }

    /// Properties of names that match a pattern.
    fn compare_patterns(
        &mut self,
        old: &'a Map<String, Value>,
        new: &'a Map<String, Value>,
        path: &[String],
    ) {
        const KEYWORD: &str = "patternProperties";
        if same_parts(
            &self.old,
            old.get(KEYWORD),
            &self.new,
            new.get(KEYWORD),
            KEYWORD,
        ) {
            return;
        }
        let is_free = map_of(new, KEYWORD).next().is_none()
            && new.get("additionalProperties").is_none_or(accepts_all);
        if is_free {
            let message = "names that match a pattern have no rule of their own any more";
            self.push(path, KEYWORD, Class::Compatible, message);
        } else {
            self.unclear(
                path,
                KEYWORD,
                "the rules for names that match a pattern changed",
            );
        }
    }

    /// A property that the old schema did not declare, and allowed as one of all others.
    fn added(
        &mut self,
        allowed: &'a Value,
        schema: &'a Value,
        is_required: bool,
        path: &mut Vec<String>,
    ) {
        if is_required {
            let message = "was added, and is required";
            self.push(path, "required", Class::Breaking, message);
            return;
        }
        let class = self.judge(allowed, schema, path);
        if is_grave(class) {
            let message =
                "was added; a document that has a property of this name already may not fit";
            self.push(path, "properties", Class::PossiblyBreaking, message);
        } else {
            self.push(path, "properties", Class::Compatible, "was added");
        }
    }

    /// A property that the new schema does not declare.
    fn removed(&mut self, schema: &'a Value, allowed: &'a Value, path: &mut Vec<String>) {
        let class = self.judge(schema, allowed, path);
        let (class, message) = match allowed {
            Value::Bool(false) if class == Class::Unspecified => return,
            Value::Bool(false) => (Class::Breaking, "was removed, and is not allowed any more"),
            _ if is_grave(class) => (
                Class::PossiblyBreaking,
                "was removed, and has to fit what holds for all other properties",
            ),
            _ => (
                Class::Compatible,
                "was removed; a document may go on having it",
            ),
        };
        self.push(path, "properties", class, message);
    }

    /// Properties that are not declared.
    fn compare_others(&mut self, old: &'a Value, new: &'a Value, path: &mut Vec<String>) {
        const KEYWORD: &str = "additionalProperties";
        match (old, new) {
            (Value::Bool(false), Value::Bool(false)) => {}
            (_, Value::Bool(false)) => {
                let message =
                    "properties that the schema does not declare are not allowed any more";
                self.push(path, KEYWORD, Class::Breaking, message);
            }
            (Value::Bool(false), _) => {
                let message = "properties that the schema does not declare are allowed now";
                self.push(path, KEYWORD, Class::Compatible, message);
            }
            _ => {
                path.push(ANY.to_owned());
                self.compare(old, new, path);
                path.pop();
            }
        }
    }

    fn compare_items(
        &mut self,
        old: &'a Map<String, Value>,
        new: &'a Map<String, Value>,
        path: &mut Vec<String>,
    ) {
        const KEYWORDS: [&str; 3] = ["items", "prefixItems", "additionalItems"];
        let is_tuple = |schema: &Map<String, Value>| {
            schema.contains_key("prefixItems")
                || schema.contains_key("additionalItems")
                || schema.get("items").is_some_and(Value::is_array)
        };
        if is_tuple(old) || is_tuple(new) {
            self.same_or_unclear(old, new, &KEYWORDS, path);
        } else {
            path.push(ANY.to_owned());
            let before = old.get("items").unwrap_or(&ANYTHING);
            let after = new.get("items").unwrap_or(&ANYTHING);
            self.compare(before, after, path);
            path.pop();
        }
    }

    /// What is compared for being the same, and otherwise not understood.
    fn compare_the_rest(&mut self, old: &'a Value, new: &'a Value, path: &[String]) {
        const GROUPS: [&[&str]; 11] = [
            &["allOf"],
            &["anyOf"],
            &["oneOf"],
            &["not"],
            &["if", "then", "else"],
            &["contains", "minContains", "maxContains"],
            &["dependencies"],
            &["dependentRequired"],
            &["dependentSchemas"],
            &["propertyNames"],
            &["contentSchema"],
        ];
        // What these mean depends on all the keywords beside them.
        const ENTANGLED: [&str; 4] = [
            "unevaluatedProperties",
            "unevaluatedItems",
            "$dynamicRef",
            "$recursiveRef",
        ];
        let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
            return;
        };
        for group in GROUPS {
            self.same_or_unclear(before, after, group, path);
        }
        for keyword in ENTANGLED {
            if after.contains_key(keyword) {
                if !same(&self.old, old, &self.new, new) {
                    let what = format!("`{keyword}` stands beside something that changed");
                    self.unclear(path, keyword, &what);
                }
            } else if before.contains_key(keyword) {
                let message = format!("`{keyword}` was removed");
                self.push(path, keyword, Class::Compatible, &message);
            }
        }
    }

    fn same_or_unclear(
        &mut self,
        old: &'a Map<String, Value>,
        new: &'a Map<String, Value>,
        keywords: &[&'static str],
        path: &[String],
    ) {
        let is_same = keywords.iter().all(|keyword| {
            let (before, after) = (old.get(*keyword), new.get(*keyword));
            same_parts(&self.old, before, &self.new, after, keyword)
        });
        let named = keywords[0];
        if is_same {
            if keywords.iter().any(|word| old.get(*word) != new.get(*word)) {
                let message = format!("`{named}` reads differently, and means the same");
                self.push(path, named, Class::Cosmetic, &message);
            }
        } else if keywords.iter().all(|keyword| !new.contains_key(*keyword)) {
            let message = format!("`{named}` was removed");
            self.push(path, named, Class::Compatible, &message);
        } else {
            self.unclear(path, named, &format!("`{named}` changed"));
        }
    }
}

// === impl Comparison: telling ===

impl Comparison<'_> {
    fn compare_annotations(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        path: &[String],
    ) {
        const NOT_SAID: [&str; 8] = [
            "$defs",
            "definitions",
            "$id",
            "id",
            "$schema",
            "$anchor",
            "$dynamicAnchor",
            "$recursiveAnchor",
        ];
        let gone = old.keys().filter(|keyword| !new.contains_key(*keyword));
        for keyword in new.keys().chain(gone) {
            let (before, after) = (old.get(keyword), new.get(keyword));
            if before == after || is_validating(keyword) || NOT_SAID.contains(&keyword.as_str()) {
                continue;
            }
            let message = match (keyword.as_str(), before, after) {
                ("writeOnly", _, Some(Value::Bool(true))) => "is marked as a secret now".to_owned(),
                ("writeOnly", Some(Value::Bool(true)), _) => {
                    "is no longer marked as a secret".to_owned()
                }
                ("title", Some(Value::String(before)), Some(Value::String(after))) => format!(
                    "its title is \"{}\" now, and was \"{}\"",
                    shorten(after),
                    shorten(before)
                ),
                (_, None, _) => format!("has a `{}` now", shorten(keyword)),
                (_, _, None) => format!("has no `{}` any more", shorten(keyword)),
                _ => format!("its `{}` is another one now", shorten(keyword)),
            };
            self.push(path, keyword, Class::Cosmetic, &message);
        }
    }

    fn unclear(&mut self, path: &[String], keyword: &str, what: &str) {
        let message = format!("{what}; whether documents still fit cannot be told");
        self.push(path, keyword, Class::PossiblyBreaking, &message);
    }

    fn push(&mut self, path: &[String], keyword: &str, class: Class, message: &str) {
        let mut pointer = String::new();
        for token in path {
            pointer.push('/');
            pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
        }
        let (before, after) = self.fields(path);
        let title = if after.title.is_empty() {
            before.title
        } else {
            after.title
        };
        self.changes.push(SchemaChange {
            pointer,
            title,
            message: message.to_owned(),
            class: class.into(),
            secret: before.secret || after.secret,
            keyword: shorten(keyword),
        });
    }

    fn is_secret(&self, path: &[String]) -> bool {
        let (before, after) = self.fields(path);
        before.secret || after.secret
    }

    /// What both schemas say of a place.
    fn fields(&self, path: &[String]) -> (field::Field, field::Field) {
        // Of all items, any will do.
        let path: Vec<String> = path
            .iter()
            .map(|token| if token == ANY { "0" } else { token }.to_owned())
            .collect();
        (
            field::describe(self.old.document, &path),
            field::describe(self.new.document, &path),
        )
    }
}

const fn is_grave(class: Class) -> bool {
    matches!(class, Class::Breaking | Class::PossiblyBreaking)
}

fn map_of<'v>(
    schema: &'v Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = (&'v String, &'v Value)> {
    schema
        .get(keyword)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn property<'v>(schema: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    schema.get("properties")?.get(name)
}

fn texts_of<'v>(schema: &'v Map<String, Value>, keyword: &str) -> Vec<&'v str> {
    let list = schema.get(keyword).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
