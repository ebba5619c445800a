//! The HTTP side: is it alive, is it useful, and what does it count.

use std::collections::BTreeSet;

use steadfast_client::api::registry::v1::GetPackageRequest;
use steadfast_testkit::{Server, otlp::Collector};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Request;

use crate::scene::{Engine, Scene, connection};

/// Status, head and body of a GET.
pub(crate) async fn get(server: &Server, path: &str) -> (u16, String, String) {
    let url = server.http_url();
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (
        status.expect("a status"),
        head.to_lowercase(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn probes_and_metrics_answer() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        let server = &scene.server;
        let _ = server.cli(&["publish", "app/x", "k"]).await.success();
        let _ = server.cli(&["package", "get", "nope"]).await.failure(5);
        assert_eq!(get(server, "/healthz").await.2, "alive\n");
        let (status, _, body) = get(server, "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "ready\n"));
        assert_eq!(get(server, "/nope").await.0, 404);
        assert!(get(server, "/").await.2.contains("/metrics"));

        let (status, head, body) = get(server, "/metrics").await;
        assert_eq!(status, 200);
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        let names: BTreeSet<_> = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        for name in [
            "steadfast_build_info",
            "steadfast_rpc_total",
            "steadfast_rpc_seconds_bucket",
            "steadfast_rpc_under_way",
            "steadfast_statement_seconds_bucket",
            "steadfast_watch_applied_revision",
            "steadfast_watch_lag_revisions",
            "steadfast_watch_ring_bytes",
            "steadfast_watch_ring_revisions",
        ] {
            assert!(names.contains(name), "{name} in {names:?}");
        }
        assert!(
            names
                .iter()
                .all(|name| name.is_empty() || name.starts_with("steadfast_")),
            "{names:?}"
        );
        let refused = body.lines().find(|line| {
            line.starts_with("steadfast_rpc_total{")
                && line.contains("RegistryService/GetPackage")
                && line.contains("NotFound")
        });
        assert!(
            refused.is_some_and(|line| line.ends_with(" 1")),
            "{refused:?}"
        );
    }
}

const TRACE_ID: [u8; 16] = *b"\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c";
const TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn call_with_trace(server: &Server) {
    let connection = connection(server).await;
    let mut request = Request::new(GetPackageRequest {
        name: "left-pad".to_owned(),
        ..GetPackageRequest::default()
    });
    let parent = TRACE_PARENT.parse().expect("ASCII");
    request.metadata_mut().insert("traceparent", parent);
    let answer = connection.registry().get_package(request).await;
    let _ = answer.expect_err("the catalogue is empty");
}

#[tokio::test]
async fn spans_join_the_callers_trace_where_an_endpoint_is_configured() {
    let collector = Collector::start().await;
    let mut server = Server::builder()
        .variable("STEADFAST_TELEMETRY__OTLP_ENDPOINT", collector.url())
        .start()
        .await;
    call_with_trace(&server).await;
    // What is left is sent before it ends.
    assert!(server.stop().await.success());
    let received = collector.received();
    let holds = |text: &[u8]| {
        received
            .iter()
            .any(|message| message.windows(text.len()).any(|window| window == text))
    };
    assert!(holds(&TRACE_ID), "the caller's trace");
    assert!(holds(b"steadfast.registry.v1.RegistryService/GetPackage"));
    assert!(holds(b"service.name"));
}

#[tokio::test]
async fn nothing_is_sent_by_default() {
    let collector = Collector::start().await;
    // What other programs take for a setting is none here.
    let mut server = Server::builder()
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .start()
        .await;
    call_with_trace(&server).await;
    assert!(server.stop().await.success());
    assert!(collector.received().is_empty());
}
