//! PostgreSQL crashes and comes back while sagas are under way.

use std::time::Duration;

use rand::Rng;
use steadfast_testkit::{ClusterOptions, PrivateCluster, Proxy, StopMode, TestDatabase, long_runs};
use tokio::time::sleep;

use super::{
    drama::{Drama, Size},
    load::server,
};

/// How long the last ones may take once the database is there to stay.
const PATIENCE: Duration = Duration::from_secs(60);

fn size() -> Size {
    Size {
        sagas: if long_runs() { 400 } else { 60 },
        tasks: 6,
        pause_ms: 900,
    }
}

/// `away_ms`: how long the database is away each time.
async fn comes_back(lease: Duration, away_ms: std::ops::Range<u64>) {
    let crashes = if long_runs() { 20 } else { 3 };
    // What was committed must be there afterwards.
    let durable = ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    };
    let cluster = PrivateCluster::start(durable).await;
    let url = cluster.create_database("sagas").await;
    let mut drama = Drama::begin(server(lease).database_url(url), 2, size(), true).await;
    for _ in 0..crashes {
        sleep(Duration::from_millis(drama.random.random_range(500..1_500))).await;
        cluster.stop(StopMode::Immediate).await;
        let away = drama.random.random_range(away_ms.clone());
        sleep(Duration::from_millis(away)).await;
        cluster.resume().await;
    }
    let happened = format!("{crashes} crashes of the database");
    let summary = drama.end(&happened, PATIENCE).await;
    assert_eq!(summary.stuck, 0, "every undo can be proven");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_back_before_any_lease_ends() {
    comes_back(Duration::from_secs(6), 50..600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_longer_than_leases_last() {
    comes_back(Duration::from_secs(2), 2_500..3_500).await;
}

/// The commit of a start, a claim or a transition may have happened, and nobody says so.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_database_that_are_lost_at_any_moment() {
    let cuts = if long_runs() { 600 } else { 100 };
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.target()).await;
    // No replica is lost: whatever goes missing, its owner has to notice.
    let lease = Duration::from_secs(6);
    let builder = server(lease).database_url(database.url_through(&proxy));
    let mut drama = Drama::begin(builder, 2, size(), true).await;
    for _ in 0..cuts {
        sleep(Duration::from_millis(drama.random.random_range(20..120))).await;
        proxy.cut();
    }
    let summary = drama.end(&format!("{cuts} cuts"), PATIENCE).await;
    assert_eq!(summary.stuck, 0, "every undo can be proven");
}
