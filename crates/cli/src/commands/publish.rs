//! `steadfast publish`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::json;
use steadfast_client::{
    Code,
    api::watch::v1::{Op, PublishRequest, PublishResponse, publish_request::Change},
};
use uuid::Uuid;

use crate::{
    args::parse_duration,
    commands::{Session, nodes::wait},
    failure::{Exit, Failure},
    json::cursor_text,
};

/// Announces one change, durably.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The topic, for example app/prices
    topic: String,
    /// What changed, for example an id
    key: String,
    /// It is gone, instead of created or changed
    #[arg(long)]
    delete: bool,
    /// The thing's new etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Text to attach
    #[arg(long, conflicts_with = "payload_file", value_name = "TEXT")]
    payload: Option<String>,
    /// A file to attach; `-` for standard input
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// The publisher's incarnation, so that its own watch can tell its own changes
    #[arg(long, default_value = "", hide_default_value = true)]
    origin: String,
    /// Makes a repetition safe: the same id with the same change is written once; drawn if it is left out
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Return when every live node has applied the change; exits with 10 and names the others if they do not in time
    #[arg(long)]
    wait: bool,
    /// How long to wait for that; at most 10m
    #[arg(
        long,
        requires = "wait",
        default_value = "10s",
        value_parser = parse_duration,
        value_name = "DURATION"
    )]
    wait_timeout: Duration,
}

pub(crate) async fn run(args: PublishArgs, session: &Session) -> Result<Exit, Failure> {
    let payload = match (args.payload, &args.payload_file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(file)) => read_file(file)?,
        (None, None) => Vec::new(),
    };
    let request_id = args
        .request_id
        .unwrap_or_else(|| Uuid::now_v7().to_string());
    let op = if args.delete { Op::Delete } else { Op::Upsert };
    let request = PublishRequest {
        changes: vec![Change {
            topic: args.topic,
            key: args.key,
            op: op.into(),
            etag: args.etag,
            payload: payload.into(),
        }],
        origin: args.origin,
        request_id: request_id.clone(),
    };
    let connection = session.connect().await?;
    let mut client = connection.watches();
    let answer = connection.call(client.publish(request)).await.map_err(|error| {
        let failure = Failure::from(&error);
        // The answer was lost, perhaps not the change.
        if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) {
            return failure.hint(format!(
                "repeat the command with --request-id {request_id} to learn whether it was written, or to finish it"
            ));
        }
        failure
    })?;
    let published = |answer: &PublishResponse| {
        json!({
            "revision": answer.cursor.as_ref().map_or(0, |cursor| cursor.revision),
            "cursor": cursor_text(answer.cursor.as_ref()),
            "replayed": answer.replayed,
            "request_id": request_id,
        })
    };
    if !args.wait {
        session
            .output
            .print(|| text(&answer), || published(&answer))?;
        return Ok(Exit::Success);
    }
    if !session.output.is_json() {
        session.output.raw(&text(&answer))?;
    }
    let cursor = answer.cursor.clone();
    let waited = wait::until_applied(&connection, cursor, Vec::new(), args.wait_timeout).await;
    let waited = waited.map_err(|failure| {
        let cursor = cursor_text(answer.cursor.as_ref());
        failure.hint(format!(
            "it is published; `steadfast nodes wait --cursor {cursor}` waits for the nodes"
        ))
    })?;
    let mut fields = published(&answer);
    wait::finish(&waited, args.wait_timeout, &mut fields, session.output)
}

/// A file's bytes, or those of standard input for `-`.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|found| bytes = found)
    };
    read.map_err(|error| Failure::file(path, &error))?;
    Ok(bytes)
}

fn text(answer: &PublishResponse) -> String {
    let revision = answer.cursor.as_ref().map_or(0, |cursor| cursor.revision);
    if answer.replayed {
        format!("published before, as revision {revision}: nothing was written now")
    } else {
        format!("published as revision {revision}")
    }
}
