//! `http`: one request.

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::json;
use steadfast_saga::{Act, Attempt, Http, Outcome};
use steadfast_upstream::{HttpAction, HttpCall, HttpOutcome};

/// Sends requests. What becomes of one is sorted by [`HttpAction`]; there is nobody to ask afterwards.
pub(super) struct HttpAct {
    pub(super) action: HttpAction,
}

// === impl HttpAct ===

impl Act for HttpAct {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        let action = self.action.clone();
        async move {
            let http: Http = match serde_json::from_value(attempt.input) {
                Ok(http) => http,
                Err(error) => return Outcome::invalid_input(format!("`http`: {error}")),
            };
            let call = HttpCall {
                method: http.method,
                url: http.url,
                headers: http.headers,
                body: http.body,
                timeout: attempt.timeout,
                key: attempt.key,
                attempt: attempt.attempt,
            };
            outcome(action.send(call).await)
        }
        .boxed()
    }
}

fn outcome(outcome: HttpOutcome) -> Outcome {
    match outcome {
        HttpOutcome::Done {
            status,
            headers,
            body,
            body_left_out,
        } => {
            let mut output = json!({ "status": status, "headers": headers, "body": body });
            if body_left_out {
                output["body_left_out"] = json!(true);
            }
            Outcome::Done(output)
        }
        HttpOutcome::Failed {
            code,
            message,
            retryable,
        } => Outcome::Failed {
            code,
            message,
            retryable,
        },
        HttpOutcome::Unknown { message } => Outcome::Unknown { message },
    }
}
