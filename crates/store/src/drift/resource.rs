//! Resources as they are looked up, listed and forgotten.

use sqlx::FromRow;

use super::{
    RESOURCE_TOPIC, ResourceName,
    due::{self, Due},
    event::{self, NewEvent},
    seen::last_seen,
};
use crate::{
    Change, Error, Op, Store,
    engine::{Tx, statements},
    log,
};

/// What belongs to a resource. Plans outlive the sizes that they were made for, so PostgreSQL's have no choice but the index.
macro_rules! parts_postgres {
    () => {
        "LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = r.key LIMIT 1) l ON true \
         LEFT JOIN LATERAL (SELECT * FROM drift_inventory i WHERE i.key = l.inventory LIMIT 1) i ON true \
         LEFT JOIN LATERAL (SELECT * FROM drift_verdict v WHERE v.key = r.key LIMIT 1) v ON true \
         LEFT JOIN LATERAL (SELECT * FROM drift_due d WHERE d.key = r.key LIMIT 1) d ON true "
    };
}

macro_rules! parts_sqlite {
    () => {
        "LEFT JOIN drift_live l ON l.key = r.key LEFT JOIN drift_inventory i ON i.key = l.inventory \
         LEFT JOIN drift_verdict v ON v.key = r.key LEFT JOIN drift_due d ON d.key = r.key "
    };
}

/// What is selected of a resource.
macro_rules! columns {
    ($spec:literal, $attributes:literal) => {
        concat!(
            "SELECT r.key, r.provider, r.type AS kind, r.id, r.recorded, ", $spec, " AS spec, r.spec_version, r.writes, \
             r.labels, r.recorded_by, r.saga_id, r.recorded_us, r.applied_us, \
             coalesce(l.version, 0) AS live_version, coalesce(l.observed_us, 0) AS observed_us, \
             coalesce(l.misses, 0) AS misses, coalesce(l.transition, '') AS transition, ",
            $attributes, " AS attributes, coalesce(i.id, '') AS inventory, \
             coalesce(i.state, CASE WHEN l.inventory < 0 THEN 'failed' ELSE '' END) AS inventory_state, \
             coalesce(v.verdict, '') AS verdict, coalesce(v.decided_us, 0) AS decided_us, \
             coalesce(d.due_us, 9223372036854775807) AS due_us, \
             (SELECT count(*) FROM drift o WHERE o.key = r.key AND o.state = 'open') AS open_drifts, \
             (SELECT count(*) FROM drift o WHERE o.key = r.key AND o.state = 'open' AND o.suppressed_by <> '') AS suppressed_drifts "
        )
    };
}

// After the macros, which it needs.
mod list;

pub use list::{ResourceFilter, ResourceList};

statements! {
    /// One resource.
    GET = "drift_resource_get" => [
        postgres {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("r.spec", "coalesce(l.attributes, '')"))
            "FROM drift_resource r " (parts_postgres!()) "WHERE r.provider = $1 AND r.type = $2 AND r.id = $3) AS g"
        }
        sqlite {
            "SELECT g.*, g.due_us <= " now " AS due FROM (" (columns!("r.spec", "coalesce(l.attributes, '')"))
            "FROM drift_resource r " (parts_sqlite!()) "WHERE r.provider = $1 AND r.type = $2 AND r.id = $3) AS g"
        }
    ];
    /// The number of a resource.
    KEY = "drift_resource_key" => [
        "SELECT key FROM drift_resource WHERE provider = $1 AND type = $2 AND id = $3"
    ];
    /// Locks what was asked for.
    LOCK = "drift_resource_lock" => ["SELECT key FROM drift_resource WHERE key = $1" for_update];
    /// Locks what is there.
    LOCK_LIVE = "drift_live_lock" => ["SELECT key FROM drift_live WHERE key = $1" for_update];
    /// Forgets a spec.
    FORGET = "drift_resource_forget" => [
        "UPDATE drift_resource SET recorded = false, spec = '', labels = '{}', recorded_by = '', saga_id = '', \
         applied_us = NULL, writes = writes + 1, last_write = '' WHERE key = $1"
    ];
}

/// A resource, as stored. Texts that are JSON say so.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ResourceRow {
    /// Its number.
    pub key: i64,
    /// Who runs it.
    pub provider: String,
    /// Its type.
    pub kind: String,
    /// The provider's own id.
    pub id: String,
    /// There is a spec.
    pub recorded: bool,
    /// JSON; empty in lists, and if nothing is recorded.
    pub spec: String,
    /// Rises with every change of the spec; what a deleted one had is remembered.
    pub spec_version: i64,
    /// Rises with everything that is recorded.
    pub writes: i64,
    /// JSON, text to text.
    pub labels: String,
    /// Who recorded it.
    pub recorded_by: String,
    /// The saga that did; empty for none.
    pub saga_id: String,
    /// When its spec changed last.
    pub recorded_us: i64,
    /// When it was applied last; `None` while it is pending.
    pub applied_us: Option<i64>,
    /// Rises with every change of what is there; 0 if nobody reported it.
    pub live_version: i64,
    /// From when the last observation counts, without those that repeated it; 0 if there is none. [`Store::resource`] counts them.
    pub observed_us: i64,
    /// 0 while it is there, 1 once a complete inventory did not have it, 2 when it is gone.
    pub misses: i64,
    /// What the provider calls the change that is under way.
    pub transition: String,
    /// JSON; empty in lists, if it is gone, and if nobody reported it.
    pub attributes: String,
    /// The id of the inventory of the last observation; empty for a report on its own.
    pub inventory: String,
    /// `running`, `complete` or `failed`; empty likewise, and if it was complete and is no longer kept.
    pub inventory_state: String,
    /// What the last comparison said; empty if there was none.
    pub verdict: String,
    /// Since when it says so.
    pub decided_us: i64,
    /// When it is to be compared; the largest number for never.
    pub due_us: i64,
    /// That time has come.
    pub due: bool,
    /// Drifts that are open.
    pub open_drifts: i64,
    /// Those of them that are hidden.
    pub suppressed_drifts: i64,
}

#[derive(FromRow)]
pub(super) struct KeyRow {
    pub(super) key: i64,
}

// === impl ResourceRow ===

impl ResourceRow {
    /// Changes with everything that is recorded and with what is there.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.writes, self.live_version)
    }

    /// What names it.
    #[must_use]
    pub fn name(&self) -> ResourceName {
        ResourceName {
            provider: self.provider.clone(),
            kind: self.kind.clone(),
            id: self.id.clone(),
        }
    }

    /// Whether anyone knows it: one that was deleted and is not observed is only a number that events refer to.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.recorded || self.live_version > 0
    }
}

pub(super) fn etag(writes: i64, live_version: i64) -> String {
    format!("{writes}.{live_version}")
}

pub(super) fn change(name: impl std::fmt::Display, writes: i64, live_version: i64) -> Change {
    let etag = etag(writes, live_version);
    Change::new(RESOURCE_TOPIC, name.to_string(), Op::Upsert, etag)
}

pub(super) async fn resource_in(
    tx: &mut Tx,
    name: &ResourceName,
) -> Result<Option<ResourceRow>, Error> {
    tx.statement(&GET)
        .bind(&name.provider)
        .bind(&name.kind)
        .bind(&name.id)
        .optional()
        .await
}

/// Locks a resource and what is there of it, in this order.
pub(super) async fn lock(tx: &mut Tx, key: i64) -> Result<(), Error> {
    let _: Option<KeyRow> = tx.statement(&LOCK).bind(key).optional().await?;
    let _: Option<KeyRow> = tx.statement(&LOCK_LIVE).bind(key).optional().await?;
    Ok(())
}

/// Forgets a spec, in a transaction that has locked it.
pub(super) async fn forget(tx: &mut Tx, key: i64) -> Result<(), Error> {
    tx.statement(&FORGET).bind(key).execute().await?;
    Ok(())
}

/// Every statement about resources.
#[cfg(any(test, feature = "faults"))]
pub(super) fn all_statements() -> Vec<&'static crate::engine::Sql> {
    [STATEMENTS, list::STATEMENTS].concat()
}

impl Store {
    /// One resource, also one that is only remembered: see [`ResourceRow::is_known`]. Its observation counts from the newest
    /// complete inventory that saw it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resource(&self, name: &ResourceName) -> Result<Option<ResourceRow>, Error> {
        let read = self.db().read(&GET).bind(&name.provider);
        let read = read.bind(&name.kind).bind(&name.id);
        let mut row: Option<ResourceRow> = read.optional().await?;
        if let Some(row) = &mut row
            && row.misses == 0
            && row.live_version > 0
            && let Some((inventory, start_us)) =
                last_seen(self.db(), &row.provider, row.key).await?
            && start_us > row.observed_us
        {
            row.observed_us = start_us;
            row.inventory = inventory;
            "complete".clone_into(&mut row.inventory_state);
        }
        Ok(row)
    }

    /// The number of a resource.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn resource_key(&self, name: &ResourceName) -> Result<Option<i64>, Error> {
        let row: Option<KeyRow> = self
            .db()
            .read(&KEY)
            .bind(&name.provider)
            .bind(&name.kind)
            .bind(&name.id)
            .optional()
            .await?;
        Ok(row.map(|row| row.key))
    }

    /// Forgets what was asked for, if `may` agrees, and returns the resource as it was. The next sweep closes its drifts.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn delete_resource<R: Send>(
        &self,
        name: &ResourceName,
        actor: &str,
        reason: &str,
        may: impl FnOnce(Option<&ResourceRow>) -> Result<(), R> + Send,
    ) -> Result<Result<(), R>, Error> {
        let key = self.resource_key(name).await?;
        let mut tx = self.db().begin().await?;
        if let Some(key) = key {
            lock(&mut tx, key).await?;
        }
        let row = resource_in(&mut tx, name).await?;
        let row = row.filter(ResourceRow::is_known);
        if let Err(refused) = may(row.as_ref()) {
            tx.rollback().await?;
            return Ok(Err(refused));
        }
        let Some(row) = row.filter(|row| row.recorded) else {
            tx.rollback().await?;
            return Ok(Ok(()));
        };
        forget(&mut tx, row.key).await?;
        due::mark(&mut tx, &[Due::now(row.key)]).await?;
        let happened = NewEvent {
            key: row.key,
            kind: "deleted",
            actor,
            reason,
            ..NewEvent::default()
        };
        event::add(&mut tx, &[happened]).await?;
        let mut change = change(name, row.writes + 1, row.live_version);
        if row.live_version == 0 {
            change.op = Op::Delete;
        }
        log::append_one(&mut tx, &[change]).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }
}
