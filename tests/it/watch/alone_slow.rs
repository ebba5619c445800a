//! Subscribers that stop reading cost nobody else anything, and the server no memory to speak of.

use std::{fs, time::Duration};

use futures::future::join_all;
use steadfast_client::api::watch::v1::{
    Start, WatchRequest, WatchResponse, start::Position, watch_response::Event,
};
use steadfast_testkit::Server;
use tokio::time::Instant;
use tonic::Streaming;

use super::{change, next, open, publish};
use crate::scene::connection;

/// Published while nobody is slow, to compare with.
const CHANGES_ALONE: usize = 4_000;
const CHANGES: usize = 20_000;
const CHANGES_PER_CALL: usize = 200;
const PAYLOAD_BYTES: usize = 1_024;
/// Twenty of them, were they given a buffer, would need 400 MiB.
const SLOW: usize = 20;
const GROWTH_KIB: u64 = 48 * 1_024;

fn resident_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the server runs, on Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse().ok())
        .expect("a number of kB")
}

/// Reads until so many changes have come, each once and in order.
async fn read(stream: &mut Streaming<WatchResponse>, from: usize, count: usize) {
    let mut expected = from;
    while expected < from + count {
        if let Event::Batch(batch) = next(stream).await.expect("an event") {
            for change in batch.changes {
                assert_eq!(change.key, expected.to_string());
                expected += 1;
            }
        }
    }
}

/// Publishes while somebody reads, and says how long each change took until all were read.
async fn round(
    server: &Server,
    fast: &mut Streaming<WatchResponse>,
    from: usize,
    count: usize,
) -> Duration {
    let connection = connection(server).await;
    let began = Instant::now();
    let publishing = async {
        for first in (from..from + count).step_by(CHANGES_PER_CALL) {
            let changes = (first..first + CHANGES_PER_CALL).map(|number| {
                let mut change = change("app/bulk", &number.to_string());
                change.payload = vec![b'x'; PAYLOAD_BYTES].into();
                change
            });
            publish(&connection, changes.collect()).await;
        }
    };
    tokio::join!(publishing, read(fast, from, count));
    began.elapsed() / u32::try_from(count).expect("a small number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_slows_nobody_and_takes_no_memory() {
    let server = Server::builder()
        .variable("STEADFAST_WATCH__RING_BYTES", "2097152")
        .start()
        .await;
    let fast_connection = connection(&server).await;
    let mut fast = open(&fast_connection, WatchRequest::default()).await;
    let alone = round(&server, &mut fast, 0, CHANGES_ALONE).await;
    let before = resident_kib(&server);

    // Each has a connection of its own, opens its stream, and reads nothing of it.
    let mut slow = join_all((0..SLOW).map(|_| async {
        let connection = connection(&server).await;
        let request = WatchRequest {
            start: Some(Start {
                position: Some(Position::Now(())),
            }),
            ..WatchRequest::default()
        };
        let stream = open(&connection, request).await;
        (connection, stream)
    }))
    .await;
    let together = round(&server, &mut fast, CHANGES_ALONE, CHANGES).await;
    let after = resident_kib(&server);
    println!("each {alone:?}, then {together:?}; {before} KiB, then {after} KiB");
    assert!(
        together < alone * 3,
        "{alone:?} for each alone, {together:?} beside {SLOW} that do not read"
    );
    assert!(
        after < before + GROWTH_KIB,
        "the server grew from {before} to {after} KiB"
    );

    // One that reads at last has missed nothing, though the ring has long moved on.
    let (_connection, stream) = &mut slow[0];
    read(stream, CHANGES_ALONE, CHANGES).await;
}
