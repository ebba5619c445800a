//! How many sagas stand where, as a metric.
//!
//! A saga that needs a person has to show within a second, whichever replica it became stuck on and whatever else is going on. So
//! the stuck ones are counted at a pace of their own, well below a second, apart from all other work; they are few, and an index
//! leads to them. The others may be very many, and are counted as seldom as everything else that nothing announces.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Engine;
use crate::metric;

/// How often stuck sagas are counted.
const STUCK_INTERVAL: Duration = Duration::from_millis(400);
/// The states that are not an end, but for the one that is counted apart.
const STATES: [&str; 4] = ["pending", "running", "paused", "compensating"];
const STUCK: &str = "stuck";

/// Runs for ever; the caller drops it.
pub(super) async fn run(engine: Engine) {
    tokio::join!(stuck(&engine), others(&engine));
}

async fn stuck(engine: &Engine) {
    let mut ticks = interval(STUCK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        count(engine, &[STUCK]).await;
    }
}

async fn others(engine: &Engine) {
    loop {
        let began = Instant::now();
        count(engine, &STATES).await;
        // Counting very many never takes more than a tenth of the time.
        let pause = engine.inner.options.poll_interval.max(began.elapsed() * 9);
        tokio::time::sleep(pause).await;
    }
}

async fn count(engine: &Engine, states: &[&'static str]) {
    match engine.inner.store.saga_counts(states).await {
        Ok(counts) => {
            for (state, count) in states.iter().zip(counts) {
                metrics::gauge!(metric::SAGAS, "state" => *state).set(count as f64);
            }
        }
        // The metric stays as it was: `/readyz` tells that the database is away.
        Err(error) => tracing::debug!(
            error = &error as &dyn std::error::Error,
            "sagas were not counted"
        ),
    }
}
