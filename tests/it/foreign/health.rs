//! The standard health service, asked as load balancers ask.

use steadfast_testkit::foreign::{grpcurl, grpcurl_running};

use crate::scene::{Engine, NoRegistry};

#[tokio::test]
async fn every_service_says_whether_it_serves() {
    let mut scene = NoRegistry::start(Engine::Sqlite).await;
    let address = scene.server.grpc_address().to_owned();
    let list = grpcurl(&["-plaintext", &address, "list"]).await;
    let ours = list
        .success()
        .lines()
        .filter(|service| service.starts_with("steadfast."));
    let mut services = vec![""];
    services.extend(ours);
    assert!(services.len() >= 7, "{services:?}");
    for service in services {
        let body = format!("{{\"service\": \"{service}\"}}");
        let answer = grpcurl(&[
            "-plaintext",
            "-d",
            &body,
            &address,
            "grpc.health.v1.Health/Check",
        ])
        .await;
        assert_eq!(answer.json()["status"], "SERVING", "{service}");
    }
    let body = r#"{"service": "steadfast.nope.v1.Nope"}"#;
    let answer = grpcurl(&[
        "-plaintext",
        "-d",
        body,
        &address,
        "grpc.health.v1.Health/Check",
    ])
    .await;
    assert!(answer.failure(64 + 5).contains("NotFound"));

    // Who watches learns at once that it stops.
    let arguments = ["-plaintext", &address, "grpc.health.v1.Health/Watch"];
    let mut watch = grpcurl_running(&arguments);
    assert!(watch.line_with("status").await.contains("\"SERVING\""));
    scene.server.stop().await;
    assert!(watch.line_with("status").await.contains("\"NOT_SERVING\""));
}
