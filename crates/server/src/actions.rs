//! The actions that this program has: what a saga's steps can do here.
//!
//! The engine knows actions by an interface; the things that they act on know nothing of sagas. They meet here: `http` over the one
//! crate that sends requests, `publish` over the change log, `registry.refresh` over the catalogue, `resource.record` over what
//! was asked for. Each makes its effect safe to
//! repeat with the idempotency key of the attempt, and sorts what happened into done, not done and unknown.

mod http;
mod publish;
mod record;
mod refresh;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steadfast_catalog::Catalog;
use steadfast_drift::Rules;
use steadfast_saga::{Actions, Outcome};
use steadfast_store::{Error as StoreError, Outcome as Written, Store, Wakeups};
use steadfast_upstream::{HttpAction, HttpActionOptions};
use steadfast_watch::PublishLimits;

use crate::config::Config;

/// Who asks, where an identity is kept: the request ids of sagas are a space of their own.
const IDENTITY: &str = "saga";

/// Everything that this program can do in a step, but for tasks.
///
/// # Errors
/// If the HTTP client cannot start.
pub(crate) fn actions(
    config: &Config,
    store: &Store,
    wakeups: &Wakeups,
    catalog: &Catalog,
    rules: &Arc<Rules>,
) -> Result<Actions, steadfast_upstream::Error> {
    let publish = publish::PublishAct {
        store: store.clone(),
        wakeups: wakeups.clone(),
        limits: PublishLimits {
            changes: config.limits.publish_max_changes,
            payload_bytes: config.limits.publish_max_payload_bytes,
        },
    };
    let refresh = refresh::RefreshAct {
        catalog: catalog.clone(),
    };
    let record = record::RecordAct {
        store: store.clone(),
        wakeups: wakeups.clone(),
        rules: Arc::clone(rules),
    };
    let http = http::HttpAct {
        action: HttpAction::new(HttpActionOptions {
            allow_local: config.saga.http_allow_local,
            body_max_bytes: config.saga.http_body_max_bytes,
            ..HttpActionOptions::default()
        })?,
    };
    Ok(Actions::new()
        .with_builtin("publish", Arc::new(publish))
        .with_builtin("registry.refresh", Arc::new(refresh))
        .with_builtin("resource.record", Arc::new(record))
        .with_http(Arc::new(http)))
}

/// What a failed write proves.
fn of_store(error: &StoreError) -> Outcome {
    let message = error.to_string();
    let not_done = |code: &str, retryable| Outcome::Failed {
        code: code.to_owned(),
        message: message.clone(),
        retryable,
    };
    match error {
        StoreError::Unavailable {
            outcome: Written::NotWritten,
            ..
        } => not_done("UNAVAILABLE", true),
        StoreError::Contended { .. } | StoreError::Overloaded => not_done("OVERLOADED", true),
        StoreError::NotWritable { .. } => not_done("NOT_WRITABLE", true),
        StoreError::Data { .. } => not_done("REFUSED", false),
        // Whether the write came through is not known, or the error says nothing about it.
        _ => Outcome::Unknown { message },
    }
}
