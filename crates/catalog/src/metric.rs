//! The names of this crate's metrics.

/// Packages in memory.
pub const PACKAGES: &str = "steadfast_catalog_packages";
/// The revision that memory reflects.
pub const APPLIED_REVISION: &str = "steadfast_catalog_applied_revision";
/// Ended refreshes, by state.
pub const REFRESHES: &str = "steadfast_refreshes_total";
/// Seconds that refreshes took.
pub const REFRESH_SECONDS: &str = "steadfast_refresh_seconds";
/// Items of refreshes, by kind and outcome.
pub const REFRESH_ITEMS: &str = "steadfast_refresh_items_total";
/// Packages that were last found in a root, by source and root; only of roots that this replica reads.
pub const LOCAL_PACKAGES: &str = "steadfast_local_packages";
/// 1 for each folder of a root that is not taken, by source, root, package, file and reason; 0 once it is mended.
pub const LOCAL_SKIPPED: &str = "steadfast_local_skipped";
/// Whether a root can be read, by source and root: 1 or 0; only of roots that this replica reads.
pub const LOCAL_ROOT_USABLE: &str = "steadfast_local_root_usable";
