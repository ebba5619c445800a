//! What callers are told when something goes wrong: the one place where errors become codes.
//!
//! Every status carries exactly one `ErrorInfo` of domain `steadfast` whose reason is stable; the README lists reasons with
//! their remedies. Driver text stays in the log.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use steadfast_catalog::{self as catalog, JsonError};
use steadfast_drift as drift;
use steadfast_saga::{self as saga, Refusal, check};
use steadfast_store as store;
use steadfast_watch as watch;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

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
        let mut details = ErrorDetails::new();
        details.set_error_info(
            self.reason,
            DOMAIN,
            self.metadata.into_iter().collect::<HashMap<_, _>>(),
        );
        if let Some(after) = self.retry {
            details.set_retry_info(Some(after));
        }
        for (field, description) in self.fields {
            details.add_bad_request_violation(field, description);
        }
        Status::with_error_details(self.code, self.message, details)
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
        | E::InvalidUrl => {
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

/// A lookup or refresh that fails.
pub(crate) fn of_catalog(error: &catalog::Error) -> Problem {
    use catalog::Error as E;
    let message = error.to_string();
    let not_found = |reason, message| Problem::new(Code::NotFound, reason, message);
    match error {
        E::PackageNotFound { name, nearest } => not_found("PACKAGE_NOT_FOUND", message)
            .with("package", name)
            .with("nearest", nearest.join(",")),
        E::VersionNotFound {
            package,
            wanted,
            newest,
        } => not_found("VERSION_NOT_FOUND", message)
            .with("package", package)
            .with("wanted", wanted)
            .with("newest", newest.as_deref().unwrap_or("")),
        E::SchemaNotFound { package, version } => not_found("SCHEMA_NOT_FOUND", message)
            .with("package", package)
            .with("version", version),
        E::SchemaNotFetched { package, version } => not_found("SCHEMA_NOT_FETCHED", message)
            .with("package", package)
            .with("version", version),
        E::SchemaUnusable {
            package, version, ..
        } => Problem::new(Code::FailedPrecondition, "SCHEMA_UNUSABLE", message)
            .with("package", package)
            .with("version", version),
        E::InvalidSpecifier { field, source } => {
            Problem::new(Code::InvalidArgument, "INVALID_SPECIFIER", message)
                .with("position", source.position)
                .field(*field, source.to_string())
        }
        E::InvalidDocument(source) => {
            let reason = match source {
                JsonError::TooLarge { .. } => "DOCUMENT_TOO_LARGE",
                JsonError::TooDeep { .. } => "DOCUMENT_TOO_DEEP",
                JsonError::Syntax { .. } => "INVALID_DOCUMENT",
            };
            let problem = Problem::new(Code::InvalidArgument, reason, message);
            let problem = match source {
                JsonError::Syntax {
                    line,
                    column,
                    position,
                } => problem
                    .with("position", position)
                    .with("line", line)
                    .with("column", column),
                JsonError::TooLarge { .. } | JsonError::TooDeep { .. } => problem,
            };
            problem.field("document_json", source.to_string())
        }
        E::InvalidPageToken(source) => {
            Problem::new(Code::InvalidArgument, "INVALID_PAGE_TOKEN", message)
                .field("page_token", source.to_string())
        }
        E::InvalidArgument {
            field,
            message: why,
        } => Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", message)
            .field(*field, why.clone()),
        E::PackageNotConfigured { name } => {
            not_found("PACKAGE_NOT_CONFIGURED", message).with("package", name)
        }
        E::NoSource => Problem::new(
            Code::FailedPrecondition,
            "NO_SOURCE",
            "no source is configured: add a [[catalog.source]] to the configuration and start again",
        ),
        E::RefreshNotFound { id } => not_found("REFRESH_NOT_FOUND", message).with("id", id),
        E::RequestIdReused => of_store(&store::Error::RequestIdReused),
        E::RevisionNotReached { wanted, applied } => {
            Problem::new(Code::Unavailable, "REVISION_NOT_REACHED", message)
                .with("wanted", wanted)
                .with("applied", applied)
                .retry(RETRY)
        }
        E::StoreChanged => store_changed(),
        E::Store(error) => of_store(error),
        E::Internal(what) => {
            tracing::error!(what, "a call failed");
            Problem::new(Code::Internal, "INTERNAL", message)
        }
    }
}

/// A definition with problems, all of them, in the request's field.
pub(crate) fn definition_invalid(problems: &[check::Problem], field: &str) -> Status {
    definition_problem(problems, field).into_status()
}

/// The same, for an item of a batch.
pub(crate) fn definition_problem(problems: &[check::Problem], field: &str) -> Problem {
    // The steps of a definition are the whole of `steps_json`.
    let whole = if field == "steps_json" { "steps" } else { "" };
    let path = |problem: &check::Problem| {
        let path = problem.path.strip_prefix(whole).unwrap_or(&problem.path);
        match path {
            "" => field.to_owned(),
            path if path.starts_with('[') => format!("{field}{path}"),
            path => format!("{field}.{path}"),
        }
    };
    let first = problems.first().map_or_else(String::new, |problem| {
        format!("{}: {}", path(problem), problem.message)
    });
    let message = match problems.len() {
        0 | 1 => first,
        count => format!("{count} problems; the first: {first}"),
    };
    problems.iter().fold(
        Problem::new(Code::InvalidArgument, "DEFINITION_INVALID", message),
        |told, problem| told.field(path(problem), problem.message.clone()),
    )
}

/// A drift that cannot be accepted or snoozed.
pub(crate) fn of_accept(refusal: drift::AcceptRefusal, id: &str) -> Problem {
    use drift::AcceptRefusal as R;
    let message = refusal.to_string();
    let (what, remedy) = match refusal {
        R::Closed => {
            return Problem::new(Code::FailedPrecondition, "DRIFT_CLOSED", message).with("id", id);
        }
        R::Secret => {
            return Problem::new(Code::FailedPrecondition, "SECRET_PATH", message).with("id", id);
        }
        R::DriftChanged => ("drift", ": read it again, and decide again"),
        R::SpecChanged => ("spec", ": read it again, and decide again"),
        R::ActualChanged => ("actual", ": read it again, and decide again"),
        R::AppliedSince => ("applied", ""),
        R::Unreadable => ("look", ""),
        R::Busy => ("busy", ""),
    };
    Problem::new(Code::Aborted, "DRIFT_CHANGED", format!("{message}{remedy}"))
        .with("what", what)
        .with("id", id)
}

/// The spec of a resource is not as the caller saw it.
pub(crate) fn resource_changed(name: &str) -> Problem {
    Problem::new(
        Code::Aborted,
        "RESOURCE_CHANGED",
        format!("{name} has changed since it was read: read it again"),
    )
    .with("resource", name)
}

/// What is wrong with a policy, all of it; `None` if nothing is.
pub(crate) fn of_policy(problems: &[drift::PolicyProblem]) -> Option<Problem> {
    let first = problems.first()?;
    let message = match problems.len() {
        1 => format!("policy.{first}"),
        count => format!("{count} problems; the first: policy.{first}"),
    };
    let told = Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", message);
    Some(problems.iter().fold(told, |told, problem| {
        told.field(format!("policy.{}", problem.field), problem.message.clone())
    }))
}

/// A saga that cannot be started, shown or steered. `plan` is the request's field that holds a definition or steps.
pub(crate) fn of_saga(error: &saga::Error, plan: &str) -> Problem {
    use saga::Error as E;
    let message = error.to_string();
    match error {
        E::DefinitionInvalid(problems) => definition_problem(problems, plan),
        E::DefinitionExists { name, version } => {
            Problem::new(Code::AlreadyExists, "DEFINITION_EXISTS", message)
                .with("name", name)
                .with("version", version)
        }
        E::DefinitionNotFound { name, .. } => {
            Problem::new(Code::NotFound, "DEFINITION_NOT_FOUND", message).with("name", name)
        }
        E::SagaNotFound { id } => {
            Problem::new(Code::NotFound, "SAGA_NOT_FOUND", message).with("id", id)
        }
        E::Refused(refusal) => of_refusal(*refusal),
        E::InvalidArgument {
            field,
            message: why,
        } => invalid(field, why.clone()),
        E::RequestIdReused => of_store(&store::Error::RequestIdReused),
        E::Store(error) => of_store(error),
        E::Internal(what) => {
            tracing::error!(what, "a call failed");
            internal_problem()
        }
    }
}

/// A verb that does not fit the saga's state.
fn of_refusal(refusal: Refusal) -> Problem {
    let message = refusal.to_string();
    let precondition = |reason, message| Problem::new(Code::FailedPrecondition, reason, message);
    match refusal {
        Refusal::Changed | Refusal::TooLate => Problem::new(Code::Aborted, "SAGA_CHANGED", message),
        Refusal::HasEnded => precondition("SAGA_ENDED", message),
        Refusal::IsStuck => precondition("SAGA_STUCK", message),
        Refusal::PastThePivot => precondition("PAST_THE_PIVOT", message),
        Refusal::NotAtStep => precondition("NOT_AT_STEP", message),
        Refusal::Illegal => {
            tracing::error!(what = %refusal, "a saga cannot be steered");
            internal_problem()
        }
    }
}

fn internal_problem() -> Problem {
    Problem::new(
        Code::Internal,
        "INTERNAL",
        "an internal error; the server's log says more",
    )
}
