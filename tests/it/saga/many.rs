//! Many sagas over two replicas, which are killed, or fall asleep, again and again.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::{EffectServer, Signal, TestDatabase, long_runs};
use tokio::time::{Instant, sleep};

use super::{
    judge::{Summary, judge},
    load::{
        RUNNING, Replicas, define, definition, fate, server, settled, start_all, tell, troubled,
    },
};
use crate::history::seed;

/// Short, so that much is taken over within the time of a test.
const LEASE: Duration = Duration::from_secs(2);

/// How long the last ones may take once nobody disturbs them any more.
const PATIENCE: Duration = Duration::from_secs(40);

/// How often they are disturbed at least.
const DISTURBED: usize = 3;

/// What happens to the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    /// One is killed; now and then both are.
    Kills,
    /// One is stopped for longer than its lease, and wakes up.
    Sleeps,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    sagas: u64,
    tasks: u64,
    /// The longest pause of a task between two starts.
    pause_ms: u64,
}

/// How many times the replicas were disturbed, and what the sagas came to.
struct Run {
    disturbed: usize,
    summary: Summary,
}

async fn run(size: Size, disturbance: Disturbance, undo_blocks_late: bool) -> Run {
    let seed = seed();
    let began = Instant::now();
    let database = TestDatabase::create().await;
    let effects = if undo_blocks_late {
        EffectServer::blocking_late(troubled(seed)).await
    } else {
        EffectServer::taking_late(troubled(seed)).await
    };
    let builder = server(LEASE).database_url(database.url());
    let mut replicas = Replicas::start(builder, 2).await;
    define(
        &replicas.connect(0).await,
        &definition(&effects, RUNNING, undo_blocks_late),
    )
    .await;
    let endpoints = replicas.endpoints.clone();
    let starting = tokio::spawn(async move {
        let pause_ms = 0..size.pause_ms;
        start_all(&endpoints, seed, 0..size.sagas, size.tasks, pause_ms).await
    });
    let mut random = StdRng::seed_from_u64(seed);
    let mut disturbed = 0;
    while !starting.is_finished() || disturbed < DISTURBED {
        sleep(Duration::from_millis(random.random_range(200..1_200))).await;
        let which = random.random_range(0..2);
        match disturbance {
            Disturbance::Kills => {
                let both = random.random_range(0..5) == 0;
                let which = if both { 0..2 } else { which..which + 1 };
                disturbed += which.len();
                replicas.kill(which).await;
            }
            Disturbance::Sleeps => {
                replicas.servers[which].signal(Signal::SIGSTOP);
                sleep(LEASE.mul_f64(random.random_range(1.2..2.2))).await;
                replicas.servers[which].signal(Signal::SIGCONT);
                disturbed += 1;
            }
        }
    }
    let ids = starting.await.expect("starting goes on to the end");
    settled(&replicas.endpoints, PATIENCE).await;
    let ledger = effects.quiet_ledger().await;
    let told = tell(&replicas.connect(0).await, &ids).await;
    let summary = judge(&told, &ledger, undo_blocks_late, |number| {
        fate(seed, number)
    });
    println!(
        "{disturbed} times {disturbance:?}, {size:?}, {summary:?}, {:?}",
        began.elapsed()
    );
    assert_eq!(
        summary.completed + summary.compensated + summary.stuck,
        ids.len()
    );
    assert!(
        summary.lost > 0 && summary.completed > 0 && summary.compensated > 0,
        "{summary:?}"
    );
    assert!(summary.undone_unknown > 0, "{summary:?}");
    Run { disturbed, summary }
}

fn size(short: u64, long: u64) -> Size {
    if long_runs() {
        Size {
            sagas: long,
            tasks: 16,
            pause_ms: 2_000,
        }
    } else {
        Size {
            sagas: short,
            tasks: 8,
            pause_ms: 900,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_completed_or_compensated_whoever_is_killed() {
    let run = run(size(80, 1_000), Disturbance::Kills, true).await;
    assert_eq!(run.summary.stuck, 0, "every undo can be proven");
    assert!(run.disturbed >= DISTURBED);
    let late = (run.summary.blocked > 0, run.summary.late);
    assert_eq!(late, (true, 0), "{:?}", run.summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_promise_about_late_calls_what_is_unknown_is_stuck() {
    let run = run(size(60, 300), Disturbance::Kills, false).await;
    // Which ones, and why, is what the judge says.
    assert!(run.summary.stuck > 0, "{:?}", run.summary);
    assert_eq!(run.summary.stuck, run.summary.undone_unknown);
    // They are right to be: some effects came when their undo was over.
    assert!(run.summary.late > 0, "{:?}", run.summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_completed_or_compensated_whoever_falls_asleep() {
    let run = run(size(40, 300), Disturbance::Sleeps, true).await;
    assert_eq!(run.summary.stuck, 0, "every undo can be proven");
}
