//! `publish`: a change of a topic of the users' own.

use futures::{FutureExt as _, future::BoxFuture};
use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_api::watch::v1 as api;
use steadfast_saga::{Act, Attempt, Direction, Outcome};
use steadfast_store::{Error as StoreError, Publish, Store, Wakeups};
use steadfast_watch::{PublishLimits, check_publish};

use super::{IDENTITY, of_store};

/// Publishes one change, once, however often it is attempted: the idempotency key is the request id.
///
/// The undo of an unknown publish carries the forward key. If that key is not used yet, the undo takes it, and a forward call that
/// arrives later is refused; if it is, the forward call came through, and the undo publishes under a key of its own.
#[derive(Clone)]
pub(super) struct PublishAct {
    pub(super) store: Store,
    pub(super) wakeups: Wakeups,
    pub(super) limits: PublishLimits,
}

/// The input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// `app/…`.
    topic: String,
    key: String,
    #[serde(default)]
    op: Op,
    #[serde(default)]
    etag: String,
    /// A text is published as it is, another value as JSON, `null` as nothing.
    #[serde(default)]
    payload: Value,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    #[default]
    Upsert,
    Delete,
}

// === impl PublishAct ===

impl PublishAct {
    async fn publish(self, attempt: Attempt) -> Outcome {
        let input: Input = match serde_json::from_value(attempt.input) {
            Ok(input) => input,
            Err(error) => return Outcome::invalid_input(format!("`publish`: {error}")),
        };
        let request = input.into_request();
        let changes = match check_publish(&request, self.limits) {
            Ok(changes) => changes,
            Err(violations) => {
                let problems: Vec<String> = violations
                    .into_iter()
                    .map(|violation| format!("{}: {}", violation.field, violation.description))
                    .collect();
                return Outcome::invalid_input(format!("`publish`: {}", problems.join("; ")));
            }
        };
        let publish = |id: String| {
            self.store.publish(Publish {
                changes: changes.clone(),
                origin: String::new(),
                request: Some((IDENTITY.to_owned(), id)),
            })
        };
        let mut published = publish(attempt.key.clone()).await;
        if attempt.direction == Direction::Backward
            && matches!(published, Err(StoreError::RequestIdReused))
        {
            published = publish(format!("{}/undo", attempt.key)).await;
        }
        match published {
            Ok(published) => {
                self.wakeups.kick_others();
                Outcome::Done(json!({
                    "revision": published.revision.0,
                    "replayed": published.replayed,
                }))
            }
            Err(error) => of_store(&error),
        }
    }
}

impl Act for PublishAct {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        self.clone().publish(attempt).boxed()
    }
}

// === impl Input ===

impl Input {
    fn into_request(self) -> api::PublishRequest {
        let payload = match self.payload {
            Value::Null => Vec::new(),
            Value::String(text) => text.into_bytes(),
            other => other.to_string().into_bytes(),
        };
        let op = match self.op {
            Op::Upsert => api::Op::Upsert,
            Op::Delete => api::Op::Delete,
        };
        api::PublishRequest {
            changes: vec![api::publish_request::Change {
                topic: self.topic,
                key: self.key,
                op: op.into(),
                etag: self.etag,
                payload: payload.into(),
            }],
            ..api::PublishRequest::default()
        }
    }
}
