//! What callers are told when something goes wrong: the one place where errors become codes.
//!
//! Every status carries exactly one `ErrorInfo` of domain `steadfast` whose reason is stable; the README lists reasons with
//! their remedies. Driver text stays in the log. What a status is made of, and the database's errors, are here; those of each domain
//! are in a module of its own.

mod catalog;
mod drift;
mod saga;

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use prost_types::Any;
use steadfast_store as store;
use steadfast_watch as watch;
use tonic::{Code, Status};
use tonic_types::pb;

pub(crate) use catalog::of_catalog;
pub(crate) use drift::{of_accept, of_policy, resource_changed};
pub(crate) use saga::{definition_invalid, definition_problem, of_saga};

/// The domain of every `ErrorInfo`.
pub(crate) const DOMAIN: &str = "steadfast";

/// How long a caller should wait before it asks again for something that is away.
const RETRY: Duration = Duration::from_secs(1);

/// A status in the making.
pub(crate) struct Problem {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: BTreeMap<String, String>,
    retry: Option<Duration>,
    fields: Vec<(String, String)>,
}

/// `google.rpc.ErrorInfo` with its metadata in the order of the keys: the same problem is the same bytes, whichever process tells it.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            retry: None,
            fields: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    pub(crate) fn retry(mut self, after: Duration) -> Self {
        self.retry = Some(after);
        self
    }

    pub(crate) fn field(
        mut self,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.fields.push((field.into(), description.into()));
        self
    }

    /// The item of a batch. It has no field violations: the first field is in the metadata.
    pub(crate) fn into_item(mut self) -> steadfast_api::common::v1::ItemError {
        if let Some((field, _)) = self.fields.into_iter().next() {
            self.metadata.insert("field".to_owned(), field);
        }
        steadfast_api::common::v1::ItemError {
            code: self.code.into(),
            reason: self.reason.to_owned(),
            message: self.message,
            metadata: self.metadata.into_iter().collect(),
        }
    }

    pub(crate) fn into_status(self) -> Status {
        let retry = self.retry.map(|after| pb::RetryInfo {
            // One that is too long for the message is none.
            retry_delay: after.try_into().ok(),
        });
        let info = ErrorInfo {
            reason: self.reason.to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: self.metadata,
        };
        let violations = self.fields.into_iter();
        let violation = |(field, description)| pb::bad_request::FieldViolation {
            field,
            description,
            ..Default::default()
        };
        let bad_request = pb::BadRequest {
            field_violations: violations.map(violation).collect(),
        };
        let has_fields = !bad_request.field_violations.is_empty();
        let details = [
            retry.map(|retry| detail("RetryInfo", &retry)),
            Some(detail("ErrorInfo", &info)),
            has_fields.then(|| detail("BadRequest", &bad_request)),
        ];
        let status = pb::Status {
            code: self.code.into(),
            message: self.message.clone(),
            details: details.into_iter().flatten().collect(),
        };
        Status::with_details(self.code, self.message, status.encode_to_vec().into())
    }
}

/// A detail of a `google.rpc.Status`.
fn detail(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: message.encode_to_vec(),
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        problem.into_status()
    }
}

/// One argument is wrong.
pub(crate) fn invalid_argument(field: &str, description: impl Into<String>) -> Status {
    invalid(field, description).into_status()
}

/// The same, for an item of a batch.
pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Problem {
    let description = description.into();
    Problem::new(
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
        format!("{field}: {description}"),
    )
    .field(field, description)
}

/// The page token is not one of this list.
pub(crate) fn invalid_page_token() -> Status {
    let message = steadfast_types::InvalidPageToken.to_string();
    Problem::new(Code::InvalidArgument, "INVALID_PAGE_TOKEN", message.clone())
        .field("page_token", message)
        .into_status()
}

/// The request is not the message it should be.
pub(crate) fn malformed(description: &str) -> Status {
    Problem::new(
        Code::InvalidArgument,
        "MALFORMED_MESSAGE",
        format!("the request cannot be decoded: {description}"),
    )
    .into_status()
}

/// The replica does as much as it can.
pub(crate) fn overloaded(limit: usize) -> Status {
    Problem::new(
        Code::ResourceExhausted,
        "OVERLOADED",
        format!("this replica has {limit} calls under way, its limit"),
    )
    .with("limit", limit)
    .retry(RETRY)
    .into_status()
}

/// The answer is larger than any that is sent.
pub(crate) fn answer_too_large(size: usize, limit: usize) -> Status {
    Problem::new(
        Code::ResourceExhausted,
        "ANSWER_TOO_LARGE",
        format!("the answer has {size} bytes, and this server sends at most {limit}; `limits.max_message_bytes` sets that"),
    )
    .with("size", size)
    .with("limit", limit)
    .into_status()
}

/// The call took longer than the caller, or the server, allows.
pub(crate) fn deadline_exceeded(after: Duration) -> Status {
    Problem::new(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        format!(
            "the call was stopped at its deadline, after {} ms",
            after.as_millis()
        ),
    )
    .into_status()
}

/// A defect; the log has it.
pub(crate) fn internal() -> Status {
    Problem::new(
        Code::Internal,
        "INTERNAL",
        "an internal error; the server's log says more",
    )
    .into_status()
}

/// A database error.
pub(crate) fn of_store(error: &store::Error) -> Problem {
    use store::Error as E;
    let away = |message: &str| {
        Problem::new(Code::Unavailable, "DATABASE_UNAVAILABLE", message).retry(RETRY)
    };
    match error {
        E::Unavailable { outcome, .. } => {
            let outcome = match outcome {
                store::Outcome::NotWritten => "not_written",
                store::Outcome::Unknown => "unknown",
            };
            away("the database does not answer; repeat the call, with a request id if it writes")
                .with("outcome", outcome)
        }
        E::Contended { .. } => away("another transaction was in the way; repeat the call")
            .with("outcome", "not_written"),
        E::NotWritable { reason, .. } => Problem::new(
            Code::Unavailable,
            "DATABASE_NOT_WRITABLE",
            format!("the database cannot be written to: {reason}"),
        )
        .retry(RETRY),
        E::RequestIdReused => Problem::new(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "the request id was used before with other arguments; draw a new one",
        )
        .field("request_id", "used before with other arguments"),
        E::Overloaded => {
            Problem::new(Code::ResourceExhausted, "OVERLOADED", error.to_string()).retry(RETRY)
        }
        E::Closed => draining(RETRY),
        E::Fenced { .. } => {
            Problem::new(Code::Aborted, "LEASE_LOST", error.to_string()).retry(RETRY)
        }
        E::Data { .. }
        | E::Corrupt(_)
        | E::SchemaTooNew { .. }
        | E::SchemaTooOld { .. }
        | E::Migration(_)
        | E::InUse { .. }
        | E::Folder { .. }
        | E::UnknownScheme
        | E::InvalidUrl
        | E::StatementPooling => {
            tracing::error!(error = error as &dyn std::error::Error, "a call failed");
            Problem::new(
                Code::Internal,
                "INTERNAL",
                "an internal error; the server's log says more",
            )
        }
    }
}

/// The replica shuts down.
pub(crate) fn draining(retry: Duration) -> Problem {
    Problem::new(
        Code::Unavailable,
        "SERVER_DRAINING",
        "this replica is shutting down; connect to another one, or again",
    )
    .retry(retry)
}

/// A stream that does not open.
pub(crate) fn of_watch(error: &watch::Error, retry: Duration) -> Status {
    use watch::Error as E;
    match error {
        E::StoreChanged => store_changed(),
        E::Compacted { compacted, head } => compacted_away(*compacted, *head),
        E::TooManyStreams { limit } => Problem::new(
            Code::ResourceExhausted,
            "TOO_MANY_STREAMS",
            error.to_string(),
        )
        .with("limit", limit)
        .retry(RETRY),
        E::Draining => draining(retry),
        E::InvalidFilter { index, message } => {
            return invalid_argument(&format!("filters[{index}]"), message);
        }
        E::Store(error) => of_store(error),
    }
    .into_status()
}

/// Something about nodes that cannot be done; `field` is the argument that names a revision.
pub(crate) fn of_nodes(error: &watch::NodeError, field: &str) -> Status {
    use watch::NodeError as E;
    let message = error.to_string();
    let full = |reason, limit: &dyn ToString| {
        Problem::new(Code::ResourceExhausted, reason, message.clone())
            .with("limit", limit.to_string())
            .retry(RETRY)
    };
    match error {
        E::Taken => Problem::new(Code::Unavailable, "NODE_TAKEN", message).retry(RETRY),
        E::TooMany { limit } => full("TOO_MANY_NODES", limit),
        E::TooManyWaits { limit } => full("TOO_MANY_WAITS", limit),
        E::Unknown => Problem::new(Code::NotFound, "NODE_NOT_FOUND", message),
        E::NotSent { reported, sent } => {
            let problem = Problem::new(Code::InvalidArgument, "REVISION_NOT_SENT", message.clone());
            let problem = problem.with("reported", reported).with("sent", sent);
            problem.field(field, message)
        }
        E::Unproven { replica } => Problem::new(Code::Unavailable, "REPORT_UNPROVEN", message)
            .with("replica", replica)
            .retry(RETRY),
        E::StoreChanged => store_changed(),
        E::Compacted { compacted, head } => compacted_away(*compacted, *head),
        E::NoRevision { head } => invalid(&format!("{field}.revision"), message).with("head", head),
        E::Store(error) => of_store(error),
    }
    .into_status()
}

/// A stream that ends.
pub(crate) fn of_end(end: watch::End, retry: Duration) -> Status {
    match end {
        watch::End::StoreChanged => store_changed(),
        watch::End::Compacted { compacted, head } => compacted_away(compacted, head),
        watch::End::Draining => draining(retry),
    }
    .into_status()
}

fn store_changed() -> Problem {
    Problem::new(
        Code::FailedPrecondition,
        "STORE_CHANGED",
        "the cursor belongs to another history of the store: reload everything and watch from now",
    )
}

fn compacted_away(
    compacted: steadfast_types::Revision,
    head: steadfast_types::Revision,
) -> Problem {
    Problem::new(
        Code::OutOfRange,
        "REVISION_COMPACTED",
        format!("the log begins after revision {compacted}: reload everything and watch from now"),
    )
    .with("compacted_revision", compacted)
    .with("head_revision", head)
}

fn internal_problem() -> Problem {
    Problem::new(
        Code::Internal,
        "INTERNAL",
        "an internal error; the server's log says more",
    )
}
