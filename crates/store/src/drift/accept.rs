//! Accepting and snoozing: one drift is locked, looked at, and decided about, in one transaction.
//!
//! Whoever decides sees what is so at that moment: nothing can change between the look and the write.

use sqlx::FromRow;

use super::{
    RESOURCE_KEY_PREFIX,
    due::{self, Due},
    event::{self, NewEvent},
    resource::{self, ResourceRow, resource_in},
    row::{self, DriftRow, drift_in},
};
use crate::{
    Change, Error, Op, Store,
    engine::{Tx, statements},
    log,
};

statements! {
    /// Locks a drift.
    LOCK = "drift_lock" => ["SELECT o.id, o.version FROM drift o WHERE o.id = $1" for_update];
    /// The database's clock.
    NOW = "drift_now" => ["SELECT " now " AS now_us"];
    /// Whether a saga holds a concurrency key.
    HELD = "drift_held" => ["SELECT count(*) AS count FROM saga_key WHERE name = $1"];
    /// Makes a spec of what is there. If nobody recorded it, it counts as applied just before it was observed.
    ADOPT = "drift_adopt" => [
        "UPDATE drift_resource SET spec = $2, spec_version = spec_version + 1, writes = writes + 1, recorded_us = " now ", \
         applied_us = CASE WHEN recorded THEN applied_us ELSE $3 END, \
         recorded_by = CASE WHEN recorded THEN recorded_by ELSE $4 END, recorded = true, last_write = '' WHERE key = $1"
    ];
    /// Closes a drift.
    CLOSE = "drift_accept" => [
        "UPDATE drift SET state = 'accepted', actor = $2, reason = $3, resolved_us = " now ", version = version + 1, \
         suppressed_by = '', suppressed_policy = '', suppressed_until_us = NULL WHERE id = $1"
    ];
    /// The other open drifts are about other paths: they hold for the new version as they did for the old one.
    CARRY = "drift_carry" => [
        "UPDATE drift SET spec_version = $2 + 1 WHERE key = $1 AND state = 'open' AND spec_version = $2"
    ];
    /// Nothing is asked for any more: nothing differs from it.
    CLOSE_OTHERS = "drift_close_others" => [
        "UPDATE drift SET state = 'stale', reason = 'the spec was forgotten', resolved_us = " now ", version = version + 1, \
         suppressed_by = '', suppressed_policy = '', suppressed_until_us = NULL WHERE key = $1 AND state = 'open' RETURNING id, version"
    ];
    /// Hides a drift, or shows it again.
    SNOOZE = "drift_snooze" => [
        "UPDATE drift SET suppressed_by = CASE WHEN CAST($2 AS BIGINT) IS NULL THEN '' ELSE 'snooze' END, suppressed_policy = '', \
         suppressed_until_us = $2, actor = $3, reason = $4, version = version + 1 WHERE id = $1"
    ];
}

/// How things are while one decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptScene {
    /// The drift.
    pub drift: DriftRow,
    /// Its resource, with both documents.
    pub resource: ResourceRow,
    /// A saga holds the resource.
    pub held: bool,
}

/// What accepting makes of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptWrite {
    /// The spec; `None` forgets it.
    pub spec: Option<String>,
    /// Who accepts.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// How long a drift is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnoozeWrite {
    /// Until then; `None` shows it again.
    pub until_us: Option<i64>,
    /// Who says so.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted<R> {
    /// It is done: how things are now.
    Done(Box<AcceptScene>),
    /// The decider refused.
    Refused(R),
    /// There is no such drift.
    Unknown,
}

#[derive(FromRow)]
struct VersionRow {
    id: String,
    version: i64,
}

#[derive(FromRow)]
struct CountRow {
    count: i64,
}

#[derive(FromRow)]
struct NowRow {
    now_us: i64,
}

impl Store {
    /// Locks a drift with its resource, and makes of the spec what `decide` says. It must refuse unless the drift is open, its etag
    /// is what the operator saw, the spec is of the version that the drift names, and the value that is there, by a look from after
    /// the apply, is the recorded one.
    ///
    /// # Errors
    /// If the database does not answer; after a lost answer it may have been accepted.
    pub async fn accept_drift<R: Send>(
        &self,
        id: &str,
        decide: impl FnOnce(&AcceptScene) -> Result<AcceptWrite, R> + Send,
    ) -> Result<Accepted<R>, Error> {
        let Some((mut tx, scene)) = self.look(id).await? else {
            return Ok(Accepted::Unknown);
        };
        let write = match decide(&scene) {
            Ok(write) => write,
            Err(refusal) => {
                tx.rollback().await?;
                return Ok(Accepted::Refused(refusal));
            }
        };
        let changes = accept(&mut tx, &scene, &write).await?;
        let scene = scene_in(&mut tx, id).await?;
        log::append_one(&mut tx, &changes).await?;
        tx.commit().await?;
        scene.map_or(Err(Error::Corrupt("drift")), |scene| {
            Ok(Accepted::Done(Box::new(scene)))
        })
    }

    /// Locks a drift with its resource, and hides it or shows it again as `decide` says, which also gets the database's clock. The
    /// resource is due when that ends.
    ///
    /// # Errors
    /// If the database does not answer; after a lost answer it may be so.
    pub async fn snooze_drift<R: Send>(
        &self,
        id: &str,
        decide: impl FnOnce(&AcceptScene, i64) -> Result<SnoozeWrite, R> + Send,
    ) -> Result<Accepted<R>, Error> {
        let Some((mut tx, scene)) = self.look(id).await? else {
            return Ok(Accepted::Unknown);
        };
        let now: NowRow = tx.statement(&NOW).one().await?;
        let write = match decide(&scene, now.now_us) {
            Ok(write) => write,
            Err(refusal) => {
                tx.rollback().await?;
                return Ok(Accepted::Refused(refusal));
            }
        };
        tx.statement(&SNOOZE)
            .bind(id)
            .bind(write.until_us)
            .bind(&write.actor)
            .bind(&write.reason)
            .execute()
            .await?;
        let due = Due {
            key: scene.drift.key,
            due_us: write.until_us,
        };
        due::mark(&mut tx, &[due]).await?;
        let happened = NewEvent {
            key: scene.drift.key,
            kind: "drift_snoozed",
            path: &scene.drift.path,
            drift_id: id,
            actor: &write.actor,
            reason: &write.reason,
            detail: write
                .until_us
                .map_or_else(String::new, |until| format!("{{\"until_us\":{until}}}")),
        };
        event::add(&mut tx, &[happened]).await?;
        let changes = [row::change(id, scene.drift.version + 1)];
        let scene = scene_in(&mut tx, id).await?;
        log::append_one(&mut tx, &changes).await?;
        tx.commit().await?;
        scene.map_or(Err(Error::Corrupt("drift")), |scene| {
            Ok(Accepted::Done(Box::new(scene)))
        })
    }

    /// Locks resource, what is there, and drift, in this order, and reads them.
    async fn look(&self, id: &str) -> Result<Option<(Tx, AcceptScene)>, Error> {
        let mut tx = self.db().begin().await?;
        // A drift never moves to another resource.
        let Some(drift) = drift_in(&mut tx, id).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        resource::lock(&mut tx, drift.key).await?;
        let _: Option<VersionRow> = tx.statement(&LOCK).bind(id).optional().await?;
        match scene_in(&mut tx, id).await? {
            Some(scene) => Ok(Some((tx, scene))),
            None => {
                tx.rollback().await?;
                Ok(None)
            }
        }
    }
}

async fn scene_in(tx: &mut Tx, id: &str) -> Result<Option<AcceptScene>, Error> {
    let Some(drift) = drift_in(tx, id).await? else {
        return Ok(None);
    };
    let name = drift.resource();
    let Some(resource) = resource_in(tx, &name).await? else {
        return Ok(None);
    };
    let key = format!("{RESOURCE_KEY_PREFIX}{name}");
    let held: CountRow = tx.statement(&HELD).bind(key).one().await?;
    Ok(Some(AcceptScene {
        drift,
        resource,
        held: held.count > 0,
    }))
}

/// Writes what was decided, and returns what to announce.
async fn accept(
    tx: &mut Tx,
    scene: &AcceptScene,
    write: &AcceptWrite,
) -> Result<Vec<Change>, Error> {
    let (drift, known) = (&scene.drift, &scene.resource);
    let mut changes = Vec::new();
    let mut change = resource::change(drift.resource(), known.writes + 1, known.live_version);
    tx.statement(&CLOSE)
        .bind(&drift.id)
        .bind(&write.actor)
        .bind(&write.reason)
        .execute()
        .await?;
    changes.push(row::change(&drift.id, drift.version + 1));
    if let Some(spec) = &write.spec {
        tx.statement(&ADOPT)
            .bind(drift.key)
            .bind(spec)
            .bind(known.observed_us - 1)
            .bind(&write.actor)
            .execute()
            .await?;
        let carried = tx.statement(&CARRY).bind(drift.key);
        carried.bind(known.spec_version).execute().await?;
    } else {
        resource::forget(tx, drift.key).await?;
        let closed = tx.statement(&CLOSE_OTHERS).bind(drift.key);
        let closed: Vec<VersionRow> = closed.all().await?;
        changes.extend(
            closed
                .iter()
                .map(|other| row::change(&other.id, other.version)),
        );
        if known.live_version == 0 {
            change.op = Op::Delete;
        }
    }
    changes.push(change);
    due::mark(tx, &[Due::now(drift.key)]).await?;
    let accepted = NewEvent {
        key: drift.key,
        kind: "drift_accepted",
        path: &drift.path,
        drift_id: &drift.id,
        actor: &write.actor,
        reason: &write.reason,
        detail: row::detail(
            &drift.kind,
            drift.secret,
            drift.expected.as_deref(),
            drift.actual.as_deref(),
        ),
    };
    let mut events = vec![accepted];
    if write.spec.is_none() {
        events.push(NewEvent {
            key: drift.key,
            kind: "deleted",
            actor: &write.actor,
            reason: &write.reason,
            ..NewEvent::default()
        });
    }
    event::add(tx, &events).await?;
    Ok(changes)
}
