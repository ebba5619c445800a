//! Faults at random, one upon another, for ten minutes or a short while: afterwards every answer was true and no stream lost,
//! doubled or swapped anything.

mod stage;

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use steadfast_testkit::{history::check_histories, long_runs};
use tokio::time::{Instant, sleep};

use self::stage::{DATABASE_FAULTS, REPLICA_FAULTS, Stage};
use super::fleet::eventually;
use crate::history::{
    duration,
    publishing::{Manners, Writers},
    seed, truth,
    watching::{Lives, Watchers},
};

const WRITERS: usize = 32;
const WATCHERS: usize = 14;

/// Revisions that a run has at least; a slow machine takes longer.
fn revisions() -> u64 {
    if long_runs() { 200_000 } else { 2_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_streams_are_whole() {
    let seed = seed();
    let stage = Arc::new(Stage::set().await);
    let store_id = stage.store_id();
    let lives = Lives {
        life_ms: 50..duration(Duration::from_secs(6), Duration::from_secs(40)).as_millis() as u64,
        silence: Duration::from_secs(5),
    };
    let watchers = Watchers::start_with(WATCHERS, seed, &stage.endpoints, &lives);
    let manners = Manners {
        deadline: Duration::from_secs(4),
        // What comes is kept for the judge.
        pause: Duration::from_millis(if long_runs() { 30 } else { 40 }),
        insists: true,
    };
    let writers = Writers::start_with(WRITERS, seed, &stage.endpoints, manners);

    let began = Instant::now();
    let until = began + duration(Duration::from_secs(10), Duration::from_secs(600));
    let disturb = |kinds, salt| {
        let random = StdRng::seed_from_u64(seed.wrapping_add(salt));
        tokio::spawn(Arc::clone(&stage).disturb(kinds, random, until))
    };
    let disturbing = [
        disturb(REPLICA_FAULTS, 10_000),
        disturb(DATABASE_FAULTS, 20_000),
    ];
    for disturbing in disturbing {
        disturbing.await.expect("a fault does what it should");
    }
    stage.calm();
    while writers.count() < revisions() {
        sleep(Duration::from_millis(100)).await;
    }
    eventually("both replicas hear each other again", async || {
        stage.both_listen().await.then_some(())
    })
    .await;
    let written = writers.stop().await;
    let took = began.elapsed();

    let committed = truth::parse(&stage.psql(truth::POSTGRES).await);
    println!("{} faults:\n{}", stage.count(), stage.counts());
    let last = committed.last().expect("some").revision;
    let logs = watchers.finish(&stage.endpoints, last).await;
    let answers = truth::check_answers(&committed, &written.calls);
    let history = steadfast_testkit::history::History {
        store_id,
        committed,
    };
    let summary = check_histories(&[history], &logs).unwrap_or_else(|findings| {
        let shown: Vec<_> = findings.iter().take(20).map(ToString::to_string).collect();
        panic!("{} findings:\n{}", findings.len(), shown.join("\n"));
    });
    println!("{summary:?}\n{answers}\nin {} s", took.as_secs());
    // No commit was lost either, so nothing was another history.
    assert_eq!(summary.resets, 0, "nothing was compacted or restored");
    assert!(summary.revisions as u64 >= revisions());
    assert!(summary.resumptions >= WATCHERS && answers.unknown > 0);
}
