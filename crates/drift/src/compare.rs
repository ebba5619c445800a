//! Where a resource differs from its spec.
//!
//! Only leaves of the spec are compared. A leaf is what is no map, and any value at a path that is declared. Each is looked for at
//! its own path in what is there, and then under `attrs`, where some providers keep what others have at the top. A map without
//! members asks for nothing.

use crate::{
    canonical::{self, Lists, Mode},
    comparator::{Branch, Comparator, TypeRules},
    document::{DocumentError, Node, Value},
    pointer,
    secret::{self, Sameness},
};

/// Where the rest of what is there may be.
pub(crate) const ATTRIBUTES: &str = "attrs";

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
    /// Secret paths of which nothing can be said: what was asked for and what is there are hashed with different keys.
    pub unknown: Vec<String>,
    /// A document has a value at a secret path that is not hashed; what is said of values may have it.
    pub in_clear: bool,
}

struct Walk<'r, 'n> {
    rules: &'r TypeRules,
    names: Vec<&'n str>,
    found: Comparison,
}

/// What is there at a place: what is found at the top comes first.
#[derive(Clone, Copy)]
struct There<'v, 't> {
    top: Option<&'v Value<'t>>,
    attributes: Option<&'v Value<'t>>,
}

/// Where a declaration counts from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Nested,
}

/// What is declared for a place that has these branches.
fn declared<'r>(
    top: Option<&'r Branch>,
    nested: Option<&'r Branch>,
) -> Option<(&'r Comparator, Place)> {
    let here = |branch: Option<&'r Branch>| branch.and_then(|branch| branch.here.as_ref());
    let secret = here(nested).filter(|comparator| **comparator == Comparator::Secret);
    match (here(top), secret) {
        (Some(Comparator::Secret), _) | (Some(_), None) => {
            here(top).map(|comparator| (comparator, Place::Top))
        }
        (_, secret) => secret.map(|comparator| (comparator, Place::Nested)),
    }
}

// === impl There ===

impl<'v, 't> There<'v, 't> {
    fn member(self, name: &str) -> Self {
        Self {
            top: self.top.and_then(|value| value.member(name)),
            attributes: self.attributes.and_then(|value| value.member(name)),
        }
    }

    fn value(self) -> Option<&'v Value<'t>> {
        self.top.or(self.attributes)
    }
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
        let there = There {
            top: Some(&live),
            attributes: live.member(ATTRIBUTES),
        };
        walk.map(&spec, there, [self.root.as_ref(), None]);
        walk.found.in_clear = self.is_clear(&spec) || self.is_clear(&live);
        Ok(walk.found)
    }

    /// Whether two values at a path mean the same, so that one in place of the other is no change. Text that is no JSON is what it
    /// is.
    #[must_use]
    pub fn same(&self, path: &str, one: &str, other: &str) -> bool {
        self.sameness(path, one, other) == Sameness::Same
    }

    /// The same, where it may be that nobody can tell.
    pub(crate) fn sameness(&self, path: &str, one: &str, other: &str) -> Sameness {
        if one == other {
            return Sameness::Same;
        }
        let (Ok(value), Ok(other_value)) = (Value::read(one), Value::read(other)) else {
            return Sameness::Different;
        };
        if self.has_secrets {
            let secrets = self.secrets_sameness(path, (one, &value), (other, &other_value));
            if let Some(sameness) = secrets {
                return sameness;
            }
        }
        let mode = self.at(path).map_or(Mode::DEFAULT, Comparator::mode);
        secret::of_equal(canonical::equal(&value, &other_value, mode))
    }
}

// === impl Walk ===

impl<'n> Walk<'_, 'n> {
    /// What is declared is found from the top, and what is secret from `attrs` as well: there it is hashed, too.
    fn map(
        &mut self,
        spec: &'n Value<'_>,
        there: There<'_, '_>,
        [top, nested]: [Option<&Branch>; 2],
    ) {
        let Node::Map(members) = &spec.node else {
            return;
        };
        for (name, wanted) in members {
            let top = top.and_then(|rules| rules.below(name));
            let nested = match (nested, self.names.as_slice()) {
                (Some(nested), _) => nested.below(name),
                (None, []) if name == ATTRIBUTES => self.rules.root.as_ref(),
                (None, _) => None,
            };
            let there = there.member(name);
            self.names.push(name);
            match (declared(top, nested), &wanted.node) {
                (None, Node::Map(_)) => self.map(wanted, there, [top, nested]),
                (comparator, _) => self.leaf(wanted, there.value(), comparator),
            }
            self.names.pop();
        }
    }

    fn leaf(
        &mut self,
        wanted: &Value<'_>,
        actual: Option<&Value<'_>>,
        comparator: Option<(&Comparator, Place)>,
    ) {
        self.found.fields += 1;
        let secret_path = || match comparator {
            Some((_, Place::Nested)) => pointer::format(&self.names[1..]),
            _ => pointer::format(&self.names),
        };
        let comparator = comparator.map(|(comparator, _)| comparator);
        let mut unknown = false;
        let agrees = match (comparator, actual) {
            (Some(Comparator::Ignore | Comparator::WriteOnly), _) => true,
            (_, None) => false,
            (None, Some(actual)) => canonical::equal(wanted, actual, Mode::DEFAULT),
            (Some(Comparator::Secret), Some(actual)) => {
                let key = self.rules.key.as_deref();
                let sameness = secret::sameness(key, secret_path, wanted, actual);
                unknown = sameness == Sameness::Unknown;
                sameness != Sameness::Different
            }
            (Some(Comparator::KeyedList(key)), Some(actual)) => keyed(wanted, actual, key),
            (Some(Comparator::Subset), Some(actual)) => subset(wanted, actual),
            (Some(other), Some(actual)) => canonical::equal(wanted, actual, other.mode()),
        };
        if agrees && !unknown {
            return;
        }
        let path = pointer::format(&self.names);
        if unknown {
            self.found.unknown.push(path);
            return;
        }
        let secret = comparator == Some(&Comparator::Secret);
        let text = |value: &Value<'_>| match secret {
            true => self.rules.kept(&secret_path(), value),
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
