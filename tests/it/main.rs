//! Integration tests against the real binary; the tree mirrors the API.

mod faults;
mod history;
mod house;
