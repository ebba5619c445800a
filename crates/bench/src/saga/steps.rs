//! Sagas of ten steps: one at a time, and many in flight.

use std::time::{Duration, Instant};

use steadfast_api::{
    saga::v1::saga_service_client::SagaServiceClient,
    watch::v1::{GetHeadRequest, watch_service_client::WatchServiceClient},
};
use steadfast_testkit::process::Server;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    Engine,
    starts::{complete, define, steps},
};
use crate::{
    args::Options,
    error::Error,
    load, process,
    statistics::{Latencies, Series},
};

const STEPS: usize = 10;
/// Commits of a saga of so many steps: its start with the first intent, and one for each outcome.
const COMMITS: usize = STEPS + 1;
/// Before a load is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Connections of the callers.
const CONNECTIONS: usize = 8;

/// What was measured, round by round.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) alone_p50_ms: Series,
    pub(super) alone_p99_ms: Series,
    pub(super) rate_50: Series,
    pub(super) rate_500: Series,
    pub(super) p50_ms_50: Series,
    pub(super) p99_ms_50: Series,
    pub(super) commits: Series,
    pub(super) rows: Series,
    pub(super) log_entries: Series,
    pub(super) cpu_us: Series,
    pub(super) machine_us: Series,
    pub(super) floor_alone_ms: Series,
    pub(super) floor_1: Series,
    pub(super) floor_50: Series,
}

/// What callers in flight saw.
#[derive(Debug)]
struct Flight {
    /// Steps per second.
    rate: f64,
    latencies: Latencies,
}

// === impl Steps ===

impl Steps {
    pub(super) async fn measure(engine: &Engine, options: &Options) -> Result<Self, Error> {
        let server = engine.builder.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        define(&channel, "ten", steps(STEPS)).await?;
        let mut measured = Self::default();
        for round in 1..=options.rounds {
            measured.round(engine, &server, options.window()).await?;
            let last = |series: &Series| series.values().last().copied().unwrap_or_default();
            eprintln!(
                "round {round} {}: alone p50 {:.2} ms, p99 {:.2} ms, floor {:.2} ms; 50 in flight {:.0} steps/s, 500 {:.0}; floors {:.0} and {:.0}",
                engine.prefix,
                last(&measured.alone_p50_ms),
                last(&measured.alone_p99_ms),
                last(&measured.floor_alone_ms),
                last(&measured.rate_50),
                last(&measured.rate_500),
                last(&measured.floor_1),
                last(&measured.floor_50),
            );
        }
        Ok(measured)
    }

    async fn round(
        &mut self,
        engine: &Engine,
        server: &Server,
        window: Duration,
    ) -> Result<(), Error> {
        let one_by_one = engine.floors.one_by_one_ms(COMMITS, window).await?;
        self.floor_alone_ms.push(one_by_one);
        self.floor_1
            .push(engine.floors.commit_per_step(window).await?);
        self.floor_50
            .push(engine.floors.commit_per_fifty(window).await?);

        let alone = fly(server, 1, window).await?;
        self.alone_p50_ms
            .push(alone.latencies.percentile(50.0) / 1e3);
        self.alone_p99_ms
            .push(alone.latencies.percentile(99.0) / 1e3);

        let before = Counters::read(server).await?;
        let fifty = fly(server, 50, window).await?;
        let after = Counters::read(server).await?;
        // The counters cover the warm-up too, so that they are set against all steps of their time.
        let all = after.steps - before.steps;
        self.commits.push((after.commits - before.commits) / all);
        self.log_entries.push((after.head - before.head) / all);
        // One updated row of the saga and one new row of its history for each step, and two new rows for each start.
        self.rows
            .push((2.0 * all + 2.0 * (after.starts - before.starts)) / all);
        self.cpu_us
            .push((after.cpu - before.cpu).as_secs_f64() * 1e6 / all);
        self.machine_us
            .push((after.machine - before.machine).as_secs_f64() * 1e6 / all);
        self.rate_50.push(fifty.rate);
        self.p50_ms_50.push(fifty.latencies.percentile(50.0) / 1e3);
        self.p99_ms_50.push(fifty.latencies.percentile(99.0) / 1e3);
        self.rate_500.push(fly(server, 500, window).await?.rate);
        Ok(())
    }
}

/// Keeps so many sagas in flight for the window.
async fn fly(server: &Server, in_flight: usize, window: Duration) -> Result<Flight, Error> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS.min(in_flight) {
        channels.push(load::connect(server.grpc_address()).await?);
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + window;
    let mut callers = JoinSet::new();
    for caller in 0..in_flight {
        let channel = channels[caller % channels.len()].clone();
        callers.spawn(call_until(channel, begin, end));
    }
    let (mut latencies, mut ended) = (Vec::new(), 0);
    while let Some(seen) = callers.join_next().await {
        let seen = seen.map_err(|error| Error::Unexpected(error.to_string()))??;
        ended += seen.len();
        latencies.extend(seen);
    }
    // Those that were under way at the beginning make up for those under way at the end.
    Ok(Flight {
        rate: (ended * STEPS) as f64 / window.as_secs_f64(),
        latencies: Latencies::of(latencies),
    })
}

/// How long each saga took that ended within the window, in microseconds.
async fn call_until(channel: Channel, begin: Instant, end: Instant) -> Result<Vec<u32>, Error> {
    let mut client = SagaServiceClient::new(channel);
    let mut latencies = Vec::new();
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(latencies);
        }
        complete(&mut client, "ten").await?;
        let ended = Instant::now();
        if ended >= begin && ended < end {
            let took = (ended - started).as_micros();
            latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
    }
}

/// What the server counts by itself.
#[derive(Debug)]
struct Counters {
    commits: f64,
    steps: f64,
    starts: f64,
    head: f64,
    cpu: Duration,
    machine: Duration,
}

// === impl Counters ===

impl Counters {
    async fn read(server: &Server) -> Result<Self, Error> {
        let metrics = load::metrics(server).await?;
        let of = |name: &str| metrics.get(name).copied().unwrap_or_default();
        let steps = of("steadfast_saga_attempts_total{outcome=\"done\"}");
        let channel = load::connect(server.grpc_address()).await?;
        let head = WatchServiceClient::new(channel)
            .get_head(GetHeadRequest {})
            .await?
            .into_inner()
            .head
            .map_or(0, |cursor| cursor.revision);
        Ok(Self {
            commits: of("steadfast_write_batch_size_count{kind=\"saga\"}"),
            steps,
            // Whatever is written of a saga is its start, or the end of a step.
            starts: of("steadfast_write_batch_size_sum{kind=\"saga\"}") - steps,
            head: head as f64,
            cpu: process::cpu_time(server.pid())?,
            machine: process::machine_cpu_time()?,
        })
    }
}
