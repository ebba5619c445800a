//! The one process on SQLite is killed while sagas are under way, and starts again.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::{EffectServer, long_runs};
use tokio::time::sleep;

use super::{
    judge::judge,
    load::{
        RUNNING, Replicas, define, definition, fate, server, settled, start_all, tell, troubled,
    },
};
use crate::history::seed;

/// What the killed process had in hand is taken up after this long.
const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn effects_are_exact_however_often_it_is_killed() {
    let seed = seed();
    let (sagas, crashes) = if long_runs() { (400, 30) } else { (50, 5) };
    let directory = tempfile::tempdir().expect("a directory can be made");
    let effects = EffectServer::blocking_late(troubled(seed)).await;
    let builder = server(LEASE).directory(directory.path());
    let mut replicas = Replicas::start(builder, 1).await;
    define(
        &replicas.connect(0).await,
        &definition(&effects, RUNNING, true),
    )
    .await;
    let endpoints = replicas.endpoints.clone();
    let starting =
        tokio::spawn(async move { start_all(&endpoints, seed, 0..sagas, 5, 0..1_500).await });
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..crashes {
        sleep(Duration::from_millis(random.random_range(500..2_500))).await;
        replicas.kill(0..1).await;
    }
    let ids = starting.await.expect("starting goes on to the end");
    settled(&replicas.endpoints, Duration::from_secs(40)).await;
    let told = tell(&replicas.connect(0).await, &ids).await;
    let summary = judge(&told, &effects.quiet_ledger().await, true, |number| {
        fate(seed, number)
    });
    println!("{crashes} crashes, {summary:?}");
    assert_eq!(
        (summary.stuck, summary.completed + summary.compensated),
        (0, ids.len())
    );
    assert!(summary.lost > 0 && summary.completed > 0 && summary.compensated > 0);
}
