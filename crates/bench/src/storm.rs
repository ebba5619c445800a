//! `storm`: a thousand clients come back at once, over a broadcast that sends them the same bytes.
//!
//! Their cursors are ten thousand revisions behind, each a few revisions from the others. `storm` figures are those of a server
//! that has just started, as in a rolling deploy: its memory holds nothing of what was missed, and everything comes from the log.
//! `ring` figures are those of a server that has seen all of it. Each stream of the floor sends, without any database, the very
//! messages that the server sent to one such client before. The time is that from the first connection until every client has
//! been told a cursor at or above the head.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use steadfast_api::{
    common::v1::Cursor,
    watch::v1::{WatchResponse, watch_response::Event},
};
use steadfast_testkit::{BytesCodec, process::Server};
use tonic::{Request, client::Grpc};

use crate::{
    announce::{WATCH, fill},
    args::Options,
    crowd::{Crowd, Open, Opened, Until},
    error::Error,
    load, process,
    report::{Report, Target},
    stage::{Stage, readers, watch},
    statistics::Series,
};

const CLIENTS: usize = 1_000;
/// How many revisions they have missed.
const BEHIND: u64 = 10_000;
/// How many different cursors they have.
const CURSORS: usize = 8;
/// Bytes of a payload.
const PAYLOAD: usize = 32;
/// Bytes.
const MIB: f64 = (1 << 20) as f64;
/// Statements that read the log.
const LOG_QUERIES: [&str; 2] = ["log_page", "log_mark"];

/// What was measured, round by round.
#[derive(Debug, Default)]
struct Measured {
    seconds: Series,
    half_seconds: Series,
    rss_mib: Series,
    log_queries: Series,
    cpu_s: Series,
    bytes: Series,
    floor_seconds: Series,
    floor_rss_mib: Series,
    floor_cpu_s: Series,
}

/// What one storm did.
struct Struck {
    opened: Opened,
    rss_mib: f64,
    cpu_s: f64,
}

pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let mut stage = Stage::set(options, CLIENTS).await?;
    let database = stage.database("steadfast").await;
    let (mut storm, mut ring) = (Measured::default(), Measured::default());
    for round in 1..=options.rounds {
        let server = stage.server(&database).await;
        let cursors = fill(server.grpc_address(), BEHIND + CURSORS as u64, PAYLOAD).await?;
        let head = cursors.last().map_or(0, |newest| newest.revision);
        let cursors = &cursors[..CURSORS];
        ring.round(&stage, &server, cursors, head).await?;
        eprintln!("round {round} in the ring: {ring}");
        drop(server);
        let server = stage.server(&database).await;
        storm.round(&stage, &server, cursors, head).await?;
        eprintln!("round {round} off the ring: {storm}");
    }
    stage.environment.insert(
        "load".to_owned(),
        json!({
            "clients": CLIENTS,
            "revisions_behind": BEHIND,
            "revisions_in_a_ring": stage.program.setting("watch", "ring_revisions")?,
            "page_revisions": stage.program.setting("watch", "page_revisions")?,
        }),
    );
    let mut report = Report::new("storm", stage.environment);
    storm.add(&mut report, "");
    ring.add(&mut report, "ring_");
    Ok(report)
}

// === impl Measured ===

impl Measured {
    async fn round(
        &mut self,
        stage: &Stage,
        server: &Server,
        cursors: &[Cursor],
        head: i64,
    ) -> Result<(), Error> {
        let order = |address: &str| Open {
            requests: cursors
                .iter()
                .map(|cursor| watch(Some(cursor.clone())))
                .collect(),
            until: Until::Level(head),
            ..readers(address, CLIENTS)
        };
        let queries = queries(server).await?;
        let struck = strike(server.pid(), order(server.grpc_address())).await?;
        self.log_queries
            .push(self::queries(server).await? - queries);
        check(&struck.opened)?;
        self.seconds.push(struck.opened.seconds);
        self.half_seconds.push(struck.opened.half_seconds);
        self.rss_mib.push(struck.rss_mib);
        self.cpu_s.push(struck.cpu_s);
        self.bytes.push(struck.opened.bytes as f64 / CLIENTS as f64);

        let oldest = cursors.first().cloned();
        let messages = record(server.grpc_address(), oldest, head).await?;
        let floor = stage.broadcast("storm", &messages).await?;
        let struck = strike(floor.pid()?, order(floor.address())).await?;
        check(&struck.opened)?;
        self.floor_seconds.push(struck.opened.seconds);
        self.floor_rss_mib.push(struck.rss_mib);
        self.floor_cpu_s.push(struck.cpu_s);
        Ok(())
    }

    fn add(&self, report: &mut Report, prefix: &str) {
        let name = |name: &str| format!("{prefix}{name}");
        // What is aimed at is the storm that the log has to answer.
        let at_most = |limit| prefix.is_empty().then_some(Target::AtMost(limit));
        report.ratio(
            &name("time_ratio"),
            &self.seconds,
            &self.floor_seconds,
            at_most(1.5),
        );
        report.aimed(
            &name("log_queries"),
            "statements",
            &self.log_queries,
            None,
            at_most(5.0),
        );
        report.aimed(
            &name("rss_mb"),
            "MiB",
            &self.rss_mib,
            Some(&self.floor_rss_mib),
            at_most(64.0),
        );
        report.floored(&name("time_s"), "s", &self.seconds, &self.floor_seconds);
        report.plain(&name("half_time_s"), "s", &self.half_seconds);
        report.floored(&name("server_cpu_s"), "s", &self.cpu_s, &self.floor_cpu_s);
        report.plain(&name("bytes_per_client"), "bytes", &self.bytes);
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} s ({:.0} MiB, {:.2} s of processors, {:.0} log queries); floor {:.2} s ({:.0} MiB, {:.2} s)",
            self.seconds.last(),
            self.rss_mib.last(),
            self.cpu_s.last(),
            self.log_queries.last(),
            self.floor_seconds.last(),
            self.floor_rss_mib.last(),
            self.floor_cpu_s.last(),
        )
    }
}

/// Lets them all come. Memory is that at the peak, above that of before, when nobody was connected.
async fn strike(pid: u32, order: Open) -> Result<Struck, Error> {
    let mut crowd = Crowd::start().await?;
    let resident = process::memory(pid)?.resident;
    process::forget_peak(pid)?;
    let cpu = process::cpu_time(pid)?;
    let opened = crowd.open(order).await?;
    let cpu = process::cpu_time(pid)? - cpu;
    let peak = process::memory(pid)?.peak;
    crowd.close().await?;
    Ok(Struck {
        opened,
        rss_mib: (peak as f64 - resident as f64) / MIB,
        cpu_s: cpu.as_secs_f64(),
    })
}

/// Every client has got what it had missed, and nothing twice.
fn check(opened: &Opened) -> Result<(), Error> {
    let clients = CLIENTS as u64;
    let missed = clients * BEHIND..=clients * (BEHIND + CURSORS as u64);
    if missed.contains(&opened.changes) {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "{clients} clients have missed {BEHIND} changes and a few, and got {} together",
        opened.changes
    )))
}

/// The messages of a stream after a cursor, up to the head, as they come.
async fn record(address: &str, after: Option<Cursor>, head: i64) -> Result<Vec<Bytes>, Error> {
    let mut grpc = Grpc::new(load::connect(address).await?);
    grpc.ready().await.map_err(Error::Serve)?;
    let path = http::uri::PathAndQuery::from_static(WATCH);
    let request = Request::new(Bytes::from(watch(after)));
    let mut stream = grpc
        .server_streaming(request, path, BytesCodec)
        .await?
        .into_inner();
    let mut messages = Vec::new();
    let wait = Duration::from_secs(60);
    loop {
        let message = tokio::time::timeout(wait, stream.message())
            .await
            .map_err(|_| Error::Unexpected(format!("a stream was silent for {wait:?}")))??
            .ok_or_else(|| Error::Unexpected("a stream ended".to_owned()))?;
        let decoded = WatchResponse::decode(message.clone())
            .map_err(|error| Error::Unexpected(error.to_string()))?;
        messages.push(message);
        if let Some(Event::Batch(batch)) = decoded.event
            && batch.cursor.is_some_and(|cursor| cursor.revision >= head)
        {
            return Ok(messages);
        }
    }
}

/// Statements that have read the log, those of the server's own follower among them.
async fn queries(server: &Server) -> Result<f64, Error> {
    let metrics = load::metrics(server).await?;
    Ok(LOG_QUERIES
        .iter()
        .filter_map(|name| {
            metrics.get(&format!(
                "steadfast_statement_seconds_count{{statement=\"{name}\"}}"
            ))
        })
        .sum())
}
