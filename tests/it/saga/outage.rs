//! PostgreSQL crashes and comes back while sagas are under way.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::{
    ClusterOptions, EffectServer, PrivateCluster, Proxy, StopMode, TestDatabase, long_runs,
};
use tokio::time::sleep;

use super::{
    judge::judge,
    load::{
        RUNNING, Replicas, define, definition, fate, server, settled, start_all, tell, troubled,
    },
};
use crate::history::seed;

/// `away_ms`: how long the database is away each time.
async fn comes_back(lease: Duration, away_ms: std::ops::Range<u64>) {
    let seed = seed();
    let (sagas, crashes) = if long_runs() { (400, 20) } else { (60, 3) };
    // What was committed must be there afterwards.
    let durable = ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    };
    let cluster = PrivateCluster::start(durable).await;
    let url = cluster.create_database("sagas").await;
    let effects = EffectServer::blocking_late(troubled(seed)).await;
    let replicas = Replicas::start(server(lease).database_url(url), 2).await;
    define(
        &replicas.connect(0).await,
        &definition(&effects, RUNNING, true),
    )
    .await;
    let endpoints = replicas.endpoints.clone();
    let starting =
        tokio::spawn(async move { start_all(&endpoints, seed, 0..sagas, 6, 0..900).await });
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..crashes {
        sleep(Duration::from_millis(random.random_range(500..1_500))).await;
        cluster.stop(StopMode::Immediate).await;
        sleep(Duration::from_millis(random.random_range(away_ms.clone()))).await;
        cluster.resume().await;
    }
    let ids = starting.await.expect("starting goes on to the end");
    settled(&replicas.endpoints, Duration::from_secs(60)).await;
    let told = tell(&replicas.connect(0).await, &ids).await;
    let summary = judge(&told, &effects.quiet_ledger().await, true, |number| {
        fate(seed, number)
    });
    println!("{crashes} crashes of the database, {summary:?}");
    assert_eq!(
        (summary.stuck, summary.completed + summary.compensated),
        (0, ids.len())
    );
    assert!(summary.completed > 0 && summary.compensated > 0);
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
    let seed = seed();
    let (sagas, cuts) = if long_runs() { (400, 600) } else { (60, 100) };
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.target()).await;
    let effects = EffectServer::blocking_late(troubled(seed)).await;
    // No replica is lost: whatever goes missing, its owner has to notice.
    let lease = Duration::from_secs(6);
    let builder = server(lease).database_url(database.url_through(&proxy));
    let replicas = Replicas::start(builder, 2).await;
    define(
        &replicas.connect(0).await,
        &definition(&effects, RUNNING, true),
    )
    .await;
    let endpoints = replicas.endpoints.clone();
    let starting =
        tokio::spawn(async move { start_all(&endpoints, seed, 0..sagas, 6, 0..900).await });
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..cuts {
        sleep(Duration::from_millis(random.random_range(20..120))).await;
        proxy.cut();
    }
    let ids = starting.await.expect("starting goes on to the end");
    settled(&replicas.endpoints, Duration::from_secs(60)).await;
    let told = tell(&replicas.connect(0).await, &ids).await;
    let summary = judge(&told, &effects.quiet_ledger().await, true, |number| {
        fate(seed, number)
    });
    println!("{cuts} cuts, {summary:?}");
    assert_eq!(
        (summary.stuck, summary.completed + summary.compensated),
        (0, ids.len())
    );
    assert!(summary.completed > 0 && summary.compensated > 0);
}
