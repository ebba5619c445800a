//! `registry.refresh`: the catalogue is read anew, and the step is done when that has ended.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_api::registry::v1::{
    GetRefreshRequest, Refresh, RefreshState, RefreshTrigger, StartRefreshRequest,
};
use steadfast_catalog::{Catalog, Error as CatalogError};
use steadfast_saga::{Act, Attempt, Direction, Outcome};

use super::{IDENTITY, of_store};

/// How often to look whether it has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Asks for a refresh and waits for its end. An attempt whose predecessor was lost finds the refresh that that one asked for.
///
/// It cannot be probed: to ask again, with the same key, says the same and is as safe.
#[derive(Clone)]
pub(super) struct RefreshAct {
    pub(super) catalog: Catalog,
}

/// The input; `null` is as good as an object without members.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Input {
    /// Only this package; everything if absent.
    package: Option<String>,
}

// === impl RefreshAct ===

impl RefreshAct {
    async fn refresh(self, attempt: Attempt) -> Outcome {
        let input: Input = match attempt.input {
            Value::Null => Input::default(),
            value => match serde_json::from_value(value) {
                Ok(input) => input,
                Err(error) => {
                    return Outcome::invalid_input(format!("`registry.refresh`: {error}"));
                }
            },
        };
        // An undo may carry the forward key, whose arguments may have been others.
        let way = match attempt.direction {
            Direction::Forward => "",
            Direction::Backward => "/undo",
        };
        let key = format!("{}{way}", attempt.key);
        let started = match self.start(&input, key.clone()).await {
            // The refresh of an earlier attempt failed, or is forgotten: that key leads to nothing else any more.
            Ok(refresh) if attempt.attempt > 1 && refresh.state() == RefreshState::Failed => {
                let again = format!("{key}#{}", attempt.attempt);
                self.start(&input, again).await
            }
            Err(CatalogError::RefreshNotFound { .. }) => {
                let again = format!("{key}#{}", attempt.attempt);
                self.start(&input, again).await
            }
            started => started,
        };
        let refresh = match started {
            Ok(refresh) => refresh,
            Err(error) => return of_catalog(&error),
        };
        let id = refresh.id.clone();
        match tokio::time::timeout(attempt.timeout, self.wait(refresh)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown {
                message: format!("refresh {id} has not ended within the step's time"),
            },
        }
    }

    async fn start(&self, input: &Input, request_id: String) -> Result<Refresh, CatalogError> {
        let request = StartRefreshRequest {
            package: input.package.clone().unwrap_or_default(),
            request_id,
            ..StartRefreshRequest::default()
        };
        self.catalog
            .refreshes()
            .start(&request, IDENTITY, RefreshTrigger::Request)
            .await
            .map(|answer| answer.refresh.unwrap_or_default())
    }

    async fn wait(&self, mut refresh: Refresh) -> Outcome {
        loop {
            if let Some(outcome) = outcome_of(&refresh) {
                return outcome;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            let request = GetRefreshRequest {
                id: refresh.id.clone(),
                // Its items are not wanted.
                skip_items: i32::MAX,
            };
            match self.catalog.refreshes().get(&request).await {
                Ok(answer) => refresh = answer.refresh.unwrap_or_default(),
                // The attempt's time is the limit.
                Err(CatalogError::Store(error)) => {
                    tracing::debug!(refresh = refresh.id, %error, "whether a refresh has ended cannot be read yet");
                }
                Err(error) => {
                    return Outcome::Unknown {
                        message: error.to_string(),
                    };
                }
            }
        }
    }
}

impl Act for RefreshAct {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        self.clone().refresh(attempt).boxed()
    }
}

/// What a refresh came to; nothing while it is under way.
pub(super) fn outcome_of(refresh: &Refresh) -> Option<Outcome> {
    let done = |state: &str| {
        Some(Outcome::Done(json!({
            "refresh_id": refresh.id,
            "state": state,
            "error": refresh.error,
        })))
    };
    match refresh.state() {
        RefreshState::Unspecified | RefreshState::Queued | RefreshState::Running => None,
        RefreshState::Succeeded => done("succeeded"),
        // What could be read has landed.
        RefreshState::Partial => done("partial"),
        RefreshState::Failed => Some(Outcome::Failed {
            code: "REFRESH_FAILED".to_owned(),
            message: format!("refresh {}: {}", refresh.id, refresh.error),
            retryable: true,
        }),
        // Somebody decided so; to begin it again is somebody's decision as well.
        RefreshState::Cancelled => Some(Outcome::Failed {
            code: "REFRESH_CANCELLED".to_owned(),
            message: format!("refresh {}: {}", refresh.id, refresh.error),
            retryable: false,
        }),
    }
}

fn of_catalog(error: &CatalogError) -> Outcome {
    let message = error.to_string();
    match error {
        CatalogError::NoSource => Outcome::Failed {
            code: "NO_SOURCE".to_owned(),
            message,
            retryable: false,
        },
        CatalogError::PackageNotConfigured { .. } => Outcome::Failed {
            code: "PACKAGE_NOT_CONFIGURED".to_owned(),
            message,
            retryable: false,
        },
        CatalogError::InvalidSpecifier { .. } | CatalogError::InvalidArgument { .. } => {
            Outcome::invalid_input(message)
        }
        CatalogError::Store(error) => of_store(error),
        _ => Outcome::Unknown { message },
    }
}
