//! What becomes of documents before they are kept, shown, or taken over.
//!
//! A document is kept with the values at its secret paths hashed, and shown with those hidden. What is there may have them under
//! `attrs` as well, so that both places are hashed and hidden alike. To accept a drift is to put one value in place of another, and
//! leaves the rest of the document as it was written.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use crate::{
    canonical::{self, Mode},
    comparator::{Branch, Comparator, TypeRules},
    document::{DocumentError, Node, Value},
    pointer,
    rewrite::{Rewrite, rewrite},
    secret,
};

/// What a document is hidden with.
const MASK: &str = "\"***\"";

/// Why a value cannot be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Either is no document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The spec has nothing at the path.
    #[error("the spec has nothing at this path")]
    NoSuchPath,
}

/// What is declared for a value, in a document whose `attrs` may stand for its top.
fn declared<'r>(root: &'r Branch, names: &[&str]) -> [Option<&'r Branch>; 2] {
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

// === impl TypeRules ===

impl TypeRules {
    /// The document as it may be kept: with hashes for the values at secret paths.
    ///
    /// # Errors
    /// If it is no document.
    pub fn redact<'t>(&self, document: &'t str) -> Result<Cow<'t, str>, DocumentError> {
        let value = Value::read(document)?;
        Ok(self.at_secrets(&value, |path, value| self.hidden(path, value)))
    }

    /// The document as it may be kept, in the one way in which it is written: names sorted, and no spaces.
    ///
    /// # Errors
    /// If it is no document.
    pub fn normal(&self, document: &str) -> Result<String, DocumentError> {
        let redacted = self.redact(document)?;
        let value = Value::read(&redacted)?;
        let mut text = String::with_capacity(redacted.len());
        write_normal(&mut text, &value);
        Ok(text)
    }

    /// The document as it may be shown. Text that is no document is not shown at all.
    #[must_use]
    pub fn mask<'t>(&self, document: &'t str) -> Cow<'t, str> {
        if !self.has_secrets {
            return Cow::Borrowed(document);
        }
        match Value::read(document) {
            Ok(value) => self.at_secrets(&value, |_, _| MASK.to_owned()),
            Err(_) => Cow::Borrowed(""),
        }
    }

    /// Stands for everything about what is there that a comparison could ever depend on: if two are equal, so is what they lead
    /// to, whatever the spec.
    ///
    /// # Errors
    /// If it is no document.
    pub fn digest(&self, document: &str) -> Result<[u8; 16], DocumentError> {
        let value = Value::read(document)?;
        let mut form = Vec::with_capacity(document.len() * 2);
        match &self.root {
            None => canonical::write(&mut form, &value, Mode::DEFAULT),
            Some(root) => write_declared(&mut form, &value, root, &mut Vec::new()),
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(&form)[..16]);
        Ok(digest)
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

    fn at_secrets<'t>(
        &self,
        value: &Value<'t>,
        hide: impl Fn(&str, &Value<'_>) -> String,
    ) -> Cow<'t, str> {
        let Some(root) = self.root.as_ref().filter(|_| self.has_secrets) else {
            return Cow::Borrowed(value.text);
        };
        rewrite(value, &mut |names, value| {
            let declared = declared(root, names);
            let is_secret = |branch: &Option<&Branch>| {
                branch.is_some_and(|branch| branch.here == Some(Comparator::Secret))
            };
            if is_secret(&declared[0]) {
                Rewrite::Replace(hide(&pointer::format(names), value))
            } else if is_secret(&declared[1]) {
                Rewrite::Replace(hide(&pointer::format(&names[1..]), value))
            } else if declared.iter().any(Option::is_some) || names == ["attrs"] {
                Rewrite::Enter
            } else {
                Rewrite::Keep
            }
        })
    }
}

fn write_normal(text: &mut String, value: &Value<'_>) {
    let mut between = "";
    match &value.node {
        Node::Null | Node::Bool(_) | Node::Number(_) => text.push_str(value.text),
        Node::Text(own) => text.push_str(&serde_json::Value::from(own.as_ref()).to_string()),
        Node::List(elements) => {
            text.push('[');
            for element in elements {
                text.push_str(std::mem::replace(&mut between, ","));
                write_normal(text, element);
            }
            text.push(']');
        }
        Node::Map(members) => {
            text.push('{');
            for (name, member) in members {
                text.push_str(std::mem::replace(&mut between, ","));
                text.push_str(&serde_json::Value::from(name.as_ref()).to_string());
                text.push(':');
                write_normal(text, member);
            }
            text.push('}');
        }
    }
}

/// Exactly where anything is declared, by its looks elsewhere.
fn write_declared<'v>(
    form: &mut Vec<u8>,
    value: &'v Value<'_>,
    root: &Branch,
    names: &mut Vec<&'v str>,
) {
    let declared = declared(root, names);
    let is_root = names.is_empty() || *names == ["attrs"];
    let decided = declared
        .iter()
        .flatten()
        .any(|branch| branch.here.is_some());
    match &value.node {
        _ if decided => canonical::write(form, value, Mode::EXACT),
        Node::Map(members) if is_root || declared.iter().any(Option::is_some) => {
            form.extend_from_slice(&(members.len() as u64).to_le_bytes());
            for (name, member) in members {
                form.extend_from_slice(&(name.len() as u64).to_le_bytes());
                form.extend_from_slice(name.as_bytes());
                names.push(name);
                write_declared(form, member, root, names);
                names.pop();
            }
        }
        _ => canonical::write(form, value, Mode::DEFAULT),
    }
}

/// The spec with what is there at a path, or without the path if nothing is.
///
/// # Errors
/// [`AdoptError::NoSuchPath`]; or if either text is no document.
pub fn adopt(spec: &str, path: &str, actual: Option<&str>) -> Result<String, AdoptError> {
    let value = Value::read(spec)?;
    let wanted = pointer::parse(path).map_err(|_| AdoptError::NoSuchPath)?;
    if let Some(actual) = actual {
        Value::read(actual)?;
    }
    let mut found = false;
    let text = rewrite(&value, &mut |names, _| {
        let on_the_way = names.len() <= wanted.len()
            && names
                .iter()
                .zip(&wanted)
                .all(|(name, wanted)| name == wanted);
        if !on_the_way {
            return Rewrite::Keep;
        }
        if names.len() < wanted.len() {
            return Rewrite::Enter;
        }
        found = true;
        match actual {
            Some(actual) => Rewrite::Replace(actual.to_owned()),
            None => Rewrite::Remove,
        }
    });
    match found {
        true => Ok(text.into_owned()),
        false => Err(AdoptError::NoSuchPath),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        HashKey,
        tests::{any_document, any_rules, reshaped, rules},
    };

    proptest! {
        /// Rule 6: what was accepted agrees with the observation that it was seen in.
        #[test]
        fn what_is_accepted_agrees(spec in any_document(), live in any_document(), rules in any_rules()) {
            let live = live.to_string();
            let mut spec = spec.to_string();
            let found = rules.compare(&spec, &live).expect("documents").divergences;
            for divergence in &found {
                prop_assume!(!divergence.secret);
                spec = adopt(&spec, &divergence.path, divergence.actual.as_deref()).expect("it is there");
            }
            let left = rules.compare(&spec, &live).expect("documents").divergences;
            prop_assert_eq!(left, vec![], "{}", spec);
        }

        #[test]
        fn accepting_one_leaves_the_others(spec in any_document(), live in any_document(), at in any::<prop::sample::Index>()) {
            let rules = TypeRules::default();
            let (spec, live) = (spec.to_string(), live.to_string());
            let mut found = rules.compare(&spec, &live).expect("documents").divergences;
            prop_assume!(!found.is_empty());
            let accepted = found.remove(at.index(found.len()));
            let spec = adopt(&spec, &accepted.path, accepted.actual.as_deref()).expect("it is there");
            prop_assert_eq!(rules.compare(&spec, &live).expect("documents").divergences, found);
        }

        #[test]
        fn a_digest_stands_for_all_comparisons(spec in any_document(), live in any_document(), other in any_document(), rules in any_rules(), seed in any::<u64>()) {
            let reshaped = reshaped(&live, seed).to_string();
            let live = live.to_string();
            prop_assert_eq!(TypeRules::default().digest(&live), TypeRules::default().digest(&reshaped));
            for other in [reshaped, other.to_string()] {
                if rules.digest(&live) == rules.digest(&other) {
                    let paths = |live: &str| -> Vec<_> {
                        let found = rules.compare(&spec.to_string(), live).expect("documents").divergences;
                        found.into_iter().map(|one| (one.path, one.kind)).collect()
                    };
                    prop_assert_eq!(paths(&live), paths(&other));
                }
            }
        }

        #[test]
        fn one_document_is_written_in_one_way(document in any_document()) {
            let rules = TypeRules::default();
            let normal = rules.normal(&serde_json::to_string_pretty(&document).expect("JSON")).expect("a document");
            let read: serde_json::Value = serde_json::from_str(&normal).expect("JSON");
            prop_assert_eq!(&read, &document);
            let mut sorted = document;
            sorted.sort_all_objects();
            prop_assert_eq!(rules.normal(&sorted.to_string()).expect("a document"), normal);
        }

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
    }

    #[test]
    fn a_digest_sees_what_a_comparator_sees() {
        let rules = rules(&[("/list", Comparator::Ordered)]);
        let digest = |live: serde_json::Value| rules.digest(&live.to_string()).expect("a document");
        let first = digest(json!({"list": [1, 2], "other": [1, 2]}));
        assert_eq!(digest(json!({"other": ["2", 1, 1], "list": [1, 2]})), first);
        assert_ne!(digest(json!({"list": [2, 1], "other": [1, 2]})), first);
        let nested = digest(json!({"attrs": {"list": [1, 2]}}));
        assert_ne!(digest(json!({"attrs": {"list": [2, 1]}})), nested);
        assert_ne!(digest(json!({})), digest(json!({"a": null})));
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
    fn adopting_leaves_the_rest_as_it_was_written() {
        let spec = r#"{"z": 1.50, "a": {"é/": "x", "b": [2, 1]}, "q": 18446744073709551617}"#;
        assert_eq!(
            adopt(spec, "/a/é~1", Some("[true]")).expect("it is there"),
            r#"{"z":1.50,"a":{"é/":[true],"b":[2, 1]},"q":18446744073709551617}"#
        );
        assert_eq!(
            adopt(spec, "/a/b", None).expect("it is there"),
            r#"{"z":1.50,"a":{"é/":"x"},"q":18446744073709551617}"#
        );
        for path in ["/nope", "/z/a", "", "a", "/a/b/0"] {
            assert_eq!(
                adopt(spec, path, Some("1")),
                Err(AdoptError::NoSuchPath),
                "{path}"
            );
        }
        assert!(adopt(spec, "/z", Some("{")).is_err());
    }
}
