//! `steadfast migrate`.

use clap::Args;
use serde_json::json;

use crate::{
    commands::config::DatabaseArgs,
    failure::{Exit, Failure},
    output::Output,
};

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: MigrateArgs, output: Output) -> Result<Exit, Failure> {
    let config = args.database.load()?;
    let report = steadfast_server::migrate(&config).await?;
    output.print(
        || text(report.from, report.to),
        || json!({ "from": report.from, "to": report.to }),
    )?;
    Ok(Exit::Success)
}

fn text(from: i64, to: i64) -> String {
    if from == to {
        format!("the schema is up to date, at {to}")
    } else {
        format!("migrated the schema from {from} to {to}")
    }
}
