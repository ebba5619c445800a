//! Deciding about drifts: every decision names what its author saw, who and why.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use prost_types::Timestamp;
use serde_json::json;
use steadfast_client::api::drift::v1::{
    AcceptDriftRequest, AcceptDriftResponse, BatchAcceptDriftsRequest, SnoozeDriftRequest,
    batch_accept_drifts_response::result::Result as BatchResult,
};

use super::Seen;
use crate::{
    args::parse_span,
    commands::{Session, resource::name, who::WhoArgs},
    failure::{Exit, Failure},
    json, moment,
    output::note,
    table,
};

/// Drifts of one call at most, which the contract tells.
const BATCH: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// The drifts as they were displayed
    #[arg(required = true, value_name = "ID@ETAG")]
    drifts: Vec<Seen>,
    #[command(flatten)]
    who: WhoArgs,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("until_when").required(true).args(["span", "until", "end"])))]
pub(crate) struct SnoozeArgs {
    /// The drift as it was displayed
    #[arg(value_name = "ID@ETAG")]
    drift: Seen,
    /// For how long, for example 2h or 7d
    #[arg(long = "for", id = "span", value_name = "SPAN", value_parser = parse_span)]
    span: Option<Duration>,
    /// Until when, in RFC 3339, for example 2026-12-24T18:00:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// End a snooze
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    who: WhoArgs,
}

pub(super) async fn accept(args: AcceptArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let actor = args.who.actor();
    let requests: Vec<_> = args
        .drifts
        .iter()
        .map(|seen| AcceptDriftRequest {
            id: seen.id.clone(),
            etag: seen.etag.clone(),
            actor: actor.clone(),
            reason: args.who.reason.clone(),
        })
        .collect();
    if let [request] = requests.as_slice() {
        let call = client.accept_drift(request.clone());
        let answer = connection.call(call).await?;
        session
            .output
            .print(|| accepted(&answer), || accepted_json(&answer))?;
        return Ok(Exit::Success);
    }
    let mut done = Vec::new();
    let mut errors = Vec::new();
    for batch in requests.chunks(BATCH) {
        let request = BatchAcceptDriftsRequest {
            requests: batch.to_vec(),
        };
        let answer = connection.call(client.batch_accept_drifts(request)).await?;
        for (asked, result) in batch.iter().zip(answer.results) {
            match result.result {
                Some(BatchResult::Accepted(accepted)) => done.push(accepted),
                Some(BatchResult::Error(error)) => errors.push((asked.id.clone(), error)),
                None => {}
            }
        }
    }
    if !session.output.is_json() {
        for (id, error) in &errors {
            note(&format!("{id}: {}", table::clean(&error.message)));
        }
    }
    session.output.print(
        || {
            let lines: Vec<_> = done.iter().map(accepted).collect();
            let count = table::count(done.len(), "drift");
            [
                lines,
                vec![format!("{count} accepted, {} refused", errors.len())],
            ]
            .concat()
            .join("\n")
        },
        || {
            let done: Vec<_> = done.iter().map(accepted_json).collect();
            let errors: Vec<_> = errors
                .iter()
                .map(|(id, error)| json!({ "id": id, "error": json::item_error(error) }))
                .collect();
            json!({ "accepted": done, "errors": errors })
        },
    )?;
    Ok(match (errors.is_empty(), done.is_empty()) {
        (true, _) => Exit::Success,
        (false, true) => Exit::Error,
        (false, false) => Exit::Partial,
    })
}

fn accepted(answer: &AcceptDriftResponse) -> String {
    let drift = answer.drift.clone().unwrap_or_default();
    let what = format!("{}{}", name(drift.key.as_ref()), table::clean(&drift.path));
    match &answer.resource {
        Some(resource) => format!(
            "accepted {what}: the spec is version {} now",
            resource.spec_version
        ),
        None => format!("accepted {what}: it is no longer asked for"),
    }
}

fn accepted_json(answer: &AcceptDriftResponse) -> serde_json::Value {
    json!({
        "drift": answer.drift.as_ref().map(json::drift::drift),
        "resource": answer.resource.as_ref().map(json::drift::resource),
    })
}

pub(super) async fn snooze(args: SnoozeArgs, session: &Session) -> Result<Exit, Failure> {
    let until = match (args.span, args.until) {
        (Some(span), _) => Utc::now() + span,
        (None, Some(until)) => until,
        // Any time that has passed ends it.
        (None, None) => DateTime::UNIX_EPOCH,
    };
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let request = SnoozeDriftRequest {
        id: args.drift.id,
        etag: args.drift.etag,
        until_time: Some(Timestamp {
            seconds: until.timestamp(),
            nanos: until.timestamp_subsec_nanos().cast_signed(),
        }),
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let answer = connection.call(client.snooze_drift(request)).await?;
    let drift = answer.drift.unwrap_or_default();
    session.output.print(
        || {
            let what = format!("{}{}", name(drift.key.as_ref()), table::clean(&drift.path));
            match drift.suppressed_until_time.as_ref() {
                None => format!("{what} is shown"),
                until => format!("{what} is hidden, ends {}", moment::relative(until)),
            }
        },
        || json::drift::drift(&drift),
    )?;
    Ok(Exit::Success)
}
