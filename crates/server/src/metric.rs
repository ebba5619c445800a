//! Names of what this crate measures.

/// Calls by `rpc` and `code`; a stream counts when it opens.
pub const RPC_TOTAL: &str = "steadfast_rpc_total";
/// Seconds until the answer begins, by `rpc`.
pub const RPC_SECONDS: &str = "steadfast_rpc_seconds";
/// Unary calls under way.
pub const RPC_UNDER_WAY: &str = "steadfast_rpc_under_way";
/// Runs of schedules by `schedule`.
pub const SCHEDULE_RUNS: &str = "steadfast_schedule_runs_total";
/// 1, with the `version` and `commit` as labels.
pub const BUILD_INFO: &str = "steadfast_build_info";
