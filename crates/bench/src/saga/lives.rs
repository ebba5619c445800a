//! What becomes of many sagas: burned down, parked, and taken up again after the server was killed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use steadfast_store::floor::Floor;
use steadfast_testkit::process::Server;
use tempfile::TempDir;

use super::{
    Engine,
    follower::Follower,
    starts::{define, start_many, steps},
};
use crate::{args::SagaPart, error::Error, load, process};

const BURNED: usize = 100_000;
const PARKED: usize = 20_000;
const LOST: usize = 10_000;
/// Steps of those that are in flight when the server is killed: so many that none of them is near its end.
const LONG: usize = 100;

/// What was measured, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Lives {
    pub(super) burn: Option<Burn>,
    pub(super) parked_bytes: Option<f64>,
    pub(super) recover_s: Option<f64>,
}

/// Sagas of one step, started as fast as the server takes them.
#[derive(Debug)]
pub(super) struct Burn {
    /// From the first call to the last end.
    pub(super) per_second: f64,
    /// On disk, with history and change log.
    pub(super) bytes: f64,
}

// === impl Lives ===

impl Lives {
    pub(super) async fn measure(
        engine: &Engine,
        wants: &impl Fn(SagaPart) -> bool,
    ) -> Result<Self, Error> {
        let mut lives = Self::default();
        let folder = TempDir::new().map_err(Error::io("making a temporary directory"))?;
        let builder = engine.builder.clone().directory(folder.path());
        let mut server = builder.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        define(&channel, "one", steps(1)).await?;
        define(&channel, "long", steps(LONG)).await?;
        let wait = json!([{ "name": "wait", "action": { "wait": { "duration_ms": 86_400_000 } }, "undo": "none" }]);
        define(&channel, "wait", wait).await?;
        if wants(SagaPart::Burn) {
            let before = bytes_on_disk(engine, folder.path()).await?;
            let follower = Follower::open(channel.clone()).await?;
            let began = Instant::now();
            start_many(&channel, "one", BURNED).await?;
            follower.ended_count(BURNED).await?;
            let burn = Burn {
                per_second: BURNED as f64 / began.elapsed().as_secs_f64(),
                bytes: (bytes_on_disk(engine, folder.path()).await? - before) as f64
                    / BURNED as f64,
            };
            eprintln!(
                "{}: {BURNED} sagas of one step: {:.0} sagas/s, {:.0} bytes each",
                engine.prefix, burn.per_second, burn.bytes
            );
            lives.burn = Some(burn);
        }
        if wants(SagaPart::Parked) {
            let bytes = parked(&server, &channel).await?;
            eprintln!(
                "{}: {PARKED} parked sagas: {bytes:.0} bytes each",
                engine.prefix
            );
            lives.parked_bytes = Some(bytes);
        }
        if wants(SagaPart::Recover) {
            let started = start_many(&channel, "long", LOST).await?;
            server.kill().await;
            let killed = Instant::now();
            let server = builder.start().await;
            let follower = Follower::open(load::connect(server.grpc_address()).await?).await?;
            follower.moved(&started).await?;
            let seconds = killed.elapsed().as_secs_f64();
            eprintln!(
                "{}: killed with {LOST} sagas in flight; all of them went on after {seconds:.1} s",
                engine.prefix
            );
            lives.recover_s = Some(seconds);
        }
        Ok(lives)
    }
}

/// Resident bytes that each saga which waits costs.
async fn parked(server: &Server, channel: &tonic::transport::Channel) -> Result<f64, Error> {
    // What the first ones cost once is not theirs.
    start_many(channel, "wait", 1_000).await?;
    let before = settled(server).await?;
    start_many(channel, "wait", PARKED).await?;
    let after = settled(server).await?;
    Ok((after as f64 - before as f64) / PARKED as f64)
}

/// Resident memory once it no longer changes much: the log's tail is being followed for a moment.
async fn settled(server: &Server) -> Result<u64, Error> {
    let mut last = process::memory(server.pid())?.resident;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = process::memory(server.pid())?.resident;
        if now.abs_diff(last) < last / 200 {
            return Ok(now);
        }
        last = now;
    }
}

async fn bytes_on_disk(engine: &Engine, folder: &Path) -> Result<i64, Error> {
    if engine.url.is_empty() {
        return Ok(i64::try_from(folder_bytes(folder)?).unwrap_or(i64::MAX));
    }
    let floor = Floor::open(&steadfast_store::Options {
        url: engine.url.clone(),
        max_connections: 1,
        ..steadfast_store::Options::default()
    })
    .await?;
    Ok(floor.bytes().await?)
}

fn folder_bytes(folder: &Path) -> Result<u64, Error> {
    let failed = || Error::io("measuring a folder");
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let meta = entry.metadata().map_err(failed())?;
        bytes += if meta.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(bytes)
}
