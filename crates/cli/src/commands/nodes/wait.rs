//! Waiting until nodes have applied a revision.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use steadfast_client::{
    Connection, Cursor,
    api::{
        common::v1::Cursor as CursorMessage,
        watch::v1::{GetHeadRequest, WaitForRevisionRequest, WaitForRevisionResponse},
    },
    cursor_to_api,
};

use super::{behind, shown};
use crate::{
    commands::Session,
    failure::{Exit, Failure},
    output::Output,
    table,
};

/// How much longer than the server waits its answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// Nodes that are named in an error at most; the output has all of them.
const NAMED: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The revision, of the present history
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..))]
    revision: Option<i64>,
    /// The same as a cursor, as `publish` and `head` show it: if the history is another one, it says so
    #[arg(long, value_name = "CURSOR", conflicts_with = "revision")]
    cursor: Option<Cursor>,
    /// Wait for this node; may be repeated. Every live node if it is left out
    #[arg(long = "node", value_name = "ID")]
    nodes: Vec<String>,
}

pub(super) async fn run(args: WaitArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let cursor = match (args.cursor, args.revision) {
        (Some(cursor), _) => Some(cursor_to_api(cursor)),
        (None, Some(revision)) => Some(CursorMessage {
            revision,
            ..CursorMessage::default()
        }),
        (None, None) => {
            let call = async { connection.watches().get_head(GetHeadRequest {}).await };
            connection.call(call).await?.head
        }
    };
    let timeout = session.timeout();
    let waited = until_applied(&connection, cursor, args.nodes, timeout).await?;
    finish(&waited, timeout, &mut json!({}), session.output)
}

/// Asks the server to wait.
pub(in crate::commands) async fn until_applied(
    connection: &Connection,
    cursor: Option<CursorMessage>,
    nodes: Vec<String>,
    timeout: Duration,
) -> Result<WaitForRevisionResponse, Failure> {
    let connection = connection.with_timeout(timeout + ANSWER);
    let request = WaitForRevisionRequest {
        cursor,
        nodes,
        timeout: timeout.try_into().ok(),
    };
    let mut client = connection.nodes();
    let waited = connection.call(client.wait_for_revision(request)).await?;
    Ok(waited)
}

/// Shows what a wait came to, and fails if somebody lags. `fields` are what else JSON says.
pub(in crate::commands) fn finish(
    waited: &WaitForRevisionResponse,
    timeout: Duration,
    fields: &mut Value,
    output: Output,
) -> Result<Exit, Failure> {
    if let (Value::Object(fields), Value::Object(waited)) = (&mut *fields, shown::waited(waited)) {
        fields.extend(waited);
    }
    output.print(|| text(waited), || fields.clone())?;
    if waited.complete {
        return Ok(Exit::Success);
    }
    Err(Failure::new(Exit::Lagging, lacking(waited, timeout)))
}

fn revision(waited: &WaitForRevisionResponse) -> i64 {
    waited.cursor.as_ref().map_or(0, |cursor| cursor.revision)
}

fn count(number: i32) -> String {
    table::count(usize::try_from(number).unwrap_or(0), "node")
}

fn text(waited: &WaitForRevisionResponse) -> String {
    let applied = format!(
        "revision {} is applied by {}",
        revision(waited),
        count(waited.applied_count)
    );
    if waited.complete {
        return applied;
    }
    let mut rows = table::with_head(&["LAGGING", "INCARNATION", "STATE", "APPLIED", "BEHIND"]);
    for node in &waited.lagging {
        rows.add_row([
            table::clean(&node.node),
            table::clean(&node.incarnation),
            shown::state(node.state),
            node.applied_revision
                .map_or_else(|| "never".to_owned(), |revision| revision.to_string()),
            behind(node),
        ]);
    }
    format!("{applied}\n{}", table::text(&rows))
}

/// Names those that have not applied it.
fn lacking(waited: &WaitForRevisionResponse, timeout: Duration) -> String {
    let mut names: Vec<String> = waited
        .lagging
        .iter()
        .take(NAMED)
        .map(|node| {
            format!(
                "{} ({})",
                table::clean(&node.node),
                shown::state(node.state)
            )
        })
        .collect();
    let rest = usize::try_from(waited.lagging_count).unwrap_or(0) - names.len();
    if rest > 0 {
        names.push(format!("{rest} more"));
    }
    format!(
        "within {timeout:?} revision {} was not applied by {}: {}",
        revision(waited),
        count(waited.lagging_count),
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::watch::v1::{NodeState, NodeStatus};

    use super::*;

    #[test]
    fn those_that_lag_are_named() {
        let lagging = |node: usize| NodeStatus {
            node: format!("n{node:02}"),
            state: NodeState::Connected.into(),
            ..NodeStatus::default()
        };
        let waited = WaitForRevisionResponse {
            cursor: Some(CursorMessage {
                revision: 9,
                ..CursorMessage::default()
            }),
            lagging: (0..12).map(lagging).collect(),
            lagging_count: 12,
            applied_count: 1,
            ..WaitForRevisionResponse::default()
        };
        let told = lacking(&waited, Duration::from_secs(3));
        assert!(
            told.starts_with("within 3s revision 9 was not applied by 12 nodes: n00 (connected), "),
            "{told}"
        );
        assert!(told.ends_with("n09 (connected), 2 more"), "{told}");
        let shown = text(&waited);
        assert!(
            shown.starts_with("revision 9 is applied by 1 node\n"),
            "{shown}"
        );
        assert_eq!(shown.lines().count(), 14, "{shown}");
    }
}
