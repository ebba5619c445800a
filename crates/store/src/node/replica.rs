//! A replica among the nodes: its sign of life carries the leases of all nodes whose streams it serves.

use std::time::Duration;

use sqlx::FromRow;
use steadfast_types::{Cursor, ReplicaId};

use super::{NodeName, lease_of};
use crate::{Engine, Error, Store, engine::statements, lease::micros};

statements! {
    /// Renews a replica's lease, and says how far its own memory is. It may be the first time.
    BEAT = "node_beat" => [
        "INSERT INTO node (registered_us, opened_us, expires_us, seen_us, sent_revision, applied_revision, applied_mark, flushes, \
             connected, kind, node, incarnation, stream, replica, labels, sent_store, applied_store, error) \
         VALUES (" now ", " now ", " now " + $2, " now ", $3, $3, $4, $6, true, 'replica', $1, $1, $1, $1, '{}', $5, $5, '') \
         ON CONFLICT (node, incarnation) DO UPDATE SET expires_us = excluded.expires_us, seen_us = excluded.seen_us, \
             sent_revision = excluded.sent_revision, sent_store = excluded.sent_store, \
             applied_revision = excluded.applied_revision, applied_mark = excluded.applied_mark, \
             applied_store = excluded.applied_store, flushes = node.flushes + excluded.flushes, connected = true \
         RETURNING seen_us"
    ];
    /// Ends all streams of a replica that ends itself.
    END = "node_end_streams" => [
        "UPDATE node SET connected = false, expires_us = " now " + $2, seen_us = " now " \
         WHERE replica = $1 AND connected AND kind = 'watcher'"
    ];
    /// The replica itself is no more.
    LEAVE = "node_leave" => ["DELETE FROM node WHERE node = $1 AND incarnation = $1 AND kind = 'replica'"];
    /// Ends the streams of whoever had the database before.
    INHERIT = "node_inherit" => [
        sqlite { "UPDATE node SET connected = false, expires_us = " now " + $1 WHERE connected AND kind = 'watcher'" }
    ];
    /// Whoever had the database before is no more.
    ALONE = "node_alone" => [sqlite { "DELETE FROM node WHERE kind = 'replica'" }];
    /// The streams that are registered as a replica's own.
    OWN = "node_own" => [
        "SELECT node, incarnation, stream FROM node WHERE replica = $1 AND connected AND kind = 'watcher'"
    ];
    /// Forgets those whose leases ended long ago.
    PRUNE = "node_prune" => [
        "DELETE FROM node WHERE key IN (SELECT n.key FROM node n WHERE " (lease_of!("n")) " < " now " - $1 ORDER BY n.key LIMIT $2)"
    ];
}

/// Nodes forgotten in one transaction.
const PRUNED: i64 = 1_000;

/// A sign of life.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// Whose.
    pub replica: ReplicaId,
    /// How long it lasts.
    pub lease: Duration,
    /// What lookups on it are answered from.
    pub applied: Cursor,
    /// How far its streams were sent was written down just before.
    pub is_flush: bool,
}

#[derive(FromRow)]
struct SeenRow {
    seen_us: i64,
}

#[derive(FromRow)]
struct OwnRow {
    node: String,
    incarnation: String,
    stream: String,
}

impl Store {
    /// Renews the lease of a replica and of the nodes that it serves; returns the database's time in microseconds.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn beat_node(&self, beat: Beat) -> Result<i64, Error> {
        let row: SeenRow = self
            .db()
            .write(&BEAT)
            .bind(beat.replica.to_string())
            .bind(micros(beat.lease))
            .bind(beat.applied.revision.0)
            .bind(beat.applied.mark.to_sql())
            .bind(beat.applied.store_id.to_string())
            .bind(i64::from(beat.is_flush))
            .one()
            .await?;
        Ok(row.seen_us)
    }

    /// For a process that has just opened the embedded database: no other has it open, so the replica before is gone, and its
    /// streams with it. Their nodes count for a lease longer. On PostgreSQL, where others may live, nothing happens.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn inherit_nodes(&self, lease: Duration) -> Result<(), Error> {
        if self.engine() == Engine::Sqlite {
            let inherit = self.db().write(&INHERIT).bind(micros(lease));
            inherit.execute().await?;
            self.db().write(&ALONE).execute().await?;
        }
        Ok(())
    }

    /// Takes a replica off the nodes. Those whose streams it served count for a lease longer.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn leave_nodes(&self, replica: ReplicaId, lease: Duration) -> Result<(), Error> {
        let end = self.db().write(&END).bind(replica.to_string());
        end.bind(micros(lease)).execute().await?;
        let leave = self.db().write(&LEAVE).bind(replica.to_string());
        leave.execute().await.map(drop)
    }

    /// The streams that are registered as a replica's own, each with the node that it is of.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn own_nodes(&self, replica: ReplicaId) -> Result<Vec<(NodeName, String)>, Error> {
        let own = self.db().read(&OWN).bind(replica.to_string());
        let rows: Vec<OwnRow> = own.all().await?;
        let named = rows.into_iter().map(|row| {
            let name = NodeName {
                node: row.node,
                incarnation: row.incarnation,
            };
            (name, row.stream)
        });
        Ok(named.collect())
    }

    /// Forgets some of the nodes whose leases ended this long ago. Returns how many; call again while it is not 0.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_nodes(&self, age: Duration) -> Result<u64, Error> {
        let prune = self.db().write(&PRUNE).bind(micros(age));
        prune.bind(PRUNED).execute().await
    }
}
