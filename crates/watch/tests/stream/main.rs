//! Streams over real databases: whole, in order, resumable, honest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compacting;
mod delivery;
mod history;
mod limits;
mod lost;
mod nodes;
mod own;
mod scene;
mod sharing;
mod wakeups;
