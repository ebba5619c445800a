//! What the engine promises, proven on both databases: nothing is lost, done twice or undone in the wrong order, wherever a
//! process ends and whichever answer is lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ambiguous;
mod boundaries;
mod keys;
mod limits;
mod paused;
mod poison;
mod rare;
mod scene;
mod steps;
mod unwinding;
mod versions;
mod world;
