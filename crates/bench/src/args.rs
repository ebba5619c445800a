//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::floor::FloorCommand;

const AFTER_HELP: &str = "\
Each command starts what it needs (servers, floors, a PostgreSQL cluster with fsync on, a package registry on loopback) in
temporary directories and removes it. Set TMPDIR to measure another disk with SQLite; the cluster is always below /tmp.
Progress goes to standard error. A target that is missed is marked in the output; the exit code is 0 all the same, and 1 only
when nothing could be measured.";

/// Measures a Steadfast server against floors: the simplest servers that could give the same answers.
#[derive(Debug, Parser)]
#[command(
    name = "steadfast-bench",
    version,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every measurement takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A table for people, or one JSON object for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// How often everything is measured; medians are compared
    #[arg(long, global = true, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long each load is measured in each round, after a second to warm up; a refresh takes as long as it takes
    #[arg(long, global = true, default_value_t = 4, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// The server's program, by default target/release/steadfast
    #[arg(long, global = true, env = "STEADFAST_BIN", value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
}

/// How much of the measurement of sagas is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct SagaArgs {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…",
          default_values_t = [SagaPart::Steps, SagaPart::Burn, SagaPart::Parked, SagaPart::Recover])]
    pub(crate) parts: Vec<SagaPart>,
}

/// A part of the measurement of sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SagaPart {
    /// One at a time, 50 and 500 in flight, with their floors.
    Steps,
    /// 100,000 sagas of one step, and what they leave behind.
    Burn,
    /// The memory of sagas that wait.
    Parked,
    /// 10,000 in flight when the server is killed.
    Recover,
}

/// How much of the measurement of drifts is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct DriftArgs {
    /// How many resources there are, one measurement after the other; the figures that are aimed at are those of the last
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_values_t = [10_000, 100_000])]
    pub(crate) resources: Vec<u32>,
}

/// How much of the measurement of the fan-out is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct FanoutArgs {
    /// How many subscribers there are, one measurement after the other; the ratios are those of the last
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_values_t = [1, 10, 100, 1_000])]
    pub(crate) subscribers: Vec<usize>,
}

/// How much of the measurement of slow subscribers is done.
#[derive(Debug, Clone, Args)]
pub(crate) struct SlowArgs {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…",
          default_values_t = [SlowPart::Healthy, SlowPart::Stalled])]
    pub(crate) parts: Vec<SlowPart>,
    /// How often the healthy are measured with companions and without, and as often twice without; instead of --rounds
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) pairs: u32,
    /// How long one subscriber is stalled
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) stalled_seconds: u64,
}

/// A part of the measurement of slow subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SlowPart {
    /// Healthy subscribers beside companions that misbehave.
    Healthy,
    /// One stalled subscriber under full load.
    Stalled,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change between releases.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Processor time of the server per GetPackage, over a bare tonic echo
    ///
    /// 1,000 packages, random names, 8 connections with 8 calls in flight each. The floor is a tonic server with the same
    /// transport settings whose requests and answers have the same sizes, and which does nothing but send them.
    /// `lookup.server_cpu_ratio` should be at most 1.25.
    Lookup,
    /// Publishes per second, over servers that commit one statement per call
    ///
    /// 64 callers, each with one call of one change in flight, over 8 connections. The floors are tonic servers with the same
    /// transport settings and the same number of database connections: on PostgreSQL (fsync on) one unordered INSERT per
    /// call, and one updated counter row and one INSERT per call; on SQLite (synchronous=FULL) one commit per call.
    /// `publish.pg_vs_insert_ratio` should be at least 1.5, `publish.sqlite_vs_commit_ratio` at least 2.5.
    Publish,
    /// Seconds of a refresh, over the time that its requests alone take
    ///
    /// 1,000 packages from a registry that answers after 20 ms, 16 requests at once. The floor is the number of requests times
    /// 20 ms / 16. A first refresh stores everything, a second one finds everything unchanged. `refresh.overhead_ratio` should
    /// be at most 1.3.
    ///
    /// Then 10,000 packages of one organisation from a registry that answers after 2 ms, once on each engine:
    /// `refresh.rss_mb_10k`, what the server grows by, should be at most 256; `refresh.packages_per_s`; how much slower the slowest
    /// tenth is than the mean one; and how many requests are made again if the server is killed half way.
    Refresh,
    /// Steps of sagas per second, and what sagas cost, over bare fenced commits
    ///
    /// Sagas of ten steps that do nothing, started by StartSaga and followed on the topic `saga`: one at a time, 50 and 500 in
    /// flight; 100,000 sagas of one step; 10,000 that wait; and 10,000 in flight when the server is killed. The floors, without
    /// any gRPC, move rows in a table of three columns under a fence: one commit per step by 50 callers, and fifty steps per
    /// commit. On PostgreSQL (fsync on) `saga.ten_steps_p50_ms` should be at most 4, `saga.pg_steps_per_s_50` at least 20,000
    /// and above one commit per step, `saga.recover_s` at most the default lease plus 5; on SQLite (synchronous=FULL)
    /// `saga.sqlite_steps_per_s_50` at least 10,000.
    Saga(SagaArgs),
    /// Fields compared per second, what a sweep writes, and reports per second
    ///
    /// 10,000 and 100,000 resources of 20 fields whose observations differ from their specs in form and not in meaning, with
    /// none, one in a hundred and all of them drifted, on PostgreSQL (fsync on). The floor of a full sweep, without any gRPC,
    /// reads the same documents and does nothing with them. `drift.full_fields_per_s` should be at least 1,000,000,
    /// `drift.incremental_ms` after 100 changed resources at most 50, `drift.report_per_s` with all changed at least 20,000,
    /// `drift.cost_ratio` of a resource among 100,000 over one among 10,000 at most 1.2, and `drift.rss_growth_mib` at most 32.
    Drift(DriftArgs),
    /// From a durable publish to its subscribers, over a broadcast that keeps nothing
    ///
    /// One publisher on PostgreSQL (fsync on), and 1, 10, 100 and 1,000 subscribers, each with a TCP connection of its own, in a
    /// process of their own: one publish at a time, 20 per second, and 64 at a time. The floor is a tonic server with the same
    /// transport settings that hands the same bytes to the same subscribers through a broadcast channel, without any database.
    /// Latencies are those of single deliveries, from before the publish until the bytes were read. `fanout.p50_ratio_1000` and
    /// `fanout.p99_ratio_1000` should be at most 1.3, `fanout.p50_ms_1` at most 0.9.
    Fanout(FanoutArgs),
    /// Memory and processor time of open streams while nothing happens
    ///
    /// 1,000, 2,000 and 5,000 TCP connections with one stream each, over the server with nobody connected. The floor is the
    /// broadcast of `fanout` with the same streams. `idle.rss_mb_5000` should be at most 100.
    Idle,
    /// What healthy subscribers notice of slow ones
    ///
    /// 20 subscribers at 200 publishes per second, with and without companions that read slowly, not at all, or come and go, in
    /// interleaved pairs; and as many control pairs without companions, whose 90th percentile is the floor.
    /// `slow.healthy_p99_ratio` should be at most 1.1 or that floor, whichever is larger. Then one subscriber is stalled for a
    /// minute while 64 callers publish: `slow.stalled_rss_mb`, over the server's peak before, should be at most 32.
    Slow(SlowArgs),
    /// A thousand clients that come back at once, far behind
    ///
    /// 1,000 clients with cursors 10,000 revisions behind, each a few from the others: to a server that has just started, so that
    /// all comes from the log, and (`ring` figures) to one that has it in memory. The floor is a tonic server that sends the same
    /// messages to as many streams. `storm.time_ratio` should be at most 1.5, `storm.log_queries` at most 5, and
    /// `storm.rss_mb`, over the server with nobody connected, at most 64.
    Storm,
    /// Many subscribers, ordered about over standard input
    #[command(hide = true)]
    Crowd,
    /// What the measurements start beside the server
    #[command(subcommand, hide = true)]
    Floor(FloorCommand),
}

// === impl Options ===

impl Options {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        for line in [
            "steadfast-bench --output json lookup --rounds 3",
            "steadfast-bench lookup --output json --rounds 3",
        ] {
            let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
            assert_eq!(cli.options.output, Format::Json);
            assert_eq!(cli.options.rounds, 3);
        }
        for line in ["steadfast-bench lookup --rounds 0", "steadfast-bench"] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err());
        }
    }
}
