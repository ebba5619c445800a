//! How much work it is to check a document against a schema, counted before it is done.
//!
//! A schema of a kilobyte can take years, gigabytes, or the whole stack of a thread: references that lead twice to where they lead
//! twice, or one to the next thousands of times. The validator has no limit of its own. So what it will do is walked through
//! beforehand, with a limit. Where it is not known which way it takes, all ways are counted.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// So many times one of a schema's parts is applied to one of a document's, at most: above what any document of a few thousand
/// values takes, and a hundredth of a second.
pub(crate) const STEPS_MAX: usize = 50_000;

/// So deep may these be nested, at most: each level takes some of the stack.
const DEPTH_MAX: usize = 256;

/// The same for what is applied in place below the `unevaluated…` keywords of a schema: the validator makes a copy of all that for
/// each of them when it compiles the schema, several kilobytes and a stack frame for each step.
const COPIED_STEPS_MAX: usize = 5_000;
const COPIED_DEPTH_MAX: usize = 32;

/// References in a schema, at most: compiling takes the square of their number.
const REFERENCES_MAX: usize = 5_000;

/// Checking takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuch;

/// What references lead to.
#[derive(Debug)]
struct Targets<'s> {
    /// The schema, and the schemas in it that have an address of their own.
    resources: Vec<&'s Value>,
    anchors: HashMap<&'s str, Vec<&'s Value>>,
}

struct Walk<'s> {
    targets: Targets<'s>,
    steps_left: usize,
    depth_max: usize,
    /// The references that are being followed, and for which part of the document.
    following: Vec<(*const Value, Option<*const Value>)>,
}

/// Counts, and stops at the limit.
///
/// # Errors
/// If checking takes more steps than it may.
pub(crate) fn weigh(schema: &Value, document: &Value) -> Result<(), TooMuch> {
    let mut walk = Walk {
        targets: Targets::of(schema),
        steps_left: STEPS_MAX,
        depth_max: DEPTH_MAX,
        following: Vec::new(),
    };
    walk.apply(schema, Some(document), 0)
}

/// Whether a schema can be compiled within its limits.
///
/// # Errors
/// If that takes more steps than it may.
pub(crate) fn weigh_compiling(schema: &Value) -> Result<(), TooMuch> {
    let mut walk = Walk {
        targets: Targets::of(schema),
        steps_left: COPIED_STEPS_MAX,
        depth_max: COPIED_DEPTH_MAX,
        following: Vec::new(),
    };
    let mut references = 0;
    let mut parts = vec![schema];
    while let Some(part) = parts.pop() {
        match part {
            Value::Object(object) => {
                references += usize::from(object.contains_key("$ref"));
                if object.keys().any(|keyword| is_left_over(keyword)) {
                    walk.apply(part, None, 0)?;
                }
                parts.extend(object.values());
            }
            Value::Array(list) => parts.extend(list),
            _ => {}
        }
    }
    if references > REFERENCES_MAX {
        return Err(TooMuch);
    }
    Ok(())
}

/// Whether a keyword is about what the others leave over.
fn is_left_over(keyword: &str) -> bool {
    matches!(keyword, "unevaluatedProperties" | "unevaluatedItems")
}

// === impl Targets ===

impl<'s> Targets<'s> {
    fn of(schema: &'s Value) -> Self {
        let mut targets = Self {
            resources: vec![schema],
            anchors: HashMap::new(),
        };
        targets.collect(schema);
        targets
    }

    fn collect(&mut self, schema: &'s Value) {
        match schema {
            Value::Object(object) => {
                let text = |keyword| object.get(keyword).and_then(Value::as_str);
                for id in ["$id", "id"].into_iter().filter_map(text) {
                    match id.strip_prefix('#') {
                        Some(anchor) => self.anchors.entry(anchor).or_default().push(schema),
                        None => self.resources.push(schema),
                    }
                }
                for anchor in ["$anchor", "$dynamicAnchor"].into_iter().filter_map(text) {
                    self.anchors.entry(anchor).or_default().push(schema);
                }
                object.values().for_each(|value| self.collect(value));
            }
            Value::Array(list) => list.iter().for_each(|value| self.collect(value)),
            _ => {}
        }
    }

    /// All that a reference may lead to, whatever its base is.
    fn of_reference(&self, reference: &str) -> Vec<&'s Value> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        if fragment.starts_with('/') {
            let resources = self.resources.iter();
            return resources
                .filter_map(|resource| resource.pointer(&fragment))
                .collect();
        }
        if !fragment.is_empty() {
            return self
                .anchors
                .get(fragment.as_ref())
                .cloned()
                .unwrap_or_default();
        }
        let name = |address: &str| address.rsplit('/').next().unwrap_or_default().to_owned();
        let is_it = |resource: &&&Value| {
            let id = ["$id", "id"]
                .iter()
                .find_map(|id| resource.get(id)?.as_str());
            base.is_empty() || id.is_some_and(|id| name(id.trim_end_matches('#')) == name(base))
        };
        self.resources.iter().filter(is_it).copied().collect()
    }
}

// === impl Walk ===

impl<'s> Walk<'s> {
    fn apply(
        &mut self,
        schema: &'s Value,
        value: Option<&Value>,
        depth: usize,
    ) -> Result<(), TooMuch> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(TooMuch)?;
        if depth > self.depth_max {
            return Err(TooMuch);
        }
        let Value::Object(schema) = schema else {
            return Ok(());
        };
        // What is left over is found out by going through all of the rest once more.
        let is_twice =
            schema.contains_key("unevaluatedProperties") || schema.contains_key("unevaluatedItems");
        for _ in 0..=usize::from(is_twice) {
            self.in_place(schema, value, depth)?;
        }
        match value {
            Some(Value::Object(object)) => self.properties(schema, object, depth),
            Some(Value::Array(list)) => self.items(schema, list, depth),
            _ => Ok(()),
        }
    }

    /// What is applied to the same value, or may be, if that is not known.
    fn in_place(
        &mut self,
        schema: &'s Map<String, Value>,
        value: Option<&Value>,
        depth: usize,
    ) -> Result<(), TooMuch> {
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(Value::String(reference)) = schema.get(keyword) {
                self.follow(reference, value, depth)?;
            }
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            if let Some(Value::Array(schemas)) = schema.get(keyword) {
                for schema in schemas {
                    self.apply(schema, value, depth + 1)?;
                }
            }
        }
        for keyword in ["not", "if", "then", "else"] {
            if let Some(schema) = schema.get(keyword) {
                self.apply(schema, value, depth + 1)?;
            }
        }
        for keyword in ["dependencies", "dependentSchemas"] {
            if let Some(Value::Object(schemas)) = schema.get(keyword) {
                let of_present = schemas.iter().filter(|(name, _)| {
                    value.is_none_or(|value| value.get(name.as_str()).is_some())
                });
                for (_, schema) in of_present {
                    self.apply(schema, value, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    /// A reference that leads back to itself for the same value says nothing more, and is followed no further.
    fn follow(
        &mut self,
        reference: &str,
        value: Option<&Value>,
        depth: usize,
    ) -> Result<(), TooMuch> {
        for target in self.targets.of_reference(reference) {
            let step = (std::ptr::from_ref(target), value.map(std::ptr::from_ref));
            if self.following.contains(&step) {
                continue;
            }
            self.following.push(step);
            self.apply(target, value, depth + 1)?;
            self.following.pop();
        }
        Ok(())
    }

    fn properties(
        &mut self,
        schema: &'s Map<String, Value>,
        object: &Map<String, Value>,
        depth: usize,
    ) -> Result<(), TooMuch> {
        let declared = schema.get("properties").and_then(Value::as_object);
        let patterns = schema.get("patternProperties").and_then(Value::as_object);
        for (name, value) in object {
            let own = declared.and_then(|declared| declared.get(name));
            let of_patterns = patterns.into_iter().flat_map(Map::values);
            let additional = schema.get("additionalProperties").filter(|_| own.is_none());
            let others = [additional, schema.get("unevaluatedProperties")];
            for schema in own
                .into_iter()
                .chain(of_patterns)
                .chain(others.into_iter().flatten())
            {
                self.apply(schema, Some(value), depth + 1)?;
            }
            if let Some(schema) = schema.get("propertyNames") {
                // Only its parts that are applied in place matter to a name.
                self.apply(schema, Some(&Value::Null), depth + 1)?;
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        schema: &'s Map<String, Value>,
        list: &[Value],
        depth: usize,
    ) -> Result<(), TooMuch> {
        for (index, value) in list.iter().enumerate() {
            let each = ["items", "additionalItems", "contains", "unevaluatedItems"]
                .into_iter()
                .filter_map(|keyword| schema.get(keyword))
                .filter(|schema| schema.is_object());
            let by_place = ["items", "prefixItems"]
                .into_iter()
                .filter_map(|keyword| schema.get(keyword)?.get(index));
            for schema in each.chain(by_place) {
                self.apply(schema, Some(value), depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    /// Definitions of which each leads to the next, in these words.
    fn chain(length: usize, link: impl Fn(usize) -> String) -> Value {
        let mut definitions = String::new();
        for at in 0..length {
            let _ = write!(definitions, r#""a{at}":{},"#, link(at + 1));
        }
        parsed(&format!(
            r##"{{"definitions":{{{definitions}"a{length}":{{"type":"string"}}}},"$ref":"#/definitions/a0"}}"##
        ))
    }

    #[test]
    fn rule_13_what_would_take_for_ever_is_found_out_beforehand() {
        let twice = |keyword: &str, next: usize| {
            format!(
                r##"{{"{keyword}":[{{"$ref":"#/definitions/a{next}"}},{{"$ref":"#/definitions/a{next}"}}]}}"##
            )
        };
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let doubling = chain(40, |next| twice(keyword, next));
            assert_eq!(weigh(&doubling, &json!({})), Err(TooMuch), "{keyword}");
            assert_eq!(
                weigh(&chain(10, |next| twice(keyword, next)), &json!({})),
                Ok(()),
                "{keyword}"
            );
        }
        let line = chain(20_000, |next| {
            format!(r##"{{"$ref":"#/definitions/a{next}"}}"##)
        });
        assert_eq!(weigh(&line, &json!({})), Err(TooMuch));
        let left_over = chain(40, |next| {
            format!(
                r##"{{"allOf":[{{"$ref":"#/definitions/a{next}"}}],"unevaluatedProperties":false}}"##
            )
        });
        assert_eq!(weigh(&left_over, &json!({})), Err(TooMuch));
        // With the document's depth.
        let nested = parsed(r##"{"properties":{"a":{"oneOf":[{"$ref":"#"},{"$ref":"#"}]}}}"##);
        let deep = |depth: usize| {
            parsed(&format!(
                "{}1{}",
                r#"{"a":"#.repeat(depth),
                "}".repeat(depth)
            ))
        };
        assert_eq!(weigh(&nested, &deep(5)), Ok(()));
        assert_eq!(weigh(&nested, &deep(30)), Err(TooMuch));
        // However references are written.
        for reference in [
            "#here",
            "http://h/a.json",
            "a.json",
            "a.json#",
            "#/definitions/x%20y",
            "#",
        ] {
            let both = json!({"a": {"anyOf": [{"$ref": reference}, {"$ref": reference}]}});
            let schema = json!({
                "$id": "http://h/",
                "properties": both,
                "definitions": {"x y": {"$id": "a.json", "$anchor": "here", "properties": both}},
            });
            assert_eq!(weigh(&schema, &deep(30)), Err(TooMuch), "{reference}");
        }
    }

    #[test]
    fn rule_2_what_cannot_be_compiled_in_time_is_found_out_beforehand() {
        let link = |next: usize, keyword: &str, times: usize| {
            let references = vec![format!(r##"{{"$ref":"#/definitions/a{next}"}}"##); times];
            format!(r#"{{"allOf":[{}]{keyword}}}"#, references.join(","))
        };
        let left_over = r#","unevaluatedProperties":false"#;
        for (length, times, keyword, expected) in [
            (300, 1, left_over, Err(TooMuch)),
            (18, 2, left_over, Err(TooMuch)),
            (8, 1, left_over, Ok(())),
            (3, 2, left_over, Ok(())),
            (300, 1, "", Ok(())),
            (6_000, 1, "", Err(TooMuch)),
        ] {
            let schema = chain(length, |next| link(next, keyword, times));
            assert_eq!(
                weigh_compiling(&schema),
                expected,
                "{length} {times} {keyword}"
            );
        }
        let round = parsed(r##"{"unevaluatedProperties":{"$ref":"#"},"allOf":[{"$ref":"#"}]}"##);
        assert_eq!(weigh_compiling(&round), Ok(()));
    }

    #[test]
    fn loops_and_large_documents_are_no_trouble() {
        for schema in [
            r##"{"$ref":"#"}"##,
            r##"{"allOf":[{"$ref":"#"}]}"##,
            r##"{"anyOf":[{"$ref":"#"},{"type":"string"}]}"##,
            r##"{"properties":{"a":{"$ref":"#"}},"additionalProperties":{"$ref":"#"}}"##,
        ] {
            assert_eq!(
                weigh(&parsed(schema), &json!({"a": {"a": [1]}})),
                Ok(()),
                "{schema}"
            );
        }
        let rows: Vec<Value> = (0..5_000)
            .map(|row| json!({"id": row, "name": "x"}))
            .collect();
        let table = json!({"items": {"properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}});
        assert_eq!(weigh(&table, &Value::Array(rows)), Ok(()));
    }
}
