//! `steadfast nodes`.

pub(super) mod wait;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use steadfast_client::api::watch::v1::{ListNodesRequest, NodeStatus};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json::nodes as shown,
    moment, table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// List who watches, and what each has applied
    List(ListArgs),
    /// Wait until nodes have applied a revision
    ///
    /// It returns when all of them have, or after --timeout, which is at most 10 minutes here; then it exits with 10 and names those
    /// that have not. Without --revision and --cursor it waits for the newest revision.
    Wait(wait::WaitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also those that are gone, for an hour
    #[arg(long)]
    gone: bool,
    /// The most nodes to list
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

pub(crate) async fn run(command: NodesCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        NodesCommand::List(args) => list(&args, session).await,
        NodesCommand::Wait(args) => wait::run(args, session).await,
    }
}

async fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let limit = args.limit as usize;
    let mut request = ListNodesRequest {
        page_size: i32::try_from(args.limit).unwrap_or(i32::MAX),
        page_token: String::new(),
        include_gone: args.gone,
    };
    let (mut nodes, mut head) = (Vec::new(), 0);
    loop {
        let mut client = connection.nodes();
        let page = connection.call(client.list_nodes(request.clone())).await?;
        nodes.extend(page.nodes);
        head = page.head_revision.max(head);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || nodes.len() >= limit {
            break;
        }
    }
    nodes.truncate(limit);
    session.output.print(
        || text(&nodes),
        || {
            let nodes: Vec<_> = nodes.iter().map(shown::node).collect();
            json!({ "nodes": nodes, "head_revision": head })
        },
    )?;
    Ok(Exit::Success)
}

/// A table of nodes.
fn text(nodes: &[NodeStatus]) -> String {
    if nodes.is_empty() {
        return "no nodes".to_owned();
    }
    let mut rows = table::with_head(&[
        "NODE",
        "INCARNATION",
        "KIND",
        "STATE",
        "APPLIED",
        "BEHIND",
        "SEEN",
        "LABELS",
        "ERROR",
    ]);
    for node in nodes {
        let mut labels: Vec<_> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        labels.sort();
        rows.add_row([
            table::clean(&node.node),
            table::clean(&node.incarnation),
            shown::kind(node.kind),
            shown::state(node.state),
            node.applied_revision
                .map_or_else(|| "never".to_owned(), |revision| revision.to_string()),
            behind(node),
            moment::relative(node.seen_time.as_ref()),
            table::clean(&labels.join(",")),
            table::shorten(&node.last_error, 60),
        ]);
    }
    table::text(&rows)
}

/// For example `3 revisions, 1.2s`; empty for none.
fn behind(node: &NodeStatus) -> String {
    let Ok(behind @ 1..) = usize::try_from(node.lag_revisions) else {
        return String::new();
    };
    let lag = Duration::from_millis(u64::try_from(shown::lag_ms(node)).unwrap_or(0));
    format!(
        "{}, {:.1}s",
        table::count(behind, "revision"),
        lag.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::watch::v1::{NodeKind, NodeState};

    use super::*;

    #[test]
    fn nodes_are_shown_with_what_they_lack() {
        let node = NodeStatus {
            node: "web\u{1b}1".to_owned(),
            incarnation: "i1".to_owned(),
            kind: NodeKind::Watcher.into(),
            state: NodeState::Vanished.into(),
            applied_revision: Some(7),
            lag_revisions: 2,
            lag: Some(prost_types::Duration {
                seconds: 1,
                nanos: 250_000_000,
            }),
            labels: [("zone", "b"), ("app", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NodeStatus::default()
        };
        let shown = text(std::slice::from_ref(&node));
        let line = shown.lines().nth(1).expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "web\u{fffd}1",
                "i1",
                "watcher",
                "vanished",
                "7",
                "2",
                "revisions,",
                "1.2s",
                "never",
                "app=x,zone=b"
            ]
        );
        let level = NodeStatus {
            lag_revisions: 0,
            applied_revision: None,
            ..node
        };
        assert_eq!(behind(&level), "");
        assert!(text(&[level]).contains("never"));
        assert_eq!(text(&[]), "no nodes");
    }
}
