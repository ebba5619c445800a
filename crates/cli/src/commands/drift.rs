//! `steadfast drift`.

mod decide;
mod detect;
mod diff;
mod list;
mod proof;
mod report;
mod sweep;

use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
};

pub(super) use list::SeverityArg;

#[derive(Debug, Subcommand)]
pub(crate) enum DriftCommand {
    /// Compare what is due, and say whether anything drifted
    ///
    /// The exit code is 0 if all that could be compared is as it was asked for, 2 if something is not, and 1 for every error.
    /// Drifts that a policy or a snooze hides do not count. That nothing could be compared, because nothing is recorded, observed,
    /// applied or readable, is an error too; that some of it could not be is told, and an error with --strict.
    Detect(detect::DetectArgs),
    /// List drifts, newest first
    List(list::ListArgs),
    /// Show a drift: what was asked for against what is there, and its history
    Show(list::ShowArgs),
    /// Take what is there for what was asked for
    ///
    /// Each drift is named with its etag, ID@ETAG, as `drift list` and `drift show` print it: if it has changed since, nothing
    /// happens.
    Accept(decide::AcceptArgs),
    /// Hide a drift for a while
    Snooze(decide::SnoozeArgs),
    /// Show a sweep
    Sweep(sweep::IdArgs),
    /// List sweeps, newest first
    Sweeps(sweep::ListArgs),
    /// Stop a sweep
    CancelSweep(sweep::CancelArgs),
}

/// A drift as it was displayed: `ID@ETAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    id: String,
    etag: String,
}

/// One drift.
#[derive(Debug, Args)]
struct DriftArgs {
    /// The drift's id; what follows an `@` is left out of account
    id: String,
}

pub(crate) async fn run(command: DriftCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        DriftCommand::Detect(args) => detect::run(args, session).await,
        DriftCommand::List(args) => list::run(args, session).await,
        DriftCommand::Show(args) => list::show(args, session).await,
        DriftCommand::Accept(args) => decide::accept(args, session).await,
        DriftCommand::Snooze(args) => decide::snooze(args, session).await,
        DriftCommand::Sweep(args) => sweep::get(args, session).await,
        DriftCommand::Sweeps(args) => sweep::list(args, session).await,
        DriftCommand::CancelSweep(args) => sweep::cancel(args, session).await,
    }
}

// === impl DriftArgs ===

impl DriftArgs {
    fn id(&self) -> String {
        let id = self.id.split('@').next();
        id.unwrap_or_default().to_owned()
    }
}

// === impl Seen ===

impl FromStr for Seen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('@') {
            Some((id, etag)) if !id.is_empty() && !etag.is_empty() => Ok(Self {
                id: id.to_owned(),
                etag: etag.to_owned(),
            }),
            _ => Err("write ID@ETAG, as `steadfast drift list` shows it".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_is_named_with_what_was_seen_of_it() {
        let seen: Seen = "0190@3-1".parse().expect("both");
        assert_eq!((seen.id.as_str(), seen.etag.as_str()), ("0190", "3-1"));
        for text in ["", "0190", "0190@", "@3"] {
            assert!(text.parse::<Seen>().is_err(), "{text}");
        }
        let args = DriftArgs {
            id: "0190@3".to_owned(),
        };
        assert_eq!(args.id(), "0190");
    }
}
