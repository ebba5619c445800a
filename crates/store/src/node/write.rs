//! What a replica writes down of the streams that it serves, many at a time.

use std::{collections::HashSet, time::Duration};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::Cursor;

use super::NodeName;
use crate::{Error, Store, engine::statements, lease::micros};

/// What a report changes, if it is of the present history and above what was reported before.
macro_rules! take_applied {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN e.applied_store = m.store_id AND (node.applied_store <> m.store_id OR node.applied_revision IS NULL \
             OR node.applied_revision < e.applied_revision) THEN e.",
            $column,
            " ELSE node.",
            $column,
            " END, "
        )
    };
}

pub(super) use take_applied;

/// What streams have become.
macro_rules! changes {
    () => {
        concat!(
            "UPDATE node SET ",
            take_applied!("applied_store"),
            take_applied!("applied_revision"),
            take_applied!("applied_mark"),
            "error = coalesce(e.error, node.error), sent_store = e.sent_store, sent_revision = e.sent_revision, \
             connected = NOT e.ended, "
        )
    };
}

statements! {
    /// Writes down streams, each only if it is still the node's own.
    WRITE = "node_write" => [
        postgres {
            "WITH given AS (SELECT * FROM json_to_recordset($1::json) AS e(sent_revision bigint, applied_revision bigint, \
                 applied_mark bigint, ended boolean, seen boolean, node text, incarnation text, stream text, sent_store text, \
                 applied_store text, error text)), \
             held AS (SELECT n.key, n.node, n.incarnation FROM given e JOIN node n ON n.node = e.node AND n.incarnation = e.incarnation \
                 ORDER BY n.node, n.incarnation FOR UPDATE OF n) "
            (changes!()) "expires_us = CASE WHEN e.ended THEN " now " + $2 ELSE node.expires_us END, \
                 seen_us = CASE WHEN e.seen THEN " now " ELSE node.seen_us END \
             FROM given e, held h, store_meta m WHERE node.key = h.key AND h.node = e.node AND h.incarnation = e.incarnation \
                 AND node.stream = e.stream AND node.connected RETURNING node.stream"
        }
        sqlite {
            (changes!()) "expires_us = CASE WHEN e.ended THEN " now " + $2 ELSE node.expires_us END, \
                 seen_us = CASE WHEN e.seen THEN " now " ELSE node.seen_us END \
             FROM (SELECT value ->> 'sent_revision' AS sent_revision, value ->> 'applied_revision' AS applied_revision, \
                 value ->> 'applied_mark' AS applied_mark, value ->> 'ended' AS ended, value ->> 'seen' AS seen, \
                 value ->> 'node' AS node, value ->> 'incarnation' AS incarnation, value ->> 'stream' AS stream, \
                 value ->> 'sent_store' AS sent_store, value ->> 'applied_store' AS applied_store, value ->> 'error' AS error \
                 FROM json_each($1)) e, store_meta m \
             WHERE node.node = e.node AND node.incarnation = e.incarnation AND node.stream = e.stream AND node.connected \
             RETURNING stream"
        }
    ];
}

/// Streams in one statement at most.
const STREAMS: usize = 2_000;

/// What a stream has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWrite {
    /// Whose it is.
    pub name: NodeName,
    /// Its own id.
    pub stream: String,
    /// How far it was sent.
    pub sent: Cursor,
    /// What the node has proven to have applied since the last time.
    pub applied: Option<Cursor>,
    /// What keeps it from applying, if it said anything; empty for nothing.
    pub error: Option<String>,
    /// The node was heard of.
    pub seen: bool,
    /// The stream has ended.
    pub ended: bool,
}

/// What was written down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodesWritten {
    /// Of these streams.
    pub streams: HashSet<String>,
    /// In so many statements.
    pub statements: u64,
}

#[derive(FromRow)]
struct StreamRow {
    stream: String,
}

#[derive(Serialize)]
struct Entry<'a> {
    node: &'a str,
    incarnation: &'a str,
    stream: &'a str,
    sent_store: String,
    sent_revision: i64,
    applied_store: String,
    applied_revision: Option<i64>,
    applied_mark: Option<i64>,
    error: Option<&'a str>,
    seen: bool,
    ended: bool,
}

// === impl Entry ===

impl<'a> Entry<'a> {
    fn of(write: &'a NodeWrite) -> Self {
        let applied = write.applied;
        Self {
            node: &write.name.node,
            incarnation: &write.name.incarnation,
            stream: &write.stream,
            sent_store: write.sent.store_id.to_string(),
            sent_revision: write.sent.revision.0,
            applied_store: applied.map_or_else(String::new, |cursor| cursor.store_id.to_string()),
            applied_revision: applied.map(|cursor| cursor.revision.0),
            applied_mark: applied.map(|cursor| cursor.mark.to_sql()),
            error: write.error.as_deref(),
            seen: write.seen || write.ended,
            ended: write.ended,
        }
    }
}

impl Store {
    /// Writes down what streams have become; a node whose stream has ended counts for `lease` longer. Each stream may be there once.
    /// What is about a stream that is no longer its node's own is left out.
    ///
    /// # Errors
    /// If the database does not answer: some may be written then, and all may be written again.
    pub async fn write_nodes(
        &self,
        writes: &[NodeWrite],
        lease: Duration,
    ) -> Result<NodesWritten, Error> {
        let mut written = NodesWritten::default();
        for some in writes.chunks(STREAMS) {
            let entries: Vec<_> = some.iter().map(Entry::of).collect();
            let json = serde_json::to_string(&entries).map_err(|_| Error::Corrupt("node"))?;
            let write = self.db().write(&WRITE).bind(json);
            let rows: Vec<StreamRow> = write.bind(micros(lease)).all().await?;
            written
                .streams
                .extend(rows.into_iter().map(|row| row.stream));
            written.statements += 1;
        }
        Ok(written)
    }
}
