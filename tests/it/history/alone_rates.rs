//! How much publishing suffers from what other clients of PostgreSQL do. Figures are printed, not asserted: they depend on the
//! machine.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_client::connect;
use steadfast_testkit::{ClusterOptions, PrivateCluster, Server};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    disturbance::{IDLE_TIMEOUT_MS, append_and_pause, hold_snapshot},
    duration,
    publishing::{DEADLINE, change, publish},
};

/// Callers, each with one call under way.
const CALLERS: usize = 16;

/// Calls without a pause between them, and when each was answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Instant>>>,
    callers: Vec<JoinHandle<()>>,
}

// === impl Load ===

impl Load {
    async fn start(endpoint: &str) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            callers: Vec::new(),
        };
        for caller in 0..CALLERS {
            let connection = connect(endpoint, DEADLINE).await.expect("connects");
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.callers.push(tokio::spawn(async move {
                for call in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let changes = vec![change("app/rate", format!("{caller}-{call}"))];
                    publish(&connection, changes, "")
                        .await
                        .expect("a stall is waited for");
                    let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                    answered.push(Instant::now());
                }
            }));
        }
        load
    }

    /// Answers per second over a window that begins now.
    async fn rate(&self, window: Duration) -> f64 {
        let began = Instant::now();
        let before = self.since(began).len();
        sleep(window).await;
        let count = self.since(began).len() - before;
        count as f64 / began.elapsed().as_secs_f64()
    }

    /// The answers since a moment, in order.
    fn since(&self, moment: Instant) -> Vec<Instant> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let first = answered.partition_point(|at| *at < moment);
        answered[first..].to_vec()
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("every call was answered");
        }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) {
        f64::midpoint(figures[middle - 1], figures[middle])
    } else {
        figures[middle]
    }
}

/// The longest time without an answer from `began` on.
fn longest_gap(began: Instant, answers: &[Instant]) -> Duration {
    let mut longest = Duration::ZERO;
    let mut before = began;
    for answer in answers {
        longest = longest.max(*answer - before);
        before = *answer;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_and_a_paused_writer() {
    let window = duration(Duration::from_millis(700), Duration::from_secs(12));
    let rounds = if steadfast_testkit::long_runs() { 5 } else { 2 };
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let url = cluster.create_database("rates").await;
    let server = Server::builder().database_url(url).start().await;
    let load = Load::start(&server.grpc_endpoint()).await;
    load.rate(window).await;

    let (mut free, mut held) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        free.push(load.rate(window).await);
        let mut backup = cluster.session("rates").await;
        hold_snapshot(&mut backup).await;
        held.push(load.rate(window).await);
        backup.run("COMMIT;").await.expect("the snapshot held");
    }
    println!("publishes/s without a snapshot {free:.0?}, with one held {held:.0?}");
    let (free, held) = (median(free), median(held));
    println!("history.snapshot_rate_ratio {:.3}", held / free);

    let (mut stalls, mut after) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut writer = cluster.session("rates").await;
        let began = Instant::now();
        append_and_pause(&mut writer, &format!("paused-{round}")).await;
        sleep(Duration::from_millis(IDLE_TIMEOUT_MS) + Duration::from_secs(1)).await;
        let stall = longest_gap(began, &load.since(began));
        after.push(load.rate(window).await);
        stalls.push(stall.as_secs_f64() * 1_000.0);
        let limit = Duration::from_millis(IDLE_TIMEOUT_MS) + Duration::from_secs(3);
        assert!(
            stall < limit,
            "a paused writer stalled the others for {stall:?}"
        );
        writer
            .run("COMMIT;")
            .await
            .expect_err("ended by the database");
    }
    println!("stalls in ms {stalls:.0?}, publishes/s after each {after:.0?}");
    println!("history.paused_stall_ms {:.0}", median(stalls));
    println!(
        "history.paused_rate_after_ratio {:.3}",
        median(after) / free
    );
    load.stop().await;
}
