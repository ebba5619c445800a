//! What the database does with bare fenced commits, without an engine and without a network between.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use steadfast_store::floor::Floor;

use crate::{error::Error, statistics::Latencies};

/// Callers that commit one step each.
const CALLERS: i64 = 50;
/// Steps in one commit of the other floor.
const SHARED: i64 = 50;
/// As long as the machine of a saga of ten steps.
const MACHINE_BYTES: usize = 400;

/// The floors of one engine.
#[derive(Debug)]
pub(super) struct Floors {
    floor: Floor,
}

// === impl Floors ===

impl Floors {
    pub(super) async fn open(
        url: &str,
        data_dir: &Path,
        max_connections: u32,
    ) -> Result<Self, Error> {
        let floor = Floor::open(&steadfast_store::Options {
            url: url.to_owned(),
            data_dir: data_dir.to_owned(),
            max_connections,
            ..steadfast_store::Options::default()
        })
        .await?;
        floor.create().await?;
        floor.begin_sagas(CALLERS.max(SHARED)).await?;
        Ok(Self { floor })
    }

    /// How long so many fenced commits take one after the other, in milliseconds: the median commit, so many times.
    pub(super) async fn one_by_one_ms(
        &self,
        commits: usize,
        window: Duration,
    ) -> Result<f64, Error> {
        let machine = "x".repeat(MACHINE_BYTES);
        let (began, mut latencies) = (Instant::now(), Vec::new());
        while began.elapsed() < window {
            let started = Instant::now();
            self.floor.step_alone(&machine).await?;
            latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        let median_us = Latencies::of(latencies).percentile(50.0);
        Ok(median_us * commits as f64 / 1e3)
    }

    /// Steps per second if each of 50 callers commits one at a time.
    pub(super) async fn commit_per_step(&self, window: Duration) -> Result<f64, Error> {
        let machine = "x".repeat(MACHINE_BYTES);
        let (began, steps) = (Instant::now(), AtomicU64::new(0));
        let callers = (1..=CALLERS).map(|id| {
            let (machine, steps) = (&machine, &steps);
            async move {
                while began.elapsed() < window {
                    self.floor.step_sagas(&[id], machine).await?;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Error>(())
            }
        });
        try_join_all(callers).await?;
        Ok(steps.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
    }

    /// Steps per second if fifty share each commit.
    pub(super) async fn commit_per_fifty(&self, window: Duration) -> Result<f64, Error> {
        let machine = "x".repeat(MACHINE_BYTES);
        let ids: Vec<i64> = (1..=SHARED).collect();
        let (began, mut steps) = (Instant::now(), 0.0);
        while began.elapsed() < window {
            self.floor.step_sagas(&ids, &machine).await?;
            steps += SHARED as f64;
        }
        Ok(steps / began.elapsed().as_secs_f64())
    }
}
