//! Nodes: who watches, how far each stream was sent, and what each node has proven to have applied.
//!
//! A row belongs to the stream that registered last: every write names the stream that it is about, and one about another stream finds no
//! row. Connected nodes have no lease of their own. They live as long as the row of the replica that serves them, so that one row is
//! renewed however many nodes there are; when a stream ends, its row gets an end of its own.
//!
//! What a node has applied counts only with the mark that the log has for that revision at the moment of asking: a report from before a
//! restore proves nothing about the history after it.
//!
//! Rows are locked in the order of node and incarnation by whoever locks several.

mod list;
mod register;
mod replica;
mod report;
mod tally;
mod write;

use sqlx::FromRow;
use steadfast_types::{Cursor, Mark, Revision, StoreId, Timestamp};

use crate::{Error, log::parse_store_id};

pub use register::{NewNode, Registered};
pub use replica::Beat;
pub use report::{NodeReport, NodeStanding, Reported as NodeReported};
pub use tally::{NodeTally, NodeWanted};
pub use write::{NodeWrite, NodesWritten};

pub(crate) use {register::Registrations, report::NodeReports};

/// The present moment as `m`, of which the time is still to come: the history, the newest revision, and what leases are compared with.
/// `$1` is a time: leases that ended after it count as if they lasted.
macro_rules! present {
    () => {
        "(SELECT q.store_id, q.compacted_revision, q.compacted_mark, q.head_revision, q.now_us, \
             CASE WHEN q.now_us < $1 THEN q.now_us ELSE $1 END AS floor_us \
         FROM (SELECT store_id, compacted_revision, compacted_mark, (SELECT max(revision) FROM change_log) AS head_revision, "
    };
}

/// What node rows mean at this moment.
macro_rules! node_columns {
    () => {
        "n.key, n.kind, n.node, n.incarnation, n.stream, n.replica, n.connected, n.labels, n.error, n.registered_us, n.seen_us, \
         (SELECT r.seen_us FROM node r WHERE r.node = n.replica AND r.incarnation = n.replica) AS replica_seen_us, \
         n.applied_store, n.applied_revision, n.applied_mark, \
         (SELECT a.mark FROM change_log a WHERE a.revision = n.applied_revision) AS held_mark, \
         (SELECT c.time_us FROM change_log c WHERE c.revision = 1 + CASE WHEN n.applied_revision > m.compacted_revision \
             THEN n.applied_revision ELSE m.compacted_revision END) AS next_us, \
         m.store_id, m.compacted_revision, m.compacted_mark, m.head_revision, m.now_us, m.floor_us, "
    };
}

/// When the lease of the node `n` ends: that of its replica while it is connected.
macro_rules! lease_of {
    ($n:literal) => {
        concat!(
            "coalesce(CASE WHEN ",
            $n,
            ".connected THEN (SELECT r.expires_us FROM node r \
             WHERE r.node = ",
            $n,
            ".replica AND r.incarnation = ",
            $n,
            ".replica) END, ",
            $n,
            ".expires_us)"
        )
    };
}

/// Whether a newer incarnation of the node `n` lives.
macro_rules! superseded {
    () => {
        concat!(
            "EXISTS (SELECT 1 FROM node x WHERE x.node = n.node AND x.key > n.key AND ",
            lease_of!("x"),
            " > m.floor_us)"
        )
    };
}

/// Whether the node `n` lives.
macro_rules! lives {
    () => {
        concat!(
            "(",
            lease_of!("n"),
            " > m.floor_us AND NOT ",
            superseded!(),
            ")"
        )
    };
}

/// Whether what the node `n` has applied is part of the present history.
macro_rules! is_proven {
    () => {
        "n.applied_store = m.store_id AND (n.applied_mark = (SELECT a.mark FROM change_log a WHERE a.revision = n.applied_revision) \
         OR n.applied_revision < m.compacted_revision \
         OR (n.applied_revision = m.compacted_revision AND n.applied_mark = m.compacted_mark))"
    };
}

use {is_proven, lease_of, lives, node_columns, present, superseded};

/// Who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName {
    /// Stable across restarts.
    pub node: String,
    /// Of one life of the process.
    pub incarnation: String,
}

/// Whether a node counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Live, and its stream is open.
    Connected,
    /// Live, although its stream has ended.
    Vanished,
    /// Its lease has ended.
    Expired,
    /// A newer incarnation lives.
    Superseded,
}

/// One incarnation of a node, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Who it is.
    pub name: NodeName,
    /// It is a replica of the server.
    pub is_replica: bool,
    /// Whether it counts.
    pub state: NodeState,
    /// JSON, text to text.
    pub labels: String,
    /// Who serves its stream, or did last.
    pub replica: String,
    /// The newest revision that it has proven to have applied.
    pub applied: Option<Cursor>,
    /// Revisions that it has not applied.
    pub lag_revisions: i64,
    /// How long ago the first of them was committed; since it registered, if it has applied none.
    pub lag: std::time::Duration,
    /// When it was last heard of.
    pub seen: Timestamp,
    /// When its lease ends.
    pub lease_end: Timestamp,
    /// When it first opened a stream.
    pub registered: Timestamp,
    /// What keeps it from applying.
    pub error: String,
    /// The newest revision, in the same snapshot.
    pub head: Revision,
}

#[derive(FromRow)]
pub(crate) struct StatusRow {
    kind: String,
    node: String,
    incarnation: String,
    replica: String,
    connected: bool,
    labels: String,
    error: String,
    registered_us: i64,
    seen_us: i64,
    replica_seen_us: Option<i64>,
    applied_store: String,
    applied_revision: Option<i64>,
    applied_mark: Option<i64>,
    held_mark: Option<i64>,
    next_us: Option<i64>,
    store_id: String,
    compacted_revision: i64,
    compacted_mark: i64,
    head_revision: i64,
    now_us: i64,
    lease_us: i64,
    is_superseded: bool,
    floor_us: i64,
}

// === impl StatusRow ===

impl StatusRow {
    /// The same judgement as `is_proven` makes in the database.
    fn proven(&self, store_id: StoreId) -> Option<Cursor> {
        let (revision, mark) = (self.applied_revision?, self.applied_mark?);
        let is_proven = self.applied_store == self.store_id
            && (self.held_mark == Some(mark)
                || revision < self.compacted_revision
                || (revision == self.compacted_revision && mark == self.compacted_mark));
        is_proven.then_some(Cursor {
            store_id,
            revision: Revision(revision),
            mark: Mark::from_sql(mark),
        })
    }

    fn state(&self) -> NodeState {
        match (self.is_superseded, self.connected) {
            _ if self.lease_us <= self.floor_us => NodeState::Expired,
            (true, _) => NodeState::Superseded,
            (false, true) => NodeState::Connected,
            (false, false) => NodeState::Vanished,
        }
    }
}

impl TryFrom<StatusRow> for NodeRow {
    type Error = Error;

    fn try_from(row: StatusRow) -> Result<Self, Error> {
        let applied = row.proven(parse_store_id(&row.store_id)?);
        let lag_revisions = row.head_revision - applied.map_or(0, |applied| applied.revision.0);
        let since = match applied {
            Some(_) if lag_revisions <= 0 => row.now_us,
            Some(_) => row.next_us.unwrap_or(row.now_us),
            None => row.registered_us,
        };
        let replica_seen = row.replica_seen_us.filter(|_| row.connected);
        Ok(Self {
            state: row.state(),
            is_replica: row.kind == REPLICA,
            applied,
            lag_revisions: lag_revisions.max(0),
            lag: Timestamp(row.now_us).since(Timestamp(since)),
            seen: Timestamp(row.seen_us.max(replica_seen.unwrap_or(0))),
            lease_end: Timestamp(row.lease_us),
            registered: Timestamp(row.registered_us),
            head: Revision(row.head_revision),
            name: NodeName {
                node: row.node,
                incarnation: row.incarnation,
            },
            labels: row.labels,
            replica: row.replica,
            error: row.error,
        })
    }
}

/// What `kind` says of a replica.
const REPLICA: &str = "replica";

#[cfg(any(test, feature = "faults"))]
pub(crate) fn statements() -> Vec<&'static crate::engine::Sql> {
    [
        list::STATEMENTS,
        register::STATEMENTS,
        replica::STATEMENTS,
        report::STATEMENTS,
        tally::STATEMENTS,
        write::STATEMENTS,
    ]
    .concat()
}
