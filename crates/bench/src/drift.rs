//! `drift`: what it costs to find out that nothing differs, and what it costs when something does.
//!
//! One server per number of resources, on a database of its own. Each is filled by the calls that a provisioner and an agent would
//! make; sweeps are timed by the server's own account of them, from begin to end on the database's clock, and the incremental one
//! as its caller sees it.

mod calls;
mod fleet;

use std::path::Path;

use serde_json::{Map, Value, json};
use steadfast_store::floor::Floor;
use steadfast_testkit::{
    postgres::{ClusterOptions, PrivateCluster},
    process::Server,
};
use tempfile::TempDir;

use crate::{
    args::{DriftArgs, Options},
    error::Error,
    load, process,
    program::Program,
    publish::facts,
    report::{Report, Target},
    statistics::Series,
};
use calls::{Agent, Swept};
use fleet::{FIELDS, Fleet};

/// Resources that are changed before an incremental sweep.
const CHANGED: u32 = 100;
/// Rows of a page of the floor.
const PAGE: i64 = 2_048;
/// How long the database may take until it has counted what was written.
const COUNTED: std::time::Duration = std::time::Duration::from_secs(12);

/// What was measured with one number of resources.
#[derive(Debug, Default)]
struct Measured {
    resources: u32,
    record_per_s: Series,
    report_first_per_s: Series,
    report_changed_per_s: Series,
    report_unchanged_per_s: Series,
    /// A forced sweep in which all is in sync.
    full_fields_per_s: Series,
    floor_fields_per_s: Series,
    full_us_per_resource: Series,
    full_rows: Series,
    full_commits: Series,
    full_revisions: Series,
    full_drifted_fields_per_s: Series,
    incremental_ms: Series,
    /// Of a sweep that finds one in a hundred drifted; the rows are those of its inventory, too.
    one_percent_ms: Series,
    one_percent_rows: Series,
    one_percent_commits: Series,
    /// Of a sweep that finds all drifted.
    opened_per_s: Series,
    commits_per_thousand_opened: Series,
    rss_mib: Series,
    drifted_rss_mib: Series,
}

pub(crate) async fn run(options: &Options, args: &DriftArgs) -> Result<Report, Error> {
    let program = Program::find(options).await?;
    let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let mut environment = program.environment(options, scratch.path())?;
    environment.insert("fields_per_resource".to_owned(), json!(FIELDS));
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let ring_bytes = program.setting("watch", "ring_bytes")?;
    let mut all = Vec::new();
    for &resources in &args.resources {
        let url = cluster.create_database(&format!("drift_{resources}")).await;
        if !environment.contains_key("postgres") {
            environment.insert("postgres".to_owned(), facts(&url, Path::new(".")).await?);
        }
        let server = program.server().database_url(url.clone()).start().await;
        let floor = Floor::open(&steadfast_store::Options {
            url,
            ..steadfast_store::Options::default()
        })
        .await?;
        let scene = Scene {
            server: &server,
            floor: &floor,
            rounds: options.rounds,
            ring_bytes,
        };
        all.push(scene.measure(resources).await?);
    }
    Ok(report(environment, &all))
}

/// One server, and its database.
struct Scene<'a> {
    server: &'a Server,
    floor: &'a Floor,
    rounds: u32,
    ring_bytes: u64,
}

/// What a server and its database count by themselves.
#[derive(Debug, Clone, Copy)]
struct Counters {
    rows: i64,
    pages: f64,
    opening: f64,
}

impl Scene<'_> {
    async fn measure(&self, resources: u32) -> Result<Measured, Error> {
        let agent = Agent::connect(self.server.grpc_address()).await?;
        agent.fill_ring(self.ring_bytes).await?;
        let mut fleet = Fleet::new(resources);
        let mut measured = Measured {
            resources,
            ..Measured::default()
        };
        measured.record_per_s.push(agent.record(&fleet).await?);
        let (rate, swept) = agent.inventory(&mut fleet, 0).await?;
        swept.expect(resources, 0)?;
        measured.report_first_per_s.push(rate);
        let last = |series: &Series| series.values().last().copied().unwrap_or_default();
        for round in 1..=self.rounds {
            self.in_sync(&agent, &mut fleet, &mut measured).await?;
            self.incremental(&agent, &mut fleet, &mut measured).await?;
            eprintln!(
                "{resources} resources, round {round}: full {:.0} fields/s (floor {:.0}), incremental {:.1} ms, \
                 unchanged {:.0} reports/s",
                last(&measured.full_fields_per_s),
                last(&measured.floor_fields_per_s),
                last(&measured.incremental_ms),
                last(&measured.report_unchanged_per_s),
            );
        }
        let resident = process::memory(self.server.pid())?.peak;
        measured.rss_mib.push(resident as f64 / f64::from(1 << 20));
        self.drifted(&agent, &mut fleet, &mut measured).await?;
        let resident = process::memory(self.server.pid())?.peak;
        measured
            .drifted_rss_mib
            .push(resident as f64 / f64::from(1 << 20));
        eprintln!(
            "{resources} resources: {:.0} records/s; reports/s {:.0} first, {:.0} changed; {:.0} drifts opened/s; {:.0} MiB",
            last(&measured.record_per_s),
            last(&measured.report_first_per_s),
            last(&measured.report_changed_per_s),
            last(&measured.opened_per_s),
            last(&measured.rss_mib),
        );
        Ok(measured)
    }

    /// Nothing differs: an inventory that says so again, and a sweep of everything.
    async fn in_sync(
        &self,
        agent: &Agent,
        fleet: &mut Fleet,
        measured: &mut Measured,
    ) -> Result<(), Error> {
        let (rate, swept) = agent.inventory(fleet, 0).await?;
        swept.expect(0, 0)?;
        measured.report_unchanged_per_s.push(rate);
        let (before, head) = (self.counters().await?, agent.head().await?);
        let full = agent.sweep(true).await?;
        full.expect(measured.resources, 0)?;
        let after = self.counters().await?;
        measured.full_fields_per_s.push(full.fields_per_s());
        let per_resource = full.seconds * 1e6 / f64::from(measured.resources);
        measured.full_us_per_resource.push(per_resource);
        measured.full_rows.push((after.rows - before.rows) as f64);
        measured.full_commits.push(after.pages - before.pages);
        measured
            .full_revisions
            .push((agent.head().await? - head) as f64);
        let began = std::time::Instant::now();
        let read = self.floor.read_documents(PAGE).await?;
        let floor = (read * FIELDS) as f64 / began.elapsed().as_secs_f64();
        measured.floor_fields_per_s.push(floor);
        Ok(())
    }

    /// A hundred differ, and then agree again.
    async fn incremental(
        &self,
        agent: &Agent,
        fleet: &mut Fleet,
        measured: &mut Measured,
    ) -> Result<(), Error> {
        let changed = CHANGED.min(measured.resources);
        for (differ, opened) in [(true, changed), (false, 0)] {
            agent.report_some(fleet, changed, differ).await?;
            let swept = agent.sweep(false).await?;
            swept.expect(changed, opened)?;
            measured.incremental_ms.push(swept.seen_seconds * 1e3);
        }
        Ok(())
    }

    /// One in a hundred differs, then everything does. The end of an inventory begins the sweep.
    async fn drifted(
        &self,
        agent: &Agent,
        fleet: &mut Fleet,
        measured: &mut Measured,
    ) -> Result<(), Error> {
        let one_percent = fleet.drifted(1);
        let before = self.counters().await?;
        let (_, swept) = agent.inventory(fleet, 1).await?;
        swept.expect(one_percent, one_percent)?;
        let after = self.counters().await?;
        measured.one_percent_ms.push(swept.seconds * 1e3);
        measured
            .one_percent_rows
            .push((after.rows - before.rows) as f64);
        let commits = after.pages - before.pages;
        measured.one_percent_commits.push(commits);
        // All of them another time, so that every report changes something.
        fleet.turn();
        let before = self.counters().await?;
        let (rate, swept) = agent.inventory(fleet, 100).await?;
        let opened = measured.resources - one_percent;
        swept.expect(measured.resources, opened)?;
        let after = self.counters().await?;
        measured.report_changed_per_s.push(rate);
        measured
            .opened_per_s
            .push(f64::from(opened) / swept.seconds);
        measured
            .commits_per_thousand_opened
            .push((after.opening - before.opening) * 1e3 / f64::from(opened));
        let full = agent.sweep(true).await?;
        full.expect(measured.resources, 0)?;
        measured.full_drifted_fields_per_s.push(full.fields_per_s());
        Ok(())
    }

    async fn counters(&self) -> Result<Counters, Error> {
        tokio::time::sleep(COUNTED).await;
        let metrics = load::metrics(self.server).await?;
        let runs = |statement: &str| {
            let name = format!("steadfast_statement_seconds_count{{statement=\"{statement}\"}}");
            metrics.get(&name).copied().unwrap_or_default()
        };
        Ok(Counters {
            rows: self.floor.rows_written().await?,
            pages: runs("drift_apply_progress"),
            opening: runs("drift_apply_open"),
        })
    }
}

impl Swept {
    fn fields_per_s(&self) -> f64 {
        self.compared * FIELDS as f64 / self.seconds
    }

    /// Whether the sweep did what was to be measured.
    fn expect(&self, compared: u32, opened: u32) -> Result<(), Error> {
        if self.compared == f64::from(compared) && self.opened == f64::from(opened) {
            return Ok(());
        }
        Err(Error::Unexpected(format!(
            "a sweep compared {} resources and opened {} drifts instead of {compared} and {opened}",
            self.compared, self.opened
        )))
    }
}

fn report(environment: Map<String, Value>, all: &[Measured]) -> Report {
    let mut report = Report::new("drift", environment);
    if let Some(last) = all.last() {
        aim(&mut report, last);
    }
    if let (Some(first), Some(last)) = (all.first(), all.last())
        && first.resources < last.resources
    {
        report.ratio(
            "cost_ratio",
            &last.full_us_per_resource,
            &first.full_us_per_resource,
            Some(Target::AtMost(1.2)),
        );
        let growth = last.rss_mib.median() - first.rss_mib.median();
        report.aimed(
            "rss_growth_mib",
            "MiB",
            &[growth].into_iter().collect(),
            None,
            Some(Target::AtMost(32.0)),
        );
    }
    for measured in all {
        add(&mut report, measured);
    }
    report
}

/// The figures that are aimed at.
fn aim(report: &mut Report, last: &Measured) {
    report.aimed(
        "full_fields_per_s",
        "fields/s",
        &last.full_fields_per_s,
        Some(&last.floor_fields_per_s),
        Some(Target::AtLeast(1e6)),
    );
    for (name, unit, series, target) in [
        (
            "incremental_ms",
            "ms",
            &last.incremental_ms,
            Target::AtMost(50.0),
        ),
        (
            "report_per_s",
            "reports/s",
            &last.report_changed_per_s,
            Target::AtLeast(2e4),
        ),
        (
            "commits_per_thousand_opened",
            "commits",
            &last.commits_per_thousand_opened,
            Target::AtMost(5.0),
        ),
        (
            "full_revisions",
            "revisions",
            &last.full_revisions,
            Target::AtMost(0.0),
        ),
    ] {
        report.aimed(name, unit, series, None, Some(target));
    }
}

/// All figures of one number of resources.
fn add(report: &mut Report, measured: &Measured) {
    let prefix = match measured.resources {
        thousands if thousands % 1_000 == 0 => format!("{}k", thousands / 1_000),
        other => other.to_string(),
    };
    report.floored(
        &format!("{prefix}_full_fields_per_s"),
        "fields/s",
        &measured.full_fields_per_s,
        &measured.floor_fields_per_s,
    );
    for (name, unit, series) in [
        ("full_us_per_resource", "us", &measured.full_us_per_resource),
        ("full_rows_written", "rows", &measured.full_rows),
        ("full_commits", "commits", &measured.full_commits),
        (
            "full_all_drifted_fields_per_s",
            "fields/s",
            &measured.full_drifted_fields_per_s,
        ),
        ("incremental_ms", "ms", &measured.incremental_ms),
        ("one_percent_ms", "ms", &measured.one_percent_ms),
        (
            "one_percent_inventory_rows_written",
            "rows",
            &measured.one_percent_rows,
        ),
        (
            "one_percent_commits",
            "commits",
            &measured.one_percent_commits,
        ),
        ("opened_per_s", "drifts/s", &measured.opened_per_s),
        ("record_per_s", "records/s", &measured.record_per_s),
        (
            "report_first_per_s",
            "reports/s",
            &measured.report_first_per_s,
        ),
        (
            "report_changed_per_s",
            "reports/s",
            &measured.report_changed_per_s,
        ),
        (
            "report_unchanged_per_s",
            "reports/s",
            &measured.report_unchanged_per_s,
        ),
        ("peak_rss_mib", "MiB", &measured.rss_mib),
        ("all_drifted_peak_rss_mib", "MiB", &measured.drifted_rss_mib),
    ] {
        report.plain(&format!("{prefix}_{name}"), unit, series);
    }
}
