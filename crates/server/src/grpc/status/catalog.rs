//! Lookups and refreshes.

use steadfast_catalog::{self as catalog, BundleError, JsonError};
use steadfast_store as store;
use tonic::Code;

use super::{Problem, RETRY, internal_problem, of_store, store_changed};

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
        E::IconNotFound { package, .. } => {
            not_found("ICON_NOT_FOUND", message).with("package", package)
        }
        E::IconNotFetched { package, .. } => {
            Problem::new(Code::Unavailable, "ICON_NOT_FETCHED", message)
                .with("package", package)
                .retry(RETRY)
        }
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
        E::RefreshEnded { id, state } => {
            Problem::new(Code::FailedPrecondition, "REFRESH_ENDED", message)
                .with("id", id)
                .with("state", state)
        }
        E::TooManyRefreshes { limit } => {
            Problem::new(Code::ResourceExhausted, "TOO_MANY_REFRESHES", message)
                .with("limit", limit)
                .retry(RETRY)
        }
        E::TooManyWatches { limit } => {
            Problem::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", message)
                .with("limit", limit)
                .retry(RETRY)
        }
        E::PackageListed { name, source_name } => {
            Problem::new(Code::FailedPrecondition, "PACKAGE_LISTED", message)
                .with("package", name)
                .with("source", source_name)
        }
        E::RefreshRunning { name, id } => {
            Problem::new(Code::FailedPrecondition, "REFRESH_RUNNING", message)
                .with("package", name)
                .with("id", id)
                .retry(RETRY)
        }
        E::Bundle(error) => of_bundle(error, message),
        E::CatalogBusy => Problem::new(Code::Unavailable, "CATALOGUE_BUSY", message).retry(RETRY),
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

/// A bundle that is refused, or a file that cannot be handled.
fn of_bundle(error: &BundleError, message: String) -> Problem {
    use BundleError as E;
    let invalid = |reason| Problem::new(Code::InvalidArgument, reason, message.clone());
    match error {
        E::NotABundle | E::Invalid { .. } => invalid("BUNDLE_INVALID"),
        E::Truncated => invalid("BUNDLE_TRUNCATED"),
        E::Altered => invalid("BUNDLE_ALTERED"),
        E::Newer { found } => {
            Problem::new(Code::FailedPrecondition, "BUNDLE_NEWER", message).with("format", found)
        }
        E::TooLarge { limit_bytes } => {
            Problem::new(Code::ResourceExhausted, "BUNDLE_TOO_LARGE", message)
                .with("limit", limit_bytes)
        }
        E::File(error) => {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "a bundle's file in the folder for temporary files cannot be handled"
            );
            internal_problem()
        }
    }
}
