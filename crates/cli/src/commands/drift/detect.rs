//! `steadfast drift detect`: sweeps, waits, and says in its exit code what it found.
//!
//! What counts are the drifts that are open and not hidden once the sweep has ended, not what the sweep has opened: one that is
//! known already is still a drift.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use serde_json::json;
use steadfast_client::{
    Connection,
    api::drift::v1::{
        DetectDriftRequest, Drift, GetResourceRequest, GetSweepRequest, ListDriftsRequest,
        ResourceKey, Sweep, SweepState, Verdict,
    },
};

use super::report;
use crate::{
    args::key_and_value,
    commands::{Session, resource::Key, who::user},
    failure::{Exit, Failure},
    json,
    output::note,
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
    let (drifts, hidden) = open(&connection, key.as_ref(), args.labels).await?;
    let unproven = match &key {
        Some(key) => unproven(&connection, key).await?,
        None => None,
    };
    session.output.print(
        || report::detected(&sweep, &drifts, hidden),
        || {
            let drifts: Vec<_> = drifts.iter().map(json::drift::drift).collect();
            json!({ "sweep": json::drift::sweep(&sweep), "drifts": drifts, "hidden": hidden })
        },
    )?;
    match (drifts.is_empty(), unproven) {
        (false, _) => Ok(Exit::Drifted),
        (true, Some(verdict)) => {
            note(&format!("error: it could not be compared: {verdict}"));
            Ok(Exit::Error)
        }
        (true, None) => Ok(Exit::Success),
    }
}

/// A sweep that has compared what was asked for, at its end.
async fn sweep(connection: &Connection, request: &DetectDriftRequest) -> Result<Sweep, Failure> {
    let mut client = connection.drifts();
    for _ in 0..JOINED_MAX {
        let answer = connection
            .call(client.detect_drift(request.clone()))
            .await?;
        let sweep = ended(connection, answer.sweep.unwrap_or_default()).await?;
        // One that was under way has gone through what was due when it was asked for, and no further.
        if !answer.joined || !request.full {
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

/// Drifts that are open and not hidden, the first of them; and how many are hidden.
async fn open(
    connection: &Connection,
    key: Option<&ResourceKey>,
    labels: Vec<(String, String)>,
) -> Result<(Vec<Drift>, i64), Failure> {
    let key = key.cloned().unwrap_or_default();
    let request = ListDriftsRequest {
        provider: key.provider,
        r#type: key.r#type,
        id: key.id,
        labels: labels.into_iter().collect::<HashMap<_, _>>(),
        page_size: SHOWN,
        ..ListDriftsRequest::default()
    };
    let mut client = connection.drifts();
    let answer = connection.call(client.list_drifts(request)).await?;
    Ok((answer.drifts, answer.suppressed))
}

/// What stands in the way of saying that one resource is in sync.
async fn unproven(connection: &Connection, key: &ResourceKey) -> Result<Option<String>, Failure> {
    let mut client = connection.resources();
    let request = GetResourceRequest {
        key: Some(key.clone()),
    };
    let answer = connection.call(client.get_resource(request)).await?;
    let resource = answer.resource.unwrap_or_default();
    Ok(match resource.verdict() {
        Verdict::InSync | Verdict::Drifted => None,
        Verdict::Unspecified => Some("nobody recorded it".to_owned()),
        _ => Some(json::drift::verdict(resource.verdict).replace('_', " ")),
    })
}
