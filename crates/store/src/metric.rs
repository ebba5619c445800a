//! Names of what this crate measures.

/// Seconds per statement, by `statement`.
pub const STATEMENT_SECONDS: &str = "steadfast_statement_seconds";
/// Statements that failed, by `statement`.
pub const STATEMENT_ERRORS: &str = "steadfast_statement_errors_total";
/// Logical writes per committed batch, by `kind`.
pub const BATCH_SIZE: &str = "steadfast_write_batch_size";
/// 1 while changes of other replicas arrive by notification, 0 while they are found by polling.
pub const LISTENING: &str = "steadfast_listen_usable";
/// Leases held by this replica, by `lease`.
pub const LEASES_HELD: &str = "steadfast_leases_held";
/// Log rows deleted by compaction.
pub const COMPACTED: &str = "steadfast_log_compacted_total";
