//! Documents for tests, and other shapes of them that mean the same.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Map, Number, Value};

use crate::{Comparator, Declaration, HashKey, Rules, TypeRules};

/// Any JSON value of a few levels. Texts are often what numbers and booleans look like.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-8_i32..9).prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "[a-cA-C0-2 ]{0,2}".prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "null",
            "true",
            "1",
            "1.0",
            "-1",
            "é\"\\\n\u{1}",
            "attrs"
        ])
        .prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            any_members(inner),
        ]
    })
}

/// Any JSON object.
pub(crate) fn any_document() -> impl Strategy<Value = Value> {
    any_members(any_json())
}

/// Any comparators at any places of such documents.
pub(crate) fn any_rules() -> impl Strategy<Value = TypeRules> {
    let path = prop::sample::select(vec![
        "/a", "/b", "/c/d", "/c/*", "/*/b", "/attrs", "/attrs/a", "/d/*/a", "/~1~0",
    ]);
    let comparator = prop::sample::select(vec![
        Comparator::Set,
        Comparator::Exact,
        Comparator::Numeric,
        Comparator::CaseInsensitive,
        Comparator::Multiset,
        Comparator::Ordered,
        Comparator::KeyedList("a".to_owned()),
        Comparator::Subset,
        Comparator::Ignore,
        Comparator::WriteOnly,
        Comparator::Secret,
    ]);
    // Declarations that contradict each other are left out.
    prop::collection::vec((path, comparator), 0..5).prop_map(|declared| {
        let mut kept: Vec<(&str, Comparator)> = Vec::new();
        for one in declared {
            kept.push(one);
            if try_rules(&kept).is_none() {
                kept.pop();
            }
        }
        rules(&kept)
    })
}

/// The rules of a type, with these comparators.
pub(crate) fn rules(declared: &[(&str, Comparator)]) -> TypeRules {
    try_rules(declared).expect("declared well")
}

fn try_rules(declared: &[(&str, Comparator)]) -> Option<TypeRules> {
    let declarations: Vec<_> = declared
        .iter()
        .map(|(path, comparator)| Declaration {
            provider: "p".to_owned(),
            kind: "t".to_owned(),
            path: (*path).to_owned(),
            comparator: comparator.clone(),
        })
        .collect();
    let key = HashKey::new("a key for tests only");
    let rules = Rules::new(&declarations, &BTreeSet::new(), key).ok()?;
    Some(rules.of("p", "t").clone())
}

fn any_members(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec(("[a-d]|attrs|/~|é", inner), 0..6)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

/// The same with its lists and members in another order.
pub(crate) fn shuffled(value: &Value, seed: u64) -> Value {
    reshape(value, &mut StdRng::seed_from_u64(seed), false)
}

/// The same as a provider may write it: shuffled, with repeated elements, numbers and booleans as texts and the other way round.
pub(crate) fn reshaped(value: &Value, seed: u64) -> Value {
    reshape(value, &mut StdRng::seed_from_u64(seed), true)
}

fn reshape(value: &Value, random: &mut StdRng, loosely: bool) -> Value {
    match value {
        Value::Array(elements) => {
            let mut others: Vec<Value> = elements
                .iter()
                .map(|element| reshape(element, random, loosely))
                .collect();
            if loosely && !others.is_empty() && random.random() {
                let again = others[random.random_range(0..others.len())].clone();
                others.push(again);
            }
            others.shuffle(random);
            others.into()
        }
        Value::Object(members) => {
            let mut others: Vec<_> = members
                .iter()
                .map(|(name, member)| (name.clone(), reshape(member, random, loosely)))
                .collect();
            others.shuffle(random);
            Value::Object(others.into_iter().collect::<Map<_, _>>())
        }
        Value::Number(number) if loosely && random.random() => {
            // A whole float is written with `.0`, which no text of the same meaning has.
            let text = number.to_string();
            text.strip_suffix(".0")
                .unwrap_or(&text)
                .replace("-0", if text == "-0.0" { "0" } else { "-0" })
                .into()
        }
        Value::Bool(flag) if loosely && random.random() => flag.to_string().into(),
        Value::String(text) if loosely && random.random() => match text.as_str() {
            "true" => true.into(),
            text => text
                .parse::<i64>()
                .ok()
                .filter(|number| number.to_string() == text)
                .map_or_else(
                    || value.clone(),
                    |number| Value::Number(Number::from(number)),
                ),
        },
        other => other.clone(),
    }
}
