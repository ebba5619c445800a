//! `steadfast serve`.

use clap::Args;
use steadfast_server::RunOptions;

use crate::{
    commands::config::SettingsArgs,
    failure::{Exit, Failure},
    version::COMMIT,
};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Leave the database's schema alone; `steadfast migrate` brings it up to date
    #[arg(long)]
    no_migrate: bool,
    /// Print one line of JSON on standard output once callers can be served, with the addresses that were bound
    #[arg(long)]
    ready_json: bool,
}

pub(crate) async fn run(args: ServeArgs) -> Result<Exit, Failure> {
    let config = args.settings.load()?;
    let options = RunOptions {
        migrate: !args.no_migrate,
        ready_json: args.ready_json,
        commit: COMMIT,
    };
    steadfast_server::run(config, options).await?;
    Ok(Exit::Success)
}
