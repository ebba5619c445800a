//! Who has applied a revision: one snapshot says how many nodes must have it and how many do.

use sqlx::FromRow;
use steadfast_types::{Cursor, Mark, Revision};

use super::{is_proven, lease_of, lives, present, superseded};
use crate::{Error, Store, engine::statements, log::parse_store_id};

/// The history, the newest revision, and the mark of one.
macro_rules! history {
    () => {
        "SELECT m.store_id, m.compacted_revision, m.compacted_mark, m.head_revision, \
         (SELECT mark FROM change_log WHERE revision = $2) AS mark, "
    };
}

/// Of the nodes that live.
macro_rules! level {
    () => {
        concat!(
            lives!(),
            " AND n.applied_revision >= $2 AND (",
            is_proven!(),
            ")"
        )
    };
}

statements! {
    /// Counts the nodes that live, and those of them that have applied a revision.
    TALLY = "node_tally" => [
        (history!()) "(SELECT count(*) FROM node n WHERE " (lives!()) ") AS live, \
         (SELECT count(*) FROM node n WHERE " (level!()) ") AS level FROM "
        (present!()) now " AS now_us FROM store_meta) q) m"
    ];
    /// The same of those that are named.
    TALLY_NAMED = "node_tally_named" => [
        postgres {
            (history!())
            "(SELECT count(*) FROM node n WHERE n.node = ANY (ARRAY(SELECT json_array_elements_text($3::json))) AND " (lives!()) ") AS live, \
             (SELECT count(*) FROM node n WHERE n.node = ANY (ARRAY(SELECT json_array_elements_text($3::json))) AND " (level!()) ") AS level \
             FROM " (present!()) now " AS now_us FROM store_meta) q) m"
        }
        sqlite {
            (history!()) "(SELECT count(*) FROM node n WHERE n.node IN (SELECT e.value FROM json_each($3) e) AND " (lives!()) ") AS live, \
             (SELECT count(*) FROM node n WHERE n.node IN (SELECT e.value FROM json_each($3) e) AND " (level!()) ") AS level FROM "
            (present!()) now " AS now_us FROM store_meta) q) m"
        }
    ];
}

/// Which nodes must have applied something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeWanted {
    /// Their ids, each once; none means every node that lives.
    pub names: Vec<String>,
}

/// How many nodes there are, and how many have applied a revision, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeTally {
    /// The revision with its mark in the present history; none if it is not in the log.
    pub at: Option<Cursor>,
    /// The newest revision.
    pub head: Revision,
    /// The oldest cursor that can be resumed from.
    pub compacted: Cursor,
    /// Nodes that live, of those that are wanted.
    pub live: i64,
    /// Nodes that have applied it, of those.
    pub level: i64,
}

#[derive(FromRow)]
struct Row {
    store_id: String,
    compacted_revision: i64,
    compacted_mark: i64,
    head_revision: i64,
    mark: Option<i64>,
    live: i64,
    level: i64,
}

// === impl NodeWanted ===

impl NodeWanted {
    pub(super) fn json(&self) -> String {
        serde_json::Value::from(self.names.clone()).to_string()
    }
}

impl Store {
    /// Counts who has applied a revision. Leases that ended after `since_us` count as if they lasted.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn tally_nodes(
        &self,
        revision: Revision,
        wanted: &NodeWanted,
        since_us: i64,
    ) -> Result<NodeTally, Error> {
        let row: Row = if wanted.names.is_empty() {
            let tally = self.db().read(&TALLY).bind(since_us);
            tally.bind(revision.0).one().await?
        } else {
            let tally = self.db().read(&TALLY_NAMED).bind(since_us);
            tally.bind(revision.0).bind(wanted.json()).one().await?
        };
        let store_id = parse_store_id(&row.store_id)?;
        let cursor = |revision, mark| Cursor {
            store_id,
            revision: Revision(revision),
            mark: Mark::from_sql(mark),
        };
        let compacted = cursor(row.compacted_revision, row.compacted_mark);
        let at = row.mark.map(|mark| cursor(revision.0, mark));
        Ok(NodeTally {
            at: at.or((revision == compacted.revision).then_some(compacted)),
            head: Revision(row.head_revision),
            compacted,
            live: row.live,
            level: row.level,
        })
    }
}
