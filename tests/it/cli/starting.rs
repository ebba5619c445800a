//! What a server says when it cannot start, and that each time it names the way out.

use std::{fs, net::TcpListener};

use steadfast_testkit::{Server, steadfast};
use tempfile::TempDir;

/// `serve` on ports of the system's choice, which is expected to fail.
async fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let folder = TempDir::new().expect("a folder");
    let mut all = vec!["serve"];
    all.extend(arguments);
    for (flag, address) in [
        ("--listen-grpc", "127.0.0.1:0"),
        ("--listen-http", "127.0.0.1:0"),
    ] {
        if !arguments.contains(&flag) {
            all.extend([flag, address]);
        }
    }
    let output = steadfast(folder.path(), variables, &all).await;
    assert!(!output.status.success(), "{output:?}");
    output.stderr
}

#[tokio::test]
async fn an_occupied_port_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for flag in ["--listen-grpc", "--listen-http"] {
        let told = refused(&[flag, &address], &[]).await;
        for part in [address.as_str(), "another process has it", flag] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}

#[tokio::test]
async fn other_addresses_than_loopback_need_a_word() {
    for (flag, key) in [
        ("--listen-grpc", "server.grpc"),
        ("--listen-http", "server.http"),
    ] {
        let told = refused(&[flag, "0.0.0.0:0"], &[]).await;
        for part in [key, "0.0.0.0:0", "not authenticated", "--insecure"] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
    let folder = TempDir::new().expect("a folder");
    let arguments = [
        "config",
        "check",
        "--listen-grpc",
        "0.0.0.0:7400",
        "--insecure",
    ];
    let _ = steadfast(folder.path(), &[], &arguments).await.success();
    let server = Server::builder().argument("--insecure").start().await;
    assert!(server.log().contains("callers are not authenticated"));
}

#[tokio::test]
async fn one_folder_is_one_servers() {
    let mut first = Server::builder().start().await;
    let folder = first.directory().join(".steadfast");
    let folder = folder.to_str().expect("a path that is text");
    let told = refused(&["--data-dir", folder], &[]).await;
    for part in ["steadfast.db", "in use by another server", "--data-dir"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    // Its lock dies with it, however it dies.
    first.kill().await;
    let second = Server::builder().directory(first.directory()).start().await;
    assert_eq!(second.store_id(), first.store_id());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("the folder can be written");
    let below = file.join("data");
    let below = below.to_str().expect("a path that is text");
    let told = refused(&["--data-dir", below], &[]).await;
    for part in [below, "cannot be written", "--data-dir"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_told_with_the_cause_and_without_the_password() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let url = format!("postgres://me:hunter2-Zq9@127.0.0.1:{port}/x");
    let variables = [
        ("STEADFAST_DATABASE__URL", url.as_str()),
        ("STEADFAST_DATABASE__CONNECT_TIMEOUT_MS", "500"),
    ];
    let told = refused(&[], &variables).await;
    assert!(
        told.contains("the database does not answer") && told.contains("refused"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_registry_that_nobody_names_is_asked_for() {
    let folder = TempDir::new().expect("a folder");
    let text = "[[catalog.source]]\nname = \"a\"\ntype = \"npm\"\nnames = [\"left-pad\"]\n";
    fs::write(folder.path().join("steadfast.toml"), text).expect("the folder can be written");
    // Without npm in reach, there is no place left to look.
    let output = steadfast(
        folder.path(),
        &[("PATH", "/nonexistent")],
        &[
            "serve",
            "--listen-grpc",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
        ],
    )
    .await;
    let told = output.failure(1);
    for place in ["NPM_CONFIG_REGISTRY", ".npmrc", "npm config get registry"] {
        assert!(told.contains(place), "{place} in {told}");
    }
}
