//! What is secret in what is kept, and in what is shown.
//!
//! A document is kept with the values at its secret paths hashed, and shown with those hidden. What is there may have them under
//! `attrs` as well, so that both places are hashed and hidden alike. What was kept before a path was declared secret is hidden
//! afterwards: documents, the values of drifts, and what events say.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap};

use crate::{
    canonical::{self, Mode},
    comparator::{Branch, Comparator, TypeRules},
    document::{DocumentError, Node, Value},
    pointer,
    rewrite::{Rewrite, rewrite},
    secret::{self, Sameness},
};

/// What a document is hidden with.
const MASK: &str = "\"***\"";

/// What events say of values.
const VALUES: [&str; 2] = ["expected", "actual"];

/// What is declared for a value, in a document whose `attrs` may stand for its top.
pub(crate) fn declared<'r>(root: &'r Branch, names: &[&str]) -> [Option<&'r Branch>; 2] {
    let along = |names: &[&str]| {
        let mut branch = root;
        for name in names {
            branch = branch.below(name)?;
        }
        Some(branch)
    };
    let nested = names
        .split_first()
        .filter(|(first, _)| **first == "attrs")
        .and_then(|(_, rest)| along(rest));
    [along(names), nested]
}

/// Whether what is declared at a place, or above it, makes it secret.
fn covers(root: &Branch, names: &[&str]) -> bool {
    let mut branch = root;
    for name in names {
        match branch.below(name) {
            Some(below) if branch.here.is_none() => branch = below,
            _ => break,
        }
    }
    branch.here == Some(Comparator::Secret)
}

/// Whether a document has a value at a secret path that is not hashed.
fn is_clear(branch: &Branch, value: &Value<'_>) -> bool {
    match (&branch.here, &value.node) {
        (Some(Comparator::Secret), _) => secret::hashed(value).is_none(),
        (None, Node::Map(members)) => members.iter().any(|(name, member)| {
            let below = branch.below(name);
            below.is_some_and(|below| is_clear(below, member))
        }),
        _ => false,
    }
}

// === impl TypeRules ===

impl TypeRules {
    /// The document as it may be kept: with hashes for the values at secret paths.
    ///
    /// # Errors
    /// If it is no document.
    pub fn redact<'t>(&self, document: &'t str) -> Result<Cow<'t, str>, DocumentError> {
        let value = Value::read(document)?;
        let hash = |path: &str, value: &Value<'_>| Some(self.hidden(path, value));
        Ok(self.at_secrets(&[], &value, hash))
    }

    /// A document, or a value at a path of one, that is kept already: with hashes for those values at secret paths that have none;
    /// `None` if it is as it may be kept. Text that is no JSON goes.
    #[must_use]
    pub fn hide(&self, path: &str, kept: &str) -> Option<String> {
        let missing = |path: &str, value: &Value<'_>| {
            let clear = secret::hashed(value).is_none();
            clear.then(|| self.hidden(path, value))
        };
        self.replace(path, kept, missing)
    }

    /// The document as it may be shown. Text that is no document is not shown at all.
    #[must_use]
    pub fn mask<'t>(&self, document: &'t str) -> Cow<'t, str> {
        self.mask_at("", document)
    }

    /// The same for a value at a path of a document.
    #[must_use]
    pub fn mask_at<'t>(&self, path: &str, value: &'t str) -> Cow<'t, str> {
        let masked = self.replace(path, value, |_, _| Some(MASK.to_owned()));
        masked.map_or(Cow::Borrowed(value), Cow::Owned)
    }

    /// What an event says about a path, as it may be kept: with hashes for values that have none; `None` if it is so. What is about
    /// a secret path tells no values.
    #[must_use]
    pub fn hide_detail(&self, path: &str, detail: &str) -> Option<String> {
        self.in_detail(path, detail, |value| self.hide(path, value))
    }

    /// What an event says about a path, as it may be shown. Text that is no object is not shown at all.
    #[must_use]
    pub fn mask_detail<'t>(&self, path: &str, detail: &'t str) -> Cow<'t, str> {
        let mask = |value: &str| match self.mask_at(path, value) {
            Cow::Owned(masked) => Some(masked),
            Cow::Borrowed(_) => None,
        };
        let masked = self.in_detail(path, detail, mask);
        masked.map_or(Cow::Borrowed(detail), Cow::Owned)
    }

    /// Whether a value at a path must not be shown.
    #[must_use]
    pub fn is_secret(&self, path: &str) -> bool {
        self.secret_as(path).is_some()
    }

    /// The path that a value at a path is hashed with, if it is secret: below `attrs` it is that from there.
    fn secret_as<'p>(&self, path: &'p str) -> Option<&'p str> {
        let root = self.root.as_ref().filter(|_| self.has_secrets)?;
        let names = pointer::parse(path).ok()?;
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        if covers(root, &names) {
            return Some(path);
        }
        let (first, rest) = names.split_first()?;
        let nested = *first == "attrs" && covers(root, rest);
        path.strip_prefix("/attrs").filter(|_| nested)
    }

    /// Whether a document has a value at a secret path that is not hashed: it is older than the declaration, or came in where that
    /// was not known.
    pub(crate) fn is_clear(&self, document: &Value<'_>) -> bool {
        let Some(root) = self.root.as_ref().filter(|_| self.has_secrets) else {
            return false;
        };
        let nested = document.member("attrs");
        is_clear(root, document) || nested.is_some_and(|nested| is_clear(root, nested))
    }

    /// Whether two values mean the same at a path at which something is secret, or within which nothing but what is secret differs
    /// and is hashed with different keys; `None` if that is for others to tell.
    pub(crate) fn secrets_sameness(
        &self,
        path: &str,
        (one, one_value): (&str, &Value<'_>),
        (other, other_value): (&str, &Value<'_>),
    ) -> Option<Sameness> {
        if let Some(path) = self.secret_as(path) {
            let key = self.key.as_deref();
            let path = || path.to_owned();
            return Some(secret::sameness(key, path, one_value, other_value));
        }
        let (ours, theirs) = (self.hashes(path, one), self.hashes(path, other));
        let foreign = ours.iter().any(|(path, ours)| {
            let theirs = theirs.get(path).and_then(Option::as_ref);
            let (Some((ours, _)), Some((theirs, _))) = (ours, theirs) else {
                return false;
            };
            ours != theirs
        });
        if !foreign || !ours.keys().eq(theirs.keys()) {
            return None;
        }
        let known = ours.iter().all(|(path, ours)| match (ours, &theirs[path]) {
            (Some(ours), Some(theirs)) => ours.0 != theirs.0 || ours.1 == theirs.1,
            _ => false,
        });
        let (one, other) = (self.mask_at(path, one), self.mask_at(path, other));
        let (Ok(one), Ok(other)) = (Value::read(&one), Value::read(&other)) else {
            return None;
        };
        let mode = self.at(path).map_or(Mode::DEFAULT, Comparator::mode);
        (known && canonical::equal(&one, &other, mode)).then_some(Sameness::Unknown)
    }

    /// The key and the hash of everything secret within a value, by its path; `None` for what is not hashed.
    fn hashes(&self, path: &str, text: &str) -> BTreeMap<String, Option<(String, String)>> {
        let hashes = RefCell::new(BTreeMap::new());
        self.replace(path, text, |path, value| {
            let hashed = secret::hashed(value);
            let hashed = hashed.map(|(key, hash)| (key.to_owned(), hash.to_owned()));
            hashes.borrow_mut().insert(path.to_owned(), hashed);
            None
        });
        hashes.into_inner()
    }

    /// What is kept in place of a secret value.
    fn hidden(&self, path: &str, value: &Value<'_>) -> String {
        match &self.key {
            Some(key) => key.hash(path, value),
            None => MASK.to_owned(),
        }
    }

    /// The same for a value of a document that is kept: it is hashed already, unless that is older than the declaration.
    pub(crate) fn kept(&self, path: &str, value: &Value<'_>) -> String {
        match secret::hashed(value) {
            Some(_) => value.text.to_owned(),
            None => self.hidden(path, value),
        }
    }

    /// A value at a path with others in place of the secret ones; `None` if it is the same.
    fn replace(
        &self,
        path: &str,
        text: &str,
        hide: impl Fn(&str, &Value<'_>) -> Option<String>,
    ) -> Option<String> {
        if !self.has_secrets {
            return None;
        }
        let (Ok(value), Ok(names)) = (Value::read(text), pointer::parse(path)) else {
            return (!text.is_empty()).then(String::new);
        };
        if let Some(path) = self.secret_as(path) {
            return hide(path, &value);
        }
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        match self.at_secrets(&names, &value, hide) {
            Cow::Owned(replaced) => Some(replaced),
            Cow::Borrowed(_) => None,
        }
    }

    /// A value below some names, which are not secret, with others in place of the secret ones.
    fn at_secrets<'t>(
        &self,
        above: &[&str],
        value: &Value<'t>,
        hide: impl Fn(&str, &Value<'_>) -> Option<String>,
    ) -> Cow<'t, str> {
        let Some(root) = self.root.as_ref().filter(|_| self.has_secrets) else {
            return Cow::Borrowed(value.text);
        };
        rewrite(value, &mut |below, value| {
            let all;
            let names = match above {
                [] => below,
                above => {
                    all = [above, below].concat();
                    &all
                }
            };
            let declared = declared(root, names);
            let is_secret = |branch: &Option<&Branch>| {
                branch.is_some_and(|branch| branch.here == Some(Comparator::Secret))
            };
            let hidden = if is_secret(&declared[0]) {
                hide(&pointer::format(names), value)
            } else if is_secret(&declared[1]) {
                hide(&pointer::format(&names[1..]), value)
            } else if declared.iter().any(Option::is_some) || names == ["attrs"] {
                return Rewrite::Enter;
            } else {
                None
            };
            hidden.map_or(Rewrite::Keep, Rewrite::Replace)
        })
    }

    /// What an event says about a path with its values replaced, or without them if the path is secret; `None` if it is the same.
    fn in_detail(
        &self,
        path: &str,
        detail: &str,
        replace: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        if !self.has_secrets || detail.is_empty() {
            return None;
        }
        let Ok(mut said) = serde_json::from_str::<serde_json::Map<_, _>>(detail) else {
            return Some("{}".to_owned());
        };
        let (secret, mut changed) = (self.is_secret(path), false);
        for name in VALUES {
            let Some(value) = said.get(name).map(serde_json::Value::to_string) else {
                continue;
            };
            if secret {
                said.remove(name);
                changed = true;
            } else if let Some(replaced) = replace(&value) {
                let replaced = serde_json::from_str(&replaced).unwrap_or_default();
                said.insert(name.to_owned(), replaced);
                changed = true;
            }
        }
        changed.then(|| serde_json::Value::Object(said).to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        HashKey,
        tests::{any_document, any_rules, rules},
    };

    proptest! {
        #[test]
        fn only_secrets_are_hashed(document in any_document(), rules in any_rules()) {
            let text = document.to_string();
            let kept = rules.redact(&text).expect("a document").into_owned();
            let kept_json: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
            if kept_json != document {
                prop_assert!(kept.contains("$hash"));
            }
            // The same hashes on both sides.
            let found = rules.compare(&kept, &kept).expect("documents");
            prop_assert_eq!(found.divergences, vec![]);
        }

        /// What came in before a path was secret ends up as what comes in afterwards.
        #[test]
        fn what_is_hidden_later_is_as_if_it_had_been_hidden_at_once(document in any_document(), rules in any_rules()) {
            let text = document.to_string();
            let at_once = rules.redact(&text).expect("a document").into_owned();
            let later = rules.hide("", &text).unwrap_or_else(|| text.clone());
            prop_assert_eq!(&later, &at_once);
            prop_assert_eq!(rules.hide("", &later), None);
            let clear = |text: &str| rules.is_clear(&Value::read(text).expect("a document"));
            prop_assert!(!clear(&later));
            prop_assert_eq!(clear(&text), later != text);
            // Each part of it, by its own path.
            for (name, member) in document.as_object().expect("an object") {
                let path = pointer::format([name]);
                let kept: serde_json::Value = serde_json::from_str(&at_once).expect("JSON");
                let hidden = rules.hide(&path, &member.to_string());
                let hidden = hidden.unwrap_or_else(|| member.to_string());
                let hidden: serde_json::Value = serde_json::from_str(&hidden).expect("JSON");
                prop_assert_eq!(&hidden, &kept[name]);
                let detail = serde_json::json!({"kind": "changed", "actual": member}).to_string();
                let said = rules.hide_detail(&path, &detail).unwrap_or_else(|| detail.clone());
                let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
                let told = said.get("actual");
                prop_assert_eq!(told, Some(&kept[name]).filter(|_| !rules.is_secret(&path)));
            }
        }
    }

    #[test]
    fn secrets_are_kept_as_hashes_and_shown_as_nothing() {
        let rules = rules(&[
            ("/password", Comparator::Secret),
            ("/users/*/token", Comparator::Secret),
        ]);
        let spec = r#"{"b": 1, "password": "hunter2", "users": {"ann": {"token": "t0ken", "age": 3}}, "a": 2}"#;
        let live = r#"{"attrs": {"password": "hunter2", "users": {"ann": {"token": ["x"]}}}, "b": 1, "a": 2, "token": "free"}"#;
        let (spec, live) = (
            rules.redact(spec).expect("JSON"),
            rules.redact(live).expect("JSON"),
        );
        for kept in [&spec, &live] {
            assert!(
                !kept.contains("hunter2") && !kept.contains("t0ken"),
                "{kept}"
            );
        }
        assert!(live.contains("\"token\":\"free\""), "{live}");
        assert_eq!(
            rules.mask(&spec),
            r#"{"b":1,"password":"***","users":{"ann":{"token":"***","age":3}},"a":2}"#
        );
        assert_eq!(
            rules.mask(&live),
            r#"{"attrs":{"password":"***","users":{"ann":{"token":"***"}}},"b":1,"a":2,"token":"free"}"#
        );
        let found = rules.compare(&spec, &live).expect("documents").divergences;
        let paths: Vec<_> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(paths, ["/users/ann/age", "/users/ann/token"]);
        assert!(found[1].secret && !found[0].secret);
        assert!(
            found[1]
                .actual
                .as_ref()
                .is_some_and(|actual| actual.contains("$hash"))
        );
        assert!(!format!("{found:?}").contains("t0ken"));
        assert!(rules.is_secret("/users/bob/token") && !rules.is_secret("/users/bob"));
        assert_eq!(rules.mask("{"), "");
    }

    #[test]
    fn what_was_kept_in_clear_before_it_was_declared_secret_is_not_told() {
        let rules = rules(&[("/password", Comparator::Secret)]);
        let (spec, live) = (r#"{"password":"hunter2"}"#, r#"{"password":"hunter3"}"#);
        let found = rules.compare(spec, live).expect("documents").divergences;
        assert_eq!(found.len(), 1);
        assert!(!format!("{found:?}").contains("hunter"));
        let hashed = rules.redact(spec).expect("JSON");
        assert_eq!(
            rules.compare(&hashed, spec).expect("documents").divergences,
            vec![]
        );
        // Whoever sends a hash does not get it taken for one.
        assert_ne!(rules.redact(&hashed).expect("JSON"), hashed);
    }

    #[test]
    fn another_key_does_not_make_drifts() {
        let of = |secret: &str| {
            let declared = [crate::Declaration {
                provider: "p".to_owned(),
                kind: "t".to_owned(),
                path: "/password".to_owned(),
                comparator: Comparator::Secret,
            }];
            let rules = crate::Rules::new(&declared, &Default::default(), HashKey::new(secret));
            rules.expect("declared well")
        };
        let (old, new) = (of("sixteen bytes old"), of("sixteen bytes new"));
        assert_ne!(old.digest(), new.digest());
        let document = r#"{"password":"hunter2"}"#;
        let (before, after) = (
            old.of("p", "t").redact(document),
            new.of("p", "t").redact(document),
        );
        let (before, after) = (before.expect("JSON"), after.expect("JSON"));
        assert_ne!(before, after);
        let found = new
            .of("p", "t")
            .compare(&before, &after)
            .expect("documents");
        assert_eq!(found.divergences, vec![]);
    }

    #[test]
    fn a_part_of_a_document_is_hidden_by_where_it_is() {
        let rules = rules(&[("/user/pin", Comparator::Secret)]);
        let hidden = |path: &str, text: &str| rules.hide(path, text).unwrap_or_default();
        for (path, text) in [
            ("/user", r#"{"pin":4711,"name":"ann"}"#),
            ("/attrs/user", r#"{"pin":4711,"name":"ann"}"#),
            ("/attrs", r#"{"user":{"pin":4711,"name":"ann"}}"#),
            ("", r#"{"attrs":{"user":{"pin":4711}},"name":"ann"}"#),
        ] {
            let now = hidden(path, text);
            assert!(
                now.contains("$hash") && now.contains("ann") && !now.contains("4711"),
                "{path}: {now}"
            );
            let shown = rules.mask_at(path, &now);
            assert!(
                shown.contains("***") && !shown.contains("$hash"),
                "{path}: {shown}"
            );
        }
        for path in ["/user/pin", "/user/pin/deep", "/attrs/user/pin"] {
            assert!(rules.is_secret(path), "{path}");
            assert!(hidden(path, "4711").contains("$hash"), "{path}");
            assert_eq!(rules.mask_at(path, "4711"), MASK);
            assert_eq!(
                rules
                    .hide_detail(path, r#"{"actual":4711,"kind":"changed"}"#)
                    .as_deref(),
                Some(r#"{"kind":"changed"}"#)
            );
        }
        assert_eq!(rules.hide("/user/name", "4711"), None);
        assert_eq!(rules.hide_detail("/user", r#"{"version":2}"#), None);
        // What cannot be read cannot be proven to be harmless.
        assert_eq!(rules.hide("/user", "{4711").as_deref(), Some(""));
        assert_eq!(rules.hide_detail("/user", "{4711").as_deref(), Some("{}"));
    }
}
