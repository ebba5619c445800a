//! A shell script stands in for the program: what is tested here is the test kit.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use super::*;

const READY: &str = r#"echo '{"event":"ready","grpc":"127.0.0.1:1","http":"127.0.0.1:2","replica":"r1","store_id":"s1"}'"#;

fn script(directory: &TempDir, body: &str) -> PathBuf {
    let path = directory.path().join("program");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_server_is_ready_when_it_says_so() {
    let directory = TempDir::new().unwrap();
    let body = format!(
        "case $1 in serve) echo \"$*\" >&2; cat steadfast.toml >&2; echo $COLOR $HOME >&2; echo noise; {READY}; exec cat /dev/zero >/dev/null;; \
         fail) echo no >&2; exit 3;; *) echo \"{{\\\"at\\\":\\\"$STEADFAST_ENDPOINT\\\"}}\"; echo second >&2;; esac"
    );
    let program = script(&directory, &body);
    let mut server = Server::builder()
        .program(&program)
        .database_url("postgres://x/y")
        .configuration("a = 1\n")
        .argument("--insecure")
        .variable("COLOR", "blue")
        .start()
        .await;
    assert_eq!(server.grpc_endpoint(), "http://127.0.0.1:1");
    assert_eq!(server.http_url(), "http://127.0.0.1:2");
    assert_eq!((server.replica(), server.store_id()), ("r1", "s1"));
    let log = server.log();
    for text in [
        "--database-url postgres://x/y --insecure",
        "a = 1",
        "blue",
        "noise",
        "--config",
    ] {
        assert!(log.contains(text), "{text} is missing in {log}");
    }
    assert!(log.contains(&server.directory().display().to_string()));

    let output = server.cli(&["head"]).await;
    assert_eq!(output.json()["at"], "http://127.0.0.1:1");
    assert_eq!(server.cli(&["fail"]).await.failure(3), "no\n");
    let mut running = server.cli_running(&["watch"]);
    assert!(running.line_with("at").await.contains("127.0.0.1:1"));
    assert_eq!(running.next_line().await, None);
    assert!(running.wait_exit().await.success());

    server.signal(Signal::SIGSTOP);
    server.signal(Signal::SIGCONT);
    assert!(!server.stop().await.success());
}

#[tokio::test]
async fn a_server_that_fails_tells_why() {
    let directory = TempDir::new().unwrap();
    let program = script(&directory, "echo port taken >&2; exit 4");
    let failure = Server::builder()
        .program(program)
        .try_start()
        .await
        .unwrap_err();
    assert_eq!(failure.status.and_then(|status| status.code()), Some(4));
    assert!(failure.to_string().contains("port taken"));
}

#[tokio::test]
async fn a_server_that_keeps_silent_is_ended() {
    let directory = TempDir::new().unwrap();
    let program = script(&directory, "exec cat /dev/zero >/dev/null");
    let failure = Server::builder()
        .program(program)
        .ready_within(Duration::from_millis(50))
        .try_start()
        .await
        .unwrap_err();
    assert!(failure.status.is_none());
}

#[tokio::test]
async fn a_directory_outlives_its_server() {
    let directory = TempDir::new().unwrap();
    let program = script(
        &directory,
        &format!("touch kept; {READY}; exec cat /dev/zero >/dev/null"),
    );
    let builder = Server::builder()
        .program(program)
        .directory(directory.path());
    let mut server = builder.start().await;
    server.kill().await;
    drop(server);
    assert!(directory.path().join("kept").exists());
    let again = builder.start().await;
    assert!(again.pid() > 0);
}
