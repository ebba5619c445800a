//! NodeService: what nodes have applied.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use steadfast_api::watch::v1::{self as api, node_service_server as generated};
use steadfast_store::{NodeName, NodeRow, NodeState, NodeWanted};
use steadfast_types::{Cursor, Mark, Revision, StoreId, Timestamp};
use steadfast_watch::{Nodes, Report, Waited};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    admin::time_message,
    field, layer,
    status::{self, Problem},
    watch::{cursor_message, cursor_value},
};

/// Nodes of a page, and of each list in an answer, at most.
const MAX_NODES: u32 = 1_000;
/// Bytes of a node's error at most.
const MAX_ERROR_BYTES: usize = 512;
/// How long a wait lasts if the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// An answer leaves this much earlier than the call's deadline, so that it arrives; of short calls, a fifth.
const ANSWER: Duration = Duration::from_millis(300);
/// How long a report waits for the replica that serves the node's stream: it writes at least every third of a lease.
const PROOF: Duration = Duration::from_secs(5);

/// What the service needs.
#[derive(Debug, Clone)]
pub(crate) struct NodeEdge {
    pub(crate) nodes: Nodes,
    /// For calls that bring none.
    pub(crate) default_deadline: Duration,
}

// === impl NodeEdge ===

impl NodeEdge {
    /// When an answer has to leave.
    fn deadline<T>(&self, request: &Request<T>) -> Instant {
        let asked = layer::timeout_in(request.metadata());
        let within = asked.unwrap_or(self.default_deadline);
        Instant::now() + within.saturating_sub(ANSWER.min(within / 5))
    }
}

#[tonic::async_trait]
impl generated::NodeService for NodeEdge {
    async fn report_applied(
        &self,
        request: Request<api::ReportAppliedRequest>,
    ) -> Result<Response<api::ReportAppliedResponse>, Status> {
        let deadline = self.deadline(&request).min(Instant::now() + PROOF);
        let report = report(request.into_inner())?;
        let reported = self.nodes.report(report, deadline).await;
        reported.map_err(|error| status::of_nodes(&error, "cursor"))?;
        Ok(Response::new(api::ReportAppliedResponse {}))
    }

    async fn wait_for_revision(
        &self,
        request: Request<api::WaitForRevisionRequest>,
    ) -> Result<Response<api::WaitForRevisionResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let timeout = wait_timeout(request.timeout)?;
        let (cursor, any_history) = wanted_cursor(request.cursor)?;
        let wanted = wanted_nodes(request.nodes)?;
        let until = deadline.min(Instant::now() + timeout);
        let waited = self.nodes.wait(cursor, any_history, &wanted, until).await;
        let waited = waited.map_err(|error| status::of_nodes(&error, "cursor"))?;
        Ok(Response::new(answer(waited)))
    }

    async fn list_nodes(
        &self,
        request: Request<api::ListNodesRequest>,
    ) -> Result<Response<api::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, MAX_NODES)?;
        let bound = [if request.include_gone { "gone" } else { "live" }];
        let token = field::page_token(&request.page_token, &bound)?;
        let after = token.map(|token| place(&token.after)).transpose()?;
        let rows = self
            .nodes
            .list(after.as_ref(), i64::from(limit) + 1, request.include_gone)
            .await
            .map_err(|error| status::of_nodes(&error, "page_token"))?;
        let head_revision = rows.first().map_or(0, |row| row.head.0);
        let (nodes, next_page_token) = field::page_of(&rows, limit, &bound, with_labels, |row| {
            serde_json::json!([row.name.node, row.name.incarnation]).to_string()
        });
        Ok(Response::new(api::ListNodesResponse {
            nodes,
            next_page_token,
            head_revision,
        }))
    }
}

/// Where a page begins.
fn place(after: &str) -> Result<NodeName, Status> {
    let (node, incarnation) =
        serde_json::from_str(after).map_err(|_| status::invalid_page_token())?;
    Ok(NodeName { node, incarnation })
}

/// Who opens a stream, if it is a node that is to be known: its name, and its labels as JSON.
pub(super) fn opened_by(node: &api::Node) -> Result<Option<(NodeName, String)>, Problem> {
    field::check_optional_text("node.id", &node.id)?;
    field::check_optional_text("node.incarnation", &node.incarnation)?;
    let labels = field::read_labels_of("node.labels", node.labels.clone())?;
    if node.id.is_empty() {
        return Ok(None);
    }
    if node.incarnation.is_empty() {
        return Err(status::invalid(
            "node.incarnation",
            "a node with an id needs one: draw it anew at each start of the process",
        ));
    }
    let labels: BTreeMap<String, String> = labels.into_iter().collect();
    let name = NodeName {
        node: node.id.clone(),
        incarnation: node.incarnation.clone(),
    };
    Ok(Some((name, serde_json::json!(labels).to_string())))
}

fn report(request: api::ReportAppliedRequest) -> Result<Report, Problem> {
    field::check_text("node", &request.node)?;
    field::check_text("incarnation", &request.incarnation)?;
    if !request.error.is_empty() {
        field::check("error", &request.error, MAX_ERROR_BYTES)?;
    }
    let cursor = match &request.cursor {
        None if request.error.is_empty() => {
            return Err(status::invalid(
                "cursor",
                "it is needed unless `error` is given: use one from Batch, Progress or Reset unchanged",
            ));
        }
        None => None,
        Some(cursor) => Some(cursor_value(cursor).ok_or_else(not_a_cursor)?),
    };
    Ok(Report {
        name: NodeName {
            node: request.node,
            incarnation: request.incarnation,
        },
        cursor,
        error: request.error,
    })
}

fn not_a_cursor() -> Problem {
    status::invalid(
        "cursor",
        "not a cursor of this API: use one from Publish, Batch, Progress or GetHead unchanged",
    )
}

fn wait_timeout(timeout: Option<prost_types::Duration>) -> Result<Duration, Problem> {
    let Some(timeout) = timeout else {
        return Ok(DEFAULT_WAIT);
    };
    Duration::try_from(timeout)
        .ok()
        .filter(|timeout| *timeout <= MAX_WAIT)
        .ok_or_else(|| status::invalid("timeout", "it must be 0 s to 600 s"))
}

/// The cursor, and whether only its revision was given.
fn wanted_cursor(
    cursor: Option<steadfast_api::common::v1::Cursor>,
) -> Result<(Cursor, bool), Problem> {
    let cursor = cursor.ok_or_else(|| {
        status::invalid(
            "cursor",
            "it is needed: use the one that Publish or GetHead returned",
        )
    })?;
    if cursor.store_id.is_empty() && cursor.mark == 0 && cursor.revision >= 0 {
        let cursor = Cursor {
            store_id: StoreId::default(),
            revision: Revision(cursor.revision),
            mark: Mark::default(),
        };
        return Ok((cursor, true));
    }
    Ok((cursor_value(&cursor).ok_or_else(not_a_cursor)?, false))
}

fn wanted_nodes(mut names: Vec<String>) -> Result<NodeWanted, Problem> {
    if names.len() > MAX_NODES as usize {
        let message = format!("{} nodes; at most {MAX_NODES}", names.len());
        return Err(status::invalid("nodes", message));
    }
    for (index, name) in names.iter().enumerate() {
        field::check_text(&format!("nodes[{index}]"), name)?;
    }
    names.sort_unstable();
    names.dedup();
    Ok(NodeWanted { names })
}

fn answer(waited: Waited) -> api::WaitForRevisionResponse {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let lagging_count = count(waited.lagging.len() + waited.unknown.len());
    let unknown = waited.unknown.into_iter().map(|node| api::NodeStatus {
        node,
        state: api::NodeState::Unknown.into(),
        ..api::NodeStatus::default()
    });
    let mut lagging: Vec<_> = waited.lagging.iter().map(message).chain(unknown).collect();
    lagging.sort_by(|one, other| one.node.cmp(&other.node));
    lagging.truncate(MAX_NODES as usize);
    let applied = waited.applied.iter().take(MAX_NODES as usize);
    api::WaitForRevisionResponse {
        complete: waited.complete,
        cursor: Some(cursor_message(waited.cursor)),
        applied: applied.map(message).collect(),
        lagging,
        applied_count: count(waited.applied.len()),
        lagging_count,
    }
}

fn with_labels(row: &NodeRow) -> api::NodeStatus {
    // They were written as what they are read as.
    let labels: HashMap<String, String> = serde_json::from_str(&row.labels).unwrap_or_default();
    api::NodeStatus {
        labels,
        ..message(row)
    }
}

fn message(row: &NodeRow) -> api::NodeStatus {
    let kind = if row.is_replica {
        api::NodeKind::Replica
    } else {
        api::NodeKind::Watcher
    };
    let state = match row.state {
        NodeState::Connected => api::NodeState::Connected,
        NodeState::Vanished => api::NodeState::Vanished,
        NodeState::Expired => api::NodeState::Expired,
        NodeState::Superseded => api::NodeState::Superseded,
    };
    let time = |time: Timestamp| Some(time_message(time));
    api::NodeStatus {
        node: row.name.node.clone(),
        incarnation: row.name.incarnation.clone(),
        kind: kind.into(),
        state: state.into(),
        labels: HashMap::new(),
        replica: row.replica.clone(),
        applied_revision: row.applied.map(|applied| applied.revision.0),
        lag_revisions: row.lag_revisions,
        // Beyond what the message can hold is beyond any lag.
        lag: row.lag.try_into().ok(),
        seen_time: time(row.seen),
        lease_end_time: time(row.lease_end),
        last_error: row.error.clone(),
        register_time: time(row.registered),
    }
}
