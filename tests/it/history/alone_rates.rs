//! How much publishing suffers from what other clients of PostgreSQL do. Figures are printed, not asserted: they depend on the
//! machine. Two databases of one cluster are loaded at the same time and disturbed in turn, so that whatever else the machine
//! does slows both.

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

/// Callers of each server, each with one call under way.
const CALLERS: usize = 8;

/// The two databases.
const DATABASES: [&str; 2] = ["one", "other"];

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

/// Answers per second of both over a window that begins now.
async fn rates(loads: &[Load], window: Duration) -> [f64; 2] {
    let (one, other) = tokio::join!(loads[0].rate(window), loads[1].rate(window));
    [one, other]
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
    let window = duration(Duration::from_millis(1_200), Duration::from_secs(20));
    let rounds = if steadfast_testkit::long_runs() { 4 } else { 1 };
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let (mut servers, mut loads) = (Vec::new(), Vec::new());
    for database in DATABASES {
        let url = cluster.create_database(database).await;
        let server = Server::builder().database_url(url).start().await;
        loads.push(Load::start(&server.grpc_endpoint()).await);
        servers.push(server);
    }
    rates(&loads, window).await;

    // Each round disturbs the one and then the other: what makes them differ besides cancels out of the geometric mean.
    let (mut ratios, mut windows) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut product = 1.0;
        for (held, database) in DATABASES.iter().enumerate() {
            let mut backup = cluster.session(database).await;
            hold_snapshot(&mut backup).await;
            let measured = rates(&loads, window).await;
            backup.run("COMMIT;").await.expect("the snapshot held");
            product *= measured[held] / measured[1 - held];
            windows.push((measured[held].round(), measured[1 - held].round()));
        }
        ratios.push(product.sqrt());
    }
    println!("publishes/s with a snapshot held and at the same time without: {windows:?}");
    println!(
        "history.snapshot_rate_ratio {:.3} of {ratios:.3?}",
        median(ratios.clone())
    );

    let (mut stalls, mut regained) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut writer = cluster.session(DATABASES[0]).await;
        let began = Instant::now();
        append_and_pause(&mut writer, &format!("paused-{round}")).await;
        sleep(Duration::from_millis(IDLE_TIMEOUT_MS) + Duration::from_secs(1)).await;
        let stall = longest_gap(began, &loads[0].since(began));
        let [after, undisturbed] = rates(&loads, window / 4).await;
        regained.push(after / undisturbed);
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
    println!(
        "history.paused_stall_ms {:.0} of {stalls:.0?}",
        median(stalls.clone())
    );
    println!(
        "history.paused_rate_after_ratio {:.3} of {regained:.3?}",
        median(regained.clone())
    );
    for load in loads {
        load.stop().await;
    }
}
