//! What other clients of PostgreSQL do to a log: hold an old snapshot, or stop in the middle of a write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::{PsqlSession, TestDatabase};
use tokio::{task::JoinHandle, time::sleep};

/// The idle timeout that the pool sets by default, in milliseconds.
pub(crate) const IDLE_TIMEOUT_MS: u64 = 2_000;

/// A writer that stops in the middle, again and again.
#[derive(Debug)]
pub(crate) struct PausedWriter {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Paused>,
}

/// How its transactions ended.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    pub(crate) ended_by_database: usize,
    pub(crate) committed: Vec<String>,
}

/// Takes a snapshot and keeps it, as a backup does.
pub(crate) async fn hold_snapshot(session: &mut PsqlSession) {
    session
        .run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM change_log;")
        .await
        .expect("a snapshot can be taken");
}

/// Appends a change in a transaction that stays open, as a replica that is paused in the middle of a write. The log lock is
/// held from here on.
pub(crate) async fn append_and_pause(session: &mut PsqlSession, key: &str) {
    let statements = format!(
        "SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}; BEGIN; SELECT log_append('[{{\"ord\": 0, \"mark\": \
         {}, \"write_id\": \"{key}\", \"origin\": \"\", \"changes\": \"[{{\\\"t\\\":\\\"app/a\\\",\\\"k\\\":\\\"{key}\\\",\
         \\\"o\\\":\\\"u\\\"}}]\"}}]'::json);",
        rand::random::<i64>()
    );
    session
        .run(&statements)
        .await
        .expect("the log can be appended to");
}

// === impl PausedWriter ===

impl PausedWriter {
    pub(crate) fn start(database: &Arc<TestDatabase>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let random = StdRng::seed_from_u64(seed.wrapping_add(5_000));
        let task = tokio::spawn(pause_again(Arc::clone(database), random, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Lets it finish.
    pub(crate) async fn stop(self) -> Paused {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the paused writer does not panic")
    }
}

async fn pause_again(
    database: Arc<TestDatabase>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
) -> Paused {
    let mut paused = Paused::default();
    for round in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sleep(Duration::from_millis(random.random_range(100..900))).await;
        let mut session = database.session().await;
        let key = format!("paused-{round}");
        append_and_pause(&mut session, &key).await;
        if round % 2 == 0 {
            // Until the database ends the transaction: its revision must be given to somebody else.
            sleep(Duration::from_millis(IDLE_TIMEOUT_MS + 300)).await;
            session
                .run("COMMIT;")
                .await
                .expect_err("ended by the database");
            paused.ended_by_database += 1;
        } else {
            // Committed late and announced to nobody: found by polling at the latest.
            sleep(Duration::from_millis(random.random_range(0..600))).await;
            session.run("COMMIT;").await.expect("commits");
            paused.committed.push(format!("app/a:{key}"));
        }
    }
    paused
}
