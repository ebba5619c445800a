//! Many sagas, started while something happens to those who carry them out; at its end each of them is judged.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use steadfast_testkit::{EffectServer, process::ServerBuilder};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    judge::{Summary, judge},
    load::{RUNNING, Replicas, define, definition, fate, settled, start_all, tell, troubled},
};
use crate::history::seed;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sagas: u64,
    /// How many start them.
    pub(crate) tasks: u64,
    /// The longest pause of a task between two starts.
    pub(crate) pause_ms: u64,
}

/// Sagas that are being started.
pub(crate) struct Drama {
    seed: u64,
    size: Size,
    began: Instant,
    undo_blocks_late: bool,
    effects: EffectServer,
    starting: JoinHandle<Vec<String>>,
    pub(crate) replicas: Replicas,
    /// What happens is drawn from here.
    pub(crate) random: StdRng,
}

// === impl Drama ===

impl Drama {
    /// Starts replicas, and then sagas on them, whose fates are drawn.
    pub(crate) async fn begin(
        builder: ServerBuilder,
        replicas: usize,
        size: Size,
        undo_blocks_late: bool,
    ) -> Self {
        let seed = seed();
        let began = Instant::now();
        let effects = if undo_blocks_late {
            EffectServer::blocking_late(troubled(seed)).await
        } else {
            EffectServer::taking_late(troubled(seed)).await
        };
        let replicas = Replicas::start(builder, replicas).await;
        let definition = definition(&effects, RUNNING, undo_blocks_late);
        define(&replicas.connect(0).await, &definition).await;
        let endpoints = replicas.endpoints.clone();
        let starting = tokio::spawn(async move {
            let pause_ms = 0..size.pause_ms;
            start_all(&endpoints, seed, 0..size.sagas, size.tasks, pause_ms).await
        });
        Self {
            seed,
            size,
            began,
            undo_blocks_late,
            effects,
            starting,
            replicas,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Whether some are still to be started.
    pub(crate) fn is_starting(&self) -> bool {
        !self.starting.is_finished()
    }

    /// Waits until all have been started and nothing goes on by itself any more, and judges them. Some were completed and some
    /// rolled back; all others are stuck.
    pub(crate) async fn end(self, happened: &str, patience: Duration) -> Summary {
        let ids = self.starting.await.expect("starting goes on to the end");
        settled(&self.replicas.endpoints, patience).await;
        let told = tell(&self.replicas.connect(0).await, &ids).await;
        let ledger = self.effects.quiet_ledger().await;
        let summary = judge(&told, &ledger, self.undo_blocks_late, |number| {
            fate(self.seed, number)
        });
        println!(
            "{happened}, {:?}, {summary:?}, {:?}",
            self.size,
            self.began.elapsed()
        );
        assert_eq!(
            summary.completed + summary.compensated + summary.stuck,
            ids.len()
        );
        assert!(
            summary.completed > 0 && summary.compensated > 0,
            "{summary:?}"
        );
        summary
    }
}
