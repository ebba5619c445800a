//! Tells the program which commit it was built from: git's word where there is a checkout, else the variable
//! `STEADFAST_COMMIT` (for builds from an archive or in an image), else "unknown".

use std::{env, path::Path, process::Command};

fn main() {
    let commit = git(&["rev-parse", "--short", "HEAD"])
        .or_else(|| env::var("STEADFAST_COMMIT").ok())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=STEADFAST_COMMIT={commit}");
    println!("cargo::rerun-if-env-changed=STEADFAST_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // One line is added to this file by each commit and checkout. A path that does not exist would rebuild every time.
    if let Some(log) = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ]) && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
