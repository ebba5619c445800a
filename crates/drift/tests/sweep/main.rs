//! Sweeps on real databases: what they find, what they write, and that one runs at a time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accepting;
mod automatic;
mod ending;
mod failing;
mod forgetting;
mod generations;
mod hiding;
mod inventories;
mod locking;
mod missing;
mod model;
mod pruning;
mod quiet;
mod recording;
mod replicas;
mod saga;
mod scene;
mod secrets;
mod telling;
