//! What is accepted from outside, before anything is kept of it: names and documents within their bounds, secrets hashed.
//!
//! Whoever records or reports, over the API or from a saga, comes through here, so that a stored document is always one that a
//! sweep can read, and never holds what must not be known.

use std::time::Duration;

use steadfast_store::{Observed, ResourceName};

use crate::{
    comparator::TypeRules,
    document::{Node, Value},
};

/// Bytes of a spec, or of what is there, at most.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 10;
/// Bytes of a provider's or type's name at most.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes of a provider's own id at most.
pub const MAX_ID_BYTES: usize = 256;
/// Bytes of what a provider calls a change at most.
pub const MAX_TRANSITION_BYTES: usize = 64;
/// How old a report on its own may say that it is.
pub const MAX_AGE: Duration = Duration::from_secs(3_600);

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Wrong {
    /// Which one.
    pub field: &'static str,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// What somebody says is there.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// JSON; empty if it is gone.
    pub attributes: &'a str,
    /// What the provider calls the change that is under way.
    pub transition: &'a str,
    /// There is no such resource.
    pub gone: bool,
    /// How old it is.
    pub age: Duration,
}

fn wrong(field: &'static str, message: impl Into<String>) -> Wrong {
    Wrong {
        field,
        message: message.into(),
    }
}

/// The name of a resource.
///
/// # Errors
/// If a part of it is missing, too long, or holds what it must not.
pub fn name(provider: &str, kind: &str, id: &str) -> Result<ResourceName, Wrong> {
    for (field, text, most, slash) in [
        ("key.provider", provider, MAX_NAME_BYTES, false),
        ("key.type", kind, MAX_NAME_BYTES, false),
        ("key.id", id, MAX_ID_BYTES, true),
    ] {
        if text.is_empty() {
            return Err(wrong(field, "it is empty"));
        }
        if text.len() > most {
            return Err(wrong(
                field,
                format!("{} bytes; at most {most}", text.len()),
            ));
        }
        if text.contains('\0') {
            return Err(wrong(field, "NUL characters are not accepted"));
        }
        if !slash && text.contains('/') {
            return Err(wrong(field, "it must not hold a `/`"));
        }
    }
    Ok(ResourceName {
        provider: provider.to_owned(),
        kind: kind.to_owned(),
        id: id.to_owned(),
    })
}

/// A spec as it is kept: equal texts are equal specs.
///
/// # Errors
/// If it is not a JSON object within its bounds.
pub fn spec(rules: &TypeRules, text: &str) -> Result<String, Wrong> {
    let field = "spec_json";
    document(field, text)?;
    rules
        .normal(text)
        .map_err(|error| wrong(field, error.to_string()))
}

/// An observation as it is kept.
///
/// # Errors
/// If what is said makes no sense, or the attributes are not a JSON object within their bounds.
pub fn observed(
    rules: &TypeRules,
    name: ResourceName,
    report: Report<'_>,
) -> Result<Observed, Wrong> {
    let field = "attributes_json";
    let Report {
        attributes,
        transition,
        gone,
        age,
    } = report;
    if transition.len() > MAX_TRANSITION_BYTES || transition.contains('\0') {
        let allowed = format!("at most {MAX_TRANSITION_BYTES} bytes without NUL characters");
        return Err(wrong("transition", allowed));
    }
    if age > MAX_AGE {
        return Err(wrong("age", "at most an hour: what is older says nothing"));
    }
    if gone {
        if !attributes.is_empty() {
            return Err(wrong(field, "what is gone has none"));
        }
        return Ok(Observed {
            name,
            attributes: String::new(),
            digest: String::new(),
            transition: String::new(),
            gone,
            age,
        });
    }
    document(field, attributes)?;
    let told = |error: crate::DocumentError| wrong(field, error.to_string());
    let attributes = rules.redact(attributes).map_err(told)?.into_owned();
    Ok(Observed {
        digest: hex::encode(rules.digest(&attributes).map_err(told)?),
        name,
        attributes,
        transition: transition.to_owned(),
        gone,
        age,
    })
}

fn document(field: &'static str, text: &str) -> Result<(), Wrong> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes; at most {MAX_DOCUMENT_BYTES}", text.len());
        return Err(wrong(field, message));
    }
    let value = Value::read(text).map_err(|error| wrong(field, error.to_string()))?;
    if !matches!(value.node, Node::Map(_)) {
        return Err(wrong(field, "it has to be a JSON object"));
    }
    // Only an escape can bring one in.
    if text.contains("\\u0000") && has_nul(&value) {
        return Err(wrong(field, "NUL characters are not accepted"));
    }
    Ok(())
}

fn has_nul(value: &Value<'_>) -> bool {
    match &value.node {
        Node::Text(text) => text.contains('\0'),
        Node::List(elements) => elements.iter().any(has_nul),
        Node::Map(members) => members
            .iter()
            .any(|(name, member)| name.contains('\0') || has_nul(member)),
        Node::Null | Node::Bool(_) | Node::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Comparator, tests::rules};

    fn report(attributes: &str) -> Report<'_> {
        Report {
            attributes,
            transition: "",
            gone: false,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn a_wrong_name_says_which_part() {
        let field = |provider: &str, kind: &str, id: &str| {
            name(provider, kind, id).err().map(|wrong| wrong.field)
        };
        assert_eq!(field("do", "droplet", "a/b"), None);
        assert_eq!(field("", "t", "1"), Some("key.provider"));
        assert_eq!(field("p/q", "t", "1"), Some("key.provider"));
        assert_eq!(field("p", "", "1"), Some("key.type"));
        assert_eq!(field("p", "t", "a\0"), Some("key.id"));
        assert_eq!(field("p", "t", &"a".repeat(257)), Some("key.id"));
        assert_eq!(
            field(&"p".repeat(64), &"t".repeat(64), &"a".repeat(256)),
            None
        );
        assert_eq!(field("p", &"t".repeat(65), "1"), Some("key.type"));
    }

    #[test]
    fn a_spec_is_kept_in_one_way() {
        let rules = rules(&[("/password", Comparator::Secret)]);
        let one = spec(
            &rules,
            r#"{"b": {"y":1.50,"x":"é"}, "a": [2, 1], "a": [2,1]}"#,
        );
        assert_eq!(
            one,
            spec(&rules, r#"{"a":[2,1],"b":{"x":"\u00e9","y":1.50}}"#)
        );
        assert_eq!(one.as_deref(), Ok(r#"{"a":[2,1],"b":{"x":"é","y":1.50}}"#));
        let secret = spec(&rules, r#"{"password":"hunter2"}"#).expect("a document");
        assert!(!secret.contains("hunter2") && secret.contains("$hash"));
    }

    #[test]
    fn documents_have_bounds() {
        let rules = TypeRules::default();
        let told = |text: &str| spec(&rules, text).expect_err("refused").message;
        assert!(told("[]").contains("object"));
        assert!(told("").contains("not JSON"));
        assert!(told(&format!("{{\"a\":\"{}\"}}", "x".repeat(64 << 10))).contains("at most 65536"));
        assert!(told(r#"{"a":["\u0000"]}"#).contains("NUL"));
        assert!(told(r#"{"a\u0000":1}"#).contains("NUL"));
        assert!(
            told(&format!("{{\"a\":{}1{}}}", "[".repeat(32), "]".repeat(32))).contains("levels")
        );
        assert!(spec(&rules, r#"{"a":"\\u0000"}"#).is_ok());
    }

    #[test]
    fn what_is_reported_is_digested_and_hashed() {
        let rules = rules(&[("/password", Comparator::Secret)]);
        let name = || name("p", "t", "1").expect("a name");
        let one = observed(
            &rules,
            name(),
            report(r#"{"password":"hunter2","a":[1,2]}"#),
        );
        let same = observed(
            &rules,
            name(),
            report(r#"{"a":["2",1],"password":"hunter2"}"#),
        );
        let other = observed(
            &rules,
            name(),
            report(r#"{"a":[1,2],"password":"hunter3"}"#),
        );
        let (one, same, other) = (
            one.expect("a report"),
            same.expect("one"),
            other.expect("one"),
        );
        assert!(!one.attributes.contains("hunter2"));
        assert_eq!(one.digest, same.digest);
        assert_ne!(one.digest, other.digest);
        let gone = Report {
            gone: true,
            ..report("")
        };
        assert!(observed(&rules, name(), gone).expect("a report").gone);
        let long = "x".repeat(65);
        let field = |report| observed(&rules, name(), report).expect_err("refused").field;
        assert_eq!(
            field(Report {
                gone: true,
                ..report("{}")
            }),
            "attributes_json"
        );
        assert_eq!(field(report("")), "attributes_json");
        assert_eq!(
            field(Report {
                transition: &long,
                ..report("{}")
            }),
            "transition"
        );
        assert_eq!(
            field(Report {
                age: MAX_AGE * 2,
                ..report("{}")
            }),
            "age"
        );
    }
}
