//! What the program tells about itself.

use std::process::Stdio;

use steadfast_testkit::{CommandOutput, steadfast};
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test]
async fn the_version_tells_commit_schema_and_contract() {
    let folder = TempDir::new().expect("a folder");
    let output = steadfast(folder.path(), &[], &["--version"]).await;
    let text = output.success();
    assert!(text.starts_with("steadfast 0."), "{text}");
    for name in ["commit:", "schema:", "API:"] {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        assert!(value.is_some(), "{name} in {text}");
    }
    let short = steadfast(folder.path(), &[], &["-V"]).await;
    assert_eq!(short.success().lines().count(), 1);
}

#[tokio::test]
async fn nothing_to_do_and_nonsense_are_wrong_usage() {
    let folder = TempDir::new().expect("a folder");
    let output = steadfast(folder.path(), &[], &[]).await;
    let help = output.failure(2);
    for command in ["serve", "refresh", "watch", "Exit codes:"] {
        assert!(help.contains(command), "{help}");
    }
    let output = steadfast(folder.path(), &[], &["refrehs"]).await;
    assert!(output.failure(2).contains("'refresh'"), "{output:?}");
    let output = steadfast(folder.path(), &[], &["head", "--timeout", "1h"]).await;
    assert!(output.failure(2).contains("use ms, s or m"), "{output:?}");
    // Every command explains itself.
    for command in [
        "serve",
        "init",
        "migrate",
        "config",
        "package",
        "schema",
        "refresh",
        "watch",
        "publish",
        "saga",
        "resource",
        "inventory",
        "drift",
        "policy",
        "head",
        "schedule",
        "completions",
        "man",
    ] {
        let output = steadfast(folder.path(), &[], &[command, "--help"]).await;
        assert!(output.success().contains("Usage: steadfast"), "{command}");
    }
}

#[tokio::test]
async fn completions_are_scripts_and_manual_pages_are_written() {
    let folder = TempDir::new().expect("a folder");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = steadfast(folder.path(), &[], &["completions", shell]).await;
        assert!(output.success().contains("steadfast"), "{shell}");
        if shell == "bash" {
            let file = folder.path().join("steadfast.bash");
            std::fs::write(&file, output.success()).expect("the folder can be written");
            let mut check = Command::new("bash");
            check.arg("-n").arg(&file).stdin(Stdio::null());
            let _ = CommandOutput::of(check).await.success();
        }
    }
    let output = steadfast(folder.path(), &[], &["man", "pages"]).await;
    assert!(
        output.success().contains("man pages/steadfast.1"),
        "{output:?}"
    );
    let page = folder.path().join("pages/steadfast-refresh.1");
    let page = std::fs::read_to_string(page).expect("each command has a page");
    assert!(page.contains(".TH steadfast-refresh"), "{page}");
}
