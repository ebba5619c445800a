//! What reports read and write.

use serde::Serialize;
use sqlx::FromRow;

use super::super::json;
use crate::{
    Engine, Error,
    engine::{Tx, statements},
};

/// What becomes of a row that is there.
macro_rules! overwrite {
    () => {
        "ON CONFLICT (key) DO UPDATE SET version = drift_live.version + excluded.version, observed_us = excluded.observed_us, \
             inventory = excluded.inventory, misses = excluded.misses, \
             missed_us = CASE WHEN excluded.version = 0 THEN drift_live.missed_us ELSE 0 END, \
             transition = CASE WHEN excluded.version = 0 THEN drift_live.transition ELSE excluded.transition END, \
             digest = CASE WHEN excluded.version = 0 THEN drift_live.digest ELSE excluded.digest END, \
             attributes = CASE WHEN excluded.version = 0 THEN drift_live.attributes ELSE excluded.attributes END \
         WHERE drift_live.observed_us <= excluded.observed_us AND (excluded.version = 1 OR drift_live.misses = excluded.misses) \
         RETURNING key, version"
    };
}

statements! {
    /// An inventory that does not end before the transaction does.
    INVENTORY = "drift_report_inventory" => [
        "SELECT i.key, i.provider, i.types, i.state = 'running' AND i.ending = '' AS is_open, i.start_us \
         FROM drift_inventory i WHERE i.id = $1" for_share
    ];
    /// What is known of each.
    READ = "drift_report_read" => [
        postgres {
            "SELECT e.ord, r.key, r.writes, r.recorded, r.applied_us, l.observed_us, l.missed_us, l.misses, l.inventory, \
                    l.attributes = '' AS blank, l.digest = e.digest AND l.transition = e.transition AS same, \
                    (SELECT i.state FROM drift_inventory i WHERE i.key = l.inventory) AS inventory_state \
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) \
                 AS e(ord, provider, type, id, digest, transition) \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.provider = e.provider COLLATE \"C\" \
                 AND r.type = e.type COLLATE \"C\" AND r.id = e.id COLLATE \"C\" LIMIT 1) r \
             LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = r.key LIMIT 1) l ON true"
        }
        sqlite {
            "SELECT e.value ->> 'ord' AS ord, r.key, r.writes, r.recorded, r.applied_us, l.observed_us, l.missed_us, l.misses, \
                    l.inventory, l.attributes = '' AS blank, \
                    l.digest = e.value ->> 'digest' AND l.transition = e.value ->> 'transition' AS same, \
                    (SELECT i.state FROM drift_inventory i WHERE i.key = l.inventory) AS inventory_state \
             FROM json_each($1) e CROSS JOIN drift_resource r ON r.provider = e.value ->> 'provider' \
                 AND r.type = e.value ->> 'kind' AND r.id = e.value ->> 'id' \
             LEFT JOIN drift_live l ON l.key = r.key"
        }
    ];
    /// Inventories of a provider that began after a time and have not failed, and those that run.
    LOOKS = "drift_report_looks" => [
        "SELECT i.key, i.types, i.state, i.start_us FROM drift_inventory i \
         WHERE i.provider = $1 AND i.start_us > $2 AND i.state <> 'failed' \
         UNION ALL \
         SELECT i.key, i.types, i.state, i.start_us FROM drift_inventory i \
         WHERE i.provider = $1 AND i.start_us <= $2 AND i.state = 'running'"
    ];
    /// Keeps resources from being forgotten before the transaction ends.
    HOLD = "drift_report_hold" => [
        postgres { "SELECT key FROM drift_resource WHERE key = ANY ($1::bigint[]) ORDER BY key FOR KEY SHARE" }
    ];
    /// Writes what is new, unless something newer was written meanwhile, and moves the time of what is as it was, unless it is missed
    /// meanwhile. Both at once, so that rows are locked in the order of their numbers; those that only move have version 0.
    WRITE = "drift_report_write" => [
        postgres {
            "INSERT INTO drift_live (key, version, observed_us, inventory, misses, missed_us, transition, digest, attributes) \
             SELECT e.key, e.version, e.observed_us, e.inventory, e.misses, 0, e.transition, e.digest, e.attributes \
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[]) \
                 AS e(key, version, observed_us, inventory, misses, transition, digest, attributes) ORDER BY e.key "
            (overwrite!())
        }
        sqlite {
            "INSERT INTO drift_live (key, version, observed_us, inventory, misses, missed_us, transition, digest, attributes) \
             SELECT e.value ->> 'key', e.value ->> 'version', e.value ->> 'observed_us', e.value ->> 'inventory', e.value ->> 'misses', 0, \
                    e.value ->> 'transition', e.value ->> 'digest', e.value ->> 'attributes' FROM json_each($1) e WHERE true "
            (overwrite!())
        }
    ];
}

#[derive(FromRow)]
pub(super) struct InventoryRow {
    pub(super) key: i64,
    pub(super) provider: String,
    pub(super) types: String,
    pub(super) is_open: bool,
    pub(super) start_us: i64,
}

#[derive(Serialize)]
pub(super) struct Asked<'a> {
    pub(super) ord: i64,
    pub(super) provider: &'a str,
    pub(super) kind: &'a str,
    pub(super) id: &'a str,
    pub(super) digest: &'a str,
    pub(super) transition: &'a str,
}

#[derive(FromRow)]
pub(super) struct KnownRow {
    pub(super) ord: i64,
    pub(super) key: i64,
    pub(super) writes: i64,
    pub(super) recorded: bool,
    pub(super) applied_us: Option<i64>,
    pub(super) observed_us: Option<i64>,
    pub(super) missed_us: Option<i64>,
    pub(super) misses: Option<i64>,
    pub(super) inventory: Option<i64>,
    pub(super) blank: Option<bool>,
    pub(super) same: Option<bool>,
    pub(super) inventory_state: Option<String>,
}

// === impl KnownRow ===

impl KnownRow {
    /// That it is there, or gone, may not have been told yet.
    pub(super) fn may_be_told(&self, is_there: bool) -> bool {
        let was_seen = matches!(self.misses, Some(0 | 1)) && self.blank != Some(true);
        let known = if is_there {
            was_seen
        } else {
            self.misses == Some(2)
        };
        !known || self.is_unsettled()
    }

    /// What is known of it is what an inventory said that has not ended or has failed.
    pub(super) fn is_unsettled(&self) -> bool {
        match self.inventory {
            Some(0) | None => false,
            // An inventory that failed and is no longer kept.
            Some(key) if key < 0 => true,
            Some(_) => matches!(self.inventory_state.as_deref(), Some("running" | "failed")),
        }
    }

    /// It is one of those that are forgotten when their history is old.
    pub(super) fn is_forgettable(&self) -> bool {
        !self.recorded && matches!(self.misses, None | Some(2))
    }
}

#[derive(FromRow)]
struct KeyRow {
    #[sqlx(rename = "key")]
    _key: i64,
}

#[derive(FromRow)]
pub(super) struct LookRow {
    pub(super) key: i64,
    pub(super) types: String,
    pub(super) state: String,
    pub(super) start_us: i64,
}

#[derive(Serialize)]
pub(super) struct Write<'a> {
    pub(super) key: i64,
    /// 1 for what is new, 0 for what is as it was.
    pub(super) version: i64,
    pub(super) observed_us: i64,
    pub(super) inventory: i64,
    pub(super) misses: i64,
    pub(super) transition: &'a str,
    pub(super) digest: &'a str,
    pub(super) attributes: &'a str,
}

#[derive(FromRow)]
pub(super) struct WrittenRow {
    pub(super) key: i64,
    pub(super) version: i64,
}

/// An inventory that does not end before the transaction does.
pub(super) async fn inventory(tx: &mut Tx, id: &str) -> Result<Option<InventoryRow>, Error> {
    tx.statement(&INVENTORY).bind(id).optional().await
}

/// Inventories of a provider that began after a time and have not failed, and those that run.
pub(super) async fn looks(
    tx: &mut Tx,
    provider: &str,
    after_us: i64,
) -> Result<Vec<LookRow>, Error> {
    let looks = tx.statement(&LOOKS).bind(provider).bind(after_us);
    looks.all().await
}

/// What is known of the resources that are there.
pub(super) async fn read(tx: &mut Tx, asked: &[Asked<'_>]) -> Result<Vec<KnownRow>, Error> {
    let read = match tx.engine() {
        Engine::Postgres => tx
            .statement(&READ)
            .bind_column::<i64>(asked.iter().map(|asked| asked.ord).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.provider).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.kind).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.id).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.digest).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.transition).collect()),
        Engine::Sqlite => tx.statement(&READ).bind(json(asked)?),
    };
    read.all().await
}

/// Keeps resources, by their ascending numbers, from being forgotten before the transaction ends.
///
/// # Errors
/// [`Error::Contended`] if one was forgotten already.
pub(super) async fn hold(tx: &mut Tx, keys: Vec<i64>) -> Result<(), Error> {
    if keys.is_empty() || tx.engine() == Engine::Sqlite {
        return Ok(());
    }
    let wanted = keys.len();
    let held: Vec<KeyRow> = tx.statement(&HOLD).bind_column(keys).all().await?;
    if held.len() < wanted {
        return Err(Error::overtaken(HOLD.name));
    }
    Ok(())
}

/// Writes, in the order of the numbers, and returns what was not overtaken.
///
/// # Errors
/// [`Error::Contended`] if what is as it was is not any more.
pub(super) async fn write(tx: &mut Tx, writes: &[Write<'_>]) -> Result<Vec<WrittenRow>, Error> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let written = match tx.engine() {
        Engine::Postgres => tx
            .statement(&WRITE)
            .bind_column::<i64>(writes.iter().map(|write| write.key).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.version).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.observed_us).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.inventory).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.misses).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.transition).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.digest).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.attributes).collect()),
        Engine::Sqlite => tx.statement(&WRITE).bind(json(writes)?),
    };
    let written: Vec<WrittenRow> = written.all().await?;
    let is_written = |key: i64| written.iter().any(|row| row.key == key);
    let mut touches = writes.iter().filter(|write| write.version == 0);
    if written.len() < writes.len() && !touches.all(|touch| is_written(touch.key)) {
        return Err(Error::overtaken(WRITE.name));
    }
    Ok(written)
}
