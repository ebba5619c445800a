//! Why the engine refuses.

use steadfast_store as store;

use crate::{Refusal, check::Problem};

/// One variant per thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A definition has problems; all of them.
    #[error("the definition has {} problems; the first: {}", .0.len(), first(.0))]
    DefinitionInvalid(Vec<Problem>),
    /// The name and version are taken by another body.
    #[error("definition {name} has another body under version {version}: count the version up")]
    DefinitionExists {
        /// The name.
        name: String,
        /// The version.
        version: i32,
    },
    /// There is none.
    #[error("there is no saga definition {name}{}", at(*.version))]
    DefinitionNotFound {
        /// The name.
        name: String,
        /// The version that was asked for.
        version: Option<i32>,
    },
    /// There is none.
    #[error("there is no saga {id}; ended ones are pruned")]
    SagaNotFound {
        /// What was asked for.
        id: String,
    },
    /// The verb does not fit the saga's state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An argument is wrong.
    #[error("{field}: {message}")]
    InvalidArgument {
        /// The request's field.
        field: &'static str,
        /// What is wrong and what is right.
        message: String,
    },
    /// The request id was used with other arguments.
    #[error("the request id was used before with other arguments")]
    RequestIdReused,
    /// The database.
    #[error(transparent)]
    Store(store::Error),
    /// Something that cannot happen did; the log says what.
    #[error("an internal error: {0}")]
    Internal(&'static str),
}

// === impl Error ===

impl Error {
    pub(super) fn not_found(id: &str) -> Self {
        Self::SagaNotFound {
            id: id.chars().take(64).collect(),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::RequestIdReused => Self::RequestIdReused,
            other => Self::Store(other),
        }
    }
}

fn first(problems: &[Problem]) -> String {
    problems.first().map_or_else(String::new, |problem| {
        format!("{}: {}", problem.path, problem.message)
    })
}

fn at(version: Option<i32>) -> String {
    version.map_or_else(String::new, |version| format!(" version {version}"))
}
