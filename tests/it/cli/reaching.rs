//! Reaching a server, or not.

use std::net::TcpListener;

use steadfast_testkit::{Server, steadfast};
use tempfile::TempDir;

#[tokio::test]
async fn nobody_at_the_address_is_said_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let endpoint = format!("http://{address}");
    let folder = TempDir::new().expect("a folder");
    for command in [
        &["head"][..],
        &["package", "list"],
        &["refresh"],
        &["publish", "app/x", "k"],
        &["schedule", "list"],
        &["watch"],
    ] {
        let variables = [("STEADFAST_ENDPOINT", endpoint.as_str())];
        let output = steadfast(folder.path(), &variables, command).await;
        let told = output.failure(4);
        for part in [endpoint.as_str(), "steadfast serve", "--endpoint"] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}

#[tokio::test]
async fn a_wrong_address_is_told_apart() {
    let server = Server::builder().start().await;
    let http = server.http_url();
    let output = server.cli(&["head", "--endpoint", &http]).await;
    assert!(
        output.failure(1).contains("is this its gRPC port?"),
        "{output:?}"
    );
    let tls = format!("https://{}", server.grpc_address());
    let output = server.cli(&["head", "--endpoint", &tls]).await;
    assert!(output.failure(1).contains("needs TLS"), "{output:?}");
    let output = server.cli(&["head", "--endpoint", "no address"]).await;
    assert!(
        output.failure(1).contains("STEADFAST_ENDPOINT"),
        "{output:?}"
    );
    // Without a scheme, it is what grpcurl takes.
    let _ = server
        .cli(&["head", "--endpoint", server.grpc_address()])
        .await
        .success();
}

#[tokio::test]
async fn the_head_is_shown_as_watch_takes_it() {
    let server = Server::builder().start().await;
    let _ = server.cli(&["publish", "app/x", "k"]).await.success();
    let text = server.cli(&["head"]).await;
    let line = |name: &str| {
        let mut lines = text.success().lines();
        let line = lines.find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_else(|| panic!("{name} in {text:?}"))
    };
    assert_eq!((line("head:"), line("compacted:")), ("1", "0"));
    let json = server.cli(&["head", "-o", "json"]).await.json();
    assert_eq!(json["cursor"], line("cursor:"));
    assert_eq!(json["head"], 1);
    let mut watch = server.cli_running(&["watch", "--after", line("cursor:")]);
    let _ = server.cli(&["publish", "app/x", "later"]).await.success();
    assert_eq!(
        watch.next_line().await.as_deref(),
        Some("2  upsert  app/x  later")
    );
}

/// As `steadfast watch | head -1` does.
#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let server = Server::builder().start().await;
    let _ = server.cli(&["publish", "app/x", "k"]).await.success();
    let script = "
import os, subprocess, sys
watch = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
watch.stdout.readline()
watch.stdout.close()
print(watch.wait(timeout=20))
";
    let program = std::env::var(steadfast_testkit::process::PROGRAM_VARIABLE);
    let program = program.expect("the program under test");
    let endpoint = server.grpc_endpoint();
    let arguments = [
        program.as_str(),
        "--endpoint",
        &endpoint,
        "watch",
        "--earliest",
    ];
    let output = steadfast_testkit::foreign::python(script, &arguments).await;
    assert_eq!(output.success(), "0\n");
}
