//! The sections as types. The meaning, unit and default of each field is told in `default.toml`; a duration's key ends in
//! `_ms` or `_hours`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    reader::{DATABASE_URL, Reader},
    url::{DatabaseUrl, has_impossible_port},
};

/// Where everything is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// PostgreSQL's address, or empty for the embedded database.
    pub url: DatabaseUrl,
    /// The folder of the embedded database.
    pub data_dir: PathBuf,
    /// Connections to PostgreSQL at most.
    pub max_connections: u32,
    /// When PostgreSQL ends a transaction whose client is quiet.
    pub idle_in_transaction_timeout: Duration,
    /// The longest wait for a row lock.
    pub lock_timeout: Duration,
    /// The longest run of a statement.
    pub statement_timeout: Duration,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// How long a saga's commit is waited for without sleeping.
    pub busy_wait: Duration,
    /// Whether processors are kept from sleeping meanwhile.
    pub cpu_latency_qos: bool,
}

/// Where callers reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The gRPC API's address.
    pub grpc: SocketAddr,
    /// The HTTP side's address.
    pub http: SocketAddr,
    /// Other addresses than loopback are wanted, although callers are not authenticated.
    pub insecure: bool,
    /// How long a stopping server lets running calls finish.
    pub shutdown_grace: Duration,
    /// The time over which ended streams are told to come back.
    pub drain_jitter: Duration,
}

/// What callers may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls and streams open at once on one connection.
    pub max_concurrent_streams_per_connection: u32,
    /// The largest request or answer.
    pub max_message_bytes: usize,
    /// Unary calls under way at once.
    pub max_in_flight_unary: usize,
    /// The deadline of a unary call that brings none.
    pub default_deadline: Duration,
    /// How long a lookup waits for `min_revision`.
    pub min_revision_wait: Duration,
    /// Watch streams open at once.
    pub max_watch_streams: usize,
    /// Nodes known at once, of the whole fleet.
    pub max_nodes: u32,
    /// Changes in one Publish call.
    pub publish_max_changes: usize,
    /// Payload of one published change.
    pub publish_max_payload_bytes: usize,
    /// The largest document to validate.
    pub document_max_bytes: usize,
    /// Its deepest nesting.
    pub document_max_depth: usize,
    /// The largest bundle that is taken in.
    pub bundle_max_bytes: u64,
}

/// The change stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The most memory for recent changes.
    pub ring_bytes: usize,
    /// The most revisions in memory.
    pub ring_revisions: usize,
    /// How often the log is read unasked.
    pub poll_interval: Duration,
    /// Announcements within this time become one.
    pub notify_coalesce: Duration,
    /// How often the connection that listens is tested.
    pub listen_test_interval: Duration,
    /// How often a quiet stream is told how far it is.
    pub progress_interval: Duration,
    /// The log keeps what is younger than this ...
    pub retention: Duration,
    /// ... but at most this many revisions.
    pub retention_revisions: u64,
    /// Revisions read from the log at a time.
    pub page_revisions: usize,
    /// How often a quiet connection is probed.
    pub keepalive_interval: Duration,
    /// How long an answer to the probe may take.
    pub keepalive_timeout: Duration,
}

/// Manners towards registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// How often one request is tried in all.
    pub attempts: u32,
    /// The longest Retry-After that is waited for.
    pub retry_after_max: Duration,
    /// So many failures in a row, and a host is left alone; 0 for never.
    pub breaker_failures: u32,
    /// For how long.
    pub breaker_pause: Duration,
    /// Requests to one host at once.
    pub max_concurrency_per_host: usize,
    /// The largest package document.
    pub packument_max_bytes: usize,
    /// The largest tarball, as downloaded.
    pub tarball_max_bytes: usize,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which are written: a level, or several directives separated by commas.
    pub log_level: String,
    /// Where traces are sent; `None` for nowhere.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that is sent.
    pub otlp_sample_ratio: f64,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What the steps of sagas may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saga {
    /// Whether `http` steps may go to this machine and its link.
    pub http_allow_local: bool,
    /// The largest answer of an `http` step that is kept.
    pub http_body_max_bytes: usize,
    /// The folder of secrets, one file each; `None` for the environment alone.
    pub secrets_dir: Option<PathBuf>,
}

/// Leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// A replica that is lost is replaced after this long.
    pub duration: Duration,
}

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

// === impl Database ===

impl Database {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let url = reader.text(DATABASE_URL);
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !url.is_empty() && !matches!(scheme, Some("postgres" | "postgresql")) {
            let remedy = if url.starts_with("sqlite") || url.starts_with("file:") {
                "for SQLite leave database.url empty and name the folder in database.data_dir"
            } else {
                "begin it with postgres://, or leave it empty for the embedded database"
            };
            let allowed = "postgres://USER:PASSWORD@HOST:PORT/NAME, or empty";
            reader.refuse(DATABASE_URL, allowed, remedy);
        } else if has_impossible_port(&url) {
            reader.refuse(
                DATABASE_URL,
                "postgres://USER:PASSWORD@HOST:PORT/NAME, with a port from 1 to 65535",
                "correct the port, or leave it out; if it is part of a password, end that with @HOST, and write %2F for a / in it",
            );
        }
        Self {
            url: DatabaseUrl::new(url),
            data_dir: reader.folder("database.data_dir"),
            max_connections: reader.integer("database.max_connections", 2..=1_000),
            idle_in_transaction_timeout: reader
                .milliseconds("database.idle_in_transaction_timeout_ms", 100..=MINUTE_MS),
            lock_timeout: reader.milliseconds("database.lock_timeout_ms", 100..=MINUTE_MS),
            statement_timeout: reader
                .milliseconds("database.statement_timeout_ms", 100..=10 * MINUTE_MS),
            connect_timeout: reader.milliseconds("database.connect_timeout_ms", 100..=MINUTE_MS),
            busy_wait: Duration::from_micros(reader.integer("database.busy_wait_us", 0..=10_000)),
            cpu_latency_qos: reader.boolean("database.cpu_latency_qos"),
        }
    }
}

// === impl Server ===

impl Server {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let server = Self {
            grpc: reader.address("server.grpc"),
            http: reader.address("server.http"),
            insecure: reader.boolean("server.insecure"),
            shutdown_grace: reader.milliseconds("server.shutdown_grace_ms", 0..=10 * MINUTE_MS),
            drain_jitter: reader.milliseconds("server.drain_jitter_ms", 0..=MINUTE_MS),
        };
        for (path, address) in [("server.grpc", server.grpc), ("server.http", server.http)] {
            if !server.insecure && !address.ip().is_loopback() {
                reader.refuse(
                    path,
                    "a loopback address, such as 127.0.0.1 or [::1], because callers are not authenticated in this version",
                    "use a loopback address; or, where the network itself keeps strangers away, set server.insecure = true (flag --insecure)",
                );
            }
        }
        if server.grpc == server.http && server.grpc.port() != 0 {
            let allowed = "another address or port than server.grpc";
            reader.refuse("server.http", allowed, "give one of them another port");
        }
        server
    }
}

// === impl Limits ===

impl Limits {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            max_concurrent_streams_per_connection: reader.integer(
                "limits.max_concurrent_streams_per_connection",
                1..=1_000_000,
            ),
            max_message_bytes: reader.integer("limits.max_message_bytes", 64 * KIB..=256 * MIB),
            max_in_flight_unary: reader.integer("limits.max_in_flight_unary", 1..=1_000_000),
            default_deadline: reader
                .milliseconds("limits.default_deadline_ms", 100..=10 * MINUTE_MS),
            min_revision_wait: reader.milliseconds("limits.min_revision_wait_ms", 0..=MINUTE_MS),
            max_watch_streams: reader.integer("limits.max_watch_streams", 1..=1_000_000),
            max_nodes: reader.integer("limits.max_nodes", 1..=100_000),
            // The upper bounds of the next four are the contract's: callers rely on them.
            publish_max_changes: reader.integer("limits.publish_max_changes", 1..=256),
            publish_max_payload_bytes: reader
                .integer("limits.publish_max_payload_bytes", 0..=4 * KIB),
            document_max_bytes: reader.integer("limits.document_max_bytes", KIB..=MIB),
            document_max_depth: reader.integer("limits.document_max_depth", 1..=64),
            bundle_max_bytes: reader.integer("limits.bundle_max_bytes", MIB..=64 << 30),
        }
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            ring_bytes: reader.integer("watch.ring_bytes", MIB..=4 * GIB),
            ring_revisions: reader.integer("watch.ring_revisions", 256..=16 * MIB),
            poll_interval: reader.milliseconds("watch.poll_interval_ms", 10..=MINUTE_MS),
            notify_coalesce: reader.milliseconds("watch.notify_coalesce_ms", 0..=1_000),
            listen_test_interval: reader
                .milliseconds("watch.listen_test_interval_ms", 1_000..=HOUR_MS),
            progress_interval: reader
                .milliseconds("watch.progress_interval_ms", 1_000..=10 * MINUTE_MS),
            retention: reader.hours("watch.retention_hours", 1..=8_760),
            retention_revisions: reader.integer("watch.retention_revisions", 1_000..=1_000_000_000),
            page_revisions: reader.integer("watch.page_revisions", 1..=10_000),
            keepalive_interval: reader.milliseconds("watch.keepalive_interval_ms", 1_000..=HOUR_MS),
            keepalive_timeout: reader
                .milliseconds("watch.keepalive_timeout_ms", 1_000..=10 * MINUTE_MS),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            timeout: reader.milliseconds("upstream.timeout_ms", 100..=10 * MINUTE_MS),
            attempts: reader.integer("upstream.attempts", 1..=20),
            retry_after_max: reader.milliseconds("upstream.retry_after_max_ms", 0..=HOUR_MS),
            breaker_failures: reader.integer("upstream.breaker_failures", 0..=10_000),
            breaker_pause: reader.milliseconds("upstream.breaker_pause_ms", 100..=HOUR_MS),
            max_concurrency_per_host: reader.integer("upstream.max_concurrency_per_host", 1..=256),
            packument_max_bytes: reader.integer("upstream.packument_max_bytes", KIB..=GIB),
            tarball_max_bytes: reader.integer("upstream.tarball_max_bytes", KIB..=GIB),
        }
    }
}

// === impl Telemetry ===

impl Telemetry {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let log_format = match reader.text("telemetry.log_format").as_str() {
            "auto" => LogFormat::Auto,
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            _ => {
                reader.refuse("telemetry.log_format", "auto, human or json", "");
                LogFormat::Auto
            }
        };
        let log_level = reader.text("telemetry.log_level");
        if !log_level.split(',').all(is_log_directive) {
            let allowed = format!(
                "one of {}; or several `target=level` separated by commas",
                LEVELS.join(", ")
            );
            reader.refuse("telemetry.log_level", allowed, "");
        }
        let otlp_endpoint = reader.optional_text("telemetry.otlp_endpoint");
        if otlp_endpoint.as_deref().is_some_and(|url| !is_http(url)) {
            let allowed = "an address such as http://127.0.0.1:4317, or empty";
            reader.refuse("telemetry.otlp_endpoint", allowed, "");
        }
        Self {
            log_format,
            log_level,
            otlp_endpoint,
            otlp_sample_ratio: reader.share("telemetry.otlp_sample_ratio"),
        }
    }
}

/// A bare word must be a level: filters take any other for a target, and then log everything of a target that is not there.
fn is_log_directive(text: &str) -> bool {
    let level = match text.trim().split_once('=') {
        Some(("", _)) => return false,
        Some((_, level)) => level,
        None => text.trim(),
    };
    LEVELS.contains(&level)
}

/// Whether the text is an http or https address with a host.
pub(super) fn is_http(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    })
}

// === impl Saga ===

impl Saga {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            http_allow_local: reader.boolean("saga.http_allow_local"),
            http_body_max_bytes: reader.integer("saga.http_body_max_bytes", KIB..=64 * KIB),
            secrets_dir: reader.optional_text("saga.secrets_dir").map(PathBuf::from),
        }
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            duration: reader.milliseconds("lease.duration_ms", 300..=10 * MINUTE_MS),
        }
    }
}
