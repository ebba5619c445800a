//! Eight writers, twenty watchers, and everything that may come between them.

use std::{sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::{
    Server, TestDatabase,
    history::{Committed, WatcherLog, check},
    process::ServerBuilder,
};
use tokio::time::{Instant, sleep};

use super::{
    disturbance::{PausedWriter, hold_snapshot},
    duration,
    publishing::{Writers, Written},
    seed, truth,
    watching::{Endpoints, Watchers},
};

const WRITERS: usize = 8;
const WATCHERS: usize = 20;

/// A small ring and small pages, so that slow watchers fall off it and are replayed from the log.
const CONFIGURATION: &str = "[watch]\nring_revisions = 256\npage_revisions = 64\n";

fn run_time() -> Duration {
    duration(Duration::from_secs(8), Duration::from_secs(60))
}

fn server() -> ServerBuilder {
    Server::builder().configuration(CONFIGURATION)
}

fn judge(server: &Server, committed: &[Committed], written: &Written, logs: &[WatcherLog]) {
    let answers = truth::check_answers(committed, &written.calls);
    let store_id = server
        .store_id()
        .parse()
        .expect("a store's identity is a UUID");
    let summary = check(store_id, committed, logs).unwrap_or_else(|findings| {
        let shown: Vec<_> = findings.iter().take(20).map(ToString::to_string).collect();
        panic!("{} findings:\n{}", findings.len(), shown.join("\n"));
    });
    println!("{summary:?}, {answers}");
    assert_eq!(summary.resets, 0, "nothing was compacted or restored");
    assert!(
        summary.resumptions >= WATCHERS && summary.revisions >= WRITERS,
        "{summary:?}"
    );
}

fn last(committed: &[Committed]) -> steadfast_types::Revision {
    committed.last().expect("something was published").revision
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let seed = seed();
    let server = server().start().await;
    let endpoints = Endpoints::new([server.grpc_endpoint()]);
    let watchers = Watchers::start(WATCHERS, seed, &endpoints);
    let writers = Writers::start(WRITERS, seed, &endpoints);
    sleep(run_time()).await;
    let written = writers.stop().await;
    let (acknowledged, failed) = written.counts();
    assert_eq!(failed, 0, "nothing went wrong");
    let committed = truth::of_sqlite(server.directory()).await;
    assert_eq!(committed.len(), acknowledged, "one revision per call");
    let logs = watchers.finish(&endpoints, last(&committed)).await;
    judge(&server, &committed, &written, &logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_an_old_snapshot_and_a_paused_writer() {
    let seed = seed();
    let database = Arc::new(TestDatabase::create().await);
    let server = server().database_url(database.url()).start().await;
    let endpoints = Endpoints::new([server.grpc_endpoint()]);
    let mut backup = database.session().await;
    hold_snapshot(&mut backup).await;
    let watchers = Watchers::start(WATCHERS, seed, &endpoints);
    let writers = Writers::start(WRITERS, seed, &endpoints);
    let paused = PausedWriter::start(&database, seed);
    sleep(run_time()).await;
    let paused = paused.stop().await;
    let written = writers.stop().await;
    let (acknowledged, failed) = written.counts();
    assert_eq!(failed, 0, "a pause is waited for");
    let committed = truth::parse(&database.psql(truth::POSTGRES).await);
    assert_eq!(
        committed.len(),
        acknowledged + paused.committed.len(),
        "one revision per call"
    );
    assert!(paused.ended_by_database > 0 && !paused.committed.is_empty());
    let logs = watchers.finish(&endpoints, last(&committed)).await;
    judge(&server, &committed, &written, &logs);
    backup.run("COMMIT;").await.expect("the snapshot held");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_one_of_which_is_killed_again_and_again() {
    let seed = seed();
    let database = Arc::new(TestDatabase::create().await);
    let start = || server().database_url(database.url());
    let steady = start().start().await;
    let mut doomed = start().start().await;
    let endpoints = Endpoints::new([steady.grpc_endpoint(), doomed.grpc_endpoint()]);
    let mut backup = database.session().await;
    hold_snapshot(&mut backup).await;
    let watchers = Watchers::start(WATCHERS, seed, &endpoints);
    let writers = Writers::start(WRITERS, seed, &endpoints);
    let paused = PausedWriter::start(&database, seed);
    let mut random = StdRng::seed_from_u64(seed);
    let end = Instant::now() + run_time();
    let mut kills = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(500..2_500))).await;
        doomed.kill().await;
        kills += 1;
        endpoints.set([steady.grpc_endpoint()]);
        doomed = start().start().await;
        endpoints.set([steady.grpc_endpoint(), doomed.grpc_endpoint()]);
    }
    paused.stop().await;
    let written = writers.stop().await;
    println!("{kills} kills");
    let committed = truth::parse(&database.psql(truth::POSTGRES).await);
    let logs = watchers.finish(&endpoints, last(&committed)).await;
    judge(&steady, &committed, &written, &logs);
}
