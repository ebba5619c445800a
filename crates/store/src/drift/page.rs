//! Pages of a sweep: which resources come next, and all that is needed to compare them.
//!
//! A page is bounded by bytes, not by rows: the sizes of the documents are read first, without the documents. What is read is never
//! older than the generation that was read before it, and the write checks that nothing changed since.

use serde::Serialize;
use sqlx::FromRow;

use super::{RESOURCE_KEY_PREFIX, ResourceName, json, row::DriftRow};
use crate::{Engine, Error, Store, engine::statements};

/// What is selected of a resource to compare.
macro_rules! fetched {
    () => {
        "SELECT r.key, r.writes, r.spec_version, r.recorded, r.applied_us, r.provider, r.type AS kind, r.id, r.labels, r.spec, \
         coalesce(l.version, 0) AS live_version, coalesce(l.observed_us, 0) AS observed_us, coalesce(l.inventory, 0) AS inventory, \
         coalesce(l.misses, 0) AS misses, coalesce(l.transition, '') AS transition, coalesce(l.attributes, '') AS attributes, \
         CASE WHEN l.inventory < 0 THEN 'failed' WHEN l.inventory > 0 THEN \
             coalesce((SELECT i.state FROM drift_inventory i WHERE i.key = l.inventory), '') ELSE '' END AS inventory_state, \
         coalesce((SELECT v.verdict FROM drift_verdict v WHERE v.key = r.key), '') AS verdict "
    };
}

/// What is selected of a resource that is due, with the sizes of its documents; and all that are due, if they are few.
macro_rules! due {
    () => {
        "WITH few AS MATERIALIZED \
         (SELECT d.key, d.generation, d.due_us FROM drift_due d WHERE d.due_us <= $3 ORDER BY d.due_us LIMIT $4 + 1) \
         SELECT p.key, p.generation, p.due_us, \
         CAST(coalesce((SELECT octet_length(r.spec) FROM drift_resource r WHERE r.key = p.key), 0) + \
         coalesce((SELECT octet_length(l.attributes) FROM drift_live l WHERE l.key = p.key), 0) AS BIGINT) AS bytes FROM "
    };
}

statements! {
    /// The next resources that are due. If all that are due are few they are found by their time, whatever is due later. Otherwise by
    /// their numbers: what is due later lies between them, and is passed by once on each way through.
    DUE = "drift_page_due" => [
        postgres {
            (due!()) "(SELECT f.key, f.generation, f.due_us FROM few f WHERE f.key > $1 AND f.key <= $2 \
                 AND (SELECT count(*) FROM few) <= $4 \
             UNION ALL SELECT * FROM (SELECT d.key, d.generation, d.due_us FROM drift_due d \
                 WHERE (SELECT count(*) FROM few) > $4 AND d.key > $1 AND d.key <= $2 AND d.due_us <= $3 \
                 ORDER BY d.key LIMIT $4) AS many) AS p ORDER BY p.key"
        }
        sqlite {
            (due!()) "(SELECT f.key, f.generation, f.due_us FROM few f WHERE f.key > $1 AND f.key <= $2 \
                 AND (SELECT count(*) FROM few) <= $4 \
             UNION ALL SELECT * FROM (SELECT d.key, d.generation, d.due_us FROM (SELECT count(*) AS count FROM few) c \
                 CROSS JOIN drift_due d WHERE c.count > $4 AND d.key > $1 AND d.key <= $2 AND d.due_us <= $3 \
                 ORDER BY d.key LIMIT $4) AS many) AS p ORDER BY p.key"
        }
    ];
    /// The next resources, due or not.
    ALL = "drift_page_all" => [
        "SELECT r.key, coalesce((SELECT d.generation FROM drift_due d WHERE d.key = r.key), 0) AS generation, \
         coalesce((SELECT d.due_us FROM drift_due d WHERE d.key = r.key), 0) AS due_us, \
         CAST(octet_length(r.spec) + \
         coalesce((SELECT octet_length(l.attributes) FROM drift_live l WHERE l.key = r.key), 0) AS BIGINT) AS bytes \
         FROM drift_resource r WHERE r.key > $1 AND r.key <= $2 AND $3 >= 0 ORDER BY r.key LIMIT $4"
    ];
    /// Everything about some.
    FETCH = "drift_page_fetch" => [
        postgres {
            (fetched!()) "FROM unnest($1::bigint[]) AS e(key) \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = e.key LIMIT 1) r \
             LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = e.key LIMIT 1) l ON true"
        }
        sqlite {
            (fetched!()) "FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value LEFT JOIN drift_live l ON l.key = r.key \
             ORDER BY r.key"
        }
    ];
    /// What names one.
    NAME = "drift_page_name" => ["SELECT provider, type AS kind, id FROM drift_resource WHERE key = $1"];
    /// The open drifts of some, in their order. A plan has no choice but the index by resource.
    OPEN = "drift_page_open" => [
        postgres {
            "SELECT o.key, o.id, o.path, o.kind, o.severity, o.expected, o.actual, o.secret, o.first_seen_us, o.changed_us, o.flips, \
             o.suppressed_by, o.suppressed_policy, o.suppressed_until_us, o.spec_version, o.version \
             FROM unnest($1::bigint[]) AS e(key) CROSS JOIN LATERAL \
             (SELECT * FROM drift o WHERE o.key = e.key AND o.state = 'open' ORDER BY o.path OFFSET 0) o"
        }
        sqlite {
            "SELECT o.key, o.id, o.path, o.kind, o.severity, o.expected, o.actual, o.secret, o.first_seen_us, o.changed_us, o.flips, \
             o.suppressed_by, o.suppressed_policy, o.suppressed_until_us, o.spec_version, o.version \
             FROM json_each($1) e CROSS JOIN drift o ON o.key = e.value AND o.state = 'open' ORDER BY o.key, o.path"
        }
    ];
    /// The newest closed drift at some paths.
    PAST = "drift_page_past" => [
        postgres {
            "SELECT p.key, p.path, p.flips, p.changed_us, p.resolved_us, p.state \
             FROM unnest($1::bigint[], $2::text[]) AS e(key, path) CROSS JOIN LATERAL \
             (SELECT o.key, o.path, o.flips, o.changed_us, coalesce(o.resolved_us, 0) AS resolved_us, o.state FROM drift o \
              WHERE o.key = e.key AND o.path = e.path COLLATE \"C\" AND o.state <> 'open' ORDER BY o.id DESC LIMIT 1) p"
        }
        sqlite {
            "SELECT o.key, o.path, o.flips, o.changed_us, coalesce(o.resolved_us, 0) AS resolved_us, o.state \
             FROM json_each($1) e CROSS JOIN drift o ON o.id = (SELECT n.id FROM drift n WHERE n.key = e.value ->> 'key' \
             AND n.path = e.value ->> 'path' AND n.state <> 'open' ORDER BY n.id DESC LIMIT 1)"
        }
    ];
    /// The resources that sagas hold.
    HELD = "drift_page_held" => ["SELECT name FROM saga_key WHERE substr(name, 1, 9) = 'resource/'"];
}

/// A resource that is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct DueResource {
    /// Its number.
    pub key: i64,
    /// Taken away only if this is still so; 0 if it is not due.
    pub generation: i64,
    /// When it is to be compared next; 0 if it is not due, in the future if it is not due yet.
    pub due_us: i64,
    /// Of both documents.
    pub bytes: i64,
}

/// A resource with all that a comparison needs.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SweepResource {
    /// Its number.
    pub key: i64,
    /// Rises with everything that is recorded.
    pub writes: i64,
    /// Rises with every change of the spec.
    pub spec_version: i64,
    /// There is a spec.
    pub recorded: bool,
    /// When it was applied; `None` while it is pending.
    pub applied_us: Option<i64>,
    /// Who runs it.
    pub provider: String,
    /// Its type.
    pub kind: String,
    /// The provider's own id.
    pub id: String,
    /// JSON, text to text.
    pub labels: String,
    /// JSON; empty if nothing is recorded.
    pub spec: String,
    /// Rises with every change of what is there; 0 if nobody reported it.
    pub live_version: i64,
    /// From when the observation counts; 0 if there is none.
    pub observed_us: i64,
    /// The number of the inventory of the observation; 0 for a report on its own, negative for one that failed and is forgotten.
    pub inventory: i64,
    /// 0 while it is there, 1 once a complete inventory did not have it, 2 when it is gone.
    pub misses: i64,
    /// What the provider calls the change that is under way.
    pub transition: String,
    /// JSON; empty if it is gone, and if nobody reported it.
    pub attributes: String,
    /// Of the inventory of the observation: `running`, `complete` or `failed`; empty if there is none, or it is no longer kept.
    pub inventory_state: String,
    /// What the last comparison said; empty if there was none.
    pub verdict: String,
}

/// An open drift, as a comparison needs it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OpenDrift {
    /// The resource's number.
    pub key: i64,
    /// A UUIDv7.
    pub id: String,
    /// Where in the spec; empty for the whole resource.
    pub path: String,
    /// See [`DriftRow::kind`].
    pub kind: String,
    /// Higher is worse.
    pub severity: i64,
    /// What was asked for.
    pub expected: Option<String>,
    /// What is there.
    pub actual: Option<String>,
    /// Both are hashes.
    pub secret: bool,
    /// When it was first seen.
    pub first_seen_us: i64,
    /// When its actual value changed last.
    pub changed_us: i64,
    /// How often it came back or changed.
    pub flips: i64,
    /// See [`DriftRow::suppressed_by`].
    pub suppressed_by: String,
    /// The policy that hides it.
    pub suppressed_policy: String,
    /// Until when it is hidden.
    pub suppressed_until_us: Option<i64>,
    /// The version of the spec that it was found against.
    pub spec_version: i64,
    /// Counts its changes.
    pub version: i64,
}

/// The newest drift at a path that was closed.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PastDrift {
    /// The resource's number.
    pub key: i64,
    /// Where in the spec.
    pub path: String,
    /// How often it had come back or changed.
    pub flips: i64,
    /// When its actual value had changed last.
    pub changed_us: i64,
    /// When it was closed.
    pub resolved_us: i64,
    /// How.
    pub state: String,
}

#[derive(FromRow)]
struct ResourceNameRow {
    provider: String,
    kind: String,
    id: String,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

#[derive(Serialize)]
struct Place<'a> {
    key: i64,
    path: &'a str,
}

impl Store {
    /// The next resources after a number, up to and including another, in order: those that were due at a time, or all.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn next_due(
        &self,
        all: bool,
        (after, through): (i64, i64),
        at_us: i64,
        limit: i64,
    ) -> Result<Vec<DueResource>, Error> {
        let next = self.db().read(if all { &ALL } else { &DUE });
        let next = next.bind(after).bind(through).bind(at_us).bind(limit);
        next.all().await
    }

    /// Resources with all that a comparison needs, in the order of the numbers.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn fetch_resources(&self, keys: &[i64]) -> Result<Vec<SweepResource>, Error> {
        let fetch = self.db().read(&FETCH);
        match self.engine() {
            Engine::Postgres => fetch.bind_column(keys.to_vec()),
            Engine::Sqlite => fetch.bind(json(keys)?),
        }
        .all()
        .await
    }

    /// What names a resource.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resource_name(&self, key: i64) -> Result<Option<ResourceName>, Error> {
        let row: Option<ResourceNameRow> = self.db().read(&NAME).bind(key).optional().await?;
        Ok(row.map(|row| ResourceName {
            provider: row.provider,
            kind: row.kind,
            id: row.id,
        }))
    }

    /// Open drifts of resources, in the order of the numbers and of the paths.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn open_drifts(&self, keys: &[i64]) -> Result<Vec<OpenDrift>, Error> {
        let open = self.db().read(&OPEN);
        match self.engine() {
            Engine::Postgres => open.bind_column(keys.to_vec()),
            Engine::Sqlite => open.bind(json(keys)?),
        }
        .all()
        .await
    }

    /// The newest closed drift at each of these paths that ever had one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn past_drifts(&self, places: &[(i64, &str)]) -> Result<Vec<PastDrift>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let past = self.db().read(&PAST);
        match self.engine() {
            Engine::Postgres => {
                let (keys, paths): (Vec<i64>, Vec<&str>) = places.iter().copied().unzip();
                past.bind_column(keys).bind_column(paths)
            }
            Engine::Sqlite => {
                let places = places.iter().map(|&(key, path)| Place { key, path });
                past.bind(json(&places.collect::<Vec<_>>())?)
            }
        }
        .all()
        .await
    }

    /// The names of the resources that sagas hold, as [`super::ResourceName`] displays them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn held_resources(&self) -> Result<std::collections::HashSet<String>, Error> {
        let rows: Vec<NameRow> = self.db().read(&HELD).all().await?;
        let names = rows.into_iter().filter_map(|row| {
            let name = row.name.strip_prefix(RESOURCE_KEY_PREFIX)?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }
}

impl From<DriftRow> for OpenDrift {
    fn from(row: DriftRow) -> Self {
        Self {
            key: row.key,
            id: row.id,
            path: row.path,
            kind: row.kind,
            severity: row.severity,
            expected: row.expected,
            actual: row.actual,
            secret: row.secret,
            first_seen_us: row.first_seen_us,
            changed_us: row.changed_us,
            flips: row.flips,
            suppressed_by: row.suppressed_by,
            suppressed_policy: row.suppressed_policy,
            suppressed_until_us: row.suppressed_until_us,
            spec_version: row.spec_version,
            version: row.version,
        }
    }
}
