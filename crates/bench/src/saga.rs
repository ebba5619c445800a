//! `saga`: what the engine makes of a database, over what the database can do.

mod floors;
mod follower;
mod lives;
mod starts;
mod steps;

use std::path::Path;

use serde_json::{Map, Value};
use steadfast_testkit::{
    postgres::{ClusterOptions, PrivateCluster},
    process::ServerBuilder,
};
use tempfile::TempDir;

use crate::{
    args::{Options, SagaArgs, SagaPart},
    error::Error,
    program::Program,
    publish::facts,
    report::{Report, Target},
    statistics::Series,
};
use floors::Floors;
use lives::Lives;
use steps::Steps;

/// One engine under measurement.
struct Engine {
    /// Before its figures' names.
    prefix: &'static str,
    builder: ServerBuilder,
    /// Of the server's own database; empty for SQLite.
    url: String,
    floors: Floors,
}

pub(crate) async fn run(options: &Options, args: &SagaArgs) -> Result<Report, Error> {
    let program = Program::find(options).await?;
    let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let mut environment = program.environment(options, scratch.path())?;
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let connections = program.settings()?.max_connections;
    let url = cluster.create_database("steadfast").await;
    let floor = cluster.create_database("floor").await;
    environment.insert("postgres".to_owned(), facts(&url, Path::new(".")).await?);
    let lite = scratch.path().join("floor");
    environment.insert(
        "sqlite".to_owned(),
        facts("", &scratch.path().join("facts")).await?,
    );
    let engines = [
        Engine {
            prefix: "pg",
            builder: program.server().database_url(url.clone()),
            url,
            floors: Floors::open(&floor, &lite, connections).await?,
        },
        Engine {
            prefix: "sqlite",
            builder: program.server(),
            url: String::new(),
            floors: Floors::open("", &lite, connections).await?,
        },
    ];
    let lease_ms = program.setting("lease", "duration_ms")?;
    measure(options, args, &engines, environment, lease_ms).await
}

async fn measure(
    options: &Options,
    args: &SagaArgs,
    engines: &[Engine],
    environment: Map<String, Value>,
    lease_ms: u64,
) -> Result<Report, Error> {
    let mut report = Report::new("saga", environment);
    let wants = |part| args.parts.contains(&part);
    for engine in engines {
        if wants(SagaPart::Steps) {
            let steps = Steps::measure(engine, options).await?;
            add_steps(&mut report, engine.prefix, &steps);
        }
        let lives = Lives::measure(engine, &wants).await?;
        add_lives(&mut report, engine.prefix, &lives, lease_ms);
    }
    Ok(report)
}

fn add_steps(report: &mut Report, prefix: &str, steps: &Steps) {
    let is_postgres = prefix == "pg";
    let at_most = |limit| is_postgres.then_some(Target::AtMost(limit));
    // The figures that are aimed at have names of their own.
    let name = |name: &str| {
        if is_postgres {
            name.to_owned()
        } else {
            format!("{prefix}_{name}")
        }
    };
    report.aimed(
        &name("ten_steps_p50_ms"),
        "ms",
        &steps.alone_p50_ms,
        Some(&steps.floor_alone_ms),
        at_most(4.0),
    );
    report.plain(&name("ten_steps_p99_ms"), "ms", &steps.alone_p99_ms);
    let least = if is_postgres { 20_000.0 } else { 10_000.0 };
    report.aimed(
        &format!("{prefix}_steps_per_s_50"),
        "steps/s",
        &steps.rate_50,
        Some(&steps.floor_1),
        Some(Target::AtLeast(least)),
    );
    report.ratio(
        &format!("{prefix}_vs_commit_per_step_ratio"),
        &steps.rate_50,
        &steps.floor_1,
        is_postgres.then_some(Target::AtLeast(1.0)),
    );
    report.floored(
        &format!("{prefix}_steps_per_s_500"),
        "steps/s",
        &steps.rate_500,
        &steps.floor_50,
    );
    report.plain(
        &format!("{prefix}_floor_commit_per_step"),
        "steps/s",
        &steps.floor_1,
    );
    report.plain(
        &format!("{prefix}_floor_commit_per_fifty"),
        "steps/s",
        &steps.floor_50,
    );
    for (name, unit, series) in [
        ("p50_ms_50", "ms", &steps.p50_ms_50),
        ("p99_ms_50", "ms", &steps.p99_ms_50),
        ("commits_per_step_50", "commits", &steps.commits),
        ("rows_per_step_50", "rows", &steps.rows),
        ("log_entries_per_step_50", "entries", &steps.log_entries),
        ("server_cpu_per_step_50", "us", &steps.cpu_us),
        ("machine_cpu_per_step_50", "us", &steps.machine_us),
    ] {
        report.plain(&format!("{prefix}_{name}"), unit, series);
    }
}

fn add_lives(report: &mut Report, prefix: &str, lives: &Lives, lease_ms: u64) {
    let once = |value: f64| -> Series { [value].into_iter().collect() };
    if let Some(burn) = &lives.burn {
        report.plain(
            &format!("{prefix}_burn_sagas_per_s"),
            "sagas/s",
            &once(burn.per_second),
        );
        report.plain(
            &format!("{prefix}_bytes_per_finished_saga"),
            "bytes",
            &once(burn.bytes),
        );
    }
    if let Some(bytes) = lives.parked_bytes {
        report.plain(
            &format!("{prefix}_parked_bytes"),
            "bytes/saga",
            &once(bytes),
        );
    }
    if let Some(seconds) = lives.recover_s {
        let limit = lease_ms as f64 / 1e3 + 5.0;
        let name = if prefix == "pg" {
            "recover_s".to_owned()
        } else {
            format!("{prefix}_recover_s")
        };
        report.aimed(
            &name,
            "s",
            &once(seconds),
            None,
            Some(Target::AtMost(limit)),
        );
    }
}
