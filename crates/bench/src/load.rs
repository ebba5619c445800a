//! The load generator: a fixed number of callers, each with one call in flight.
//!
//! Callers share connections as a service's callers do. It runs in the bench's own process and does as little as it can: the
//! requests are encoded, the answers are counted and dropped. Any call that fails ends the measurement.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use rand::{SeedableRng as _, rngs::SmallRng};
use steadfast_testkit::{BytesCodec, process::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};

use crate::{error::Error, process, statistics::Latencies};

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) calls_per_connection: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What is loaded.
#[derive(Clone)]
pub(crate) struct Target {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    pub(crate) pid: u32,
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// Makes the next request.
    pub(crate) request: Arc<dyn Fn(&mut SmallRng) -> Bytes + Send + Sync>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Calls per second within the window.
    pub(crate) rate: f64,
    /// Processor time of the server per call, in microseconds.
    pub(crate) cpu_us: f64,
    /// Processor time of the whole machine per call, callers and database included: what bounds the rate.
    pub(crate) machine_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Mean size of an answer.
    pub(crate) answer_bytes: f64,
    /// All calls that succeeded, those of the warm-up included.
    pub(crate) calls: u64,
}

/// What one caller saw.
#[derive(Debug, Default)]
struct Seen {
    latencies: Vec<u32>,
    bytes: u64,
    calls: u64,
}

// === impl Load ===

impl Load {
    /// 8 connections with 8 calls in flight each, after a second to warm up.
    pub(crate) fn standard(window: Duration) -> Self {
        Self {
            connections: 8,
            calls_per_connection: 8,
            warm_up: Duration::from_secs(1),
            window,
        }
    }

    /// Loads the target and measures.
    pub(crate) async fn run(&self, target: &Target) -> Result<Measured, Error> {
        let mut channels = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            channels.push(connect(&target.address).await?);
        }
        let begin = Instant::now() + self.warm_up;
        let end = begin + self.window;
        let mut callers = JoinSet::new();
        for number in 0..self.connections * self.calls_per_connection {
            let channel = channels[number % self.connections].clone();
            let random = SmallRng::seed_from_u64(number as u64);
            callers.spawn(call_until(target.clone(), channel, random, begin, end));
        }
        tokio::time::sleep_until(begin.into()).await;
        let (cpu_before, began) = (process::cpu_time(target.pid)?, Instant::now());
        let machine_before = process::machine_cpu_time()?;
        tokio::time::sleep_until(end.into()).await;
        let (cpu_after, ended) = (process::cpu_time(target.pid)?, Instant::now());
        let machine_after = process::machine_cpu_time()?;

        let mut all = Seen::default();
        while let Some(seen) = callers.join_next().await {
            let seen = seen.map_err(|error| Error::Unexpected(error.to_string()))??;
            all.latencies.extend(seen.latencies);
            all.bytes += seen.bytes;
            all.calls += seen.calls;
        }
        let latencies = Latencies::of(all.latencies);
        let count = latencies.count() as f64;
        if count == 0.0 {
            return Err(Error::Unexpected(
                "no call ended within the window: use more --seconds".to_owned(),
            ));
        }
        Ok(Measured {
            rate: count / (ended - began).as_secs_f64(),
            cpu_us: (cpu_after - cpu_before).as_secs_f64() * 1e6 / count,
            machine_us: (machine_after - machine_before).as_secs_f64() * 1e6 / count,
            p50_us: latencies.percentile(50.0),
            p99_us: latencies.percentile(99.0),
            answer_bytes: all.bytes as f64 / all.calls as f64,
            calls: all.calls,
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} calls/s, p50 {:.0} us, p99 {:.0} us, server {:.1} us/call, machine {:.1} us/call",
            self.rate, self.p50_us, self.p99_us, self.cpu_us, self.machine_us
        )
    }
}

/// Opens a connection.
pub(crate) async fn connect(address: &str) -> Result<Channel, Error> {
    let failed = |source| Error::Connect {
        address: address.to_owned(),
        source,
    };
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(failed)
}

/// Reads a page of the server's HTTP port.
pub(crate) async fn http_get(address: &str, path: &str) -> Result<String, Error> {
    let failed = || Error::io("asking the server over HTTP");
    let mut stream = TcpStream::connect(address).await.map_err(failed())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(failed())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed())?;
    Ok(answer)
}

/// Makes one call.
pub(crate) async fn call(
    grpc: &mut Grpc<Channel>,
    path: &'static str,
    request: Bytes,
) -> Result<Bytes, Error> {
    grpc.ready().await.map_err(Error::Serve)?;
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(request), path, BytesCodec).await?;
    Ok(answer.into_inner())
}

async fn call_until(
    target: Target,
    channel: Channel,
    mut random: SmallRng,
    begin: Instant,
    end: Instant,
) -> Result<Seen, Error> {
    let mut grpc = Grpc::new(channel);
    let mut seen = Seen::default();
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(seen);
        }
        let request = (target.request)(&mut random);
        let answer = call(&mut grpc, target.path, request).await?;
        let ended = Instant::now();
        seen.calls += 1;
        seen.bytes += answer.len() as u64;
        if ended >= begin && ended < end {
            let took = (ended - started).as_micros();
            seen.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
    }
}

/// The server's metrics by name with labels.
pub(crate) async fn metrics(server: &Server) -> Result<BTreeMap<String, f64>, Error> {
    let url = server.http_url();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let text = http_get(address, "/metrics").await?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect())
}
