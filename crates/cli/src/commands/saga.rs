//! `steadfast saga`.

mod define;
mod list;
mod report;
mod start;
mod steer;
mod timeline;

use clap::{Args, Subcommand};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
};

#[derive(Debug, Subcommand)]
pub(crate) enum SagaCommand {
    /// Store a definition
    ///
    /// From a file in TOML or JSON. What is stored under a name and a version never changes: the same again does nothing, and
    /// another body needs another version.
    Define(define::FileArgs),
    /// Check a definition against the server, without storing it
    Validate(define::FileArgs),
    /// List the stored definitions
    Definitions(define::ListArgs),
    /// Print a stored definition as JSON
    Definition(define::GetArgs),
    /// Start a saga
    Start(start::StartArgs),
    /// Start many sagas from a file with one request on each line
    StartMany(start::ManyArgs),
    /// List sagas, newest first
    List(list::ListArgs),
    /// Show a saga with its steps
    Get(list::GetArgs),
    /// List what happened to a saga
    Events(list::EventsArgs),
    /// Follow a saga until it has ended or needs a person
    ///
    /// One line for each event, those of the past first. A lost connection is made anew, and nothing is missed meanwhile. The
    /// exit code tells how it ended.
    Watch(timeline::WatchArgs),
    /// Roll a saga back at its next safe point
    Cancel(steer::SteerArgs),
    /// Hold a saga at its next safe point
    Pause(steer::SteerArgs),
    /// Let a paused saga go on
    Resume(steer::SteerArgs),
    /// Run the current step, or its undo, again now
    Retry(steer::DecideArgs),
    /// Count the current step, or its undo, as done
    Skip(steer::SkipArgs),
    /// Give a saga up; nothing is undone
    Abandon(steer::DecideArgs),
}

/// One saga.
#[derive(Debug, Args)]
struct IdArgs {
    /// The saga's id, as `saga list` shows it
    id: String,
}

/// A definition by name: `NAME` or `NAME@VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NameAndVersion {
    name: String,
    /// 0 for the newest.
    version: i32,
}

pub(crate) async fn run(command: SagaCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        SagaCommand::Define(args) => define::define(&args, session).await,
        SagaCommand::Validate(args) => define::validate(&args, session).await,
        SagaCommand::Definitions(args) => define::list(&args, session).await,
        SagaCommand::Definition(args) => define::get(args, session).await,
        SagaCommand::Start(args) => start::run(args, session).await,
        SagaCommand::StartMany(args) => start::run_many(&args, session).await,
        SagaCommand::List(args) => list::run(args, session).await,
        SagaCommand::Get(args) => list::get(args, session).await,
        SagaCommand::Events(args) => list::events(args, session).await,
        SagaCommand::Watch(args) => timeline::run(args, session).await,
        SagaCommand::Cancel(args) => steer::cancel(args, session).await,
        SagaCommand::Pause(args) => steer::pause(args, session).await,
        SagaCommand::Resume(args) => steer::resume(args, session).await,
        SagaCommand::Retry(args) => steer::retry(args, session).await,
        SagaCommand::Skip(args) => steer::skip(args, session).await,
        SagaCommand::Abandon(args) => steer::abandon(args, session).await,
    }
}

// === impl NameAndVersion ===

impl std::str::FromStr for NameAndVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            None => (text, 0),
            Some((name, version)) => {
                let version: i32 = version
                    .parse()
                    .ok()
                    .filter(|version| *version > 0)
                    .ok_or_else(|| format!("`{version}` is no version; write a number from 1"))?;
                (name, version)
            }
        };
        if name.is_empty() {
            return Err("write NAME or NAME@VERSION".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_named_with_or_without_a_version() {
        let read = |text: &str| {
            text.parse::<NameAndVersion>()
                .map(|read| (read.name, read.version))
        };
        assert_eq!(read("a"), Ok(("a".to_owned(), 0)));
        assert_eq!(read("a.b-c@12"), Ok(("a.b-c".to_owned(), 12)));
        for text in ["", "@1", "a@", "a@0", "a@-1", "a@x", "a@1@2"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
