//! Names of what this crate measures.

/// The newest revision read from the log.
pub const APPLIED: &str = "steadfast_watch_applied_revision";
/// How many revisions the database is ahead of this replica.
pub const LAG: &str = "steadfast_watch_lag_revisions";
/// Revisions in the ring.
pub const RING_REVISIONS: &str = "steadfast_watch_ring_revisions";
/// Bytes in the ring.
pub const RING_BYTES: &str = "steadfast_watch_ring_bytes";
/// Open streams.
pub const SUBSCRIBERS: &str = "steadfast_watch_subscribers";
/// Streams that read the log because they have fallen off the ring.
pub const PARKED: &str = "steadfast_watch_parked_subscribers";
/// Changes handed to streams.
pub const DELIVERED: &str = "steadfast_watch_delivered_total";
/// Times that polling found revisions which no wake-up had announced.
pub const POLL_FOUND_FIRST: &str = "steadfast_watch_poll_found_first_total";
/// Times that the history turned out to be another one.
pub const RESETS: &str = "steadfast_watch_history_resets_total";
/// Nodes of the fleet that live, replicas among them, as of this replica's last sign of life.
pub const NODES_LIVE: &str = "steadfast_nodes_live";
/// Those of them that have not applied what this replica had a sign of life earlier.
pub const NODES_LAGGING: &str = "steadfast_nodes_lagging";
/// Reports of what was applied, by `outcome`.
pub const NODE_REPORTS: &str = "steadfast_node_reports_total";
/// Statements that wrote down what has become of streams.
pub const NODE_WRITES: &str = "steadfast_node_writes_total";
/// Streams in these statements.
pub const NODE_ROWS_WRITTEN: &str = "steadfast_node_rows_written_total";
