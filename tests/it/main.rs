//! Integration tests against the real binary; the tree mirrors the API.

mod bundle;
mod cli;
mod drift;
mod faults;
mod foreign;
mod history;
mod house;
mod http;
mod icons;
mod local;
mod nodes;
mod npm;
mod refresh;
mod registry;
mod saga;
mod scene;
mod schema;
mod watch;
