//! Looking at sweeps, and stopping them.

use clap::{Args, ValueEnum};
use serde_json::json;
use steadfast_client::api::drift::v1::{
    CancelSweepRequest, GetSweepRequest, ListSweepsRequest, SweepState,
};

use super::report;
use crate::{
    commands::{Session, who::WhoArgs},
    failure::{Exit, Failure},
    json,
};

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The sweep's id
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep those in this state; may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateArg>,
    /// The most sweeps to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Running,
    Completed,
    Cancelled,
    Failed,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The sweep's id
    id: String,
    #[command(flatten)]
    who: WhoArgs,
}

pub(super) async fn get(args: IdArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let request = GetSweepRequest { id: args.id };
    let answer = connection.call(client.get_sweep(request)).await?;
    let sweep = answer.sweep.unwrap_or_default();
    session
        .output
        .print(|| report::sweep(&sweep), || json::drift::sweep(&sweep))?;
    Ok(Exit::Success)
}

pub(super) async fn list(args: ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let request = ListSweepsRequest {
        states: args
            .states
            .iter()
            .map(|state| SweepState::from(*state).into())
            .collect(),
        page_size: args.limit,
        page_token: String::new(),
    };
    let answer = connection.call(client.list_sweeps(request)).await?;
    session.output.print(
        || report::sweeps(&answer.sweeps),
        || {
            let sweeps: Vec<_> = answer.sweeps.iter().map(json::drift::sweep).collect();
            json!({ "sweeps": sweeps, "more": !answer.next_page_token.is_empty() })
        },
    )?;
    Ok(Exit::Success)
}

pub(super) async fn cancel(args: CancelArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let request = CancelSweepRequest {
        id: args.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let answer = connection.call(client.cancel_sweep(request)).await?;
    let sweep = answer.sweep.unwrap_or_default();
    session
        .output
        .print(|| report::sweep(&sweep), || json::drift::sweep(&sweep))?;
    Ok(Exit::Success)
}

impl From<StateArg> for SweepState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Running => Self::Running,
            StateArg::Completed => Self::Completed,
            StateArg::Cancelled => Self::Cancelled,
            StateArg::Failed => Self::Failed,
        }
    }
}
