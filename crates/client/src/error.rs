//! A failed call, in a form that can be acted upon.

use std::{collections::BTreeMap, error::Error as StdError, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", reason, if reason.is_empty() { "" } else { ": " })]
pub struct Error {
    /// What kind of failure it is.
    pub code: Code,
    /// The stable name of the failure, in upper snake case. `CONNECTION_FAILED`, `DEADLINE_EXCEEDED`, `STREAM_ENDED`,
    /// `STREAM_SILENT`, `INVALID_ENDPOINT` and `MALFORMED_ANSWER` are given on this side; the others by the server. Empty if
    /// the server is not a Steadfast server, or something between refused the call.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Details for programs, for example `nearest`.
    pub metadata: BTreeMap<String, String>,
    /// How long the server asks to wait before trying again.
    pub retry_after: Option<Duration>,
    /// The fields of the request that are at fault.
    pub field_violations: Vec<FieldViolation>,
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request.
    pub field: String,
    /// What is wrong, and what would be accepted.
    pub description: String,
}

// === impl Error ===

impl Error {
    /// A failure that was found on this side.
    pub(crate) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_after: None,
            field_violations: Vec::new(),
        }
    }

    pub(crate) fn deadline_exceeded(deadline: Duration) -> Self {
        let message = format!("no answer within {deadline:?}");
        Self::local(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
    }

    pub(crate) fn connection_failed(error: &(dyn StdError + 'static)) -> Self {
        Self::local(Code::Unavailable, "CONNECTION_FAILED", root_cause(error))
    }

    /// Whether the same call may succeed later without anything being changed by the caller.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown => true,
            // A malformed answer stays malformed, a panic in a handler need not.
            Code::Internal => self.reason != "MALFORMED_ANSWER",
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(cause) = status.source() {
            // A status with a cause was made on this side: the call did not get through, or its answer did not get back.
            return if is_timeout(cause) {
                let message = "no answer within the deadline";
                Self::local(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
            } else {
                Self::connection_failed(cause)
            };
        }
        let details = status.get_error_details();
        let (reason, metadata) = details.error_info().map_or_else(Default::default, |info| {
            let metadata = info.metadata.clone().into_iter().collect();
            (info.reason.clone(), metadata)
        });
        let field_violations = details.bad_request().map_or_else(Vec::new, |request| {
            request
                .field_violations
                .iter()
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect()
        });
        Self {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            metadata,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            field_violations,
        }
    }
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| error.is::<TimeoutExpired>())
}

/// The last of the chain says what happened; those before it only that something did.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_are_decoded() {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("nearest".to_owned(), "a,b".to_owned())]);
        details
            .set_error_info("PACKAGE_NOT_FOUND", "steadfast", metadata)
            .set_retry_info(Some(Duration::from_secs(2)))
            .add_bad_request_violation("name", "is empty");
        let status = Status::with_error_details(Code::NotFound, "no package x", details);
        let error = Error::from(status);
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.to_string(), "PACKAGE_NOT_FOUND: no package x");
        assert_eq!(error.metadata["nearest"], "a,b");
        assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
        assert_eq!(error.field_violations[0].field, "name");
        assert!(!error.is_transient());
    }

    #[test]
    fn a_foreign_status_keeps_its_message() {
        let error = Error::from(Status::unavailable("go away"));
        assert_eq!(error.to_string(), "go away");
        assert!(error.is_transient());
    }

    #[test]
    fn causes_on_this_side_are_told_apart() {
        let refused = std::io::Error::other("connection refused");
        let error = Error::from(Status::from_error(Box::new(refused)));
        assert_eq!(error.reason, "CONNECTION_FAILED");
        assert_eq!(error.message, "connection refused");
        let error = Error::from(Status::from_error(Box::new(TimeoutExpired(()))));
        assert_eq!(error.reason, "DEADLINE_EXCEEDED");
    }
}
