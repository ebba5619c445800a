//! How values are compared where the default is not right: declarations, each for a path of a type of resource.
//!
//! What is declared at a path counts for the value there as a whole: nothing below it is looked at by itself. A `*` stands for any
//! one name, and a name comes before it. Declarations are checked all at once, and every problem is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use crate::{
    canonical::{Lists, Mode, Scalars},
    pointer,
    secret::HashKey,
};

/// How the values at a path are compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparator {
    /// As where nothing is declared: by what they look like, lists as sets, maps by their names in the spec. Declared to take a
    /// path out of a `*`.
    Set,
    /// Numbers, booleans and texts are apart, lists are ordered, maps have the same names.
    Exact,
    /// Texts that are numbers are those.
    Numeric,
    /// Without regard to upper and lower case.
    CaseInsensitive,
    /// Lists without regard to order; repetition counts.
    Multiset,
    /// Lists in their order.
    Ordered,
    /// Lists of maps that a member names. Each is compared with the one of the same name, as specs are: by the members that the
    /// spec has. Lists that are not like that are compared as sets.
    KeyedList(String),
    /// A list that holds at least what the spec has.
    Subset,
    /// It does not matter.
    Ignore,
    /// The provider never tells it.
    WriteOnly,
    /// It is nobody's to see, and compared by a keyed hash.
    Secret,
}

/// One declaration, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declaration {
    /// Of resources of this provider.
    pub provider: String,
    /// And this type.
    pub kind: String,
    /// A JSON Pointer; `*` is any one name.
    pub path: String,
    /// How.
    pub comparator: Comparator,
}

/// Why a declaration cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DeclarationProblem {
    /// Which one, from 0.
    pub index: usize,
    /// Which of its fields.
    pub field: &'static str,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// What is declared for all types.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    types: BTreeMap<String, BTreeMap<String, TypeRules>>,
    others: TypeRules,
    digest: String,
}

/// What is declared for one type.
#[derive(Debug, Clone, Default)]
pub struct TypeRules {
    pub(crate) root: Option<Branch>,
    pub(crate) key: Option<Arc<HashKey>>,
    pub(crate) has_secrets: bool,
    reports_unmanaged: bool,
}

/// What is declared at a place, and below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Branch {
    pub(crate) here: Option<Comparator>,
    named: BTreeMap<String, Branch>,
    any: Option<Box<Branch>>,
}

// === impl Comparator ===

impl Comparator {
    /// Every kind, as it is configured.
    pub const NAMES: &'static [&'static str] = &[
        "set",
        "exact",
        "numeric",
        "case_insensitive",
        "multiset",
        "ordered",
        "keyed_list",
        "subset",
        "ignore",
        "write_only",
        "secret",
    ];

    /// The kind of that name. `key` names the member that names the elements of a keyed list; the others have none.
    #[must_use]
    pub fn named(name: &str, key: Option<&str>) -> Option<Self> {
        let plain = match name {
            "set" => Self::Set,
            "exact" => Self::Exact,
            "numeric" => Self::Numeric,
            "case_insensitive" => Self::CaseInsensitive,
            "multiset" => Self::Multiset,
            "ordered" => Self::Ordered,
            "keyed_list" => return key.map(|key| Self::KeyedList(key.to_owned())),
            "subset" => Self::Subset,
            "ignore" => Self::Ignore,
            "write_only" => Self::WriteOnly,
            "secret" => Self::Secret,
            _ => return None,
        };
        key.is_none().then_some(plain)
    }

    /// The equality that it is, or that its values are kept by where it is none.
    pub(crate) fn mode(&self) -> Mode {
        let (scalars, lists) = match self {
            Self::Set
            | Self::KeyedList(_)
            | Self::Subset
            | Self::Ignore
            | Self::WriteOnly
            | Self::Secret => (Scalars::Loose, Lists::Set),
            Self::Exact => (Scalars::Typed, Lists::Ordered),
            Self::Numeric => (Scalars::Numeric, Lists::Set),
            Self::CaseInsensitive => (Scalars::Folded, Lists::Set),
            Self::Multiset => (Scalars::Loose, Lists::Multiset),
            Self::Ordered => (Scalars::Loose, Lists::Ordered),
        };
        Mode { scalars, lists }
    }
}

// === impl Rules ===

impl Rules {
    /// From declarations, the types (`PROVIDER/TYPE`) whose resources are drifts if nobody recorded them, and what secrets are
    /// hashed with.
    ///
    /// # Errors
    /// With every problem there is.
    pub fn new(
        declarations: &[Declaration],
        unmanaged: &BTreeSet<String>,
        key: Option<HashKey>,
    ) -> Result<Self, Vec<DeclarationProblem>> {
        let mut problems = Vec::new();
        let mut rules = Self::default();
        let key = key.map(Arc::new);
        for (index, declaration) in declarations.iter().enumerate() {
            let mut wrong = |field, message: String| {
                problems.push(DeclarationProblem {
                    index,
                    field,
                    message,
                });
            };
            let names = match pointer::parse(&declaration.path) {
                Ok(names) if names.is_empty() => {
                    wrong(
                        "path",
                        "the whole document cannot be declared; name a path in it".to_owned(),
                    );
                    continue;
                }
                Ok(names) => names,
                Err(error) => {
                    wrong("path", error.to_string());
                    continue;
                }
            };
            let secret = declaration.comparator == Comparator::Secret;
            if secret && key.is_none() {
                let message = "a secret path needs `drift.hash_key`, so that nobody can guess values from their hashes";
                wrong("kind", message.to_owned());
            }
            let of_type = rules.of_mut(&declaration.provider, &declaration.kind);
            of_type.has_secrets |= secret;
            let root = of_type.root.get_or_insert_default();
            if let Err(message) = root.declare(&names, &declaration.comparator) {
                wrong("path", message);
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        for name in unmanaged {
            if let Some((provider, kind)) = name.split_once('/') {
                rules.of_mut(provider, kind).reports_unmanaged = true;
            }
        }
        for of_type in rules.types.values_mut().flat_map(BTreeMap::values_mut) {
            of_type.key.clone_from(&key);
            if let Some(root) = &mut of_type.root {
                root.inherit();
            }
        }
        rules.digest = digest(declarations, unmanaged, key.as_deref());
        Ok(rules)
    }

    /// Those of a type.
    #[must_use]
    pub fn of(&self, provider: &str, kind: &str) -> &TypeRules {
        let of_provider = self.types.get(provider);
        of_provider
            .and_then(|types| types.get(kind))
            .unwrap_or(&self.others)
    }

    /// Differs if the rules do, and does not depend on the order in which they are declared.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The types (`PROVIDER/TYPE`) that have secret paths, with a text that differs if anything is declared of them otherwise. What
    /// secrets are hashed with does not matter to it: what is hashed stays so.
    pub(crate) fn secrets(&self) -> (String, BTreeSet<String>) {
        let types = self.types.iter().flat_map(|(provider, types)| {
            let secret = types.iter().filter(|(_, rules)| rules.has_secrets);
            secret.map(move |(kind, rules)| (format!("{provider}/{kind}"), &rules.root))
        });
        let types: BTreeMap<String, &Option<Branch>> = types.collect();
        let digest = Sha256::digest(format!("{types:?}"));
        (hex::encode(&digest[..16]), types.into_keys().collect())
    }

    fn of_mut(&mut self, provider: &str, kind: &str) -> &mut TypeRules {
        let types = self.types.entry(provider.to_owned()).or_default();
        types.entry(kind.to_owned()).or_default()
    }
}

fn digest(
    declarations: &[Declaration],
    unmanaged: &BTreeSet<String>,
    key: Option<&HashKey>,
) -> String {
    let mut sorted: Vec<_> = declarations.iter().collect();
    sorted.sort();
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write!(text, "{sorted:?} {unmanaged:?}");
    if let Some(key) = key.filter(|_| {
        sorted
            .iter()
            .any(|one| one.comparator == Comparator::Secret)
    }) {
        text.push_str(key.id());
    }
    hex::encode(&Sha256::digest(text)[..16])
}

// === impl TypeRules ===

impl TypeRules {
    /// Resources that nobody recorded are drifts.
    #[must_use]
    pub fn reports_unmanaged(&self) -> bool {
        self.reports_unmanaged
    }

    /// What is declared for a path, or above it.
    pub(crate) fn at(&self, path: &str) -> Option<&Comparator> {
        let mut branch = self.root.as_ref()?;
        for name in pointer::parse(path).ok()? {
            branch = branch.below(&name)?;
            if branch.here.is_some() {
                break;
            }
        }
        branch.here.as_ref()
    }
}

// === impl Branch ===

impl Branch {
    pub(crate) fn below(&self, name: &str) -> Option<&Self> {
        self.named.get(name).or(self.any.as_deref())
    }

    fn declare<T: AsRef<str>>(
        &mut self,
        names: &[T],
        comparator: &Comparator,
    ) -> Result<(), String> {
        let Some((first, rest)) = names.split_first() else {
            if self.here.is_some() {
                return Err("it is declared twice".to_owned());
            }
            if !self.named.is_empty() || self.any.is_some() {
                return Err(
                    "a path below it is declared too, which would never be looked at".to_owned(),
                );
            }
            self.here = Some(comparator.clone());
            return Ok(());
        };
        if self.here.is_some() {
            return Err(
                "a path above it is declared, so that it would never be looked at".to_owned(),
            );
        }
        let child = match first.as_ref() {
            "*" => self.any.get_or_insert_default().as_mut(),
            name => self.named.entry(name.to_owned()).or_default(),
        };
        child.declare(rest, comparator)
    }

    /// Gives each named branch what `*` says beside it, so that one look finds all that counts for a name.
    fn inherit(&mut self) {
        if let Some(any) = &self.any {
            for branch in self.named.values_mut() {
                branch.merge(any);
            }
        }
        for branch in self.named.values_mut().chain(self.any.as_deref_mut()) {
            branch.inherit();
        }
    }

    /// Takes over what is not declared here.
    fn merge(&mut self, other: &Self) {
        if self.here.is_some() {
            return;
        }
        if self.named.is_empty() && self.any.is_none() {
            self.here.clone_from(&other.here);
        }
        for (name, branch) in &other.named {
            self.named.entry(name.clone()).or_default().merge(branch);
        }
        if let Some(any) = &other.any {
            self.any.get_or_insert_default().merge(any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(path: &str, comparator: Comparator) -> Declaration {
        Declaration {
            provider: "p".to_owned(),
            kind: "t".to_owned(),
            path: path.to_owned(),
            comparator,
        }
    }

    fn problems(declarations: &[Declaration]) -> Vec<(usize, &'static str, String)> {
        let problems = Rules::new(declarations, &BTreeSet::new(), None).expect_err("wrong");
        let told = problems.into_iter();
        told.map(|problem| (problem.index, problem.field, problem.message))
            .collect()
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let told = problems(&[
            declaration("/a", Comparator::Ignore),
            declaration("/a", Comparator::Exact),
            declaration("/a/b", Comparator::Exact),
            declaration("b", Comparator::Exact),
            declaration("", Comparator::Ignore),
            declaration("/c/*/d", Comparator::Exact),
            declaration("/c/*", Comparator::Exact),
            declaration("/s", Comparator::Secret),
        ]);
        let places: Vec<_> = told
            .iter()
            .map(|(index, field, _)| (*index, *field))
            .collect();
        assert_eq!(
            places,
            [
                (1, "path"),
                (2, "path"),
                (3, "path"),
                (4, "path"),
                (6, "path"),
                (7, "kind")
            ]
        );
        assert!(told[0].2.contains("twice"));
        assert!(told[1].2.contains("above"));
        assert!(told[4].2.contains("below"));
        assert!(told[5].2.contains("drift.hash_key"));
    }

    #[test]
    fn rules_are_those_of_the_type() {
        let declared = [declaration("/a", Comparator::Ignore)];
        let unmanaged = BTreeSet::from(["p/u".to_owned()]);
        let rules = Rules::new(&declared, &unmanaged, None).expect("declared well");
        assert_eq!(rules.of("p", "t").at("/a/b"), Some(&Comparator::Ignore));
        assert_eq!(rules.of("p", "u").at("/a"), None);
        assert_eq!(rules.of("q", "t").at("/a"), None);
        assert!(rules.of("p", "u").reports_unmanaged() && !rules.of("p", "t").reports_unmanaged());
    }

    #[test]
    fn the_digest_changes_with_the_rules_alone() {
        let of = |declarations: &[Declaration], unmanaged: &[&str]| {
            let unmanaged = unmanaged.iter().map(|&name| name.to_owned()).collect();
            let rules = Rules::new(declarations, &unmanaged, None).expect("declared well");
            rules.digest().to_owned()
        };
        let (a, b) = (
            declaration("/a", Comparator::Ignore),
            declaration("/b", Comparator::KeyedList("k".to_owned())),
        );
        let both = of(&[a.clone(), b.clone()], &[]);
        assert_eq!(of(&[b.clone(), a.clone()], &[]), both);
        let other = declaration("/b", Comparator::KeyedList("l".to_owned()));
        for changed in [
            of(std::slice::from_ref(&a), &[]),
            of(&[a.clone(), other], &[]),
            of(&[a, b], &["p/t"]),
        ] {
            assert_ne!(changed, both);
        }
    }

    #[test]
    fn every_kind_has_a_name() {
        for name in Comparator::NAMES {
            let keyed = *name == "keyed_list";
            assert_eq!(Comparator::named(name, None).is_some(), !keyed, "{name}");
            assert_eq!(
                Comparator::named(name, Some("id")).is_some(),
                keyed,
                "{name}"
            );
        }
        assert_eq!(Comparator::named("sets", None), None);
    }
}
