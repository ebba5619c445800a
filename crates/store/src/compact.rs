//! Forgetting old revisions, in short batches.

use std::time::Duration;

use sqlx::FromRow;

use crate::{
    Error, Store,
    engine::statements,
    lease::{Lease, micros},
};

/// Rows deleted in one transaction.
const BATCH: i64 = 5_000;

statements! {
    /// The newest revision that may go: beyond the count, or older than the age and beyond the floor. The log begins where it was
    /// compacted last; to look for its first row would be to pass all rows deleted since the oldest open snapshot.
    BOUND = "compact_bound" => [
        "SELECT coalesce((SELECT max(revision) FROM change_log WHERE \
             (revision <= h.head - $1 OR (time_us < " now " - $2 AND revision <= h.head - $3)) \
             AND revision <= h.first + $4), h.first - 1) AS revision, h.first AS first \
         FROM (SELECT (SELECT max(revision) FROM change_log) AS head, \
                      compacted_revision + 1 AS first FROM store_meta) h"
    ];
    /// Moves the compaction point, keeping its mark.
    MOVE = "compact_move" => [
        "UPDATE store_meta SET compacted_revision = c.revision, compacted_mark = c.mark \
         FROM change_log c WHERE c.revision = $1 AND store_meta.compacted_revision < c.revision"
    ];
    /// Deletes from the old compaction point to the new one.
    DELETE = "compact_delete" => [
        "DELETE FROM change_log WHERE revision BETWEEN $1 AND $2"
    ];
}

/// What to keep. The newest revision is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nothing younger goes because of its age.
    pub age: Duration,
    /// At most this many revisions are kept, whatever their age.
    pub revisions: u32,
    /// At least this many are kept, whatever their age.
    pub floor: u32,
}

#[derive(FromRow)]
struct Row {
    revision: i64,
    first: i64,
}

impl Store {
    /// Deletes one batch of revisions that the retention no longer covers. Returns how many; call again while it is not 0.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease has changed hands.
    pub async fn compact(&self, lease: &Lease, retention: Retention) -> Result<u64, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let floor = i64::from(retention.floor).max(1);
        let bound: Row = tx
            .statement(&BOUND)
            .bind(i64::from(retention.revisions).max(floor))
            .bind(micros(retention.age))
            .bind(floor)
            .bind(BATCH)
            .one()
            .await?;
        if bound.revision < bound.first {
            return Ok(0);
        }
        tx.statement(&MOVE).bind(bound.revision).execute().await?;
        let deleted = tx
            .statement(&DELETE)
            .bind(bound.first - 1)
            .bind(bound.revision)
            .execute()
            .await?;
        tx.commit().await?;
        metrics::counter!(crate::metric::COMPACTED).increment(deleted);
        Ok(deleted)
    }
}
