//! Policies: documents that say what is to be done about drifts. What they mean is not known here.
//!
//! Whoever writes one counts their generation up before looking for the drifts that it may concern: those that a sweep opens
//! meanwhile are either found, or judged again.

use sqlx::FromRow;

use super::{POLICY_TOPIC, due, generation};
use crate::{
    Change, Error, Op, Store,
    engine::{Tx, statements},
    log,
};

statements! {
    /// One policy.
    GET = "drift_policy_get" => ["SELECT * FROM drift_policy WHERE name = $1"];
    /// The same, locked.
    LOCK = "drift_policy_lock" => ["SELECT * FROM drift_policy WHERE name = $1" for_update];
    /// Policies after a name.
    LIST = "drift_policy_list" => [
        "SELECT * FROM drift_policy WHERE name > $1 AND ($2 = '' OR provider = '' OR provider = $2) ORDER BY name LIMIT $3"
    ];
    /// How many there are.
    COUNT = "drift_policy_count" => ["SELECT count(*) AS count FROM drift_policy"];
    /// Adds one.
    ADD = "drift_policy_add" => [
        "INSERT INTO drift_policy (name, version, created_us, updated_us, expire_us, provider, actor, document) \
         VALUES ($1, 1, " now ", " now ", $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING"
    ];
    /// Replaces one.
    REPLACE = "drift_policy_replace" => [
        "UPDATE drift_policy SET version = version + 1, updated_us = " now ", expire_us = $2, provider = $3, actor = $4, document = $5 \
         WHERE name = $1"
    ];
    /// Removes one.
    REMOVE = "drift_policy_remove" => ["DELETE FROM drift_policy WHERE name = $1"];
}

/// A policy, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PolicyRow {
    /// Unique.
    pub name: String,
    /// Counts its updates, from 1.
    pub version: i64,
    /// When it was created.
    pub created_us: i64,
    /// When it was written last.
    pub updated_us: i64,
    /// When it ends to apply.
    pub expire_us: Option<i64>,
    /// The provider where it applies; empty for any.
    pub provider: String,
    /// Who wrote it last.
    pub actor: String,
    /// JSON: the rest.
    pub document: String,
}

/// What a policy is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWrite {
    /// Which one.
    pub name: String,
    /// When it ends to apply.
    pub expire_us: Option<i64>,
    /// The provider where it applies; empty for any.
    pub provider: String,
    /// Who writes it.
    pub actor: String,
    /// JSON: the rest.
    pub document: String,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyWritten {
    /// It is so now.
    Done(Box<PolicyRow>),
    /// There is one of this name.
    Exists,
    /// There are as many as there may be.
    TooMany,
    /// There is none of this name.
    Unknown,
    /// The version is another one.
    Changed,
}

#[derive(FromRow)]
struct CountRow {
    count: i64,
}

// === impl PolicyRow ===

impl PolicyRow {
    /// Changes with every update.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }
}

impl Store {
    /// One policy.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drift_policy(&self, name: &str) -> Result<Option<PolicyRow>, Error> {
        self.db().read(&GET).bind(name).optional().await
    }

    /// Policies after a name, in order of their names; with a provider only those that apply there.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drift_policies(
        &self,
        provider: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<PolicyRow>, Error> {
        self.db()
            .read(&LIST)
            .bind(after)
            .bind(provider)
            .bind(limit)
            .all()
            .await
    }

    /// Creates a policy, if there are fewer than `most`. The drifts that it may concern are compared again.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn create_drift_policy(
        &self,
        new: &PolicyWrite,
        most: i64,
    ) -> Result<PolicyWritten, Error> {
        let mut tx = self.db().begin().await?;
        let there: CountRow = tx.statement(&COUNT).one().await?;
        if there.count >= most {
            tx.rollback().await?;
            return Ok(PolicyWritten::TooMany);
        }
        let added = bind(tx.statement(&ADD), new).execute().await?;
        if added == 0 {
            tx.rollback().await?;
            return Ok(PolicyWritten::Exists);
        }
        generation::count_policies(&mut tx).await?;
        due::mark_drifted(&mut tx, (&new.provider, &new.provider)).await?;
        written(tx, &new.name).await
    }

    /// Replaces a policy whose etag is the given one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn update_drift_policy(
        &self,
        new: &PolicyWrite,
        etag: &str,
    ) -> Result<PolicyWritten, Error> {
        let mut tx = self.db().begin().await?;
        let row: Option<PolicyRow> = tx.statement(&LOCK).bind(&new.name).optional().await?;
        if let Some(refused) = refusal(row.as_ref(), etag) {
            tx.rollback().await?;
            return Ok(refused);
        }
        generation::count_policies(&mut tx).await?;
        bind(tx.statement(&REPLACE), new).execute().await?;
        // What it concerned, and what it concerns now, at one go: in the order of the numbers.
        let before = row.as_ref().map_or("", |row| row.provider.as_str());
        due::mark_drifted(&mut tx, (before, &new.provider)).await?;
        written(tx, &new.name).await
    }

    /// Deletes a policy whose etag is the given one, and returns what it was.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn delete_drift_policy(
        &self,
        name: &str,
        etag: &str,
    ) -> Result<PolicyWritten, Error> {
        let mut tx = self.db().begin().await?;
        let row: Option<PolicyRow> = tx.statement(&LOCK).bind(name).optional().await?;
        if let Some(refused) = refusal(row.as_ref(), etag) {
            tx.rollback().await?;
            return Ok(refused);
        }
        generation::count_policies(&mut tx).await?;
        tx.statement(&REMOVE).bind(name).execute().await?;
        let provider = row.as_ref().map_or("", |row| row.provider.as_str());
        due::mark_drifted(&mut tx, (provider, provider)).await?;
        log::append_one(&mut tx, &[Change::new(POLICY_TOPIC, name, Op::Delete, "")]).await?;
        tx.commit().await?;
        Ok(row.map_or(PolicyWritten::Unknown, |row| {
            PolicyWritten::Done(Box::new(row))
        }))
    }
}

fn bind<'c>(
    statement: crate::engine::Statement<'c>,
    new: &PolicyWrite,
) -> crate::engine::Statement<'c> {
    statement
        .bind(new.name.clone())
        .bind(new.expire_us)
        .bind(new.provider.clone())
        .bind(new.actor.clone())
        .bind(new.document.clone())
}

fn refusal(row: Option<&PolicyRow>, etag: &str) -> Option<PolicyWritten> {
    match row {
        None => Some(PolicyWritten::Unknown),
        Some(row) if row.etag() != etag => Some(PolicyWritten::Changed),
        Some(_) => None,
    }
}

/// Announces what was written, and commits.
async fn written(mut tx: Tx, name: &str) -> Result<PolicyWritten, Error> {
    let row: PolicyRow = tx.statement(&GET).bind(name).one().await?;
    let change = Change::new(POLICY_TOPIC, name, Op::Upsert, row.etag());
    log::append_one(&mut tx, &[change]).await?;
    tx.commit().await?;
    Ok(PolicyWritten::Done(Box::new(row)))
}
