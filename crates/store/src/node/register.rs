//! A stream that opens with a node's name.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{Cursor, ReplicaId};

use super::NodeName;
use crate::{
    Error, Store,
    engine::{Db, statements},
    lease::micros,
    pipeline::Kind,
};

statements! {
    /// Registers streams. One that was opened before the one that is registered and connected is left out, and so is a new name where
    /// there are too many.
    REGISTER = "node_register" => [
        postgres {
            "INSERT INTO node (registered_us, opened_us, expires_us, seen_us, sent_revision, flushes, connected, kind, node, incarnation, \
                 stream, replica, labels, sent_store, applied_store, error) \
             SELECT " now ", e.opened_us, " now " + $2, " now ", e.sent_revision, 0, true, 'watcher', e.node, e.incarnation, \
                 e.stream, $3, e.labels, e.sent_store, '', '' \
             FROM json_to_recordset($1::json) AS e(rank bigint, opened_us bigint, sent_revision bigint, node text, incarnation text, \
                 stream text, labels text, sent_store text) \
             WHERE e.rank < $4 - (SELECT count(*) FROM node) OR EXISTS (SELECT 1 FROM node x WHERE x.node = e.node \
                 AND x.incarnation = e.incarnation) ORDER BY e.node COLLATE \"C\", e.incarnation COLLATE \"C\" \
             ON CONFLICT (node, incarnation) DO UPDATE SET opened_us = excluded.opened_us, expires_us = excluded.expires_us, \
                 seen_us = excluded.seen_us, sent_revision = excluded.sent_revision, sent_store = excluded.sent_store, \
                 connected = true, stream = excluded.stream, replica = excluded.replica, labels = excluded.labels \
             WHERE node.kind = 'watcher' AND (NOT node.connected OR node.opened_us <= excluded.opened_us) RETURNING stream"
        }
        sqlite {
            "INSERT INTO node (registered_us, opened_us, expires_us, seen_us, sent_revision, flushes, connected, kind, node, incarnation, \
                 stream, replica, labels, sent_store, applied_store, error) \
             SELECT " now ", e.value ->> 'opened_us', " now " + $2, " now ", e.value ->> 'sent_revision', 0, true, 'watcher', \
                 e.value ->> 'node', e.value ->> 'incarnation', e.value ->> 'stream', $3, e.value ->> 'labels', \
                 e.value ->> 'sent_store', '', '' FROM json_each($1) e \
             WHERE e.value ->> 'rank' < $4 - (SELECT count(*) FROM node) OR EXISTS (SELECT 1 FROM node x \
                 WHERE x.node = e.value ->> 'node' AND x.incarnation = e.value ->> 'incarnation') \
             ON CONFLICT (node, incarnation) DO UPDATE SET opened_us = excluded.opened_us, expires_us = excluded.expires_us, \
                 seen_us = excluded.seen_us, sent_revision = excluded.sent_revision, sent_store = excluded.sent_store, \
                 connected = true, stream = excluded.stream, replica = excluded.replica, labels = excluded.labels \
             WHERE node.kind = 'watcher' AND (NOT node.connected OR node.opened_us <= excluded.opened_us) RETURNING stream"
        }
    ];
    /// Whether a name is known, to say why a stream was left out.
    KNOWN = "node_known" => ["SELECT node FROM node WHERE node = $1 AND incarnation = $2"];
}

/// A stream of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Whose.
    pub name: NodeName,
    /// The stream's own id.
    pub stream: String,
    /// JSON, text to text.
    pub labels: String,
    /// Who serves it.
    pub replica: ReplicaId,
    /// When it was opened, by the database's clock as that replica knows it.
    pub opened_us: i64,
    /// The stream goes on after it.
    pub sent: Cursor,
    /// How long the node counts after the stream's end.
    pub lease: Duration,
    /// Nodes that are known at most.
    pub limit: u32,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is the node's stream now.
    Done,
    /// A stream that was opened later is.
    Later,
    /// Too many nodes are known.
    TooMany,
}

/// Commits batches of registrations, all of one replica.
pub(crate) struct Registrations {
    pub(crate) db: Db,
}

#[derive(Serialize)]
struct Entry<'a> {
    rank: usize,
    opened_us: i64,
    sent_revision: i64,
    node: &'a str,
    incarnation: &'a str,
    stream: &'a str,
    labels: &'a str,
    sent_store: String,
}

#[derive(FromRow)]
struct StreamRow {
    stream: String,
}

#[derive(FromRow)]
struct KnownRow {
    #[expect(dead_code, reason = "only that it is there matters")]
    node: String,
}

impl Store {
    /// Makes a stream the node's own, together with whatever else is being registered.
    ///
    /// # Errors
    /// If the database does not answer, after trying for the write deadline; [`Error::Overloaded`].
    pub async fn register_node(&self, node: NewNode) -> Result<Registered, Error> {
        self.node_registrations().submit(node).await
    }
}

impl Kind for Registrations {
    type Input = NewNode;
    type Output = Registered;

    const NAME: &'static str = "node_register";

    fn conflict_key(node: &NewNode) -> Option<String> {
        Some(node.name.conflict_key())
    }

    fn size(node: &NewNode) -> usize {
        512 + node.labels.len()
    }

    async fn commit(
        &self,
        inputs: &[Arc<NewNode>],
    ) -> Result<Vec<Result<Registered, Error>>, Error> {
        let Some(first) = inputs.first() else {
            return Ok(Vec::new());
        };
        let entries: Vec<Entry<'_>> = inputs
            .iter()
            .enumerate()
            .map(|(rank, node)| Entry {
                rank,
                opened_us: node.opened_us,
                sent_revision: node.sent.revision.0,
                node: &node.name.node,
                incarnation: &node.name.incarnation,
                stream: &node.stream,
                labels: &node.labels,
                sent_store: node.sent.store_id.to_string(),
            })
            .collect();
        let json = serde_json::to_string(&entries).map_err(|_| Error::Corrupt("node"))?;
        let done: Vec<StreamRow> = self
            .db
            .write(&REGISTER)
            .bind(json)
            .bind(micros(first.lease))
            .bind(first.replica.to_string())
            .bind(i64::from(first.limit))
            .all()
            .await?;
        let mut outcomes = Vec::with_capacity(inputs.len());
        for node in inputs {
            let outcome = if done.iter().any(|row| row.stream == node.stream) {
                Registered::Done
            } else {
                self.refusal(&node.name).await?
            };
            outcomes.push(Ok(outcome));
        }
        Ok(outcomes)
    }
}

// === impl Registrations ===

impl Registrations {
    async fn refusal(&self, name: &NodeName) -> Result<Registered, Error> {
        let known = self.db.read(&KNOWN).bind(&name.node);
        let known: Option<KnownRow> = known.bind(&name.incarnation).optional().await?;
        Ok(match known {
            Some(_) => Registered::Later,
            None => Registered::TooMany,
        })
    }
}

// === impl NodeName ===

impl NodeName {
    /// Two names never have the same.
    pub(super) fn conflict_key(&self) -> String {
        format!("{}/{}/{}", self.node.len(), self.node, self.incarnation)
    }
}
