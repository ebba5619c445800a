//! What may be published.

use steadfast_api::watch::v1 as api;
use steadfast_store::{Change, Op};

/// Bytes of a topic at most.
const MAX_TOPIC_BYTES: usize = 128;
/// Bytes of a key at most.
const MAX_KEY_BYTES: usize = 512;
/// Bytes of an etag, an origin or a request id at most.
const MAX_NAME_BYTES: usize = 128;
/// Users' topics begin with it.
const PREFIX: &str = "app/";

/// The configurable limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// Changes in one call.
    pub changes: usize,
    /// Bytes of one payload.
    pub payload_bytes: usize,
}

/// A field that cannot be accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// For example `changes[3].key`.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub description: String,
}

/// Checks a call whole, before anything of it is queued.
///
/// # Errors
/// Every field that cannot be accepted.
pub fn check_publish(
    request: &api::PublishRequest,
    limits: PublishLimits,
) -> Result<Vec<Change>, Vec<FieldViolation>> {
    let mut found = Vec::new();
    let mut violate = |field: String, description: String| {
        found.push(FieldViolation { field, description });
    };
    let count = request.changes.len();
    if count == 0 || count > limits.changes {
        violate(
            "changes".to_owned(),
            format!("{count} changes; a call takes 1 to {}", limits.changes),
        );
    }
    for (name, text) in [
        ("origin", &request.origin),
        ("request_id", &request.request_id),
    ] {
        if let Some(problem) = text_problem(text, MAX_NAME_BYTES) {
            violate(name.to_owned(), problem);
        }
    }
    for (index, change) in request.changes.iter().take(limits.changes).enumerate() {
        let at = |field: &str| format!("changes[{index}].{field}");
        if let Some(problem) = topic_problem(&change.topic) {
            violate(at("topic"), problem);
        }
        if change.key.is_empty() {
            violate(at("key"), "a key is needed".to_owned());
        } else if let Some(problem) = text_problem(&change.key, MAX_KEY_BYTES) {
            violate(at("key"), problem);
        }
        if let Some(problem) = text_problem(&change.etag, MAX_NAME_BYTES) {
            violate(at("etag"), problem);
        }
        if op(change).is_none() {
            violate(at("op"), "it must be OP_UPSERT or OP_DELETE".to_owned());
        }
        if change.payload.len() > limits.payload_bytes {
            violate(
                at("payload"),
                format!(
                    "{} bytes; a payload takes at most {}: store it elsewhere and publish its key",
                    change.payload.len(),
                    limits.payload_bytes
                ),
            );
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    Ok(request
        .changes
        .iter()
        .filter_map(|change| {
            Some(Change {
                topic: change.topic.clone(),
                key: change.key.clone(),
                op: op(change)?,
                etag: change.etag.clone(),
                payload: change.payload.to_vec(),
            })
        })
        .collect())
}

fn op(change: &api::publish_request::Change) -> Option<Op> {
    match change.op() {
        api::Op::Upsert => Some(Op::Upsert),
        api::Op::Delete => Some(Op::Delete),
        api::Op::Unspecified => None,
    }
}

fn topic_problem(topic: &str) -> Option<String> {
    let rest = topic.strip_prefix(PREFIX);
    let well_formed = rest.is_some_and(|rest| rest.split('/').all(is_topic_part));
    if !well_formed {
        return Some(
            "a topic is `app/` and parts of letters, digits, `.`, `_`, `-`, separated by `/`; other topics are Steadfast's own"
                .to_owned(),
        );
    }
    text_problem(topic, MAX_TOPIC_BYTES)
}

/// Whether it can stand between the slashes of a topic.
pub(crate) fn is_topic_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !part.is_empty() && part.chars().all(allowed)
}

fn text_problem(text: &str, max_bytes: usize) -> Option<String> {
    if text.len() > max_bytes {
        return Some(format!("{} bytes; at most {max_bytes}", text.len()));
    }
    text.contains('\0')
        .then(|| "NUL characters are not accepted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits {
        changes: 4,
        payload_bytes: 16,
    };

    fn change(topic: &str, key: &str) -> api::publish_request::Change {
        api::publish_request::Change {
            topic: topic.to_owned(),
            key: key.to_owned(),
            op: api::Op::Upsert.into(),
            ..Default::default()
        }
    }

    fn fields(request: &api::PublishRequest) -> Vec<String> {
        check_publish(request, LIMITS)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let mut bad = change("registry", "");
        bad.etag = "e".repeat(129);
        bad.payload = vec![0; 17].into();
        bad.op = 0;
        let request = api::PublishRequest {
            changes: vec![change("app/ok", "k"), bad, change("app/x", "a\0b")],
            origin: "o".repeat(129),
            request_id: "r\0".to_owned(),
        };
        assert_eq!(
            fields(&request),
            [
                "origin",
                "request_id",
                "changes[1].topic",
                "changes[1].key",
                "changes[1].etag",
                "changes[1].op",
                "changes[1].payload",
                "changes[2].key",
            ]
        );
    }

    #[test]
    fn topics_are_the_users_own() {
        for topic in ["app/a", "app/a.b_c-d/E9"] {
            assert_eq!(topic_problem(topic), None, "{topic}");
        }
        for topic in [
            "", "app", "app/", "app//a", "app/a/", "registry", "app/ä", "app/a b", "APP/a", "app/*",
        ] {
            assert!(topic_problem(topic).is_some(), "{topic}");
        }
    }

    #[test]
    fn the_number_of_changes_is_limited() {
        for (count, accepted) in [(0, false), (1, true), (4, true), (5, false)] {
            let request = api::PublishRequest {
                changes: vec![change("app/a", "k"); count],
                ..Default::default()
            };
            assert_eq!(fields(&request).is_empty(), accepted, "{count}");
        }
    }
}
