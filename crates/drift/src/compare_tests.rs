//! What comparisons find.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::{
    Comparator, TypeRules,
    compare::{ATTRIBUTES, Divergence, DivergenceKind},
    pointer,
    tests::{any_document, any_json, any_rules, reshaped, rules},
};

fn found(rules: &TypeRules, spec: &Json, live: &Json) -> Vec<(String, DivergenceKind)> {
    let comparison = rules.compare(&spec.to_string(), &live.to_string());
    let divergences = comparison.expect("documents").divergences;
    divergences
        .into_iter()
        .map(|one| (one.path, one.kind))
        .collect()
}

/// The paths of the leaves.
fn leaves(value: &Json, path: &str, found: &mut Vec<String>) {
    match value {
        Json::Object(members) => {
            for (name, member) in members {
                let path = format!("{path}{}", pointer::format([name]));
                leaves(member, &path, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

proptest! {
    #[test]
    fn a_document_agrees_with_itself(document in any_document(), rules in any_rules()) {
        prop_assert_eq!(found(&rules, &document, &document), vec![]);
    }

    /// Another shape, more members than were asked for, and any part of it under `attrs`.
    #[test]
    fn another_shape_is_no_drift(spec in any_document(), extra in any_document(), seed in any::<u64>()) {
        let rules = TypeRules::default();
        let Json::Object(mut there) = reshaped(&spec, seed) else { unreachable!("a map stays one") };
        let Json::Object(extra) = extra else { unreachable!("it is a map") };
        for (name, value) in extra {
            if spec.get(&name).is_none() && name != ATTRIBUTES {
                there.insert(name, value);
            }
        }
        let live = Json::Object(there.clone());
        let comparison = rules.compare(&spec.to_string(), &live.to_string()).expect("documents");
        prop_assert_eq!(&comparison.divergences, &vec![]);
        let mut all = Vec::new();
        leaves(&spec, "", &mut all);
        prop_assert_eq!(comparison.fields as usize, all.len());
        prop_assume!(spec.get(ATTRIBUTES).is_none());
        let (top, under): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
            there.into_iter().partition(|(name, _)| name.len() % 2 == (seed % 2) as usize);
        let mut live = Json::Object(top);
        live[ATTRIBUTES] = Json::Object(under);
        prop_assert_eq!(found(&rules, &spec, &live), vec![]);
    }

    /// Exactly what was changed is told.
    #[test]
    fn one_change_is_one_divergence(spec in any_document(), value in any_json(), at in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let rules = TypeRules::default();
        let mut all = Vec::new();
        leaves(&spec, "", &mut all);
        prop_assume!(!all.is_empty());
        let path = &all[at.index(all.len())];
        let mut live = spec.clone();
        *live.pointer_mut(path).expect("a leaf") = value.clone();
        let live = reshaped(&live, seed);
        let before = spec.pointer(path).expect("a leaf").to_string();
        let same = rules.same(path, &before, &value.to_string());
        let expected = if same { vec![] } else { vec![(path.clone(), DivergenceKind::Changed)] };
        prop_assert_eq!(found(&rules, &spec, &live), expected);
    }

    #[test]
    fn what_is_not_there_is_missing(spec in any_document(), rules in any_rules()) {
        let mut all = Vec::new();
        leaves(&spec, "", &mut all);
        let missing = found(&TypeRules::default(), &spec, &json!({}));
        prop_assert_eq!(missing.len(), all.len());
        prop_assert!(missing.iter().all(|(path, kind)| all.contains(path) && *kind == DivergenceKind::Missing));
        for (path, _) in found(&rules, &spec, &json!({})) {
            prop_assert!(!matches!(rules.at(&path), Some(Comparator::Ignore | Comparator::WriteOnly)));
        }
    }
}

#[test]
fn the_first_scenario() {
    let spec = json!({"size_slug": "s-1vcpu-1gb", "region": "fra1", "tags": ["web", "prod"]});
    let live = json!({"id": 7, "size_slug": "s-2vcpu-2gb", "attrs": {"region": "fra1"}, "tags": ["prod", "web", "web"]});
    let comparison = TypeRules::default()
        .compare(&spec.to_string(), &live.to_string())
        .expect("documents");
    assert_eq!(comparison.fields, 3);
    let [size] = comparison.divergences.as_slice() else {
        panic!("{comparison:?}");
    };
    assert_eq!(
        *size,
        Divergence {
            path: "/size_slug".to_owned(),
            kind: DivergenceKind::Changed,
            expected: "\"s-1vcpu-1gb\"".to_owned(),
            actual: Some("\"s-2vcpu-2gb\"".to_owned()),
            secret: false,
        }
    );
}

#[test]
fn the_top_comes_before_attrs() {
    let none = TypeRules::default();
    let spec = json!({"a": 1, "n": {"x": 1, "y": 2}});
    assert_eq!(
        found(
            &none,
            &spec,
            &json!({"a": 1, "n": {"x": 1}, "attrs": {"a": 2, "n": {"x": 9, "y": 2}}})
        ),
        vec![]
    );
    let changed = |path: &str| vec![(path.to_owned(), DivergenceKind::Changed)];
    assert_eq!(
        found(
            &none,
            &json!({"a": 1}),
            &json!({"a": null, "attrs": {"a": 1}})
        ),
        changed("/a")
    );
    assert_eq!(found(&none, &json!({"a": {}}), &json!({})), vec![]);
    assert_eq!(
        found(&none, &json!({"a": {"b": 1}}), &json!({"a": 5})),
        vec![("/a/b".to_owned(), DivergenceKind::Missing)]
    );
    assert_eq!(
        found(&none, &json!({"a": 5}), &json!({"a": {"b": 1}})),
        changed("/a")
    );
}

#[test]
fn each_comparator_compares_as_it_says() {
    use Comparator as C;
    let agree = |comparator: &C, spec: Json, live: Json| {
        let rules = rules(&[("/v", comparator.clone())]);
        found(&rules, &json!({"v": spec}), &json!({"v": live})).is_empty()
    };
    let key = C::KeyedList("name".to_owned());
    let rule = |name: &str, port: i64| json!({"name": name, "port": port});
    let cases = [
        (C::Set, json!([1, 2]), json!(["2", 1, 1]), true),
        (C::Set, json!([1, 2]), json!([1]), false),
        (C::Exact, json!(1), json!(1.0), true),
        (C::Exact, json!(1), json!("1"), false),
        (C::Exact, json!([1, 2]), json!([2, 1]), false),
        (C::Exact, json!({"a": 1}), json!({"a": 1, "b": 2}), false),
        (C::Numeric, json!("1.50"), json!(1.5), true),
        (C::Numeric, json!("1.50"), json!("1.6"), false),
        (C::Numeric, json!("ten"), json!("Ten"), false),
        (C::CaseInsensitive, json!("FRA1"), json!("fra1"), true),
        (
            C::CaseInsensitive,
            json!(["A", "b"]),
            json!(["B", "a"]),
            true,
        ),
        (C::CaseInsensitive, json!("FRA1"), json!("fra2"), false),
        (C::Multiset, json!([1, 1, 2]), json!([2, 1, 1]), true),
        (C::Multiset, json!([1, 1, 2]), json!([2, 1, 2]), false),
        (C::Ordered, json!([1, 2]), json!(["1", "2"]), true),
        (C::Ordered, json!([1, 2]), json!([2, 1]), false),
        (
            key.clone(),
            json!([rule("a", 1), rule("b", 2)]),
            json!([{"name": "b", "port": "2", "more": 1}, rule("a", 1)]),
            true,
        ),
        (
            key.clone(),
            json!([rule("a", 1)]),
            json!([rule("a", 2)]),
            false,
        ),
        (
            key.clone(),
            json!([rule("a", 1)]),
            json!([rule("a", 1), rule("b", 2)]),
            false,
        ),
        (
            key.clone(),
            json!([rule("a", 1), rule("b", 2)]),
            json!([rule("a", 1)]),
            false,
        ),
        (
            key.clone(),
            json!([rule("a", 1)]),
            json!([{"name": "a"}]),
            false,
        ),
        (key.clone(), json!([1, 2]), json!([2, 1]), true),
        (
            key.clone(),
            json!([rule("a", 1), rule("a", 2)]),
            json!([rule("a", 2), rule("a", 1)]),
            true,
        ),
        (
            key,
            json!([rule("a", 1), rule("a", 2)]),
            json!([rule("a", 1)]),
            false,
        ),
        (C::Subset, json!([1, 2]), json!([3, "2", 1]), true),
        (C::Subset, json!([1, 2]), json!([1]), false),
        (C::Subset, json!([]), json!([1]), true),
        (C::Subset, json!("a"), json!("b"), false),
        (C::Ignore, json!(1), json!(2), true),
        (C::WriteOnly, json!(1), json!(null), true),
        (C::Secret, json!("a"), json!("a"), true),
        (C::Secret, json!("a"), json!("b"), false),
    ];
    for (comparator, spec, live, expected) in cases {
        assert_eq!(
            agree(&comparator, spec.clone(), live.clone()),
            expected,
            "{comparator:?} {spec} {live}"
        );
    }
    for silent in [C::Ignore, C::WriteOnly] {
        let rules = rules(&[("/v", silent)]);
        assert_eq!(
            found(&rules, &json!({"v": {"deep": 1}}), &json!({})),
            vec![]
        );
    }
}

#[test]
fn a_star_is_any_name_and_a_name_comes_before_it() {
    let rules = rules(&[
        ("/*", Comparator::Ignore),
        ("/region", Comparator::Set),
        ("/n/*/size", Comparator::Ignore),
        ("/n/b/other", Comparator::Exact),
    ]);
    let spec = json!({"x": 1, "region": "a", "n": {"a": {"size": 1, "z": 1}, "b": {"size": 1, "other": 1}}});
    let live = json!({"region": "b", "n": {"b": {"other": "1"}}});
    let paths: Vec<_> = found(&rules, &spec, &live)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(paths, ["/n/a/z", "/n/b/other", "/region"]);
}

#[test]
fn what_is_no_document_is_refused() {
    let none = TypeRules::default();
    assert!(none.compare("{", "{}").is_err());
    assert!(none.compare("{}", "").is_err());
    // Not even JSON, but the same as before: it did not change.
    assert!(none.same("/a", "x", "x") && !none.same("/a", "x", "y"));
    assert!(none.same("/a", "[1,2]", "[\"2\", 1]") && !none.same("/a", "1", "null"));
}

/// They are hashed in both places, wherever the spec names them.
#[test]
fn what_is_secret_is_so_below_attrs_too() {
    let rules = rules(&[("/user/pin", Comparator::Secret)]);
    let spec = json!({"attrs": {"user": {"pin": 4711, "name": "ann"}}}).to_string();
    let live = json!({"attrs": {"user": {"pin": 4712, "name": "bob"}}}).to_string();
    let kept = |text: &str| rules.redact(text).expect("a document").into_owned();
    for (spec, live) in [
        (spec.clone(), live.clone()),
        (kept(&spec), live.clone()),
        (kept(&spec), kept(&live)),
    ] {
        let found = rules.compare(&spec, &live).expect("documents").divergences;
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.path.as_str(), one.secret))
            .collect();
        assert_eq!(
            told,
            [("/attrs/user/name", false), ("/attrs/user/pin", true)]
        );
        assert!(!format!("{found:?}").contains("471"), "{found:?}");
    }
    let agree = |spec: &str, live: &str| rules.compare(spec, live).expect("documents");
    assert_eq!(agree(&kept(&spec), &spec).divergences, vec![]);
}
