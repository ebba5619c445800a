//! The command line.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    commands::{
        bundle::{ExportArgs, ImportArgs},
        completions::CompletionsArgs,
        config::ConfigCommand,
        drift::DriftCommand,
        icon::IconCommand,
        init::InitArgs,
        inventory::InventoryCommand,
        man::ManArgs,
        migrate::MigrateArgs,
        nodes::NodesCommand,
        package::PackageCommand,
        policy::PolicyCommand,
        publish::PublishArgs,
        refresh::RefreshArgs,
        resource::ResourceCommand,
        saga::SagaCommand,
        schedule::ScheduleCommand,
        schema::SchemaCommand,
        serve::ServeArgs,
        watch::WatchArgs,
    },
    failure::Exit,
    version,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  an error
  2  the command line or the configuration is wrong
  3  some of several items failed, each named (refresh, package resolve, saga start-many, resource report, drift accept)
  4  the server cannot be reached, is overloaded, or did not answer in time: try again later
  5  there is no such thing
  6  the document does not fit its schema (schema validate), or the definition is invalid (saga validate, define, start)
  7  the saga was rolled back (saga watch, saga start --wait)
  8  the saga is stuck and needs a person (saga watch, saga start --wait)
  9  the saga was abandoned (saga watch, saga start --wait)
  10 some nodes have not applied the revision in time, each named (nodes wait, publish --wait)

`drift detect` has its own: 0 in sync, 2 drifted, 1 if nothing could be compared, and for every error, also on the command line.
`schema diff`, too: 0 if nothing breaks, 2 if something does or might, 1 for every error, also on the command line.";

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
    /// Save and list the icons of packages
    #[command(subcommand)]
    Icon(IconCommand),
    /// Bring the catalogue up to date with its sources, and follow how it goes
    ///
    /// Without a subcommand, it starts a refresh and follows it to its end. The refresh is the server's: it goes on if this
    /// command is interrupted, and `refresh get` shows how it ended.
    Refresh(RefreshArgs),
    /// Write the whole catalogue into one file, for a site without a network
    Export(ExportArgs),
    /// Take in a file that `export` wrote
    ///
    /// The whole of it is verified before anything is written, and then all of it is written at once.
    Import(ImportArgs),
    /// Print changes as they are committed
    ///
    /// One line for each, until it is interrupted. A lost connection is made anew, and nothing is missed meanwhile. With
    /// --cursor-file the same holds for a restart of the command: what was printed is remembered after each batch.
    Watch(WatchArgs),
    /// Define, start, follow and steer changes of several steps
    #[command(subcommand)]
    Saga(SagaCommand),
    /// Keep what was asked for, and what providers say is there
    #[command(subcommand)]
    Resource(ResourceCommand),
    /// Look at everything that a provider runs
    #[command(subcommand)]
    Inventory(InventoryCommand),
    /// Find where resources differ from their specs, and decide about it
    #[command(subcommand)]
    Drift(DriftCommand),
    /// Say what is to be done about drifts
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Announce a change of a topic of your own
    Publish(PublishArgs),
    /// See who watches, and wait until all have applied a change
    #[command(subcommand)]
    Nodes(NodesCommand),
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

/// Tells what is wrong with the command line, or what was asked for, such as the help; with the exit code that belongs to it.
pub(crate) fn refused(error: &clap::Error) -> ExitCode {
    // If there is nobody to tell, the exit code is all that can be said.
    let _ = error.print();
    let words: Vec<_> = std::env::args().skip(1).collect();
    usage_exit(error.exit_code(), &words)
}

/// For `drift detect` and `schema diff` 2 means that something was found: a script must not take a mistyped option for that.
fn usage_exit(code: i32, words: &[String]) -> ExitCode {
    let is = |group: &str, command: &str| {
        let mut after = words.iter().skip_while(|word| *word != group);
        after.nth(1).is_some_and(|word| word == command)
    };
    let detects = is("drift", "detect") || is("schema", "diff");
    match u8::try_from(code) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(code) if !detects => ExitCode::from(code),
        _ => Exit::Error.into(),
    }
}

const MAX_DURATION: Duration = Duration::from_secs(3_600);

/// A number with `ms`, `s` or `m`; without a unit, seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
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

/// The longest span, a leap year.
const MAX_SPAN: Duration = Duration::from_secs(366 * 86_400);

/// A number with `s`, `m`, `h` or `d`, for what lasts longer than a call.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and s, m, h or d, for example 2h".to_owned())?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "" => return Err("write the unit: s, m, h or d".to_owned()),
        unit => return Err(format!("unknown unit {unit:?}; use s, m, h or d")),
    };
    let span = Duration::from_secs(number.saturating_mul(seconds));
    if span.is_zero() || span > MAX_SPAN {
        return Err("allowed are 1s to 366d".to_owned());
    }
    Ok(span)
}

/// Reads `KEY=VALUE`.
pub(crate) fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
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

    #[test]
    fn pairs_are_split_at_the_first_sign() {
        assert_eq!(
            key_and_value("a=b=c"),
            Ok(("a".to_owned(), "b=c".to_owned()))
        );
        assert_eq!(key_and_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_and_value("=a").is_err() && key_and_value("a").is_err());
    }

    #[test]
    fn a_mistyped_detection_is_no_drift() {
        let exit = |code, line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            format!("{:?}", usage_exit(code, &words))
        };
        let of = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(exit(2, "drift detect --ful"), of(1));
        assert_eq!(exit(2, "-o json drift detect x"), of(1));
        assert_eq!(exit(0, "drift detect --help"), of(0));
        assert_eq!(exit(2, "schema diff"), of(1));
        assert_eq!(exit(2, "drift list detect"), of(2));
        assert_eq!(exit(2, "head --x"), of(2));
    }

    #[test]
    fn spans_need_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("2h", 7_200),
            ("366d", 31_622_400),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "h",
            "2",
            "0s",
            "367d",
            "1w",
            "-1h",
            "99999999999999999d",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
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
            ("steadfast refresh --kind icons", true),
            ("steadfast refresh --kind tarballs", false),
            (
                "steadfast icon get a --shape rectangle --format svg -f x",
                true,
            ),
            ("steadfast icon get a --shape round", false),
            ("steadfast icon list a --limit 5", true),
            ("steadfast export f", true),
            ("steadfast export", false),
            ("steadfast import f --replace --dry-run", true),
            ("steadfast import f --replace --merge", false),
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
            ("steadfast publish app/a b --wait --wait-timeout 30s", true),
            ("steadfast publish app/a b --wait-timeout 30s", false),
            ("steadfast nodes list --gone", true),
            ("steadfast nodes wait", true),
            (
                "steadfast nodes wait --revision 7 --node a --node b --timeout 1m",
                true,
            ),
            (
                "steadfast nodes wait --revision 7 --cursor 00000000-0000-0000-0000-000000000000:1:00",
                false,
            ),
            ("steadfast watch --node n --report --label a=b", true),
            ("steadfast watch --report", false),
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
            (
                "steadfast resource record do/droplet/7 --spec f --pending",
                true,
            ),
            ("steadfast resource record do/droplet --spec f", false),
            ("steadfast resource record do/droplet/7", false),
            (
                "steadfast resource report do/droplet/a/b --attributes f --age 5m",
                true,
            ),
            ("steadfast resource report do/droplet/7 --gone", true),
            (
                "steadfast resource report do/droplet/7 --gone --attributes f",
                false,
            ),
            ("steadfast resource report --from f --inventory 0190", true),
            ("steadfast resource report", false),
            (
                "steadfast resource list --verdict drifted --label a=b",
                true,
            ),
            (
                "steadfast inventory begin do --type droplet --type volume",
                true,
            ),
            ("steadfast inventory end 0190 --complete", true),
            ("steadfast inventory end 0190 --failed reason", true),
            ("steadfast inventory end 0190", false),
            ("steadfast drift detect", true),
            ("steadfast drift detect do/droplet/7 --full", true),
            ("steadfast drift detect do/droplet/7 --label a=b", false),
            ("steadfast drift accept 0190@3 0191@1 --reason r", true),
            ("steadfast drift accept 0190 --reason r", false),
            ("steadfast drift snooze 0190@3 --for 2h --reason r", true),
            ("steadfast drift snooze 0190@3 --end --reason r", true),
            ("steadfast drift snooze 0190@3 --reason r", false),
            (
                "steadfast policy create p --path /a --handling ignore --reason r --expires 30d",
                true,
            ),
            (
                "steadfast policy create p --window 0,3 --handling ignored",
                false,
            ),
            ("steadfast policy create", false),
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
