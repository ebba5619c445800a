//! A server that is told to stop says goodbye.

use std::time::{Duration, Instant};

use steadfast_client::{
    Code,
    api::watch::v1::{WatchRequest, watch_response::Event},
};
use steadfast_testkit::{NpmServer, Signal};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{change, next, open, publish};
use crate::scene::{Engine, NoRegistry, Scene, configuration, eventually, registry};

#[tokio::test]
async fn streams_get_their_cursor_and_a_time_to_come_back() {
    for engine in Engine::BOTH {
        let mut scene = NoRegistry::start(engine).await;
        let connection = scene.connect().await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = open(&connection, WatchRequest::default()).await;
            assert!(matches!(next(&mut stream).await, Ok(Event::Opened(_))));
            streams.push(stream);
        }
        let published = publish(&connection, vec![change("app/x", "k")]).await;
        for stream in &mut streams {
            assert!(matches!(next(stream).await, Ok(Event::Batch(_))));
        }
        scene.server.signal(Signal::SIGTERM);
        let mut waits = Vec::new();
        for stream in &mut streams {
            let mut last = None;
            let end = loop {
                match next(stream).await {
                    Ok(Event::Progress(progress)) => last = progress.cursor,
                    Ok(other) => panic!("{other:?} at the end"),
                    Err(end) => break end,
                }
            };
            assert_eq!(
                (end.code, end.reason.as_str()),
                (Code::Unavailable, "SERVER_DRAINING")
            );
            let wait = end.retry_after.expect("a time to come back");
            assert!(wait <= Duration::from_secs(3), "{wait:?}");
            waits.push(wait);
            assert_eq!(last.as_ref(), Some(&published), "the cursor is told first");
        }
        assert!(
            waits.iter().any(|wait| *wait != waits[0]),
            "they are not to come back all at once: {waits:?}"
        );
        let status = scene.server.wait_exit().await;
        assert!(status.success(), "{status}");
        assert!(scene.server.log().contains("\"stopped\""));
    }
}

#[tokio::test]
async fn a_silent_upstream_does_not_keep_it_from_stopping() {
    let npm = registry().await;
    let _gate = npm.hold("*");
    let configured = |npm: &NpmServer| {
        configuration(npm, &["left-pad"]).replace("timeout_ms = 400", "timeout_ms = 60000")
    };
    let mut scene = Scene::over(Engine::Sqlite, npm, &configured, |builder| builder).await;
    scene.npm.wait_for_requests("/left-pad", 1).await;
    let began = Instant::now();
    let status = scene.server.stop().await;
    assert!(status.success(), "{status}: {}", scene.server.log());
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "it waits for no upstream"
    );
}

/// What a shell counts an interrupted program as.
const EXIT_SECOND_SIGNAL: i32 = 130;

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut scene = NoRegistry::start(Engine::Sqlite).await;
    let url = scene.server.http_url();
    let address = url.trim_start_matches("http://");
    let mut half = TcpStream::connect(address).await.expect("it listens");
    // Half a request is waited for until the grace period is over.
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n");
    half.write_all(request.as_bytes()).await.expect("it reads");
    scene.server.signal(Signal::SIGTERM);
    eventually("the server to stop", async || {
        scene.server.log().contains("shutting down").then_some(())
    })
    .await;
    scene.server.signal(Signal::SIGTERM);
    let began = Instant::now();
    let status = scene.server.wait_exit().await;
    assert_eq!(status.code(), Some(EXIT_SECOND_SIGNAL), "{status}");
    assert!(began.elapsed() < Duration::from_secs(5));
}
