//! `steadfast drift detect`: sweeps, waits, and says in its exit code what it found.
//!
//! What counts are the drifts that are open and not hidden once the sweep has ended, not what the sweep has opened: one that is
//! known already is still a drift. And what could not be compared is not in sync: where nothing could be, that is an error.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use serde_json::json;
use steadfast_client::{
    Connection,
    api::drift::v1::{
        DetectDriftRequest, Drift, GetSweepRequest, ListDriftsRequest, ListDriftsResponse,
        ResourceKey, Sweep, SweepState,
    },
};

use super::{proof::Proof, report};
use crate::{
    args::key_and_value,
    commands::{Session, resource::Key, who::user},
    failure::{Exit, Failure},
    json,
};

/// How many drifts are shown.
const SHOWN: i32 = 20;
/// How often a sweep is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often a sweep that was under way already is waited for, to ask again.
const JOINED_MAX: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct DetectArgs {
    /// Compare this resource only
    #[arg(value_name = "PROVIDER/TYPE/ID", conflicts_with = "labels")]
    key: Option<Key>,
    /// Compare resources with this label; may be repeated, and then all must be there
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// Compare everything, also what nothing has happened to
    #[arg(long)]
    full: bool,
    /// Exit with 1 also if only some of it could not be compared
    #[arg(long)]
    strict: bool,
}

/// What was found.
pub(super) struct Found {
    pub(super) sweep: Sweep,
    /// Drifts that are open and not hidden, the first of them.
    pub(super) drifts: Vec<Drift>,
    /// There are more.
    pub(super) more: bool,
    /// How many are hidden.
    pub(super) hidden: i64,
    pub(super) proof: Proof,
}

pub(super) async fn run(args: DetectArgs, session: &Session) -> Result<Exit, Failure> {
    detect(args, session).await.map_err(|mut failure| {
        // Every other number means something else here.
        failure.exit = Exit::Error;
        failure
    })
}

async fn detect(args: DetectArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let key = args.key.map(|Key(key)| key);
    let request = DetectDriftRequest {
        key: key.clone(),
        labels: args.labels.iter().cloned().collect(),
        full: args.full,
        triggered_by: user().unwrap_or_default(),
        wait_timeout: None,
    };
    let sweep = sweep(&connection, &request).await?;
    match sweep.state() {
        SweepState::Completed => {}
        _ => {
            let state = json::drift::sweep_state(sweep.state);
            return Err(Failure::new(
                Exit::Error,
                format!("sweep {} {state}: {}", sweep.id, sweep.error),
            ));
        }
    }
    let labels: HashMap<String, String> = args.labels.into_iter().collect();
    let proof = match &key {
        Some(key) => Proof::of_one(&connection, key).await?,
        None => Proof::of_all(&connection, &labels).await?,
    };
    let answer = open(&connection, key.as_ref(), &labels).await?;
    let found = Found {
        sweep,
        drifts: answer.drifts,
        more: !answer.next_page_token.is_empty(),
        hidden: answer.suppressed,
        proof,
    };
    session
        .output
        .print(|| report::detected(&found), || found_json(&found))?;
    let enough = found.proof.is_whole() || (found.proof.any && !args.strict);
    match (found.drifts.is_empty(), enough) {
        (false, _) => Ok(Exit::Drifted),
        (true, true) => Ok(Exit::Success),
        (true, false) => Err(found.proof.complaint(!labels.is_empty())),
    }
}

fn found_json(found: &Found) -> serde_json::Value {
    let drifts: Vec<_> = found.drifts.iter().map(json::drift::drift).collect();
    json!({
        "result": found.result(),
        "sweep": json::drift::sweep(&found.sweep),
        "drifts": drifts,
        "more": found.more,
        "hidden": found.hidden,
        "proof": found.proof.json(),
    })
}

/// A sweep that has compared what was asked for, at its end.
async fn sweep(connection: &Connection, request: &DetectDriftRequest) -> Result<Sweep, Failure> {
    let mut client = connection.drifts();
    for _ in 0..JOINED_MAX {
        let answer = connection
            .call(client.detect_drift(request.clone()))
            .await?;
        let sweep = ended(connection, answer.sweep.unwrap_or_default()).await?;
        // One that was under way has gone through what was due when it was asked for, and no further; one that somebody was stopping
        // has not even done that.
        let enough = !request.full && sweep.state() != SweepState::Cancelled;
        if !answer.joined || enough {
            return Ok(sweep);
        }
    }
    Err(Failure::new(
        Exit::Error,
        "other sweeps were under way each time; try again",
    ))
}

async fn ended(connection: &Connection, mut sweep: Sweep) -> Result<Sweep, Failure> {
    let mut client = connection.drifts();
    while sweep.state() == SweepState::Running {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let request = GetSweepRequest { id: sweep.id };
        let answer = connection.call(client.get_sweep(request)).await?;
        sweep = answer.sweep.unwrap_or_default();
    }
    Ok(sweep)
}

/// Drifts that are open and not hidden, the first of them.
async fn open(
    connection: &Connection,
    key: Option<&ResourceKey>,
    labels: &HashMap<String, String>,
) -> Result<ListDriftsResponse, Failure> {
    let key = key.cloned().unwrap_or_default();
    let request = ListDriftsRequest {
        provider: key.provider,
        r#type: key.r#type,
        id: key.id,
        labels: labels.clone(),
        page_size: SHOWN,
        ..ListDriftsRequest::default()
    };
    let mut client = connection.drifts();
    Ok(connection.call(client.list_drifts(request)).await?)
}

// === impl Found ===

impl Found {
    /// In one word.
    pub(super) fn result(&self) -> &'static str {
        match (self.drifts.is_empty(), self.proof.any) {
            (false, _) => "drifted",
            (true, true) => "in_sync",
            (true, false) => "unproven",
        }
    }
}
