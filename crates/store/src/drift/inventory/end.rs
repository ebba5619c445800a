//! The end of an inventory, in transactions of a bounded size.
//!
//! It may have missed any number of resources, so that its end takes many transactions, each of which announces what it changed. To a
//! reader it is one all the same. First it is written down how it is to end: from then on it takes no reports, and no other end. A
//! sweep treats what it wrote as the observation of an inventory that is under way, until the last transaction says that it is complete.
//! Each of those between can be repeated: a miss that this inventory has counted is not counted again. So whoever finds an inventory
//! halfway, after a `kill -9` for example, goes through all of it once more: the caller that asks for the same end again, or any
//! replica that finds it left. One that fails has failed at once; what is left then is to make due what that concerns.

use sqlx::FromRow;

use super::{
    super::{
        clock::tick,
        count,
        due::{self, Due},
        json, seen,
        told::{self, Told},
    },
    GET, InventoryEnd, InventoryEnded, InventoryRow, missing, types_of,
};
use crate::{
    Engine, Error, Store,
    engine::{Tx, statements},
};

/// Resources marked, or calls forgotten, in one transaction.
pub(super) const PIECE: usize = 1_000;

statements! {
    /// Keeps one as it is; calls that report within it have ended.
    LOCK = "drift_inventory_lock" => ["SELECT key FROM drift_inventory WHERE id = $1" for_update];
    /// Says how one is to end.
    ENDING = "drift_inventory_ending" => [
        "UPDATE drift_inventory SET state = $2, ending = $3, ending_us = CAST($4 AS BIGINT), error = $5, reported = $6, changed = $7, \
         end_us = CASE WHEN $2 = 'running' THEN NULL ELSE CAST($4 AS BIGINT) END WHERE key = $1"
    ];
    /// Ends one as complete.
    COMPLETE = "drift_inventory_end" => [
        "UPDATE drift_inventory SET state = 'complete', ending = '', missed = $2, end_us = " now " WHERE key = $1"
    ];
    /// All that its failure concerns is due.
    FAILED = "drift_inventory_fail" => ["UPDATE drift_inventory SET ending = '' WHERE key = $1"];
    /// The next resources that nobody has looked at since they were applied, and whether they are of a provider and, unless that is empty,
    /// of a type.
    UNSEEN = "drift_inventory_unseen" => [
        postgres {
            "SELECT v.key, r.provider = $3 AND ($4 = '' OR r.type = $4) AS is_meant FROM \
             (SELECT key FROM drift_verdict WHERE verdict = 'not_observed' AND key > $1 ORDER BY key LIMIT $2) v \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = v.key LIMIT 1) r ORDER BY v.key"
        }
        sqlite {
            "SELECT v.key, r.provider = $3 AND ($4 = '' OR r.type = $4) AS is_meant FROM \
             (SELECT key FROM drift_verdict WHERE verdict = 'not_observed' AND key > $1 ORDER BY key LIMIT $2) v \
             CROSS JOIN drift_resource r ON r.key = v.key ORDER BY v.key"
        }
    ];
    /// Whether resources are there, of those whose rows are still this inventory's.
    FOUND = "drift_inventory_found" => [
        postgres {
            "SELECT key, misses < 2 AS is_there FROM drift_live WHERE key = ANY ($1::bigint[]) AND inventory = $2 ORDER BY key FOR UPDATE"
        }
        sqlite {
            "SELECT l.key, l.misses < 2 AS is_there FROM json_each($1) e CROSS JOIN drift_live l ON l.key = e.value AND l.inventory = $2 \
             ORDER BY l.key"
        }
    ];
    /// Older complete inventories of a provider of which it is still known what they saw.
    REMEMBERED = "drift_inventory_remembered" => [
        "SELECT i.key, i.types FROM drift_inventory i WHERE i.provider = $1 AND i.state = 'complete' AND i.start_us < $2 \
         AND EXISTS (SELECT 1 FROM drift_seen_block b WHERE b.inventory = i.key)"
    ];
}

#[derive(FromRow)]
struct KeyRow {
    #[sqlx(rename = "key")]
    _key: i64,
}

#[derive(FromRow)]
struct UnseenRow {
    key: i64,
    is_meant: bool,
}

#[derive(FromRow)]
struct FoundRow {
    key: i64,
    is_there: bool,
}

#[derive(FromRow)]
struct RememberedRow {
    key: i64,
    types: String,
}

impl Store {
    /// Ends an inventory. What a complete one did not see is missing, or gone if another one, which ended before it began, did not see it
    /// either. The same end again goes on with one that was interrupted.
    ///
    /// # Errors
    /// If the database does not answer; it may be halfway then: see [`Store::resume_inventory_ends`].
    pub async fn end_inventory(
        &self,
        id: &str,
        end: &InventoryEnd,
    ) -> Result<InventoryEnded, Error> {
        let Some(row) = self.begin_end(id, end).await? else {
            return Ok(InventoryEnded::Unknown);
        };
        if row.ending.is_empty() || row.ended_complete() != Some(end.complete) {
            return Ok(InventoryEnded::Before(Box::new(row)));
        }
        match self.finish_inventory(id).await? {
            Some(row) => Ok(InventoryEnded::Now(Box::new(row))),
            None => {
                // Somebody else has finished it meanwhile.
                let row = self.inventory(id).await?;
                Ok(row.map_or(InventoryEnded::Unknown, |row| {
                    InventoryEnded::Before(Box::new(row))
                }))
            }
        }
    }

    /// Writes down how an inventory is to end, unless that is written down already. Returns how it is now.
    async fn begin_end(&self, id: &str, end: &InventoryEnd) -> Result<Option<InventoryRow>, Error> {
        let mut tx = self.db().begin().await?;
        let _: Option<KeyRow> = tx.statement(&LOCK).bind(id).optional().await?;
        let row: Option<InventoryRow> = tx.statement(&GET).bind(id).optional().await?;
        let row = match row {
            Some(row) if row.ended_complete().is_none() => row,
            row => {
                tx.rollback().await?;
                return Ok(row);
            }
        };
        // After everything that was looked at, and before every inventory that begins from now on.
        let ending_us = tick(&mut tx).await?;
        if end.complete {
            let seen = seen::collect(&mut tx, row.key).await?;
            seen::keep(&mut tx, row.key, &seen).await?;
        }
        let (state, ending) = if end.complete {
            ("running", "complete")
        } else {
            ("failed", "failed")
        };
        tx.statement(&ENDING)
            .bind(row.key)
            .bind(state)
            .bind(ending)
            .bind(ending_us)
            .bind(if end.complete { "" } else { &end.error })
            .bind(row.reported)
            .bind(row.changed)
            .execute()
            .await?;
        let row = tx.statement(&GET).bind(id).optional().await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Goes on with an end that is written down. Returns how the inventory is then; `None` if there was nothing left to do.
    pub(super) async fn finish_inventory(&self, id: &str) -> Result<Option<InventoryRow>, Error> {
        let row = self.inventory(id).await?;
        let Some(row) = row.filter(|row| !row.ending.is_empty()) else {
            return Ok(None);
        };
        let mut missed = 0;
        if row.state == "running" {
            self.tell_news(&row).await?;
            let Some(counted) = missing::miss(self, &row).await? else {
                return Ok(None);
            };
            missed = counted;
        } else {
            self.mark_unseen(&row).await?;
        }
        loop {
            let mut tx = self.db().begin().await?;
            let _: Option<KeyRow> = tx.statement(&LOCK).bind(id).optional().await?;
            let now: Option<InventoryRow> = tx.statement(&GET).bind(id).optional().await?;
            if now.is_none_or(|now| now.ending.is_empty()) {
                tx.rollback().await?;
                return Ok(None);
            }
            // A failed one is remembered to have written what it wrote.
            let all = row.state == "running";
            if seen::drop_calls(&mut tx, row.key, all, PIECE).await? == PIECE {
                tx.commit().await?;
                continue;
            }
            if row.state == "running" {
                let complete = tx.statement(&COMPLETE).bind(row.key);
                complete.bind(missed).execute().await?;
                drop_covered(&mut tx, &row).await?;
            } else {
                tx.statement(&FAILED).bind(row.key).execute().await?;
            }
            let row = tx.statement(&GET).bind(id).optional().await?;
            tx.commit().await?;
            return Ok(row);
        }
    }

    /// Tells which resources came and which went, as far as nothing newer is known.
    async fn tell_news(&self, inventory: &InventoryRow) -> Result<(), Error> {
        let news = seen::news(self.db(), inventory.key).await?;
        let news: Vec<i64> = news.into_iter().collect();
        for piece in news.chunks(PIECE) {
            let mut tx = self.db().begin().await?;
            let found = match tx.engine() {
                Engine::Postgres => tx.statement(&FOUND).bind_column(piece.to_vec()),
                Engine::Sqlite => tx.statement(&FOUND).bind(json(piece)?),
            };
            let found: Vec<FoundRow> = found.bind(inventory.key).all().await?;
            let told = found.iter().map(|row| Told {
                key: row.key,
                is_there: row.is_there,
            });
            told::tell(&mut tx, &told.collect::<Vec<_>>()).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// What nobody has looked at since it was applied is due: now there was a look, and it failed.
    async fn mark_unseen(&self, inventory: &InventoryRow) -> Result<(), Error> {
        for kind in inventory.scopes() {
            let mut after = 0;
            loop {
                let mut tx = self.db().begin().await?;
                let unseen = tx.statement(&UNSEEN).bind(after).bind(count(PIECE));
                let unseen = unseen.bind(&inventory.provider).bind(&kind);
                let unseen: Vec<UnseenRow> = unseen.all().await?;
                let Some(last) = unseen.last() else {
                    tx.rollback().await?;
                    break;
                };
                after = last.key;
                let meant = unseen.iter().filter(|row| row.is_meant);
                let due: Vec<Due> = meant.map(|row| Due::now(row.key)).collect();
                due::mark(&mut tx, &due).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }
}

/// Forgets what older inventories saw whose scope this one covers.
async fn drop_covered(tx: &mut Tx, inventory: &InventoryRow) -> Result<(), Error> {
    let older: Vec<RememberedRow> = tx
        .statement(&REMEMBERED)
        .bind(&inventory.provider)
        .bind(inventory.start_us)
        .all()
        .await?;
    let own = inventory.type_list();
    for old in older {
        let types = types_of(&old.types);
        let covered = !types.is_empty() && types.iter().all(|kind| own.contains(kind));
        if own.is_empty() || covered {
            seen::drop_blocks(tx, old.key).await?;
        }
    }
    Ok(())
}
