//! Sweeps on real databases: what they find, what they write, and that one runs at a time.

#![expect(clippy::unwrap_used, reason = "tests")]

mod accepting;
mod scene;
