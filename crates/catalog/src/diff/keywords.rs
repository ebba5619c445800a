//! Comparing the keywords that stand for themselves: types, values, bounds, lengths, patterns.

use std::cmp::Ordering;

use serde_json::{Map, Value};
use steadfast_api::schema::v1::SchemaChangeClass as Class;

use super::{Comparison, numbers, shorten};

/// Keywords that count something, what they count, and whether they are the least that there must be.
const COUNTS: [(&str, &str, bool); 6] = [
    ("minLength", "characters", true),
    ("minItems", "items", true),
    ("minProperties", "properties", true),
    ("maxLength", "characters", false),
    ("maxItems", "items", false),
    ("maxProperties", "properties", false),
];

/// Keywords that ask a text for something.
const TEXTS: [&str; 4] = ["pattern", "format", "contentEncoding", "contentMediaType"];

/// How a bound is written, and on which side it is.
struct Bound {
    inclusive: &'static str,
    exclusive: &'static str,
    /// What is beyond it.
    outside: Ordering,
    words: [&'static str; 2],
}

const BOUNDS: [Bound; 2] = [
    Bound {
        inclusive: "minimum",
        exclusive: "exclusiveMinimum",
        outside: Ordering::Less,
        words: ["or more", "more than"],
    },
    Bound {
        inclusive: "maximum",
        exclusive: "exclusiveMaximum",
        outside: Ordering::Greater,
        words: ["or less", "less than"],
    },
];

type Keywords = Map<String, Value>;

// === impl Comparison: plain keywords ===

impl Comparison<'_> {
    pub(super) fn compare_types(&mut self, old: &Keywords, new: &Keywords, path: &[String]) {
        const KEYWORD: &str = "type";
        let (before, after) = (types_of(old), types_of(new));
        let (before, after) = match (before, after) {
            (None, None) => return,
            (Some(_), None) => {
                let message = "may be of any type now";
                return self.push(path, KEYWORD, Class::Compatible, message);
            }
            (before, Some(after)) => (before, after),
        };
        let takes =
            |name: &str| after.contains(&name) || (name == "integer" && after.contains(&"number"));
        let now = words(&after);
        let Some(before) = before else {
            // Without a type, but perhaps with a list of what is allowed.
            let fits = |value: &Value| type_names(value).iter().any(|name| takes(name));
            let is_implied =
                values_at_most(old).is_some_and(|values| values.iter().all(|v| fits(v)));
            if !is_implied {
                let message = format!("has to be {now} now");
                self.push(path, KEYWORD, Class::Breaking, &message);
            }
            return;
        };
        if before.iter().all(|name| takes(name)) {
            if !(after.iter().all(|name| before.contains(name))) {
                let message = format!("may be {now} now, and was {}", words(&before));
                self.push(path, KEYWORD, Class::Compatible, &message);
            }
        } else {
            let message = format!("has to be {now} now, and was {}", words(&before));
            self.push(path, KEYWORD, Class::Breaking, &message);
        }
    }

    /// `enum` and `const`.
    pub(super) fn compare_values(&mut self, old: &Keywords, new: &Keywords, path: &[String]) {
        const KEYWORD: &str = "enum";
        if ["enum", "const"]
            .iter()
            .all(|word| old.get(*word) == new.get(*word))
        {
            return;
        }
        let hides = self.is_secret(path);
        let named = |values: &[&Value]| {
            if hides {
                return String::new();
            }
            let texts: Vec<_> = values.iter().map(|value| value.to_string()).collect();
            format!(": {}", shorten(&texts.join(", ")))
        };
        let (class, message) = match (values_at_most(old), values_at_least(new)) {
            (None, None) => return,
            (Some(_), None) => (
                Class::Compatible,
                "may have other values, too, than those that were allowed".to_owned(),
            ),
            (None, Some(after)) => (
                Class::Breaking,
                format!("has to be one of certain values now{}", named(&after)),
            ),
            (Some(before), Some(after)) => {
                let gone: Vec<_> = missing(&before, &after);
                let added: Vec<_> = missing(&after, &before);
                if !gone.is_empty() {
                    let message = format!("no longer accepts some values{}", named(&gone));
                    (Class::Breaking, message)
                } else if !added.is_empty() {
                    let message = format!("accepts more values{}", named(&added));
                    (Class::Compatible, message)
                } else {
                    return;
                }
            }
        };
        self.push(path, KEYWORD, class, &message);
    }

    pub(super) fn compare_numbers(&mut self, old: &Keywords, new: &Keywords, path: &[String]) {
        for bound in &BOUNDS {
            self.compare_bound(bound, old, new, path);
        }
        const KEYWORD: &str = "multipleOf";
        match (old.get(KEYWORD), new.get(KEYWORD)) {
            (before, after) if before == after => {}
            (_, None) => {
                let message = "need not be a multiple of anything any more";
                self.push(path, KEYWORD, Class::Compatible, message);
            }
            (Some(before), Some(after)) if numbers::is_multiple(before, after) => {
                let message = format!("has to be a multiple of {after} now, which is less strict");
                self.push(path, KEYWORD, Class::Compatible, &message);
            }
            (_, Some(after)) => {
                let message = format!("has to be a multiple of {after} now");
                self.push(path, KEYWORD, Class::Breaking, &message);
            }
        }
    }

    fn compare_bound(&mut self, bound: &Bound, old: &Keywords, new: &Keywords, path: &[String]) {
        let keywords = [bound.inclusive, bound.exclusive];
        if keywords.iter().all(|word| old.get(*word) == new.get(*word)) {
            return;
        }
        // As it was written in draft-04: the one says what the other means.
        let is_switch =
            |schema: &Keywords| schema.get(bound.exclusive).is_some_and(Value::is_boolean);
        if is_switch(old) || is_switch(new) {
            let what = format!("`{}` changed", bound.inclusive);
            return self.unclear(path, bound.inclusive, &what);
        }
        for (keyword, is_exclusive) in [(bound.inclusive, false), (bound.exclusive, true)] {
            let Some(limit) = new.get(keyword) else {
                continue;
            };
            let implies = |word: &str, excludes: bool| {
                let order = old.get(word).and_then(|held| numbers::compare(held, limit));
                // The old limit is further inside, or the same and as strict.
                order.is_some_and(|order| {
                    order == bound.outside.reverse()
                        || (order == Ordering::Equal && (excludes || !is_exclusive))
                })
            };
            if !implies(bound.inclusive, false) && !implies(bound.exclusive, true) {
                let message = if is_exclusive {
                    format!("has to be {} {limit} now", bound.words[1])
                } else {
                    format!("has to be {limit} {} now", bound.words[0])
                };
                self.push(path, keyword, Class::Breaking, &message);
                return;
            }
        }
        let message = "its limits are less strict now";
        self.push(path, bound.inclusive, Class::Compatible, message);
    }

    pub(super) fn compare_counts(&mut self, old: &Keywords, new: &Keywords, path: &[String]) {
        for (keyword, what, is_least) in COUNTS {
            let (before, after) = (old.get(keyword), new.get(keyword));
            if before == after {
                continue;
            }
            let Some(limit) = after else {
                let message = format!("may have any number of {what} now");
                self.push(path, keyword, Class::Compatible, &message);
                continue;
            };
            let stricter = if is_least {
                Ordering::Less
            } else {
                Ordering::Greater
            };
            let is_implied = match before {
                // Nothing has fewer than none.
                None => is_least && limit.as_f64() == Some(0.0),
                Some(held) => numbers::compare(held, limit).is_some_and(|order| order != stricter),
            };
            let side = if is_least { "at least" } else { "at most" };
            let class = if is_implied {
                Class::Compatible
            } else {
                Class::Breaking
            };
            let message = match before {
                Some(held) => format!("has to have {side} {limit} {what} now, and {held} before"),
                None => format!("has to have {side} {limit} {what} now"),
            };
            self.push(path, keyword, class, &message);
        }
        let is_unique = |schema: &Keywords| schema.get("uniqueItems") == Some(&Value::Bool(true));
        match (is_unique(old), is_unique(new)) {
            (false, true) => {
                let message = "may not have equal items any more";
                self.push(path, "uniqueItems", Class::Breaking, message);
            }
            (true, false) => {
                let message = "may have equal items now";
                self.push(path, "uniqueItems", Class::Compatible, message);
            }
            _ => {}
        }
    }

    pub(super) fn compare_texts(&mut self, old: &Keywords, new: &Keywords, path: &[String]) {
        for keyword in TEXTS {
            let text = |schema: &Keywords| {
                let value = schema.get(keyword)?;
                Some(shorten(value.as_str().unwrap_or_default()))
            };
            if old.get(keyword) == new.get(keyword) {
                continue;
            }
            match (text(old), text(new)) {
                (_, None) => {
                    let message = format!("need not fit a `{keyword}` any more");
                    self.push(path, keyword, Class::Compatible, &message);
                }
                (None, Some(after)) => {
                    let message = format!("has to fit the {keyword} `{after}` now");
                    self.push(path, keyword, Class::Breaking, &message);
                }
                (Some(before), Some(after)) => {
                    let what = format!("its {keyword} is `{after}` now, and was `{before}`");
                    self.unclear(path, keyword, &what);
                }
            }
        }
    }
}

fn types_of(schema: &Keywords) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

/// What a schema allows, if it lists that; with both keywords perhaps less than this.
fn values_at_most(schema: &Keywords) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(only), _) => Some(vec![only]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

/// What a schema allows, if it lists that; with both keywords perhaps more than this, as 1 and 1.0 are taken for two.
fn values_at_least(schema: &Keywords) -> Option<Vec<&Value>> {
    let mut values = values_at_most(schema)?;
    if let Some(Value::Array(listed)) = schema.get("enum") {
        values.retain(|value| listed.contains(value));
    }
    Some(values)
}

fn missing<'v>(of: &[&'v Value], among: &[&Value]) -> Vec<&'v Value> {
    of.iter()
        .filter(|value| !among.contains(value))
        .copied()
        .collect()
}

/// The types that a value has.
fn type_names(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => &["integer", "number"],
        Value::String(_) => &["string"],
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    }
}

fn words(names: &[&str]) -> String {
    let words: Vec<_> = names
        .iter()
        .map(|name| match *name {
            "string" => "a string",
            "number" => "a number",
            "integer" => "a whole number",
            "boolean" => "true or false",
            "array" => "a list",
            "object" => "an object",
            other => other,
        })
        .collect();
    if words.is_empty() {
        return "nothing".to_owned();
    }
    words.join(" or ")
}
