//! Reports of nodes whose streams another replica serves, or nobody any more: the row says what is known.

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{Cursor, Revision};

use super::{NodeName, lease_of, write::take_applied};
use crate::{
    Error, Store,
    engine::{Db, statements},
    pipeline::Kind,
};

/// What reports change.
macro_rules! changes {
    () => {
        concat!(
            "UPDATE node SET ",
            take_applied!("applied_store"),
            take_applied!("applied_revision"),
            take_applied!("applied_mark"),
            "error = e.error, "
        )
    };
}

/// Whether a report is to be believed: it names nothing, or what was sent, with the mark of the present history.
macro_rules! is_true {
    () => {
        "node.kind = 'watcher' AND (e.applied_revision IS NULL OR (e.applied_store = m.store_id AND node.sent_store = e.applied_store \
         AND node.sent_revision >= e.applied_revision AND (e.applied_mark = (SELECT c.mark FROM change_log c \
             WHERE c.revision = e.applied_revision) \
             OR (e.applied_revision = m.compacted_revision AND e.applied_mark = m.compacted_mark))))"
    };
}

statements! {
    /// Takes reports over.
    REPORT = "node_report" => [
        postgres {
            "WITH given AS (SELECT * FROM json_to_recordset($1::json) AS e(applied_revision bigint, applied_mark bigint, node text, \
                 incarnation text, applied_store text, error text)), \
             held AS (SELECT n.key, n.node, n.incarnation FROM given e JOIN node n ON n.node = e.node AND n.incarnation = e.incarnation \
                 ORDER BY n.node, n.incarnation FOR UPDATE OF n) "
            (changes!()) "seen_us = " now " FROM given e, held h, store_meta m \
             WHERE node.key = h.key AND h.node = e.node AND h.incarnation = e.incarnation AND " (is_true!()) " \
             RETURNING node.node, node.incarnation"
        }
        sqlite {
            (changes!()) "seen_us = " now " FROM (SELECT value ->> 'applied_revision' AS applied_revision, \
                 value ->> 'applied_mark' AS applied_mark, value ->> 'node' AS node, value ->> 'incarnation' AS incarnation, \
                 value ->> 'applied_store' AS applied_store, value ->> 'error' AS error FROM json_each($1)) e, store_meta m \
             WHERE node.node = e.node AND node.incarnation = e.incarnation AND " (is_true!()) " RETURNING node, incarnation"
        }
    ];
    /// How a node stands, for the one who is asked about a report that was not taken over.
    STANDING = "node_standing" => [
        "SELECT m.store_id, m.compacted_revision, (SELECT c.mark FROM change_log c WHERE c.revision = $3) AS mark, n.stream, n.connected, \
                n.sent_store, n.sent_revision, n.replica, \
                coalesce((SELECT r.flushes FROM node r WHERE r.node = n.replica AND r.incarnation = n.replica), 0) AS flushes, \
                CASE WHEN " (lease_of!("n")) " > " now " THEN true ELSE false END AS is_served \
         FROM store_meta m CROSS JOIN node n WHERE n.node = $1 AND n.incarnation = $2 AND n.kind = 'watcher'"
    ];
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Who.
    pub name: NodeName,
    /// What it has applied.
    pub applied: Option<Cursor>,
    /// What keeps it from applying more; empty for nothing.
    pub error: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// It counts.
    Taken,
    /// There is no such node.
    Unknown,
    /// It is of another history.
    StoreChanged,
    /// The log no longer has the revision.
    Compacted {
        /// The oldest that can be resumed from.
        compacted: Revision,
    },
    /// It is above what is known to have been sent.
    NotSent(NodeStanding),
    /// It came in between with another write: try again.
    Again,
}

/// What is known of a node's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStanding {
    /// The stream.
    pub stream: String,
    /// It is open, as far as is known.
    pub connected: bool,
    /// The replica that serves it lives.
    pub is_served: bool,
    /// Which that is.
    pub replica: String,
    /// How far it was sent, when that was last written down.
    pub sent: Revision,
    /// How often its replica wrote down how far its streams were sent.
    pub flushes: i64,
}

/// Commits batches of reports.
pub(crate) struct NodeReports {
    pub(crate) db: Db,
}

#[derive(Serialize)]
struct Entry<'a> {
    node: &'a str,
    incarnation: &'a str,
    applied_store: String,
    applied_revision: Option<i64>,
    applied_mark: Option<i64>,
    error: &'a str,
}

#[derive(FromRow)]
struct NameRow {
    node: String,
    incarnation: String,
}

#[derive(FromRow)]
struct StandingRow {
    store_id: String,
    compacted_revision: i64,
    mark: Option<i64>,
    stream: String,
    connected: bool,
    sent_store: String,
    sent_revision: i64,
    replica: String,
    flushes: i64,
    is_served: bool,
}

// === impl StandingRow ===

impl StandingRow {
    /// Why a report was not taken over.
    fn judge(self, applied: Option<Cursor>) -> Reported {
        let Some(cursor) = applied else {
            return Reported::Again;
        };
        let store = cursor.store_id.to_string();
        if store != self.store_id {
            return Reported::StoreChanged;
        }
        if store != self.sent_store || cursor.revision.0 > self.sent_revision {
            return Reported::NotSent(NodeStanding {
                stream: self.stream,
                connected: self.connected,
                is_served: self.is_served,
                replica: self.replica,
                sent: Revision(self.sent_revision),
                flushes: self.flushes,
            });
        }
        if cursor.revision.0 < self.compacted_revision {
            return Reported::Compacted {
                compacted: Revision(self.compacted_revision),
            };
        }
        if self.mark == Some(cursor.mark.to_sql()) {
            return Reported::Again;
        }
        Reported::StoreChanged
    }
}

impl Store {
    /// Takes a report over, together with whatever else is being reported.
    ///
    /// # Errors
    /// If the database does not answer, after trying for the write deadline; [`Error::Overloaded`].
    pub async fn report_node(&self, report: NodeReport) -> Result<Reported, Error> {
        self.node_reports().submit(report).await
    }
}

impl Kind for NodeReports {
    type Input = NodeReport;
    type Output = Reported;

    const NAME: &'static str = "node_report";

    fn conflict_key(report: &NodeReport) -> Option<String> {
        Some(report.name.conflict_key())
    }

    fn size(report: &NodeReport) -> usize {
        512 + report.error.len()
    }

    async fn commit(
        &self,
        inputs: &[Arc<NodeReport>],
    ) -> Result<Vec<Result<Reported, Error>>, Error> {
        let entries: Vec<Entry<'_>> = inputs
            .iter()
            .map(|report| Entry {
                node: &report.name.node,
                incarnation: &report.name.incarnation,
                applied_store: report
                    .applied
                    .map_or_else(String::new, |cursor| cursor.store_id.to_string()),
                applied_revision: report.applied.map(|cursor| cursor.revision.0),
                applied_mark: report.applied.map(|cursor| cursor.mark.to_sql()),
                error: &report.error,
            })
            .collect();
        let json = serde_json::to_string(&entries).map_err(|_| Error::Corrupt("node"))?;
        let taken: Vec<NameRow> = self.db.write(&REPORT).bind(json).all().await?;
        let taken: HashSet<NodeName> = taken.into_iter().map(NodeName::from).collect();
        let mut outcomes = Vec::with_capacity(inputs.len());
        for report in inputs {
            let outcome = if taken.contains(&report.name) {
                Reported::Taken
            } else {
                self.refusal(report).await?
            };
            outcomes.push(Ok(outcome));
        }
        Ok(outcomes)
    }
}

// === impl NodeReports ===

impl NodeReports {
    async fn refusal(&self, report: &NodeReport) -> Result<Reported, Error> {
        let revision = report.applied.map_or(0, |cursor| cursor.revision.0);
        let standing: Option<StandingRow> = self
            .db
            .read(&STANDING)
            .bind(&report.name.node)
            .bind(&report.name.incarnation)
            .bind(revision)
            .optional()
            .await?;
        Ok(standing.map_or(Reported::Unknown, |row| row.judge(report.applied)))
    }
}

impl From<NameRow> for NodeName {
    fn from(row: NameRow) -> Self {
        Self {
            node: row.node,
            incarnation: row.incarnation,
        }
    }
}
