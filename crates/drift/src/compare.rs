//! Where a resource differs from its spec.
//!
//! Only leaves of the spec are compared. A leaf is what is no map, and any value at a path that is declared. Each is looked for at
//! its own path in what is there, and then under `attrs`, where some providers keep what others have at the top. A map without
//! members asks for nothing.

use std::borrow::Cow;

use crate::{
    canonical::{self, Lists, Mode},
    comparator::{Branch, Comparator, TypeRules},
    document::{DocumentError, Node, Value},
    pointer,
    secret::{self, Sameness},
};

/// Where the rest of what is there may be.
const ATTRIBUTES: &str = "attrs";

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DivergenceKind {
    /// Another value is there.
    Changed,
    /// Nothing is there.
    Missing,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Where, a JSON Pointer.
    pub path: String,
    /// How.
    pub kind: DivergenceKind,
    /// What was asked for, as JSON; a keyed hash if it is secret.
    pub expected: String,
    /// What is there, as JSON; likewise; `None` if nothing is.
    pub actual: Option<String>,
    /// Neither value may be shown.
    pub secret: bool,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// In the order of their paths' names.
    pub divergences: Vec<Divergence>,
    /// How many leaves the spec has.
    pub fields: u32,
}

struct Walk<'r, 'n> {
    rules: &'r TypeRules,
    names: Vec<&'n str>,
    found: Comparison,
}

// === impl TypeRules ===

impl TypeRules {
    /// Compares what was asked for with what is there.
    ///
    /// # Errors
    /// If either is no JSON document.
    pub fn compare(&self, spec: &str, live: &str) -> Result<Comparison, DocumentError> {
        let (spec, live) = (Value::read(spec)?, Value::read(live)?);
        let mut walk = Walk {
            rules: self,
            names: Vec::new(),
            found: Comparison::default(),
        };
        walk.map(
            &spec,
            Some(&live),
            live.member(ATTRIBUTES),
            self.root.as_ref(),
        );
        Ok(walk.found)
    }

    /// Whether two values at a path mean the same, so that one in place of the other is no change. Text that is no JSON is what it
    /// is.
    #[must_use]
    pub fn same(&self, path: &str, one: &str, other: &str) -> bool {
        if one == other {
            return true;
        }
        let mode = self.at(path).map_or(Mode::DEFAULT, Comparator::mode);
        match (Value::read(one), Value::read(other)) {
            (Ok(one), Ok(other)) => canonical::equal(&one, &other, mode),
            _ => false,
        }
    }
}

// === impl Walk ===

impl<'n> Walk<'_, 'n> {
    fn map(
        &mut self,
        spec: &'n Value<'_>,
        top: Option<&Value<'_>>,
        attributes: Option<&Value<'_>>,
        rules: Option<&Branch>,
    ) {
        let Node::Map(members) = &spec.node else {
            return;
        };
        for (name, wanted) in members {
            let rules = rules.and_then(|rules| rules.below(name));
            let comparator = rules.and_then(|rules| rules.here.as_ref());
            let top = top.and_then(|value| value.member(name));
            let attributes = attributes.and_then(|value| value.member(name));
            self.names.push(name);
            if comparator.is_none() && matches!(wanted.node, Node::Map(_)) {
                self.map(wanted, top, attributes, rules);
            } else {
                self.leaf(wanted, top.or(attributes), comparator);
            }
            self.names.pop();
        }
    }

    fn leaf(
        &mut self,
        wanted: &Value<'_>,
        actual: Option<&Value<'_>>,
        comparator: Option<&Comparator>,
    ) {
        self.found.fields += 1;
        let agrees = match (comparator, actual) {
            (Some(Comparator::Ignore | Comparator::WriteOnly), _) => true,
            (_, None) => false,
            (None, Some(actual)) => canonical::equal(wanted, actual, Mode::DEFAULT),
            (Some(Comparator::Secret), Some(actual)) => {
                let key = self.rules.key.as_deref();
                let path = || pointer::format(&self.names);
                secret::sameness(key, path, wanted, actual) != Sameness::Different
            }
            (Some(Comparator::KeyedList(key)), Some(actual)) => keyed(wanted, actual, key),
            (Some(Comparator::Subset), Some(actual)) => subset(wanted, actual),
            (Some(other), Some(actual)) => canonical::equal(wanted, actual, other.mode()),
        };
        if agrees {
            return;
        }
        let path = pointer::format(&self.names);
        let secret = comparator == Some(&Comparator::Secret);
        let text = |value: &Value<'_>| match secret {
            true => self.rules.kept(&path, value),
            false => value.text.to_owned(),
        };
        self.found.divergences.push(Divergence {
            kind: match actual {
                Some(_) => DivergenceKind::Changed,
                None => DivergenceKind::Missing,
            },
            expected: text(wanted),
            actual: actual.map(text),
            secret,
            path,
        });
    }
}

/// Whether a list holds at least the elements of another; by default where one of them is no list.
fn subset(wanted: &Value<'_>, actual: &Value<'_>) -> bool {
    let (Node::List(wanted_list), Node::List(actual_list)) = (&wanted.node, &actual.node) else {
        return canonical::equal(wanted, actual, Mode::DEFAULT);
    };
    debug_assert_eq!(Mode::DEFAULT.lists, Lists::Set);
    let theirs = canonical::forms(actual_list, Mode::DEFAULT);
    canonical::forms(wanted_list, Mode::DEFAULT)
        .iter()
        .all(|form| theirs.binary_search(form).is_ok())
}

/// Whether two lists have elements of the same names, and each is as the one that was asked for says.
fn keyed(wanted: &Value<'_>, actual: &Value<'_>, key: &str) -> bool {
    match (by_key(wanted, key), by_key(actual, key)) {
        (Some(wanted), Some(actual)) => {
            wanted.len() == actual.len()
                && wanted
                    .iter()
                    .zip(&actual)
                    .all(|((name, wanted), (other, actual))| {
                        name == other && covers(wanted, actual)
                    })
        }
        _ => canonical::equal(wanted, actual, Mode::DEFAULT),
    }
}

/// The elements of a list with the forms of their names, sorted by these; `None` if one has no name of its own.
fn by_key<'v, 't>(list: &'v Value<'t>, key: &str) -> Option<Vec<(Vec<u8>, &'v Value<'t>)>> {
    let Node::List(elements) = &list.node else {
        return None;
    };
    let mut named = Vec::with_capacity(elements.len());
    for element in elements {
        let mut form = Vec::new();
        canonical::write(&mut form, element.member(key)?, Mode::DEFAULT);
        named.push((form, element));
    }
    named.sort_by(|one, other| one.0.cmp(&other.0));
    let unique = named.windows(2).all(|pair| pair[0].0 != pair[1].0);
    unique.then_some(named)
}

/// Whether everything that a value says is so in another: of maps, by the members of the first.
fn covers(wanted: &Value<'_>, actual: &Value<'_>) -> bool {
    match (&wanted.node, &actual.node) {
        (Node::Map(members), Node::Map(_)) => members.iter().all(|(name, wanted)| {
            actual
                .member(name)
                .is_some_and(|actual| covers(wanted, actual))
        }),
        _ => canonical::equal(wanted, actual, Mode::DEFAULT),
    }
}

/// What a document is hidden with.
pub(crate) const MASK: &str = "\"***\"";

/// Renders a value again with another text in some places: `replace` sees each member of a map with its names, and says what to
/// write for it, if not itself.
pub(crate) fn rewrite<'t>(
    value: &Value<'t>,
    replace: &mut impl FnMut(&[&str], &Value<'t>) -> Rewrite,
) -> Cow<'t, str> {
    let mut text = String::with_capacity(value.text.len());
    if write_again(&mut text, value, &mut Vec::new(), replace) {
        Cow::Owned(text)
    } else {
        Cow::Borrowed(value.text)
    }
}

/// What becomes of a member.
pub(crate) enum Rewrite {
    /// As it is; its own members are looked at.
    Enter,
    /// As it is.
    Keep,
    /// This instead.
    Replace(String),
    /// Nothing.
    Remove,
}

/// Appends the value; says whether that differs from its own text in more than its spaces.
fn write_again<'v, 't>(
    text: &mut String,
    value: &'v Value<'t>,
    names: &mut Vec<&'v str>,
    replace: &mut impl FnMut(&[&str], &Value<'t>) -> Rewrite,
) -> bool {
    let Node::Map(members) = &value.node else {
        text.push_str(value.text);
        return false;
    };
    let mut changed = false;
    let begin = text.len();
    text.push('{');
    // As they were written: a person finds them again.
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by_key(|(_, member)| member.text.as_ptr() as usize);
    for (name, member) in ordered {
        names.push(name);
        let became = replace(names, member);
        let before = text.len();
        if !matches!(became, Rewrite::Remove) {
            if text.len() > begin + 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_ref()).to_string());
            text.push(':');
        }
        match became {
            Rewrite::Enter => changed |= write_again(text, member, names, replace),
            Rewrite::Keep => text.push_str(member.text),
            Rewrite::Replace(other) => {
                text.push_str(&other);
                changed = true;
            }
            Rewrite::Remove => {
                debug_assert_eq!(text.len(), before);
                changed = true;
            }
        }
        names.pop();
    }
    text.push('}');
    changed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::tests::{any_document, any_json, any_rules, reshaped, rules};

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
}
