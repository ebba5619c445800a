//! Drifts as they are looked up and listed.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{DRIFT_TOPIC, ResourceName, json, seen};
use crate::{
    Change, Error, Op, Store,
    engine::{Statement, Tx, statements},
};

/// What is selected of a drift.
macro_rules! columns {
    () => {
        "SELECT o.id, o.key, r.provider, r.type AS resource_kind, r.id AS resource_id, o.path, o.kind, o.state, o.severity, o.expected, \
         o.actual, o.secret, o.first_seen_us, o.changed_us, coalesce(l.observed_us, 0) AS seen_us, o.flips, o.suppressed_by, \
         o.suppressed_policy, o.suppressed_until_us, o.spec_version, o.version, o.resolved_us, o.actor, o.reason \
         FROM "
    };
}

/// What belongs to a drift. Plans outlive the sizes that they were made for, so PostgreSQL's have no choice but the index.
macro_rules! parts_postgres {
    () => {
        "drift o CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = o.key LIMIT 1) r \
         LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = o.key LIMIT 1) l ON true "
    };
}

macro_rules! parts_sqlite {
    () => {
        "drift o JOIN drift_resource r ON r.key = o.key LEFT JOIN drift_live l ON l.key = o.key "
    };
}

/// The drifts of one resource: by its name, and then by its number.
macro_rules! of_postgres {
    () => {
        "drift_resource r CROSS JOIN LATERAL (SELECT * FROM drift o WHERE o.key = r.key OFFSET 0) o "
    };
}

macro_rules! of_sqlite {
    () => {
        "drift_resource r CROSS JOIN drift o ON o.key = r.key "
    };
}

/// Which are kept of a list, apart from those that are hidden.
macro_rules! filter_postgres {
    () => {
        "o.id < $1 AND o.state = ANY (string_to_array($2, ',')) AND ($3 = '' OR o.kind = ANY (string_to_array($3, ','))) \
         AND o.severity >= $4 AND ($5 = '' OR r.provider = $5) AND ($6 = '' OR r.type = $6) AND ($7 = '' OR r.id = $7) \
         AND (CAST($8 AS TEXT) IS NULL OR CAST(r.labels AS jsonb) @> CAST($8 AS jsonb)) \
         AND (CAST($9 AS TEXT) IS NULL OR o.path = $9) "
    };
}

macro_rules! filter_sqlite {
    () => {
        "o.id < $1 AND instr(',' || $2 || ',', ',' || o.state || ',') > 0 AND ($3 = '' OR instr(',' || $3 || ',', ',' || o.kind || ',') > 0) \
         AND o.severity >= $4 AND ($5 = '' OR r.provider = $5) AND ($6 = '' OR r.type = $6) AND ($7 = '' OR r.id = $7) \
         AND ($8 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each($8) wanted WHERE NOT EXISTS \
         (SELECT 1 FROM json_each(r.labels) own WHERE own.key = wanted.key AND own.value = wanted.value))) \
         AND ($9 IS NULL OR o.path = $9) "
    };
}

statements! {
    /// One drift.
    GET = "drift_get" => [
        postgres { (columns!()) (parts_postgres!()) "WHERE o.id = $1" }
        sqlite { (columns!()) (parts_sqlite!()) "WHERE o.id = $1" }
    ];
    /// Drifts before an id, newest first.
    LIST = "drift_list" => [
        postgres { (columns!()) (parts_postgres!()) "WHERE " (filter_postgres!()) "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11" }
        sqlite { (columns!()) (parts_sqlite!()) "WHERE " (filter_sqlite!()) "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11" }
    ];
    /// The same for open ones, by the index over those.
    LIST_OPEN = "drift_list_open" => [
        postgres {
            (columns!()) (parts_postgres!()) "WHERE o.state = 'open' AND o.id <> '' AND " (filter_postgres!())
            "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11"
        }
        sqlite {
            (columns!()) (parts_sqlite!()) "WHERE o.state = 'open' AND o.id <> '' AND " (filter_sqlite!())
            "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11"
        }
    ];
    /// The same of one resource, whose drifts are few.
    LIST_OF = "drift_list_of" => [
        postgres {
            (columns!()) (of_postgres!()) "LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = o.key LIMIT 1) l ON true \
            WHERE r.provider = $5 AND r.type = $6 AND r.id = $7 AND " (filter_postgres!()) "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11"
        }
        sqlite {
            (columns!()) (of_sqlite!()) "LEFT JOIN drift_live l ON l.key = o.key \
            WHERE r.provider = $5 AND r.type = $6 AND r.id = $7 AND " (filter_sqlite!()) "AND ($10 OR o.suppressed_by = '') ORDER BY o.id DESC LIMIT $11"
        }
    ];
    /// How many are hidden: only open ones are. The newest are looked at.
    HIDDEN = "drift_count_hidden" => [
        postgres {
            "SELECT count(*) AS count FROM (SELECT * FROM drift h WHERE h.state = 'open' AND h.suppressed_by <> '' \
             ORDER BY h.id DESC LIMIT $10) o CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = o.key LIMIT 1) r \
             WHERE " (filter_postgres!())
        }
        sqlite {
            "SELECT count(*) AS count FROM (SELECT * FROM drift h WHERE h.state = 'open' AND h.suppressed_by <> '' \
             ORDER BY h.id DESC LIMIT $10) o CROSS JOIN drift_resource r ON r.key = o.key WHERE " (filter_sqlite!())
        }
    ];
    /// The same of one resource.
    HIDDEN_OF = "drift_count_hidden_of" => [
        postgres {
            "SELECT count(*) AS count FROM drift_resource r CROSS JOIN LATERAL \
             (SELECT * FROM drift o WHERE o.key = r.key AND o.state = 'open' OFFSET 0) o \
             WHERE r.provider = $5 AND r.type = $6 AND r.id = $7 AND " (filter_postgres!()) "AND o.suppressed_by <> ''"
        }
        sqlite {
            "SELECT count(*) AS count FROM drift_resource r CROSS JOIN drift o ON o.key = r.key AND o.state = 'open' \
             WHERE r.provider = $5 AND r.type = $6 AND r.id = $7 AND " (filter_sqlite!()) "AND o.suppressed_by <> ''"
        }
    ];
}

/// A drift, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DriftRow {
    /// A UUIDv7.
    pub id: String,
    /// The resource's number.
    pub key: i64,
    /// Who runs the resource.
    pub provider: String,
    /// The resource's type.
    pub resource_kind: String,
    /// The provider's id of the resource.
    pub resource_id: String,
    /// Where in the spec; empty for the whole resource.
    pub path: String,
    /// `changed`, `missing`, `gone` or `unmanaged`.
    pub kind: String,
    /// `open`, `accepted`, `reverted` or `stale`.
    pub state: String,
    /// Higher is worse.
    pub severity: i64,
    /// What was asked for; `None` if nothing was.
    pub expected: Option<String>,
    /// What is there; `None` if nothing is.
    pub actual: Option<String>,
    /// Both are hashes.
    pub secret: bool,
    /// When it was first seen.
    pub first_seen_us: i64,
    /// When its actual value changed last.
    pub changed_us: i64,
    /// From when the observation counts that it was seen in last.
    pub seen_us: i64,
    /// How often it came back or changed.
    pub flips: i64,
    /// `policy`, `snooze` or `window`; empty if it is not hidden.
    pub suppressed_by: String,
    /// The policy that hides it; empty if none does.
    pub suppressed_policy: String,
    /// Until when it is hidden.
    pub suppressed_until_us: Option<i64>,
    /// The version of the spec that it was found against.
    pub spec_version: i64,
    /// Counts the changes that its etag shows.
    pub version: i64,
    /// When it was closed.
    pub resolved_us: Option<i64>,
    /// Who accepted or snoozed it.
    pub actor: String,
    /// Why it was closed or snoozed.
    pub reason: String,
}

/// Which drifts to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriftFilter {
    /// Only those in one of these states; empty for open ones.
    pub states: Vec<String>,
    /// Only those of one of these kinds; empty for all.
    pub kinds: Vec<String>,
    /// Only those of at least this severity.
    pub min_severity: i64,
    /// Only those of this provider; empty for all.
    pub provider: String,
    /// Only those of resources of this type; empty for all.
    pub resource_kind: String,
    /// Only those of the resource with this id; empty for all.
    pub resource_id: String,
    /// Only those of resources that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those at this path.
    pub path: Option<String>,
    /// Those that are hidden, too.
    pub include_suppressed: bool,
}

#[derive(FromRow)]
struct CountRow {
    count: i64,
}

// === impl DriftRow ===

impl DriftRow {
    /// Changes with the actual value, the state, the severity and what hides it.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.version)
    }

    /// What names the resource.
    #[must_use]
    pub fn resource(&self) -> ResourceName {
        ResourceName {
            provider: self.provider.clone(),
            kind: self.resource_kind.clone(),
            id: self.resource_id.clone(),
        }
    }
}

fn etag(version: i64) -> String {
    version.to_string()
}

pub(super) fn change(id: &str, version: i64) -> Change {
    Change::new(DRIFT_TOPIC, id, Op::Upsert, etag(version))
}

pub(super) async fn drift_in(tx: &mut Tx, id: &str) -> Result<Option<DriftRow>, Error> {
    tx.statement(&GET).bind(id).optional().await
}

/// What an event says of a drift. A whole document is not repeated there: it may have secrets, which only its type's rules know.
pub(super) fn detail(
    kind: &str,
    secret: bool,
    expected: Option<&str>,
    actual: Option<&str>,
) -> String {
    let value = |text: Option<&str>| {
        text.filter(|_| !secret && kind != "unmanaged")
            .map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.into()))
    };
    let mut detail = serde_json::Map::new();
    detail.insert("kind".to_owned(), kind.into());
    for (name, text) in [("expected", expected), ("actual", actual)] {
        if let Some(value) = value(text) {
            detail.insert(name.to_owned(), value);
        }
    }
    serde_json::Value::Object(detail).to_string()
}

impl Store {
    /// One drift.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drift(&self, id: &str) -> Result<Option<DriftRow>, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let mut rows: Vec<DriftRow> = drift_in(&mut tx, id).await?.into_iter().collect();
        lift(&mut tx, &mut rows).await?;
        tx.rollback().await?;
        Ok(rows.pop())
    }

    /// Drifts older than an id (the empty id means all), newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drifts(
        &self,
        filter: &DriftFilter,
        before: &str,
        limit: i64,
    ) -> Result<Vec<DriftRow>, Error> {
        let open = filter.states.is_empty() || filter.states == ["open"];
        let statement = match (filter.resource_id.is_empty(), open) {
            (false, _) => &LIST_OF,
            (true, true) => &LIST_OPEN,
            (true, false) => &LIST,
        };
        let mut tx = self.db().begin_snapshot().await?;
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        let mut rows: Vec<DriftRow> = bind(tx.statement(statement), before, filter)?
            .bind(filter.include_suppressed)
            .bind(limit)
            .all()
            .await?;
        lift(&mut tx, &mut rows).await?;
        tx.rollback().await?;
        Ok(rows)
    }

    /// How many open drifts a filter keeps that are hidden. Of all resources, the newest `most` that are hidden are looked at; of one
    /// resource, all of them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn hidden_drifts(&self, filter: &DriftFilter, most: i64) -> Result<i64, Error> {
        let states = &filter.states;
        if !states.is_empty() && !states.iter().any(|state| state == "open") {
            return Ok(0);
        }
        let count = match filter.resource_id.is_empty() {
            true => bind(self.db().read(&HIDDEN), "~", filter)?.bind(most),
            false => bind(self.db().read(&HIDDEN_OF), "~", filter)?,
        };
        let hidden: CountRow = count.one().await?;
        Ok(hidden.count)
    }
}

/// Adds the arguments of a filter.
fn bind<'c>(
    statement: Statement<'c>,
    before: &str,
    filter: &DriftFilter,
) -> Result<Statement<'c>, Error> {
    let labels = match &filter.labels {
        labels if labels.is_empty() => None,
        labels => Some(json(labels)?),
    };
    let states = match filter.states.as_slice() {
        [] => "open".to_owned(),
        states => states.join(","),
    };
    Ok(statement
        .bind(before.to_owned())
        .bind(states)
        .bind(filter.kinds.join(","))
        .bind(filter.min_severity)
        .bind(filter.provider.clone())
        .bind(filter.resource_kind.clone())
        .bind(filter.resource_id.clone())
        .bind(labels)
        .bind(filter.path.clone()))
}

/// Adds what complete inventories saw since, without writing it to each resource.
async fn lift(tx: &mut Tx, rows: &mut [DriftRow]) -> Result<(), Error> {
    let open = |row: &DriftRow| row.state == "open" && row.kind != "gone";
    let wanted = rows.iter().filter(|row| open(row));
    let wanted = wanted.map(|row| (row.provider.clone(), row.key)).collect();
    let seen = seen::last_seen_of(tx, wanted).await?;
    for row in rows.iter_mut().filter(|row| open(row)) {
        if let Some((_, start_us)) = seen.get(&row.key) {
            row.seen_us = row.seen_us.max(*start_us);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) fn listing() -> [(&'static crate::engine::Sql, usize, &'static [&'static str]); 4] {
    [
        (&LIST_OPEN, 11, &["drift_open_id"]),
        (&LIST_OF, 11, &["drift_resource_id", "drift_history"]),
        (&HIDDEN, 10, &["drift_hidden"]),
        (&HIDDEN_OF, 9, &["drift_resource_id", "drift_open"]),
    ]
}
