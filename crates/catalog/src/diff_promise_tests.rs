//! The promise of a comparison, on random schemas and documents.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

use super::*;
use crate::Schema;

/// Small schemas over few names and values, so that they often concern the same documents.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
        plain_keywords(),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let named = proptest::collection::btree_map("[ab]", inner.clone(), 0..3);
        let names = proptest::sample::subsequence(vec!["a", "b", "c"], 0..3);
        let list = proptest::collection::vec(inner.clone(), 1..3);
        let part = prop_oneof![
            4 => (named.clone(), names, proptest::option::of(inner.clone())).prop_map(
                |(properties, required, others)| {
                    let mut schema = json!({ "properties": properties, "required": required });
                    if let Some(others) = others {
                        schema["additionalProperties"] = others;
                    }
                    schema
                }
            ),
            2 => (named, proptest::option::of(prop_oneof![Just(json!(false)), inner.clone()]))
                .prop_map(|(patterns, others)| {
                    let mut schema = json!({ "patternProperties": patterns });
                    if let Some(others) = others {
                        schema["additionalProperties"] = others;
                    }
                    schema
                }),
            1 => inner.clone().prop_map(|items| json!({ "items": items })),
            1 => list.clone().prop_map(|items| json!({ "items": items, "additionalItems": false })),
            1 => (list, 0..3usize).prop_map(|(list, which)| {
                json!({ ["allOf", "anyOf", "oneOf"][which]: list })
            }),
            1 => inner.clone().prop_map(|not| json!({ "not": not })),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({ "if": a, "then": b })),
            1 => inner.clone().prop_map(|names| json!({ "propertyNames": names })),
            1 => inner.clone().prop_map(|held| json!({ "contains": held })),
            1 => inner.prop_map(|a| json!({ "dependencies": { "a": a, "b": ["c"] } })),
            1 => Just(json!({ "$ref": "#/definitions/d" })),
        ];
        (part, plain_keywords()).prop_map(|(mut part, plain)| {
            if let (Some(part), Value::Object(plain)) = (part.as_object_mut(), plain) {
                part.extend(plain);
            }
            part
        })
    })
}

fn plain_keywords() -> impl Strategy<Value = Value> {
    let keyword = prop_oneof![
        proptest::sample::select(vec![
            json!("string"),
            json!("integer"),
            json!("number"),
            json!("object"),
            json!("array"),
            json!(["string", "null"]),
            json!(["object", "integer"]),
        ])
        .prop_map(|kind| ("type", kind)),
        proptest::collection::vec(values(), 1..4).prop_map(|values| ("enum", json!(values))),
        values().prop_map(|value| ("const", value)),
        (
            proptest::sample::select(vec![
                "minimum",
                "maximum",
                "exclusiveMinimum",
                "exclusiveMaximum"
            ]),
            prop_oneof![
                (-2..4i64).prop_map(|n| json!(n)),
                Just(json!(1.5)),
                Just(json!(2.0))
            ]
        ),
        (1..4u64).prop_map(|step| ("multipleOf", json!(step))),
        (
            proptest::sample::select(vec![
                "minLength",
                "maxLength",
                "minItems",
                "maxItems",
                "minProperties",
                "maxProperties"
            ]),
            (0..4u64).prop_map(|count| json!(count))
        ),
        any::<bool>().prop_map(|unique| ("uniqueItems", json!(unique))),
        proptest::sample::select(vec!["^x", "y", "z$"]).prop_map(|text| ("pattern", json!(text))),
        proptest::sample::select(vec!["uri", "date"]).prop_map(|text| ("format", json!(text))),
        proptest::sample::select(vec!["A", "B"]).prop_map(|text| ("title", json!(text))),
    ];
    proptest::collection::vec(keyword, 0..3).prop_map(|keywords| {
        let keywords = keywords
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(keywords.collect())
    })
}

fn values() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!(null),
        json!(0),
        json!(1),
        json!(1.0),
        json!(1.5),
        json!(2),
        json!(3),
        json!("x"),
        json!("xy"),
        json!("2020-01-01"),
        json!("http://x.example/"),
        json!([]),
        json!({}),
    ])
}

fn documents() -> impl Strategy<Value = Value> {
    values().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            3 => proptest::collection::btree_map("[abc]", inner.clone(), 0..3)
                .prop_map(|map| json!(map)),
            1 => proptest::collection::vec(inner, 0..3).prop_map(|items| json!(items)),
        ]
    })
}

/// Changes one place of a schema: a keyword of it, or of one inside it, is taken from another one, or taken away.
fn edited(
    schema: &Value,
    other: &Value,
    pool: &[Value],
    choice: &mut dyn FnMut(usize) -> usize,
) -> Value {
    let Value::Object(object) = schema else {
        return other.clone();
    };
    let mut object = object.clone();
    let inside = ["properties", "patternProperties"]
        .iter()
        .filter_map(|keyword| Some((*keyword, object.get(*keyword)?.as_object()?.clone())))
        .find(|(_, map)| !map.is_empty());
    match (choice(9), inside) {
        (0 | 1, Some((keyword, mut map))) => {
            let index = choice(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(index) {
                *inner = edited(inner, other, pool, choice);
            }
            object.insert(keyword.to_owned(), Value::Object(map));
        }
        (2, _) if !object.is_empty() => {
            let index = choice(object.len());
            let keyword = object.keys().nth(index).cloned().unwrap_or_default();
            object.remove(&keyword);
        }
        (3 | 4, _) => {
            // The same keyword, with another value.
            let start = choice(pool.len());
            let mut others = pool[start..].iter().filter_map(Value::as_object).flatten();
            if let Some((keyword, value)) = others
                .find(|(keyword, value)| object.get(*keyword).is_some_and(|held| held != *value))
            {
                object.insert(keyword.clone(), value.clone());
            }
        }
        (5, _) => {
            // A property more, or another rule for one.
            let mut properties = object.get("properties").cloned().unwrap_or(json!({}));
            properties[["a", "b"][choice(2)]] = pool[choice(pool.len())].clone();
            object.insert("properties".to_owned(), properties);
        }
        (6, _) => {
            // The same limit, and what lies on it is on the other side.
            let held = KINDS
                .iter()
                .flat_map(|kinds| [(kinds[0], kinds[1]), (kinds[1], kinds[0])]);
            for (keyword, other) in held {
                if let Some(limit) = object.remove(keyword) {
                    object.insert(other.to_owned(), limit);
                    break;
                }
            }
        }
        _ => {
            if let Value::Object(other) = other {
                object.extend(other.clone());
            }
        }
    }
    Value::Object(object)
}

/// How a limit of numbers is written, with and without what lies on it.
const KINDS: [[&str; 2]; 2] = [
    ["minimum", "exclusiveMinimum"],
    ["maximum", "exclusiveMaximum"],
];

/// Adds a limit of numbers to a schema, or to a property of it.
fn limited(schema: &Value, choice: &mut dyn FnMut(usize) -> usize) -> Value {
    let mut schema = schema.clone();
    let Value::Object(object) = &mut schema else {
        return schema;
    };
    let keyword = KINDS[choice(2)][choice(2)];
    let limit = [json!(0), json!(1), json!(1.5), json!(2)][choice(4)].clone();
    let inside = object.get_mut("properties").and_then(Value::as_object_mut);
    let inside = inside.and_then(|properties| properties.values_mut().next());
    match inside.and_then(Value::as_object_mut) {
        Some(inner) if choice(2) == 0 => inner.insert(keyword.to_owned(), limit),
        _ => object.insert(keyword.to_owned(), limit),
    };
    schema
}

/// Lets a schema allow only properties whose names match a pattern, besides those that it declares.
fn patterned(schema: &Value, pool: &[Value], choice: &mut dyn FnMut(usize) -> usize) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        let held = [json!({}), pool[choice(pool.len())].clone()][choice(2)].clone();
        let pattern = ["a", "^[ab]$"][choice(2)];
        object.insert("patternProperties".to_owned(), json!({ pattern: held }));
        object.insert("additionalProperties".to_owned(), json!(false));
    }
    schema
}

/// Documents of the numbers that a schema names: what lies on a limit is rarely drawn.
fn on_the_limits(schema: &Value, found: &mut Vec<Value>) {
    match schema {
        Value::Number(_) => {
            for document in [
                schema.clone(),
                json!({ "a": schema }),
                json!({ "b": schema }),
            ] {
                if !found.contains(&document) {
                    found.push(document);
                }
            }
        }
        Value::Object(object) => object
            .values()
            .for_each(|value| on_the_limits(value, found)),
        Value::Array(items) => items.iter().for_each(|value| on_the_limits(value, found)),
        _ => {}
    }
}

/// With a definition to refer to, and null references replaced where there would be none.
fn whole(mut schema: Value, definition: &Value) -> Value {
    if let Value::Object(object) = &mut schema {
        object.insert("definitions".to_owned(), json!({ "d": definition }));
        return schema;
    }
    json!({ "allOf": [schema], "definitions": { "d": definition } })
}

#[test]
fn rule_13_whatever_stops_fitting_is_announced_by_a_grave_change() {
    const CASES: usize = 1_500;
    let seed: [u8; 32] = match std::env::var("STEADFAST_DIFF_SEED") {
        Ok(text) => std::array::from_fn(|at| text.as_bytes().get(at).copied().unwrap_or(0)),
        Err(_) => *b"a schema that is stricter than i",
    };
    println!("seed {:?}", String::from_utf8_lossy(&seed));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut draw = |strategy: &BoxedStrategy<Value>| -> Value {
        let tree = strategy.new_tree(&mut runner);
        tree.expect("a value can be drawn").current()
    };
    let (schemas, documents, plain) = (
        schemas().boxed(),
        documents().boxed(),
        plain_keywords().boxed(),
    );
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut choice = |among: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap_or_default() % among.max(1)
    };
    let pool: Vec<Value> = (0..400).map(|_| draw(&plain)).collect();
    let (mut stopped, mut quiet) = (0usize, 0usize);
    let mut keywords = BTreeSet::new();
    for _ in 0..CASES {
        let (mut old, other, definition) = (draw(&schemas), draw(&schemas), draw(&plain));
        match choice(6) {
            0 | 1 => old = limited(&old, &mut choice),
            2 => old = patterned(&old, &pool, &mut choice),
            _ => {}
        }
        let new = match choice(4) {
            0 => other.clone(),
            1 => edited(&old, &draw(&plain), &pool, &mut choice),
            _ => edited(&old, &other, &pool, &mut choice),
        };
        let second = if choice(3) == 0 {
            draw(&plain)
        } else {
            definition.clone()
        };
        let (old, new) = (whole(old, &definition), whole(new, &second));
        let usable = |schema: &Value| Schema::new(String::new(), schema.to_string()).compiled.ok();
        let (Some(before), Some(after)) = (usable(&old), usable(&new)) else {
            continue;
        };
        let changes = diff(&before, &after);
        let is_announced = is_grave(gravest(&changes));
        quiet += usize::from(!is_announced);
        keywords.extend(changes.iter().map(|change| change.keyword.clone()));
        let mut tried: Vec<Value> = (0..12).map(|_| draw(&documents)).collect();
        on_the_limits(&new, &mut tried);
        for document in tried {
            if before.validator.is_valid(&document) && !after.validator.is_valid(&document) {
                stopped += 1;
                assert!(
                    is_announced,
                    "{document} fits {old} and not {new}, and all that is told is {changes:?}"
                );
            }
        }
    }
    println!("{stopped} documents stopped fitting; {quiet} pairs were called harmless");
    assert!(stopped > 2_000, "few documents stopped fitting: {stopped}");
    assert!(quiet > 300, "few pairs were called harmless: {quiet}");
    for keyword in [
        "type",
        "enum",
        "required",
        "minimum",
        "exclusiveMinimum",
        "patternProperties",
        "minLength",
        "anyOf",
        "$ref",
        "additionalProperties",
    ] {
        assert!(
            keywords.contains(keyword),
            "no change of {keyword}: {keywords:?}"
        );
    }
}
