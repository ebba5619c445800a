//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    commands::{
        completions::CompletionsArgs, config::ConfigCommand, init::InitArgs, man::ManArgs,
        migrate::MigrateArgs, package::PackageCommand, publish::PublishArgs, refresh::RefreshArgs,
        saga::SagaCommand, schedule::ScheduleCommand, schema::SchemaCommand, serve::ServeArgs,
        watch::WatchArgs,
    },
    version,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  an error
  2  the command line or the configuration is wrong
  3  some of several items failed, each named (refresh, package resolve, saga start-many)
  4  the server cannot be reached, is overloaded, or did not answer in time: try again later
  5  there is no such thing
  6  the document does not fit its schema (schema validate), or the definition is invalid (saga validate, define, start)
  7  the saga was rolled back (saga watch, saga start --wait)
  8  the saga is stuck and needs a person (saga watch, saga start --wait)
  9  the saga was abandoned (saga watch, saga start --wait)";

/// Keeps every copy of a truth in agreement with it.
#[derive(Debug, Parser)]
#[command(
    name = "steadfast",
    version = version::short(),
    long_version = version::long(),
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The server to talk to
    #[arg(
        long,
        global = true,
        env = "STEADFAST_ENDPOINT",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(crate) endpoint: String,
    /// How long to wait for an answer, for example 500ms, 10s or 2m
    #[arg(
        long,
        global = true,
        default_value = "10s",
        value_parser = parse_duration,
        value_name = "DURATION"
    )]
    pub(crate) timeout: Duration,
    /// Tables for people, JSON for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t = Format::Table,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
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
    /// Run the server
    Serve(ServeArgs),
    /// Write a configuration file that explains every setting
    Init(InitArgs),
    /// Bring the database's schema up to date, for `serve --no-migrate`
    Migrate(MigrateArgs),
    /// Check or print the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look packages up
    #[command(subcommand)]
    Package(PackageCommand),
    /// Look schemas up, and validate documents
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Bring the catalogue up to date with its sources, and follow how it goes
    ///
    /// Without a subcommand, it starts a refresh and follows it to its end. The refresh is the server's: it goes on if this
    /// command is interrupted, and `refresh get` shows how it ended.
    Refresh(RefreshArgs),
    /// Print changes as they are committed
    ///
    /// One line for each, until it is interrupted. A lost connection is made anew, and nothing is missed meanwhile. With
    /// --cursor-file the same holds for a restart of the command: what was printed is remembered after each batch.
    Watch(WatchArgs),
    /// Define, start, follow and steer changes of several steps
    #[command(subcommand)]
    Saga(SagaCommand),
    /// Announce a change of a topic of your own
    Publish(PublishArgs),
    /// Show the newest revision
    Head,
    /// List and steer scheduled work
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Print a completion script
    Completions(CompletionsArgs),
    /// Write manual pages into a folder
    Man(ManArgs),
}

const MAX_DURATION: Duration = Duration::from_secs(3_600);

/// A number with `ms`, `s` or `m`; without a unit, seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and ms, s or m, for example 10s".to_owned())?;
    let duration = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        unit => return Err(format!("unknown unit {unit:?}; use ms, s or m")),
    };
    if duration.is_zero() || duration > MAX_DURATION {
        return Err("allowed are 1ms to 60m".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit_that_is_known() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            ("10s", Duration::from_secs(10)),
            ("10", Duration::from_secs(10)),
            ("2m", Duration::from_secs(120)),
        ] {
            assert_eq!(parse_duration(text), Ok(expected));
        }
        for text in [
            "",
            "s",
            "-1s",
            "1h",
            "0s",
            "61m",
            "99999999999999999999s",
            "1.5s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "steadfast --endpoint http://h:1 -o json head",
            "steadfast head --endpoint http://h:1 --output json",
            "steadfast package get x -o json --endpoint http://h:1",
        ] {
            let cli = parse(line).expect(line);
            assert_eq!(cli.global.endpoint, "http://h:1");
            assert_eq!(cli.global.output, Format::Json);
        }
    }

    #[test]
    fn refresh_starts_without_a_word_and_lists_with_one() {
        for (line, valid) in [
            ("steadfast refresh", true),
            (
                "steadfast refresh --package a --kind packages --kind schemas --no-wait",
                true,
            ),
            ("steadfast refresh list --limit 5", true),
            ("steadfast refresh get 0190", true),
            ("steadfast refresh --package a list", false),
            ("steadfast refresh --kind icons", false),
        ] {
            assert_eq!(parse(line).is_ok(), valid, "{line}");
        }
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for (line, valid) in [
            (
                "steadfast watch --after 00000000-0000-0000-0000-000000000000:1:00",
                true,
            ),
            ("steadfast watch --after nonsense", false),
            ("steadfast watch --earliest --cursor-file f", true),
            (
                "steadfast watch --earliest --after 00000000-0000-0000-0000-000000000000:1:00",
                false,
            ),
            ("steadfast watch --key-prefix a", false),
            (
                "steadfast watch --topic registry --key-prefix @a/ --key-prefix @b/",
                true,
            ),
            ("steadfast publish app/a b --delete", true),
            (
                "steadfast publish app/a b --payload x --payload-file y",
                false,
            ),
            ("steadfast publish app/a", false),
            (
                "steadfast serve --listen-grpc 127.0.0.1:1 --insecure --no-migrate --ready-json",
                true,
            ),
            (
                "steadfast saga start a@2 --input x=1 --label a=b --key k --wait",
                true,
            ),
            ("steadfast saga start --steps-file f --deadline 60", true),
            ("steadfast saga start", false),
            ("steadfast saga start a@x", false),
            ("steadfast saga cancel 0190 --reason r", true),
            ("steadfast saga cancel 0190", false),
            (
                "steadfast saga retry 0190 --reason r --step a --attempt 2 --control-version 3",
                true,
            ),
            (
                "steadfast saga skip 0190 --reason r --result 1 --result-file f",
                false,
            ),
            (
                "steadfast saga list --state stuck --state paused --label a=b",
                true,
            ),
            ("steadfast saga list --state done", false),
            ("steadfast saga watch 0190 --after 3 --through-stuck", true),
            ("steadfast package resolve", false),
            ("steadfast completions bash", true),
            ("steadfast completions tcl", false),
        ] {
            assert_eq!(parse(line).is_ok(), valid, "{line}");
        }
    }

    #[test]
    fn the_help_tells_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("Exit codes:\n  0  success"), "{help}");
    }
}
