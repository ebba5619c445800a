//! One file per command: its arguments, what it asks, and how the answer looks.

pub(crate) mod bundle;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod document;
pub(crate) mod drift;
pub(crate) mod head;
pub(crate) mod icon;
pub(crate) mod init;
pub(crate) mod inventory;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod nodes;
pub(crate) mod package;
mod pages;
pub(crate) mod policy;
pub(crate) mod publish;
pub(crate) mod refresh;
pub(crate) mod resource;
pub(crate) mod saga;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod watch;
pub(crate) mod who;

use std::time::Duration;

use steadfast_client::{Connection, connect};

use crate::{
    args::{Cli, Command, GlobalArgs},
    failure::{Exit, Failure},
    output::Output,
};

/// What a command needs to ask and to answer.
#[derive(Debug)]
pub(crate) struct Session {
    global: GlobalArgs,
    pub(crate) output: Output,
}

// === impl Session ===

impl Session {
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let connection = connect(&self.global.endpoint, self.global.timeout).await?;
        Ok(connection)
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.global.timeout
    }
}

pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let session = Session {
        output: Output::new(cli.global.output),
        global: cli.global,
    };
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Init(args) => init::run(&args, session.output),
        Command::Migrate(args) => migrate::run(args, session.output).await,
        Command::Config(command) => config::run(command, session.output),
        Command::Package(command) => package::run(command, &session).await,
        Command::Schema(command) => schema::run(command, &session).await,
        Command::Icon(command) => icon::run(command, &session).await,
        Command::Refresh(args) => refresh::run(args, &session).await,
        Command::Export(args) => bundle::export(args, &session).await,
        Command::Import(args) => bundle::import(args, &session).await,
        Command::Watch(args) => watch::run(args, &session).await,
        Command::Publish(args) => publish::run(args, &session).await,
        Command::Saga(command) => saga::run(command, &session).await,
        Command::Resource(command) => resource::run(command, &session).await,
        Command::Inventory(command) => inventory::run(command, &session).await,
        Command::Drift(command) => drift::run(command, &session).await,
        Command::Policy(command) => policy::run(command, &session).await,
        Command::Nodes(command) => nodes::run(command, &session).await,
        Command::Head => head::run(&session).await,
        Command::Schedule(command) => schedule::run(command, &session).await,
        Command::Completions(args) => completions::run(&args, session.output),
        Command::Man(args) => man::run(&args, session.output),
    }
}
