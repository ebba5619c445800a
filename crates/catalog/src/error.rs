//! Why a question to the catalogue has no answer: one variant per thing that a caller can do about it.

use steadfast_types::Revision;

use crate::{bundle::BundleError, json::JsonError, specifier::InvalidSpecifier};

/// Why there is no answer. `Display` is for people and safe to show; nothing of a checked document is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such package in the catalogue.
    #[error("there is no package {name} in the catalogue{}", nearest_words(.nearest))]
    PackageNotFound {
        /// What was asked for.
        name: String,
        /// Similar names, best first; at most five.
        nearest: Vec<String>,
    },
    /// The package has no version that fits.
    #[error("{package} has no version that fits {wanted}{}", newest_words(.newest.as_deref()))]
    VersionNotFound {
        /// The package.
        package: String,
        /// What was asked for.
        wanted: String,
        /// Its newest stable version.
        newest: Option<String>,
    },
    /// The version carries no schema.
    #[error("{package}@{version} carries no configuration schema")]
    SchemaNotFound {
        /// The package.
        package: String,
        /// The version.
        version: String,
    },
    /// Whether the version carries a schema is not known.
    #[error(
        "the schema of {package}@{version} has not been read; schemas are kept of tagged and of the newest versions"
    )]
    SchemaNotFetched {
        /// The package.
        package: String,
        /// The version.
        version: String,
    },
    /// The schema is there, but documents cannot be checked against it.
    #[error("documents cannot be checked against the schema of {package}@{version}: {reason}")]
    SchemaUnusable {
        /// The package.
        package: String,
        /// The version.
        version: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The package has no such icon.
    #[error("{package} has no {what} icon")]
    IconNotFound {
        /// The package.
        package: String,
        /// Shape, and format if one was asked for.
        what: String,
    },
    /// Whether the package has such an icon is not known yet; somebody is finding out.
    #[error("the {shape} icon of {package} has not been fetched yet; ask again in a moment")]
    IconNotFetched {
        /// The package.
        package: String,
        /// What it looks like.
        shape: &'static str,
    },
    /// A package name or a specifier is malformed.
    #[error("{field}: {source}")]
    InvalidSpecifier {
        /// The request's field.
        field: &'static str,
        /// What, and at which byte.
        source: InvalidSpecifier,
    },
    /// The document is not JSON or exceeds a limit.
    #[error("document_json: {0}")]
    InvalidDocument(JsonError),
    /// A page token is malformed or of another call.
    #[error("page_token: {0}")]
    InvalidPageToken(#[from] steadfast_types::InvalidPageToken),
    /// Any other argument is wrong.
    #[error("{field}: {message}")]
    InvalidArgument {
        /// The request's field.
        field: &'static str,
        /// What is wrong and what is right.
        message: String,
    },
    /// The package is in no source's list.
    #[error(
        "{name} is in no source's list of names; add it to the configuration, or, if it is new in an organisation or a search, refresh everything"
    )]
    PackageNotConfigured {
        /// What was asked for.
        name: String,
    },
    /// There is nothing to refresh from.
    #[error("no source is configured")]
    NoSource,
    /// No such refresh.
    #[error("there is no refresh {id}; old ones are pruned")]
    RefreshNotFound {
        /// What was asked for.
        id: String,
    },
    /// The refresh goes on no more.
    #[error("refresh {id} has ended: it is {state}")]
    RefreshEnded {
        /// Which.
        id: String,
        /// How it ended.
        state: String,
    },
    /// So many refreshes wait that no dry run is added to them.
    #[error("more than {limit} refreshes wait already; a dry run joins none of them")]
    TooManyRefreshes {
        /// How many may.
        limit: usize,
    },
    /// So many watch refreshes through this replica.
    #[error("this replica has {limit} streams of refreshes open, its limit")]
    TooManyWatches {
        /// How many may.
        limit: usize,
    },
    /// A refresh would bring the package back.
    #[error(
        "source {source_name} still lists {name}, so that it would come back; take it out of the configuration first, with `exclude` if it comes from a listing"
    )]
    PackageListed {
        /// What was to be removed.
        name: String,
        /// The source.
        source_name: String,
    },
    /// A refresh that runs may bring the package back.
    #[error("refresh {id} is running and may bring {name} back; wait for its end, or cancel it")]
    RefreshRunning {
        /// What was to be removed.
        name: String,
        /// The refresh.
        id: String,
    },
    /// A bundle is refused, or cannot be handled.
    #[error("the bundle is refused: {0}")]
    Bundle(#[source] BundleError),
    /// Somebody else is writing the catalogue.
    #[error("a refresh or another import is running; try again when it has ended")]
    CatalogBusy,
    /// The request id was used with other arguments.
    #[error("request_id was used before with other arguments")]
    RequestIdReused,
    /// This replica's memory has not reached the revision.
    #[error("this replica has reached revision {applied}, not yet {wanted}")]
    RevisionNotReached {
        /// What was asked for.
        wanted: Revision,
        /// What there is.
        applied: Revision,
    },
    /// The cursor is of another history of the store.
    #[error("the cursor is of another history of the store; read again without one")]
    StoreChanged,
    /// The database failed or does not answer.
    #[error(transparent)]
    Store(steadfast_store::Error),
    /// Something that cannot happen did; the log says what.
    #[error("an internal error; the server's log says more")]
    Internal(&'static str),
}

// === impl Error ===

impl From<steadfast_store::Error> for Error {
    fn from(error: steadfast_store::Error) -> Self {
        match error {
            steadfast_store::Error::RequestIdReused => Self::RequestIdReused,
            other => Self::Store(other),
        }
    }
}

fn nearest_words(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    format!("; similar names: {}", nearest.join(", "))
}

fn newest_words(newest: Option<&str>) -> String {
    newest.map_or_else(String::new, |newest| format!("; its newest is {newest}"))
}
