//! Packages: looked up, listed and resolved, by the program and over gRPC.

mod filling;
mod listing;
mod lookup;
mod reading;
mod resolving;
