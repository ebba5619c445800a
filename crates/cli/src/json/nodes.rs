//! Nodes as programs see them.

use serde_json::{Value, json};
use steadfast_client::api::watch::v1::{NodeKind, NodeState, NodeStatus, WaitForRevisionResponse};

use super::{cursor_text, sorted};
use crate::moment::rfc3339;

pub(crate) fn kind(value: i32) -> String {
    enum_name!(value, NodeKind, "NODE_KIND_")
}

pub(crate) fn state(value: i32) -> String {
    enum_name!(value, NodeState, "NODE_STATE_")
}

/// Milliseconds, rounded down.
pub(crate) fn lag_ms(node: &NodeStatus) -> i64 {
    node.lag.as_ref().map_or(0, |lag| {
        lag.seconds * 1_000 + i64::from(lag.nanos) / 1_000_000
    })
}

pub(crate) fn node(node: &NodeStatus) -> Value {
    json!({
        "node": node.node,
        "incarnation": node.incarnation,
        "kind": kind(node.kind),
        "state": state(node.state),
        "labels": sorted(&node.labels),
        "replica": node.replica,
        "applied_revision": node.applied_revision,
        "lag_revisions": node.lag_revisions,
        "lag_ms": lag_ms(node),
        "seen_time": rfc3339(node.seen_time.as_ref()),
        "lease_end_time": rfc3339(node.lease_end_time.as_ref()),
        "register_time": rfc3339(node.register_time.as_ref()),
        "last_error": node.last_error,
    })
}

/// What a wait came to, as fields to be put into an object.
pub(crate) fn waited(answer: &WaitForRevisionResponse) -> Value {
    let nodes = |nodes: &[NodeStatus]| nodes.iter().map(node).collect::<Vec<_>>();
    json!({
        "complete": answer.complete,
        "revision": answer.cursor.as_ref().map_or(0, |cursor| cursor.revision),
        "cursor": cursor_text(answer.cursor.as_ref()),
        "applied_count": answer.applied_count,
        "lagging_count": answer.lagging_count,
        "applied": nodes(&answer.applied),
        "lagging": nodes(&answer.lagging),
    })
}
