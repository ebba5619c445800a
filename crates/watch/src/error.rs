//! Why a stream does not open, and why it ends.

use steadfast_types::Revision;

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cursor belongs to another history.
    #[error(
        "the cursor belongs to another history of the store: reload everything and watch from now"
    )]
    StoreChanged,
    /// What came after the cursor is no longer in the log.
    #[error(
        "the log begins at revision {compacted}, after the cursor: reload everything and watch from now"
    )]
    Compacted {
        /// The oldest revision that can be resumed from.
        compacted: Revision,
        /// The newest revision.
        head: Revision,
    },
    /// The replica has as many streams as it takes.
    #[error("this replica serves {limit} streams, its limit: try another replica")]
    TooManyStreams {
        /// The limit.
        limit: usize,
    },
    /// The replica is shutting down.
    #[error("this replica is shutting down: try another one")]
    Draining,
    /// A filter cannot be understood.
    #[error("{message}")]
    InvalidFilter {
        /// Its position in the request.
        index: usize,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// The cursor has to be looked up, and the database does not answer.
    #[error(transparent)]
    Store(#[from] steadfast_store::Error),
}

/// Why an open stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The history turned out to be another one, and the subscriber asked for an error.
    #[error("the store's history is another one: reload everything and watch from now")]
    StoreChanged,
    /// The subscriber fell behind the log, and asked for an error.
    #[error("the log begins at revision {compacted}, after what this stream has delivered")]
    Compacted {
        /// The oldest revision that can be resumed from.
        compacted: Revision,
        /// The newest revision.
        head: Revision,
    },
    /// The replica is shutting down; progress was sent before.
    #[error("this replica is shutting down: resume on another one")]
    Draining,
}
