//! What `--version` tells.

use std::sync::LazyLock;

use steadfast_server::{VERSION, schema_version};

/// The source revision that this program was built from.
pub(crate) const COMMIT: &str = env!("STEADFAST_COMMIT");

/// The version of the gRPC packages, `steadfast.*.v1`.
const API: &str = "v1";

static SHORT: LazyLock<String> = LazyLock::new(|| {
    let schema = schema_version();
    format!("{VERSION} (commit {COMMIT}, schema {schema}, API {API})")
});

static LONG: LazyLock<String> = LazyLock::new(|| {
    let schema = schema_version();
    format!("{VERSION}\ncommit: {COMMIT}\nschema: {schema}\nAPI:    {API}")
});

/// One line, for `-V`.
pub(crate) fn short() -> &'static str {
    &SHORT
}

/// One line each, for `--version`.
pub(crate) fn long() -> &'static str {
    &LONG
}
