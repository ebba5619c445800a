//! What is read and written while secrets are hidden.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use crate::{
    Error,
    engine::{Db, Tx, statements},
};

statements! {
    /// How far it is.
    STANDING = "drift_redact_standing" => ["SELECT value FROM drift_generation WHERE name = 'redacted'"];
    /// There has to be a row to be locked.
    BEGIN = "drift_redact_begin" => [
        "INSERT INTO drift_generation (name, value) VALUES ('redacted', '') ON CONFLICT (name) DO NOTHING"
    ];
    /// The same, locked: one batch at a time.
    LOCK_STANDING = "drift_redact_lock_standing" => ["SELECT value FROM drift_generation WHERE name = 'redacted'" for_update];
    /// Says how far it is.
    SET_STANDING = "drift_redact_set_standing" => ["UPDATE drift_generation SET value = $1 WHERE name = 'redacted'"];
    /// Forgets how far it is.
    FORGET = "drift_redact_forget" => ["UPDATE drift_generation SET value = '' WHERE name = 'redacted' AND value <> ''"];
    /// The last of the next resources.
    DOCUMENTS = "drift_redact_next" => [
        "SELECT max(s.key) AS key FROM (SELECT key FROM drift_resource WHERE key > $1 ORDER BY key LIMIT $2) AS s"
    ];
    /// The documents of those between two numbers that are of some types.
    CLEAR = "drift_redact_documents" => [
        postgres {
            "SELECT r.key, r.provider, r.type AS kind, r.spec, coalesce(l.attributes, '') AS attributes FROM drift_resource r \
             LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = r.key LIMIT 1) l ON true \
             WHERE r.key > $1 AND r.key <= $2 AND r.provider || '/' || r.type IN (SELECT json_array_elements_text($3::json))"
        }
        sqlite {
            "SELECT r.key, r.provider, r.type AS kind, r.spec, coalesce(l.attributes, '') AS attributes FROM drift_resource r \
             LEFT JOIN drift_live l ON l.key = r.key \
             WHERE r.key > $1 AND r.key <= $2 AND r.provider || '/' || r.type IN (SELECT value FROM json_each($3))"
        }
    ];
    /// Locks resources, in the order of their numbers, and reads their specs.
    LOCK_SPECS = "drift_redact_lock_specs" => [
        postgres {
            "SELECT r.key, r.provider, r.type AS kind, r.spec AS text FROM drift_resource r \
             WHERE r.key = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint)) ORDER BY r.key FOR UPDATE"
        }
        sqlite {
            "SELECT r.key, r.provider, r.type AS kind, r.spec AS text FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value"
        }
    ];
    /// Locks what is there of them, and reads it.
    LOCK_LIVE = "drift_redact_lock_live" => [
        postgres {
            "SELECT l.key, r.provider, r.type AS kind, l.attributes AS text FROM drift_live l \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = l.key LIMIT 1) r \
             WHERE l.key = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint)) ORDER BY l.key FOR UPDATE OF l"
        }
        sqlite {
            "SELECT l.key, r.provider, r.type AS kind, l.attributes AS text FROM json_each($1) e CROSS JOIN drift_live l ON l.key = e.value \
             CROSS JOIN drift_resource r ON r.key = l.key"
        }
    ];
    /// Writes specs, and leaves a plan no choice but the index. They mean what they meant: nothing else of the resources changes.
    WRITE_SPECS = "drift_redact_write_specs" => [
        postgres {
            "UPDATE drift_resource r SET spec = e.spec FROM json_to_recordset($1::json) AS e(key bigint, spec text) WHERE r.key = e.key \
             AND r.key = ANY (ARRAY(SELECT (k ->> 'key')::bigint FROM json_array_elements($1::json) k))"
        }
        sqlite {
            "UPDATE drift_resource SET spec = e.value ->> 'spec' FROM json_each($1) e WHERE drift_resource.key = e.value ->> 'key'"
        }
    ];
    /// Writes what is there.
    WRITE_LIVE = "drift_redact_write_live" => [
        postgres {
            "UPDATE drift_live l SET attributes = e.attributes, digest = e.digest \
             FROM json_to_recordset($1::json) AS e(key bigint, attributes text, digest text) WHERE l.key = e.key \
             AND l.key = ANY (ARRAY(SELECT (k ->> 'key')::bigint FROM json_array_elements($1::json) k))"
        }
        sqlite {
            "UPDATE drift_live SET attributes = e.value ->> 'attributes', digest = e.value ->> 'digest' \
             FROM json_each($1) e WHERE drift_live.key = e.value ->> 'key'"
        }
    ];
    /// The next drifts, in the order of their places; those of other types without their values.
    DRIFTS = "drift_redact_drifts" => [
        postgres {
            "SELECT o.key, o.path, o.id, o.secret, m.provider, m.kind, m.matches, \
                 CASE WHEN m.matches THEN o.expected END AS expected, CASE WHEN m.matches THEN o.actual END AS actual \
             FROM (SELECT * FROM drift WHERE (key, path, id) > ($1, $2 COLLATE \"C\", $3 COLLATE \"C\") ORDER BY key, path, id LIMIT $5) o \
             LEFT JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = o.key LIMIT 1) r ON true \
             CROSS JOIN LATERAL (SELECT coalesce(r.provider, '') AS provider, coalesce(r.type, '') AS kind, \
                 coalesce(r.provider || '/' || r.type IN (SELECT json_array_elements_text($4::json)), false) AS matches) m \
             ORDER BY o.key, o.path, o.id"
        }
        sqlite {
            "SELECT o.key, o.path, o.id, o.secret, coalesce(r.provider, '') AS provider, coalesce(r.type, '') AS kind, \
                 coalesce(r.provider || '/' || r.type IN (SELECT value FROM json_each($4)), false) AS matches, \
                 CASE WHEN r.provider || '/' || r.type IN (SELECT value FROM json_each($4)) THEN o.expected END AS expected, \
                 CASE WHEN r.provider || '/' || r.type IN (SELECT value FROM json_each($4)) THEN o.actual END AS actual \
             FROM drift o LEFT JOIN drift_resource r ON r.key = o.key \
             WHERE (o.key, o.path, o.id) > ($1, $2, $3) ORDER BY o.key, o.path, o.id LIMIT $5"
        }
    ];
    /// Locks drifts, and reads them.
    LOCK_DRIFTS = "drift_redact_lock_drifts" => [
        postgres {
            "SELECT o.key, o.path, o.id, o.secret, r.provider, r.type AS kind, true AS matches, o.expected, o.actual FROM drift o \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = o.key LIMIT 1) r \
             WHERE o.id = ANY (ARRAY(SELECT json_array_elements_text($1::json) COLLATE \"C\")) ORDER BY o.id FOR UPDATE OF o"
        }
        sqlite {
            "SELECT o.key, o.path, o.id, o.secret, r.provider, r.type AS kind, true AS matches, o.expected, o.actual \
             FROM json_each($1) e CROSS JOIN drift o ON o.id = e.value CROSS JOIN drift_resource r ON r.key = o.key"
        }
    ];
    /// Writes them. They are shown as before: without what is secret.
    WRITE_DRIFTS = "drift_redact_write_drifts" => [
        postgres {
            "UPDATE drift o SET secret = e.secret, expected = e.expected, actual = e.actual \
             FROM json_to_recordset($1::json) AS e(id text, secret boolean, expected text, actual text) WHERE o.id = e.id COLLATE \"C\" \
             AND o.id = ANY (ARRAY(SELECT (k ->> 'id') COLLATE \"C\" FROM json_array_elements($1::json) k))"
        }
        sqlite {
            "UPDATE drift SET secret = e.value ->> 'secret', expected = e.value ->> 'expected', actual = e.value ->> 'actual' \
             FROM json_each($1) e WHERE drift.id = e.value ->> 'id'"
        }
    ];
    /// The next events; those of other types, and those that are about no path, without what they say.
    EVENTS = "drift_redact_events" => [
        postgres {
            "SELECT v.seq, v.path, coalesce(r.provider, '') AS provider, coalesce(r.type, '') AS kind, \
                 CASE WHEN v.path <> '' AND r.provider || '/' || r.type IN (SELECT json_array_elements_text($2::json)) \
                 THEN v.detail ELSE '' END AS detail \
             FROM (SELECT * FROM drift_event WHERE seq > $1 ORDER BY seq LIMIT $3) v \
             LEFT JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = v.key LIMIT 1) r ON true ORDER BY v.seq"
        }
        sqlite {
            "SELECT v.seq, v.path, coalesce(r.provider, '') AS provider, coalesce(r.type, '') AS kind, \
                 CASE WHEN v.path <> '' AND r.provider || '/' || r.type IN (SELECT value FROM json_each($2)) \
                 THEN v.detail ELSE '' END AS detail \
             FROM drift_event v LEFT JOIN drift_resource r ON r.key = v.key WHERE v.seq > $1 ORDER BY v.seq LIMIT $3"
        }
    ];
    /// Writes them.
    WRITE_EVENTS = "drift_redact_write_events" => [
        postgres {
            "UPDATE drift_event v SET detail = e.detail FROM json_to_recordset($1::json) AS e(seq bigint, detail text) WHERE v.seq = e.seq \
             AND v.seq = ANY (ARRAY(SELECT (k ->> 'seq')::bigint FROM json_array_elements($1::json) k))"
        }
        sqlite {
            "UPDATE drift_event SET detail = e.value ->> 'detail' FROM json_each($1) e WHERE drift_event.seq = e.value ->> 'seq'"
        }
    ];
    /// Writes the file anew.
    VACUUM = "drift_redact_vacuum" => [sqlite { "VACUUM" }];
    /// Empties the write-ahead log.
    CHECKPOINT = "drift_redact_checkpoint" => [sqlite { "PRAGMA wal_checkpoint(TRUNCATE)" }];
}

/// Where a drift is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Place {
    key: i64,
    path: String,
    id: String,
}

#[derive(FromRow)]
struct ValueRow {
    value: String,
}

#[derive(FromRow)]
struct LastRow {
    key: Option<i64>,
}

#[derive(FromRow)]
pub(super) struct DocumentRow {
    pub(super) key: i64,
    pub(super) provider: String,
    pub(super) kind: String,
    pub(super) spec: String,
    pub(super) attributes: String,
}

#[derive(FromRow)]
pub(super) struct TextRow {
    pub(super) key: i64,
    pub(super) provider: String,
    pub(super) kind: String,
    pub(super) text: String,
}

#[derive(Serialize)]
pub(super) struct SpecWrite {
    pub(super) key: i64,
    pub(super) spec: String,
}

#[derive(Serialize)]
pub(super) struct LiveWrite {
    pub(super) key: i64,
    pub(super) attributes: String,
    pub(super) digest: String,
}

#[derive(FromRow)]
pub(super) struct DriftRow {
    pub(super) key: i64,
    pub(super) path: String,
    pub(super) id: String,
    pub(super) secret: bool,
    pub(super) provider: String,
    pub(super) kind: String,
    /// It is of one of the types; the values of others are not read.
    pub(super) matches: bool,
    pub(super) expected: Option<String>,
    pub(super) actual: Option<String>,
}

#[derive(Serialize)]
pub(super) struct DriftWrite {
    pub(super) id: String,
    pub(super) secret: bool,
    pub(super) expected: Option<String>,
    pub(super) actual: Option<String>,
}

#[derive(FromRow)]
pub(super) struct EventRow {
    pub(super) seq: i64,
    pub(super) path: String,
    pub(super) provider: String,
    pub(super) kind: String,
    pub(super) detail: String,
}

#[derive(Serialize)]
pub(super) struct EventWrite {
    pub(super) seq: i64,
    pub(super) detail: String,
}

#[derive(FromRow)]
struct CheckpointRow {
    busy: i64,
}

// === impl DriftRow ===

impl DriftRow {
    pub(super) fn place(&self) -> Place {
        Place {
            key: self.key,
            path: self.path.clone(),
            id: self.id.clone(),
        }
    }
}

pub(super) async fn standing(db: &Db) -> Result<String, Error> {
    let row: Option<ValueRow> = db.read(&STANDING).optional().await?;
    Ok(row.map_or_else(String::new, |row| row.value))
}

/// The same, so that nobody else goes on with it before the transaction ends.
pub(super) async fn lock_standing(tx: &mut Tx) -> Result<String, Error> {
    tx.statement(&BEGIN).execute().await?;
    let row: ValueRow = tx.statement(&LOCK_STANDING).one().await?;
    Ok(row.value)
}

pub(super) async fn set_standing(tx: &mut Tx, standing: &str) -> Result<(), Error> {
    tx.statement(&SET_STANDING).bind(standing).execute().await?;
    Ok(())
}

pub(super) async fn forget(db: &Db) -> Result<(), Error> {
    db.write(&FORGET).execute().await?;
    Ok(())
}

/// The number of the last of the next resources; `None` if there is none.
pub(super) async fn documents(tx: &mut Tx, after: i64, limit: i64) -> Result<Option<i64>, Error> {
    let row: LastRow = tx
        .statement(&DOCUMENTS)
        .bind(after)
        .bind(limit)
        .one()
        .await?;
    Ok(row.key)
}

pub(super) async fn clear_documents(
    tx: &mut Tx,
    after: i64,
    through: i64,
    types: &str,
) -> Result<Vec<DocumentRow>, Error> {
    let rows = tx.statement(&CLEAR).bind(after).bind(through);
    rows.bind(types).all().await
}

pub(super) async fn lock_specs(tx: &mut Tx, keys: &str) -> Result<Vec<TextRow>, Error> {
    tx.statement(&LOCK_SPECS).bind(keys).all().await
}

pub(super) async fn lock_live(tx: &mut Tx, keys: &str) -> Result<Vec<TextRow>, Error> {
    tx.statement(&LOCK_LIVE).bind(keys).all().await
}

pub(super) async fn write_specs(tx: &mut Tx, writes: &str) -> Result<(), Error> {
    tx.statement(&WRITE_SPECS).bind(writes).execute().await?;
    Ok(())
}

pub(super) async fn write_live(tx: &mut Tx, writes: &str) -> Result<(), Error> {
    tx.statement(&WRITE_LIVE).bind(writes).execute().await?;
    Ok(())
}

pub(super) async fn drifts(
    tx: &mut Tx,
    after: &Place,
    types: &str,
    limit: i64,
) -> Result<Vec<DriftRow>, Error> {
    let rows = tx.statement(&DRIFTS).bind(after.key).bind(&after.path);
    rows.bind(&after.id).bind(types).bind(limit).all().await
}

pub(super) async fn lock_drifts(tx: &mut Tx, ids: &str) -> Result<Vec<DriftRow>, Error> {
    tx.statement(&LOCK_DRIFTS).bind(ids).all().await
}

pub(super) async fn write_drifts(tx: &mut Tx, writes: &str) -> Result<(), Error> {
    tx.statement(&WRITE_DRIFTS).bind(writes).execute().await?;
    Ok(())
}

pub(super) async fn events(
    tx: &mut Tx,
    after: i64,
    types: &str,
    limit: i64,
) -> Result<Vec<EventRow>, Error> {
    let rows = tx.statement(&EVENTS).bind(after).bind(types).bind(limit);
    rows.all().await
}

pub(super) async fn write_events(tx: &mut Tx, writes: &str) -> Result<(), Error> {
    tx.statement(&WRITE_EVENTS).bind(writes).execute().await?;
    Ok(())
}

pub(super) async fn vacuum(db: &Db) -> Result<(), Error> {
    db.write(&VACUUM).execute().await?;
    Ok(())
}

/// Returns whether the write-ahead log is empty now.
pub(super) async fn checkpoint(db: &Db) -> Result<bool, Error> {
    let row: CheckpointRow = db.write(&CHECKPOINT).one().await?;
    Ok(row.busy == 0)
}
