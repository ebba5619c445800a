//! Placeholder of a later commit.
fn main() {}
