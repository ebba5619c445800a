//! `publish`: commits shared by the calls that arrive together, over one commit per call.

use std::{
    ffi::OsString,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prost::Message as _;
use serde_json::{Map, Value, json};
use steadfast_api::watch::v1::{
    GetHeadRequest, Op, PublishRequest, publish_request, watch_service_client::WatchServiceClient,
};
use steadfast_store::floor::Floor;
use steadfast_testkit::{
    postgres::{ClusterOptions, PrivateCluster},
    process::Server,
};
use tempfile::TempDir;

use crate::{
    args::Options,
    child::Child,
    error::Error,
    load::{self, Load, Measured, Target},
    program::Program,
    report::{self, Report},
    statistics::Series,
};

const PUBLISH: &str = "/steadfast.watch.v1.WatchService/Publish";

/// A server or floor under load, and what came of it.
struct Contestant {
    name: &'static str,
    target: Target,
    rounds: Vec<Measured>,
}

pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let program = Program::find(options).await?;
    let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let mut environment = program.environment(options, scratch.path())?;
    environment.insert(
        "load".to_owned(),
        "64 callers with one call of one change each, over 8 connections".into(),
    );
    let load = Load::standard(options.window());
    let postgres = on_postgres(options, &program, &load, &mut environment).await?;
    let sqlite = on_sqlite(options, &program, &load, scratch.path(), &mut environment).await?;

    let mut report = Report::new("publish", environment);
    if let ([server, insert, counter], [lite, commit]) = (&postgres[..], &sqlite[..]) {
        let rate = |of: &Contestant| of.series(|round| round.rate);
        let at_least = |limit| Some(report::Target::AtLeast(limit));
        report.ratio(
            "pg_vs_insert_ratio",
            &rate(server),
            &rate(insert),
            at_least(1.5),
        );
        report.ratio("pg_vs_counter_ratio", &rate(server), &rate(counter), None);
        report.ratio(
            "sqlite_vs_commit_ratio",
            &rate(lite),
            &rate(commit),
            at_least(2.5),
        );
        add(&mut report, "pg", server, Some(insert));
        add(&mut report, "pg_counter", counter, None);
        add(&mut report, "sqlite", lite, Some(commit));
    }
    Ok(report)
}

async fn on_postgres(
    options: &Options,
    program: &Program,
    load: &Load,
    environment: &mut Map<String, Value>,
) -> Result<Vec<Contestant>, Error> {
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    let url = cluster.create_database("steadfast").await;
    let server = program.server().database_url(url.clone()).start().await;
    let mut floors = Vec::new();
    for kind in ["insert", "counter"] {
        let url = cluster.create_database(kind).await;
        let arguments = ["publish", "--kind", kind, "--database-url", &url];
        floors.push(floor(program, arguments.map(Into::into)).await?);
    }
    environment.insert("postgres".to_owned(), facts(&url, Path::new(".")).await?);
    let mut contestants = vec![
        Contestant::new("server on PostgreSQL", server.grpc_address(), server.pid()),
        Contestant::new(
            "one insert per call ",
            floors[0].address(),
            floors[0].pid()?,
        ),
        Contestant::new(
            "one counter per call",
            floors[1].address(),
            floors[1].pid()?,
        ),
    ];
    compete(options, load, &server, &mut contestants).await?;
    Ok(contestants)
}

async fn on_sqlite(
    options: &Options,
    program: &Program,
    load: &Load,
    scratch: &Path,
    environment: &mut Map<String, Value>,
) -> Result<Vec<Contestant>, Error> {
    let server = program.server().start().await;
    let mut arguments: Vec<OsString> = vec!["publish".into(), "--kind".into(), "insert".into()];
    arguments.extend(["--data-dir".into(), scratch.join("floor").into()]);
    let floor = floor(program, arguments).await?;
    environment.insert(
        "sqlite".to_owned(),
        facts("", &scratch.join("facts")).await?,
    );
    let mut contestants = vec![
        Contestant::new("server on SQLite    ", server.grpc_address(), server.pid()),
        Contestant::new("one commit per call ", floor.address(), floor.pid()?),
    ];
    compete(options, load, &server, &mut contestants).await?;
    Ok(contestants)
}

/// Runs all rounds, the contestants one after the other in each, and checks that every call that the server answered is a
/// revision of its own.
async fn compete(
    options: &Options,
    load: &Load,
    server: &Server,
    contestants: &mut [Contestant],
) -> Result<(), Error> {
    let before = head(server).await?;
    for round in 1..=options.rounds {
        for contestant in contestants.iter_mut() {
            let measured = load.run(&contestant.target).await?;
            eprintln!("round {round} {}: {measured}", contestant.name);
            contestant.rounds.push(measured);
        }
    }
    let committed = head(server).await? - before;
    let answered: u64 = contestants.first().map_or(0, |server| {
        server.rounds.iter().map(|round| round.calls).sum()
    });
    if u64::try_from(committed) == Ok(answered) {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "{answered} calls succeeded, but there are {committed} new revisions"
    )))
}

async fn head(server: &Server) -> Result<i64, Error> {
    let channel = load::connect(server.grpc_address()).await?;
    let answer = WatchServiceClient::new(channel)
        .get_head(GetHeadRequest {})
        .await?;
    let head = answer.into_inner().head;
    Ok(head.map_or(0, |cursor| cursor.revision))
}

async fn floor(
    program: &Program,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Child, Error> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    arguments.extend(program.settings()?.arguments());
    Child::start(arguments).await
}

/// Version and settings of a database, over a connection as the server makes them.
pub(crate) async fn facts(url: &str, data_dir: &Path) -> Result<Value, Error> {
    let floor = Floor::open(&steadfast_store::Options {
        url: url.to_owned(),
        data_dir: data_dir.to_owned(),
        ..steadfast_store::Options::default()
    })
    .await?;
    let facts = floor.facts().await?;
    Ok(facts
        .into_iter()
        .map(|(name, value)| (name, json!(value)))
        .collect::<Map<_, _>>()
        .into())
}

// === impl Contestant ===

impl Contestant {
    fn new(name: &'static str, address: &str, pid: u32) -> Self {
        let next = AtomicU64::new(0);
        Self {
            name,
            target: Target {
                address: address.to_owned(),
                pid,
                path: PUBLISH,
                request: Arc::new(move |_| {
                    request(next.fetch_add(1, Ordering::Relaxed))
                        .encode_to_vec()
                        .into()
                }),
            },
            rounds: Vec::new(),
        }
    }

    fn series(&self, of: fn(&Measured) -> f64) -> Series {
        self.rounds.iter().map(of).collect()
    }
}

/// One change, as a service that invalidates caches sends it.
fn request(number: u64) -> PublishRequest {
    PublishRequest {
        changes: vec![publish_request::Change {
            topic: "app/bench".to_owned(),
            key: format!("key-{number:010}"),
            op: Op::Upsert.into(),
            etag: format!("{number:016x}"),
            payload: Vec::new().into(),
        }],
        origin: "steadfast-bench".to_owned(),
        request_id: String::new(),
    }
}

/// What is measured of a server or floor under load.
type Aspect = (&'static str, &'static str, fn(&Measured) -> f64);

const ASPECTS: [Aspect; 5] = [
    ("rate", "calls/s", |round| round.rate),
    ("p50", "us", |round| round.p50_us),
    ("p99", "us", |round| round.p99_us),
    ("server_cpu", "us/call", |round| round.cpu_us),
    ("machine_cpu", "us/call", |round| round.machine_us),
];

fn add(report: &mut Report, prefix: &str, contestant: &Contestant, floor: Option<&Contestant>) {
    for (aspect, unit, of) in ASPECTS {
        let name = format!("{prefix}_{aspect}");
        let series = contestant.series(of);
        match floor {
            Some(floor) => report.floored(&name, unit, &series, &floor.series(of)),
            None => report.plain(&name, unit, &series),
        }
    }
}
