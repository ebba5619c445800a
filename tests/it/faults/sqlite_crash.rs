//! A server on SQLite that is killed while it is written to.

use steadfast_testkit::{
    Server,
    history::{StartAt, check},
};

use crate::history::{
    publishing::{Writers, publish_stubbornly},
    recording::Recorder,
    truth,
    watching::Endpoints,
};

const CRASHES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_publishes_survive_exactly_once() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let builder = Server::builder().directory(directory.path());
    let mut server = builder.start().await;
    let store_id = server.store_id().to_owned();
    let endpoints = Endpoints::new([server.grpc_endpoint()]);
    let mut watcher = Recorder::new("watcher", StartAt::Earliest);
    let mut calls = Vec::new();
    for crash in 0..CRASHES {
        let writers = Writers::start(6, crash as u64 * 100, &endpoints);
        let stubborn: Vec<_> = (0..20)
            .map(|number| {
                let endpoints = endpoints.clone();
                let key = format!("stubborn-{crash}-{number}");
                tokio::spawn(async move { publish_stubbornly(&endpoints, key).await })
            })
            .collect();
        let mut stream = watcher.open(&server.grpc_endpoint()).await.expect("opens");
        while writers.count() < 100 {
            stream.next().await.expect("the server lives");
        }
        server.kill().await;
        while stream.next().await.is_ok() {}
        drop(stream);
        let written = writers.stop();
        server = builder.start().await;
        assert_eq!(server.store_id(), store_id, "a crash is no other history");
        endpoints.set([server.grpc_endpoint()]);
        calls.extend(written.await.calls);
        for stubborn in stubborn {
            calls.push(stubborn.await.expect("does not panic").call());
        }
    }
    let committed = truth::of_sqlite(directory.path()).await;
    let answers = truth::check_answers(&committed, &calls);
    println!("{} committed, {answers}", committed.len());
    let last = committed.last().expect("some").revision;
    watcher
        .catch_up(&server.grpc_endpoint(), last)
        .await
        .expect("catches up");
    let judged = check(
        store_id.parse().expect("a UUID"),
        &committed,
        &[watcher.into_log(true)],
    );
    judged.expect("a watcher across all crashes missed nothing");
}
