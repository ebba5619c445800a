//! One subscriber that has stopped to read, beside a server that takes publications as fast as it can.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use steadfast_testkit::process::Server;

use crate::{
    announce::{PUBLISH, request},
    args::SlowArgs,
    crowd::{Crowd, Manner, Open},
    error::Error,
    load::{Load, Target as Loaded},
    process,
    report::{Report, Target},
    stage::{Stage, readers},
    statistics::Series,
};

/// How long the server takes publications before: its ring is full by then.
const BEFORE: Duration = Duration::from_secs(20);
/// Bytes.
const MIB: f64 = (1 << 20) as f64;

/// What was measured under one load.
struct Loads {
    /// The most memory that was taken.
    peak: u64,
    publishes: f64,
}

/// Measures the memory at its peak during the load with the stalled subscriber, above the peak during the load before it.
pub(super) async fn measure(
    args: &SlowArgs,
    stage: &Stage,
    report: &mut Report,
) -> Result<(), Error> {
    let server = stage.server(&stage.database("stalled").await).await;
    let mut crowd = Crowd::start().await?;
    load(&server, BEFORE).await?;
    let before = load(&server, BEFORE).await?;
    crowd
        .open(Open {
            manner: Manner::Stalled,
            ..readers(server.grpc_address(), 1)
        })
        .await?;
    let during = load(&server, Duration::from_secs(args.stalled_seconds)).await?;
    crowd.close().await?;
    let once = |value: f64| -> Series { [value].into_iter().collect() };
    let growth = during.peak as f64 - before.peak as f64;
    eprintln!(
        "stalled: {:.1} MiB before, {:.1} MiB at the peak of {} s, {:.0} publishes/s",
        before.peak as f64 / MIB,
        during.peak as f64 / MIB,
        args.stalled_seconds,
        during.publishes
    );
    report.aimed(
        "stalled_rss_mb",
        "MiB",
        &once(growth / MIB),
        None,
        Some(Target::AtMost(32.0)),
    );
    report.floored(
        "stalled_publishes",
        "calls/s",
        &once(during.publishes),
        &once(before.publishes),
    );
    Ok(())
}

async fn load(server: &Server, window: Duration) -> Result<Loads, Error> {
    let next = AtomicU64::new(0);
    let target = Loaded {
        address: server.grpc_address().to_owned(),
        pid: server.pid(),
        path: PUBLISH,
        request: Arc::new(move |_| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            request(number, vec![b'.'; super::PAYLOAD].into())
                .encode_to_vec()
                .into()
        }),
    };
    process::forget_peak(server.pid())?;
    let measured = Load::standard(window).run(&target).await?;
    Ok(Loads {
        peak: process::memory(server.pid())?.peak,
        publishes: measured.rate,
    })
}
