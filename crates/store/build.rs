//! The migrations are compiled in: a new file there must make this crate new.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
