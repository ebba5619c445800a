//! The rules of the house that no compiler checks: who may depend on whom, what a file may hold, what each RPC must say.
//!
//! Each rule is a pure function from what it judges to the violations, so that the tests can show that it finds one.

mod arrows;
mod contract;
mod files;

use std::path::Path;

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
