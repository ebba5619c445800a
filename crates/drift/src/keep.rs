//! What becomes of documents before they are kept or taken over: the one way in which a spec is written, and the digest that stands
//! for what a comparison sees of an observation.
//!
//! To accept a drift is to put one value in place of another, and leaves the rest of the document as it was written.

use sha2::{Digest as _, Sha256};

use crate::{
    canonical::{self, Mode},
    comparator::{Branch, TypeRules},
    document::{DocumentError, Node, Value},
    hide::declared,
    pointer,
    rewrite::{Rewrite, rewrite},
};

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

// === impl TypeRules ===

impl TypeRules {
    /// The document as it may be kept, in the one way in which it is written: names sorted, and no spaces.
    ///
    /// # Errors
    /// If it is no document.
    pub fn normal(&self, document: &str) -> Result<String, DocumentError> {
        written(&self.redact(document)?)
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
}

/// A document that may be kept as it is, in the one way in which it is written.
///
/// # Errors
/// If it is no document.
pub fn written(document: &str) -> Result<String, DocumentError> {
    let value = Value::read(document)?;
    let mut text = String::with_capacity(document.len());
    write_normal(&mut text, &value);
    Ok(text)
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
        Comparator,
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
