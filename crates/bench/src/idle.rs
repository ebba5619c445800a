//! `idle`: what open streams take while nothing happens, over a broadcast that holds as many.
//!
//! Each round has a server of its own. Its memory with nobody connected is taken away from what it takes with 1,000, 2,000 and
//! 5,000 connections, each with one stream that has said that it is open. With the most of them it is then left alone for as
//! long as it takes until each has been told its progress, and the larger of its memory before and after counts. The floor tells
//! no progress, but probes its connections as the server does.

use std::time::Duration;

use prost::Message as _;

use crate::{
    announce::sample,
    args::Options,
    crowd::{Crowd, Open},
    error::Error,
    process,
    report::{Report, Target},
    stage::{Stage, readers},
    statistics::Series,
};

const STREAMS: [usize; 3] = [1_000, 2_000, 5_000];
/// Bytes.
const MIB: f64 = (1 << 20) as f64;
/// How long after the last opening the first memory is read.
const SETTLED: Duration = Duration::from_millis(500);

/// What was measured, round by round.
#[derive(Debug, Default)]
struct Measured {
    /// Above the empty process, by number of streams.
    rss_mib: [Series; STREAMS.len()],
    empty_mib: Series,
    open_s: Series,
    /// Processor time per second, as a share of one processor.
    cpu_percent: Series,
}

pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let most = STREAMS.into_iter().max().unwrap_or_default();
    let mut stage = Stage::set(options, most).await?;
    let progress = Duration::from_millis(stage.program.setting("watch", "progress_interval_ms")?);
    let quiet = options.window().max(progress + Duration::from_secs(1));
    stage.environment.insert(
        "load".to_owned(),
        format!("{quiet:?} without any publish; progress every {progress:?}").into(),
    );
    let database = stage.database("steadfast").await;
    let (mut servers, mut floors) = (Measured::default(), Measured::default());
    for round in 1..=options.rounds {
        let server = stage.server(&database).await;
        servers
            .measure(server.grpc_address(), server.pid(), quiet)
            .await?;
        eprintln!("round {round} server: {servers}");
        let (opened, _) = sample(server.grpc_address(), 0).await?;
        drop(server);
        let floor = stage
            .broadcast("idle", &[opened.encode_to_vec().into()])
            .await?;
        floors.measure(floor.address(), floor.pid()?, quiet).await?;
        eprintln!("round {round} floor:  {floors}");
    }
    let mut report = Report::new("idle", stage.environment);
    for (place, streams) in STREAMS.into_iter().enumerate().rev() {
        report.aimed(
            &format!("rss_mb_{streams}"),
            "MiB",
            &servers.rss_mib[place],
            Some(&floors.rss_mib[place]),
            (streams == most).then_some(Target::AtMost(100.0)),
        );
    }
    for (name, unit, server, floor) in [
        ("empty_rss_mb", "MiB", &servers.empty_mib, &floors.empty_mib),
        (
            "cpu_5000",
            "% of one",
            &servers.cpu_percent,
            &floors.cpu_percent,
        ),
        ("open_s_5000", "s", &servers.open_s, &floors.open_s),
    ] {
        report.floored(name, unit, server, floor);
    }
    Ok(report)
}

// === impl Measured ===

impl Measured {
    async fn measure(&mut self, address: &str, pid: u32, quiet: Duration) -> Result<(), Error> {
        let mut crowd = Crowd::start().await?;
        let rss = || Ok::<_, Error>(process::memory(pid)?.resident as f64 / MIB);
        let empty = rss()?;
        self.empty_mib.push(empty);
        let (mut open, mut seconds) = (0, 0.0);
        for (place, streams) in STREAMS.into_iter().enumerate() {
            let order = Open {
                count: streams - open,
                ..readers(address, 0)
            };
            seconds += crowd.open(order).await?.seconds;
            open = streams;
            tokio::time::sleep(SETTLED).await;
            self.rss_mib[place].push(rss()? - empty);
        }
        self.open_s.push(seconds);
        let before = process::cpu_time(pid)?;
        tokio::time::sleep(quiet).await;
        let cpu = process::cpu_time(pid)? - before;
        self.cpu_percent
            .push(100.0 * cpu.as_secs_f64() / quiet.as_secs_f64());
        if let Some(most) = self.rss_mib.last_mut() {
            most.raise_last(rss()? - empty);
        }
        crowd.close().await?;
        Ok(())
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (streams, rss) in STREAMS.into_iter().zip(&self.rss_mib) {
            write!(f, "{streams} streams {:.1} MiB, ", rss.last())?;
        }
        write!(
            f,
            "empty {:.1} MiB, {:.1} % of a processor, opened in {:.2} s",
            self.empty_mib.last(),
            self.cpu_percent.last(),
            self.open_s.last()
        )
    }
}
