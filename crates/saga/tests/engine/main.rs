//! The engine on real databases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carrying;
mod lost;
mod mended;
mod scene;
mod waiting;
