//! `refresh`: how long reading 1,000 packages takes, over the time that the requests alone take; and what 10,000 take.

mod large;

use std::time::Duration;

use serde_json::json;
use steadfast_testkit::{
    postgres::{ClusterOptions, PrivateCluster},
    process::{Server, ServerBuilder},
};
use tempfile::TempDir;

use crate::{
    args::Options,
    catalogue::{self, Registry},
    error::Error,
    floor::Counts,
    load, process,
    program::Program,
    report::{Report, Target},
    statistics::Series,
};
use large::Large;

const PACKAGES: usize = 1_000;
/// How long the registry takes for each answer.
const DELAY: Duration = Duration::from_millis(20);

/// What was measured on one engine, round by round.
#[derive(Debug, Default)]
struct Rounds {
    first: Series,
    first_floor: Series,
    unchanged: Series,
    unchanged_floor: Series,
    requests: Series,
    cpu_ms: Series,
    resident_mib: Series,
    peak_mib: Series,
}

pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let program = Program::find(options).await?;
    let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let mut environment = program.environment(options, scratch.path())?;
    let concurrency = program.setting("catalog", "refresh_concurrency")?;
    environment.insert(
        "load".to_owned(),
        json!({
            "packages": PACKAGES,
            "upstream_delay_ms": DELAY.as_millis() as u64,
            "concurrency": concurrency,
            "packages_10k": large::PACKAGES,
            "upstream_delay_ms_10k": large::DELAY.as_millis() as u64,
        }),
    );
    let mut registry = Registry::start(PACKAGES, DELAY).await?;
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let ideal = |requests: usize| requests as f64 * DELAY.as_secs_f64() / concurrency as f64;
    let (mut sqlite, mut postgres) = (Rounds::default(), Rounds::default());
    // The registry makes its packages when they are asked for first; that is not the server's time.
    let builder = registry.server(&program);
    Rounds::default()
        .add(&builder, &mut registry, ideal, "to warm up")
        .await?;
    for round in 1..=options.rounds {
        sqlite
            .add(
                &builder,
                &mut registry,
                ideal,
                &format!("{round} on SQLite"),
            )
            .await?;
        let url = cluster.create_database(&format!("round_{round}")).await;
        let builder = builder.clone().database_url(url);
        postgres
            .add(
                &builder,
                &mut registry,
                ideal,
                &format!("{round} on PostgreSQL"),
            )
            .await?;
    }

    // A registry of its own: the first one's packages are another's load.
    let mut many = Registry::start(large::PACKAGES, large::DELAY).await?;
    let of_many = many.organization(&program);
    large::warm_up(&of_many).await?;
    let (mut sqlite_large, mut postgres_large) = (Large::default(), Large::default());
    let folder = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let builders = [of_many.clone(), of_many.clone()];
    sqlite_large
        .add(builders, &mut many, folder.path(), "many on SQLite")
        .await?;
    let folder = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let builders = [
        of_many
            .clone()
            .database_url(cluster.create_database("many").await),
        of_many.database_url(cluster.create_database("many_again").await),
    ];
    postgres_large
        .add(builders, &mut many, folder.path(), "many on PostgreSQL")
        .await?;

    let mut report = Report::new("refresh", environment);
    let target = Some(Target::AtMost(1.3));
    report.ratio("overhead_ratio", &sqlite.first, &sqlite.first_floor, target);
    let (unchanged, floor) = (&sqlite.unchanged, &sqlite.unchanged_floor);
    report.ratio("unchanged_overhead_ratio", unchanged, floor, None);
    report.ratio(
        "pg_overhead_ratio",
        &postgres.first,
        &postgres.first_floor,
        None,
    );
    let (unchanged, floor) = (&postgres.unchanged, &postgres.unchanged_floor);
    report.ratio("pg_unchanged_overhead_ratio", unchanged, floor, None);
    report.floored("first", "s", &sqlite.first, &sqlite.first_floor);
    report.floored("unchanged", "s", &sqlite.unchanged, &sqlite.unchanged_floor);
    report.floored("pg_first", "s", &postgres.first, &postgres.first_floor);
    report.floored(
        "pg_unchanged",
        "s",
        &postgres.unchanged,
        &postgres.unchanged_floor,
    );
    let per_second = |seconds: &Series| -> Series {
        let values = seconds.values().iter();
        values.map(|seconds| PACKAGES as f64 / seconds).collect()
    };
    report.plain("rate", "packages/s", &per_second(&sqlite.first));
    report.plain("pg_rate", "packages/s", &per_second(&postgres.first));
    report.plain("requests", "requests", &sqlite.requests);
    report.plain("cpu", "ms/package", &sqlite.cpu_ms);
    report.plain("pg_cpu", "ms/package", &postgres.cpu_ms);
    report.plain("resident", "MiB", &sqlite.resident_mib);
    report.plain("resident_peak", "MiB", &sqlite.peak_mib);
    report.plain("pg_resident_peak", "MiB", &postgres.peak_mib);
    let most = || Some(Target::AtMost(large::GROWTH_MAX_MIB));
    report.aimed("rss_mb_10k", "MiB", &sqlite_large.growth_mib, None, most());
    report.aimed(
        "pg_rss_mb_10k",
        "MiB",
        &postgres_large.growth_mib,
        None,
        most(),
    );
    for (prefix, large) in [("", &sqlite_large), ("pg_", &postgres_large)] {
        let name = |figure: &str| format!("{prefix}{figure}");
        report.plain(&name("packages_per_s"), "packages/s", &large.packages_per_s);
        report.plain(
            &name("slowest_tenth_10k"),
            "of the mean",
            &large.slowest_tenth,
        );
        report.plain(&name("fetched_twice_10k"), "requests", &large.fetched_twice);
    }
    Ok(report)
}

// === impl Rounds ===

impl Rounds {
    /// A new server with an empty database: a first refresh, which it begins by itself, and one that finds nothing new.
    async fn add(
        &mut self,
        builder: &ServerBuilder,
        registry: &mut Registry,
        ideal: impl Fn(usize) -> f64,
        round: &str,
    ) -> Result<(), Error> {
        registry.reset().await?;
        let server = builder.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        let refresh = catalogue::finished(&channel, PACKAGES, true).await?;
        let (first, counts) = (catalogue::seconds(&refresh), registry.counts().await?);
        check(first, counts)?;
        let cpu = process::cpu_time(server.pid())?;
        registry.reset().await?;
        catalogue::start(&channel).await?;
        let refresh = catalogue::finished(&channel, PACKAGES, false).await?;
        let (unchanged, again) = (catalogue::seconds(&refresh), registry.counts().await?);
        check(unchanged, again)?;
        let memory = process::memory(server.pid())?;
        stop(server).await?;

        eprintln!(
            "round {round}: first {first:.2} s with {} requests ({:.2} s at best, {} at once), unchanged {unchanged:.2} s with {} ({:.2} s at best)",
            counts.requests,
            ideal(counts.requests),
            counts.in_flight_peak,
            again.requests,
            ideal(again.requests),
        );
        self.first.push(first);
        self.first_floor.push(ideal(counts.requests));
        self.unchanged.push(unchanged);
        self.unchanged_floor.push(ideal(again.requests));
        self.requests.push(counts.requests as f64);
        self.cpu_ms.push(cpu.as_secs_f64() * 1e3 / PACKAGES as f64);
        self.resident_mib.push(memory.resident as f64 / MIB);
        self.peak_mib.push(memory.peak as f64 / MIB);
        Ok(())
    }
}

const MIB: f64 = 1024.0 * 1024.0;

/// The server's account of its time must cover what the registry saw.
fn check(seconds: f64, counts: Counts) -> Result<(), Error> {
    if counts.requests >= PACKAGES && seconds >= counts.span_s {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "the refresh says it took {seconds:.3} s, but the registry had {} requests over {:.3} s",
        counts.requests, counts.span_s
    )))
}

async fn stop(mut server: Server) -> Result<(), Error> {
    let status = server.stop().await;
    if status.success() {
        return Ok(());
    }
    Err(Error::Unexpected(format!("the server ended with {status}")))
}
