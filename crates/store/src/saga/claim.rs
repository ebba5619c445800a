//! Who has which saga in hand: taking those that are free, and those whose replica is gone.

use std::time::Duration;

use sqlx::FromRow;
use steadfast_types::{ReplicaId, Timestamp};

use super::{
    row::{SagaEventRow, SagaRow},
    transition::json,
};
use crate::{
    Error, Lease, Store,
    engine::{Tx, statements},
    lease::micros,
};

statements! {
    /// Takes free sagas that are due.
    CLAIM = "saga_claim" => [
        postgres {
            "UPDATE saga SET owner = $1 WHERE id IN (SELECT id FROM saga WHERE owner = '' \
             AND wake_us <= " now " ORDER BY priority DESC, wake_us LIMIT $2 FOR UPDATE SKIP LOCKED) \
             AND owner = '' RETURNING *"
        }
        sqlite {
            "UPDATE saga SET owner = $1 WHERE id IN (SELECT id FROM saga WHERE owner = '' \
             AND wake_us <= " now " ORDER BY priority DESC, wake_us LIMIT $2) RETURNING *"
        }
    ];
    /// Leaves a saga to others for a while, if it is as it was taken.
    PASS_ON = "saga_pass_on" => [
        "UPDATE saga SET owner = '', wake_us = " now " + $1 WHERE id = $2 AND owner = $3 AND version = $4"
    ];
    /// When the next free saga is due.
    NEXT_WAKE = "saga_next_wake" => [
        "SELECT " now " AS now_us, (SELECT min(wake_us) FROM saga WHERE owner = '' AND wake_us IS NOT NULL) AS wake_us"
    ];
    /// What one replica has in hand.
    IN_HAND = "saga_in_hand" => ["SELECT id, version FROM saga WHERE owner = $1"];
    /// Replicas that have sagas in hand and no living lease.
    DEAD = "saga_dead_owners" => [
        "SELECT DISTINCT s.owner, coalesce(l.expires_us, 1) <> 0 AS crashed FROM saga s LEFT JOIN lease l ON l.name = $1 || s.owner \
         WHERE s.owner <> '' AND s.owner <> $2 AND (l.name IS NULL OR l.expires_us <= " now ") LIMIT 100"
    ];
    /// Takes over sagas of one replica.
    TAKE_OVER = "saga_take_over" => [
        "UPDATE saga SET owner = $1, crashes = crashes + $4 WHERE id IN \
         (SELECT id FROM saga WHERE owner = $2 ORDER BY id LIMIT $3) AND owner = $2 RETURNING *"
    ];
    /// What happened to many sagas, in order.
    HISTORY = "saga_histories" => [
        postgres {
            "SELECT saga_id, version, time_us, actor, reason, records FROM saga_event WHERE saga_id IN \
             (SELECT json_array_elements_text($1::json)) ORDER BY saga_id, version"
        }
        sqlite {
            "SELECT saga_id, version, time_us, actor, reason, records FROM saga_event WHERE saga_id IN \
             (SELECT value FROM json_each($1)) ORDER BY saga_id, version"
        }
    ];
    /// Sagas whose deadline has come.
    OVERDUE = "saga_overdue" => [
        "SELECT id FROM saga WHERE deadline_us <= " now " AND ended_us IS NULL ORDER BY deadline_us LIMIT $1"
    ];
    /// A deadline that was dealt with.
    FORGET_DEADLINE = "saga_forget_deadline" => ["UPDATE saga SET deadline_us = NULL WHERE id = $1"];
    /// The keys that these hold.
    KEYS = "saga_keys_held" => [
        postgres {
            "SELECT name, holder FROM saga_key WHERE holder IN \
             (SELECT json_array_elements_text($1::json)) ORDER BY name" for_update
        }
        sqlite {
            "SELECT name, holder FROM saga_key WHERE holder IN (SELECT value FROM json_each($1)) ORDER BY name"
        }
    ];
    /// Who comes next.
    WAITER = "saga_key_waiter" => [
        "SELECT id FROM saga WHERE concurrency_key = $1 AND ended_us IS NULL AND state = 'pending' \
         AND id <> $2 ORDER BY priority DESC, id LIMIT 1"
    ];
    /// Hands a key on.
    HAND = "saga_key_hand" => ["UPDATE saga_key SET holder = $2 WHERE name = $1"];
    /// Lets a waiter begin.
    WAKE = "saga_key_wake" => ["UPDATE saga SET wake_us = " now " WHERE id = $1"];
    /// Drops a key that nobody waits for.
    DROP = "saga_key_drop" => ["DELETE FROM saga_key WHERE name = $1"];
    /// Ended sagas older than an age, in one state.
    OLD = "saga_old" => [
        "SELECT id FROM saga WHERE state = $1 AND ended_us < " now " - $2 ORDER BY ended_us LIMIT $3"
    ];
    /// Forgets what happened to some.
    PRUNE_EVENTS = "saga_prune_events" => [
        postgres { "DELETE FROM saga_event WHERE saga_id IN (SELECT json_array_elements_text($1::json))" }
        sqlite { "DELETE FROM saga_event WHERE saga_id IN (SELECT value FROM json_each($1))" }
    ];
    /// Forgets some.
    PRUNE = "saga_prune" => [
        postgres { "DELETE FROM saga WHERE id IN (SELECT json_array_elements_text($1::json))" }
        sqlite { "DELETE FROM saga WHERE id IN (SELECT value FROM json_each($1))" }
    ];
    /// Forgets leases of executors that are gone and whose sagas others have taken over. Nobody takes such a lease again: an
    /// executor's name is its own, and what it still sends is refused without the row as it is with another's.
    PRUNE_LEASES = "saga_prune_leases" => [
        "DELETE FROM lease WHERE name IN (SELECT l.name FROM lease l \
         WHERE substr(l.name, 1, length(CAST($1 AS TEXT))) = $1 AND l.expires_us <= " now " - $2 \
         AND NOT EXISTS (SELECT 1 FROM saga s WHERE s.owner = substr(l.name, length(CAST($1 AS TEXT)) + 1)) LIMIT $3) \
         AND expires_us <= " now " - $2"
    ];
    /// Forgets plans that nobody was started with.
    PRUNE_PLANS = "saga_prune_plans" => [
        "DELETE FROM saga_plan WHERE hash IN (SELECT p.hash FROM saga_plan p WHERE NOT EXISTS \
         (SELECT 1 FROM saga s WHERE s.plan_hash = p.hash) LIMIT $1)"
    ];
}

/// Sagas forgotten in one transaction.
const PRUNE_ROWS: i64 = 500;

#[derive(FromRow)]
struct WakeRow {
    now_us: i64,
    wake_us: Option<i64>,
}

#[derive(FromRow)]
struct OwnerRow {
    owner: String,
    crashed: bool,
}

#[derive(FromRow)]
struct VersionRow {
    id: String,
    version: i64,
}

#[derive(FromRow)]
struct IdRow {
    id: String,
}

#[derive(FromRow)]
struct KeyRow {
    name: String,
    holder: String,
}

impl Store {
    /// Takes up to `limit` free sagas that are due, under this replica's lease.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease is lost, or if the database does not answer.
    pub async fn claim_sagas(
        &self,
        lease: &Lease,
        owner: ReplicaId,
        limit: i64,
    ) -> Result<Vec<SagaRow>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let claimed = tx
            .statement(&CLAIM)
            .bind(owner.to_string())
            .bind(limit)
            .all()
            .await?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// Gives a saga that was taken, and about which nothing was done, back for others to take after `wait`. It is not, if somebody
    /// has steered it meanwhile.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pass_saga_on(&self, row: &SagaRow, wait: Duration) -> Result<(), Error> {
        self.db()
            .write(&PASS_ON)
            .bind(micros(wait))
            .bind(&row.id)
            .bind(&row.owner)
            .bind(row.version)
            .execute()
            .await?;
        Ok(())
    }

    /// The database's clock, and when the next free saga is due.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn next_saga_wake(&self) -> Result<(Timestamp, Option<Timestamp>), Error> {
        let row: WakeRow = self.db().read(&NEXT_WAKE).one().await?;
        Ok((Timestamp(row.now_us), row.wake_us.map(Timestamp)))
    }

    /// The sagas that a replica has in hand, and how many transitions each has made.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sagas_in_hand(&self, owner: ReplicaId) -> Result<Vec<(String, i64)>, Error> {
        let rows: Vec<VersionRow> = self
            .db()
            .read(&IN_HAND)
            .bind(owner.to_string())
            .all()
            .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.version)).collect())
    }

    /// Replicas that have sagas in hand and whose lease, `prefix` and their id, has run out, which counts as a crash, or was handed
    /// back.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn dead_saga_owners(
        &self,
        prefix: &str,
        own: ReplicaId,
    ) -> Result<Vec<(String, bool)>, Error> {
        let rows: Vec<OwnerRow> = self
            .db()
            .read(&DEAD)
            .bind(prefix)
            .bind(own.to_string())
            .all()
            .await?;
        let owners = rows.into_iter().map(|row| (row.owner, row.crashed));
        Ok(owners.collect())
    }

    /// Takes over up to `limit` sagas of a replica that is gone. The caller has claimed that replica's lease before, so that
    /// nothing it still sends can be committed.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease is lost, or if the database does not answer.
    pub async fn take_over_sagas(
        &self,
        lease: &Lease,
        owner: ReplicaId,
        (dead, crashed): (&str, bool),
        limit: i64,
    ) -> Result<Vec<SagaRow>, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        let taken = tx
            .statement(&TAKE_OVER)
            .bind(owner.to_string())
            .bind(dead)
            .bind(limit)
            .bind(i64::from(crashed))
            .all()
            .await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// All transitions of some sagas, by saga and number.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_histories(&self, ids: &[&str]) -> Result<Vec<SagaEventRow>, Error> {
        self.db().read(&HISTORY).bind(json(&ids)?).all().await
    }

    /// Sagas whose deadline has come.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn overdue_sagas(&self, limit: i64) -> Result<Vec<String>, Error> {
        let rows: Vec<IdRow> = self.db().read(&OVERDUE).bind(limit).all().await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Forgets sagas in one state that ended longer ago than `age`, a batch at a time. Returns how many.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_sagas(&self, state: &str, age: std::time::Duration) -> Result<u64, Error> {
        let mut tx = self.db().begin().await?;
        let old: Vec<IdRow> = tx
            .statement(&OLD)
            .bind(state)
            .bind(micros(age))
            .bind(PRUNE_ROWS)
            .all()
            .await?;
        if old.is_empty() {
            tx.rollback().await?;
            return self
                .db()
                .write(&PRUNE_PLANS)
                .bind(PRUNE_ROWS)
                .execute()
                .await;
        }
        let ids: Vec<&str> = old.iter().map(|row| row.id.as_str()).collect();
        let ids = json(&ids)?;
        tx.statement(&PRUNE_EVENTS).bind(&ids).execute().await?;
        let pruned = tx.statement(&PRUNE).bind(&ids).execute().await?;
        tx.commit().await?;
        Ok(pruned)
    }
}

impl Store {
    /// Forgets leases, `prefix` and an executor's id, that ran out longer ago than `age` and whose executor has no saga in hand, a
    /// batch at a time. Returns how many. An executor that was only asleep has lost its life then, as if it had been taken over.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_saga_leases(
        &self,
        prefix: &str,
        age: std::time::Duration,
    ) -> Result<u64, Error> {
        self.db()
            .write(&PRUNE_LEASES)
            .bind(prefix)
            .bind(micros(age))
            .bind(PRUNE_ROWS)
            .execute()
            .await
    }
}

pub(super) async fn forget_deadline(tx: &mut Tx, id: &str) -> Result<(), Error> {
    tx.statement(&FORGET_DEADLINE).bind(id).execute().await?;
    Ok(())
}

/// Hands the keys that these sagas hold to the waiters that come first, or drops them.
pub(super) async fn release_keys(tx: &mut Tx, ids: &[&str]) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let held: Vec<KeyRow> = tx.statement(&KEYS).bind(json(&ids)?).all().await?;
    for key in held {
        let waiter: Option<IdRow> = tx
            .statement(&WAITER)
            .bind(&key.name)
            .bind(&key.holder)
            .optional()
            .await?;
        match waiter {
            Some(waiter) => {
                tx.statement(&HAND)
                    .bind(&key.name)
                    .bind(&waiter.id)
                    .execute()
                    .await?;
                tx.statement(&WAKE).bind(&waiter.id).execute().await?;
            }
            None => {
                tx.statement(&DROP).bind(&key.name).execute().await?;
            }
        }
    }
    Ok(())
}
