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
