//! What happened to resources.

use serde::Serialize;
use sqlx::FromRow;

use super::json;
use crate::{
    Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// Adds events.
    ADD = "drift_event_add" => [
        postgres {
            "INSERT INTO drift_event (key, time_us, kind, path, drift_id, actor, reason, detail) \
             SELECT e.key, (SELECT " now "), e.kind, e.path, e.drift_id, e.actor, e.reason, e.detail \
             FROM json_to_recordset($1::json) AS e(key bigint, kind text, path text, drift_id text, actor text, \
                 reason text, detail text)"
        }
        sqlite {
            "INSERT INTO drift_event (key, time_us, kind, path, drift_id, actor, reason, detail) \
             SELECT e.value ->> 'key', " now ", e.value ->> 'kind', e.value ->> 'path', e.value ->> 'drift_id', \
                    e.value ->> 'actor', e.value ->> 'reason', e.value ->> 'detail' FROM json_each($1) e"
        }
    ];
    /// Events of one resource.
    LIST = "drift_event_list" => [
        "SELECT e.seq, e.time_us, e.kind, e.path, e.drift_id, e.actor, e.reason, e.detail FROM drift_event e \
         WHERE e.key = $1 AND e.seq > $2 ORDER BY e.seq LIMIT $3"
    ];
}

/// One thing that happened to a resource.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DriftEventRow {
    /// Rises, with gaps.
    pub seq: i64,
    /// When.
    pub time_us: i64,
    /// `recorded`, `applied`, `appeared`, `gone`, `deleted`, `drift_detected`, `drift_changed`, `drift_closed`, `drift_accepted` or
    /// `drift_snoozed`.
    pub kind: String,
    /// The path that it is about; empty for the whole resource.
    pub path: String,
    /// The drift that it is about; empty for none.
    pub drift_id: String,
    /// Who did it; empty for nobody.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// A JSON object, or empty.
    pub detail: String,
}

/// An event to be added.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct NewEvent<'a> {
    pub(super) key: i64,
    pub(super) kind: &'a str,
    pub(super) path: &'a str,
    pub(super) drift_id: &'a str,
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
    pub(super) detail: String,
}

pub(super) async fn add(tx: &mut Tx, events: &[NewEvent<'_>]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    tx.statement(&ADD).bind(json(events)?).execute().await?;
    Ok(())
}

impl Store {
    /// Events of a resource after a number, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resource_events(
        &self,
        key: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<DriftEventRow>, Error> {
        self.db()
            .read(&LIST)
            .bind(key)
            .bind(after)
            .bind(limit)
            .all()
            .await
    }
}
