//! Many sagas over two replicas, which are killed, or fall asleep, again and again.

use std::time::Duration;

use rand::Rng;
use steadfast_testkit::{Signal, TestDatabase, long_runs};
use tokio::time::sleep;

use super::{
    drama::{Drama, Size},
    judge::Summary,
    load::server,
};

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

/// How many times the replicas were disturbed, and what the sagas came to.
struct Run {
    disturbed: usize,
    summary: Summary,
}

async fn run(size: Size, disturbance: Disturbance, undo_blocks_late: bool) -> Run {
    let database = TestDatabase::create().await;
    let builder = server(LEASE).database_url(database.url());
    let mut drama = Drama::begin(builder, 2, size, undo_blocks_late).await;
    let mut disturbed = 0;
    while drama.is_starting() || disturbed < DISTURBED {
        let pause = drama.random.random_range(200..1_200);
        sleep(Duration::from_millis(pause)).await;
        let which = drama.random.random_range(0..2);
        match disturbance {
            Disturbance::Kills => {
                let both = drama.random.random_range(0..5) == 0;
                let which = if both { 0..2 } else { which..which + 1 };
                disturbed += which.len();
                drama.replicas.kill(which).await;
            }
            Disturbance::Sleeps => {
                drama.replicas.servers[which].signal(Signal::SIGSTOP);
                sleep(LEASE.mul_f64(drama.random.random_range(1.2..2.2))).await;
                drama.replicas.servers[which].signal(Signal::SIGCONT);
                disturbed += 1;
            }
        }
    }
    let happened = format!("{disturbed} times {disturbance:?}");
    let summary = drama.end(&happened, PATIENCE).await;
    assert!(
        summary.lost > 0 && summary.undone_unknown > 0,
        "{summary:?}"
    );
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
