//! Whether two schemas mean the same because they read the same, but for what no validator acts upon.
//!
//! References are followed: two that read the same are the same only if what they lead to is. A pair that is met again while it is
//! being compared is taken to be the same, which is right for things that go round in circles alike. Whatever is not understood is not
//! the same.

use std::{cell::Cell, collections::HashSet};

use jsonschema::Draft;
use serde_json::{Map, Value};

use super::MAX_DEPTH;
use crate::schema::Compiled;

/// Pairs that all questions about two schemas look at, at most.
const MAX_PAIRS: usize = 200_000;

/// One of the two schemas.
pub(super) struct Side<'a> {
    pub(super) document: &'a Value,
    /// Beside a `$ref` nothing counts.
    ref_stands_alone: bool,
    /// It has identifiers or references of a kind that is not followed.
    is_opaque: bool,
    /// Pairs that may still be looked at; only the old side's count.
    left: Cell<usize>,
}

/// What a keyword holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Schema,
    SchemaOrList,
    List,
    Map,
    /// Of schemas, or of lists of names.
    Dependencies,
    /// A list of which the order does not count.
    Names,
    Plain,
}

// === impl Side ===

impl<'a> Side<'a> {
    pub(super) fn new(schema: &'a Compiled) -> Self {
        let document = &schema.document;
        Self {
            document,
            ref_stands_alone: matches!(schema.draft, Draft::Draft4 | Draft::Draft6 | Draft::Draft7),
            is_opaque: has_identifiers(document, schema.draft, true),
            left: Cell::new(MAX_PAIRS),
        }
    }

    /// What a schema refers to, if that alone is what it means.
    pub(super) fn target(&self, schema: &'a Value) -> Option<&'a Value> {
        let object = schema.as_object()?;
        let Some(reference) = object.get("$ref") else {
            return Some(schema);
        };
        let stands_alone = self.ref_stands_alone
            || object
                .keys()
                .all(|keyword| keyword == "$ref" || !is_validating(keyword));
        let pointer = reference.as_str()?.strip_prefix('#')?;
        (stands_alone && !self.is_opaque && !pointer.contains('%'))
            .then(|| self.document.pointer(pointer))
            .flatten()
    }
}

fn has_identifiers(schema: &Value, draft: Draft, is_root: bool) -> bool {
    const KEYWORDS: [&str; 6] = [
        "$id",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
    ];
    match schema {
        Value::Object(object) => {
            let is_identifier = |keyword: &str| {
                KEYWORDS.contains(&keyword) || (keyword == "id" && draft == Draft::Draft4)
            };
            let own = object.keys().any(|keyword| {
                is_identifier(keyword) && !(is_root && matches!(keyword.as_str(), "$id" | "id"))
            });
            own || object
                .values()
                .any(|value| has_identifiers(value, draft, false))
        }
        Value::Array(items) => items
            .iter()
            .any(|value| has_identifiers(value, draft, false)),
        _ => false,
    }
}

/// Whether a validator acts upon a keyword. Those that nobody knows are remarks.
pub(super) fn is_validating(keyword: &str) -> bool {
    kind_of(keyword).is_some()
}

fn kind_of(keyword: &str) -> Option<Kind> {
    Some(match keyword {
        "additionalItems"
        | "additionalProperties"
        | "contains"
        | "contentSchema"
        | "else"
        | "if"
        | "not"
        | "propertyNames"
        | "then"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Kind::Schema,
        "items" => Kind::SchemaOrList,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Kind::List,
        "dependentSchemas" | "patternProperties" | "properties" => Kind::Map,
        "dependencies" => Kind::Dependencies,
        "required" => Kind::Names,
        "$dynamicRef" | "$recursiveRef" | "$ref" | "const" | "contentEncoding"
        | "contentMediaType" | "dependentRequired" | "enum" | "exclusiveMaximum"
        | "exclusiveMinimum" | "format" | "maxContains" | "maxItems" | "maxLength"
        | "maxProperties" | "maximum" | "minContains" | "minItems" | "minLength"
        | "minProperties" | "minimum" | "multipleOf" | "pattern" | "type" | "uniqueItems" => {
            Kind::Plain
        }
        _ => return None,
    })
}

/// Whether a schema has nothing to say.
pub(super) fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(object) => !object.keys().any(|keyword| is_validating(keyword)),
        _ => false,
    }
}

/// Whether two schemas mean the same.
pub(super) fn same<'a>(old: &Side<'a>, a: &'a Value, new: &Side<'a>, b: &'a Value) -> bool {
    Question::new(old, new).schemas(a, b)
}

/// Whether two values of one keyword mean the same; a missing one is the same as a missing one.
pub(super) fn same_parts<'a>(
    old: &Side<'a>,
    a: Option<&'a Value>,
    new: &Side<'a>,
    b: Option<&'a Value>,
    keyword: &str,
) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Question::new(old, new).parts(keyword, a, b),
        _ => false,
    }
}

struct Question<'q, 'a> {
    old: &'q Side<'a>,
    new: &'q Side<'a>,
    met: HashSet<(*const Value, *const Value)>,
    depth: usize,
}

// === impl Question ===

impl<'q, 'a> Question<'q, 'a> {
    fn new(old: &'q Side<'a>, new: &'q Side<'a>) -> Self {
        Self {
            old,
            new,
            met: HashSet::new(),
            depth: 0,
        }
    }

    fn schemas(&mut self, a: &'a Value, b: &'a Value) -> bool {
        let left = self.old.left.get();
        if left == 0 || self.depth >= MAX_DEPTH {
            return false;
        }
        self.old.left.set(left - 1);
        self.depth += 1;
        let is_same = self.schemas_here(a, b);
        self.depth -= 1;
        is_same
    }

    fn schemas_here(&mut self, a: &'a Value, b: &'a Value) -> bool {
        match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Object(before), Value::Object(after)) => {
                if before.contains_key("$ref") || after.contains_key("$ref") {
                    return self.references(a, b);
                }
                self.objects(before, after)
            }
            _ => accepts_all(a) && accepts_all(b),
        }
    }

    fn references(&mut self, a: &'a Value, b: &'a Value) -> bool {
        if a.get("$ref") != b.get("$ref") {
            return false;
        }
        if !self
            .met
            .insert((std::ptr::from_ref(a), std::ptr::from_ref(b)))
        {
            return true;
        }
        match (self.old.target(a), self.new.target(b)) {
            (Some(a), Some(b)) => self.schemas(a, b),
            _ => false,
        }
    }

    fn objects(&mut self, a: &'a Map<String, Value>, b: &'a Map<String, Value>) -> bool {
        let validating = |object: &Map<String, Value>| {
            object
                .keys()
                .filter(|keyword| is_validating(keyword))
                .count()
        };
        validating(a) == validating(b)
            && a.iter()
                .filter(|(keyword, _)| is_validating(keyword))
                .all(|(keyword, value)| {
                    b.get(keyword)
                        .is_some_and(|other| self.parts(keyword, value, other))
                })
    }

    fn parts(&mut self, keyword: &str, a: &'a Value, b: &'a Value) -> bool {
        match kind_of(keyword) {
            Some(Kind::Schema) => self.schemas(a, b),
            Some(Kind::SchemaOrList) if a.is_array() || b.is_array() => self.lists(a, b),
            Some(Kind::SchemaOrList) => self.schemas(a, b),
            Some(Kind::List) => self.lists(a, b),
            Some(Kind::Map | Kind::Dependencies) => self.maps(a, b),
            Some(Kind::Names) => names(a).is_some_and(|a| Some(a) == names(b)),
            // What these lead to depends on how one came here.
            Some(Kind::Plain) if keyword.starts_with('$') => false,
            Some(Kind::Plain) | None => a == b,
        }
    }

    fn lists(&mut self, a: &'a Value, b: &'a Value) -> bool {
        let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else {
            return false;
        };
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.schemas(a, b))
    }

    /// Of schemas, but for the lists of names that `dependencies` may have.
    fn maps(&mut self, a: &'a Value, b: &'a Value) -> bool {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
            return false;
        };
        a.len() == b.len()
            && a.iter().all(|(name, a)| {
                b.get(name).is_some_and(|b| match (a, b) {
                    (Value::Array(a), Value::Array(b)) => a == b,
                    _ => self.schemas(a, b),
                })
            })
    }
}

fn names(list: &Value) -> Option<HashSet<&str>> {
    list.as_array()?.iter().map(Value::as_str).collect()
}
