//! Why something about nodes cannot be done.

use steadfast_types::Revision;

/// Why something about nodes cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A stream of the same incarnation that was opened later is the node's own.
    #[error(
        "a later stream of the same incarnation is this node's own: open one stream with the node's id, and wait before trying again"
    )]
    Taken,
    /// Too many nodes are known.
    #[error(
        "{limit} nodes are known, which is the limit (limits.max_nodes): those that are gone are forgotten an hour later"
    )]
    TooMany {
        /// The limit.
        limit: u32,
    },
    /// No stream was opened under this name lately.
    #[error(
        "no stream was opened under this node id and incarnation lately: open Watch with both, then report"
    )]
    Unknown,
    /// The report is above what the node's stream was sent.
    #[error(
        "revision {reported} is above {sent}, the newest that this node's stream was sent: report the cursor of a Batch or Progress, unchanged"
    )]
    NotSent {
        /// What was reported.
        reported: Revision,
        /// What was sent.
        sent: Revision,
    },
    /// The replica that serves the stream does not say what it has sent.
    #[error(
        "the replica {replica}, which serves this node's stream, does not say what it has sent: open another stream and report again"
    )]
    Unproven {
        /// Which replica.
        replica: String,
    },
    /// The cursor belongs to another history.
    #[error("the cursor belongs to another history of the store")]
    StoreChanged,
    /// The log no longer has the revision.
    #[error("the log begins at revision {compacted}, after the cursor")]
    Compacted {
        /// The oldest revision that can be resumed from.
        compacted: Revision,
        /// The newest revision.
        head: Revision,
    },
    /// A revision of the present history is wanted that there is not.
    #[error("there is no such revision yet; the newest is {head}")]
    NoRevision {
        /// The newest revision.
        head: Revision,
    },
    /// As many calls wait as may.
    #[error("this replica has {limit} calls waiting for a revision, its limit")]
    TooManyWaits {
        /// The limit.
        limit: usize,
    },
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] steadfast_store::Error),
}
