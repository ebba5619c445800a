//! Comparing what schemas say of the parts of a document: its properties, its items, and what is only ever the same or not understood.

use serde_json::{Map, Value};
use steadfast_api::schema::v1::SchemaChangeClass as Class;

use super::{
    ANY, ANYTHING, Comparison, is_grave,
    same::{accepts_all, same, same_parts},
};

// === impl Comparison: objects and lists ===

impl<'a> Comparison<'a> {
    pub(super) fn compare_properties(
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

    pub(super) fn compare_items(
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
    pub(super) fn compare_the_rest(&mut self, old: &'a Value, new: &'a Value, path: &[String]) {
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
