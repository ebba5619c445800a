//! Sagas as they are read.

use sqlx::FromRow;

use crate::{Error, Store, engine::statements};

statements! {
    /// One saga.
    GET = "saga_get" => ["SELECT * FROM saga WHERE id = $1"];
    /// A page of sagas, newest first. Absent filters are NULL.
    LIST = "saga_list" => [
        "SELECT * FROM saga WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR state = $2) \
         AND (CAST($3 AS TEXT) IS NULL OR kind = $3) AND (CAST($4 AS TEXT) IS NULL OR definition_name = $4) \
         AND (CAST($5 AS TEXT) IS NULL OR deployment_id = $5) ORDER BY id DESC LIMIT $6"
    ];
    /// What happened to one saga.
    EVENTS = "saga_events" => [
        "SELECT saga_id, version, time_us, actor, reason, records FROM saga_event \
         WHERE saga_id = $1 AND version > $2 ORDER BY version LIMIT $3"
    ];
    /// How many sagas stand where.
    COUNTS = "saga_counts" => [
        "SELECT state, count(*) AS count FROM saga \
         WHERE state IN ('pending', 'running', 'paused', 'compensating', 'stuck') GROUP BY state"
    ];
}

/// A saga, as stored. Texts that are JSON say so.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SagaRow {
    /// A UUIDv7.
    pub id: String,
    /// For example `provision`.
    pub kind: String,
    /// The definition's name; empty if it was started with steps of its own.
    pub definition_name: String,
    /// The definition's version; 0 likewise.
    pub definition_version: i64,
    /// Its steps.
    pub plan_hash: String,
    /// What it is about.
    pub deployment_id: String,
    /// A user, or `system:` and a reason.
    pub triggered_by: String,
    /// JSON, text to text.
    pub labels: String,
    /// JSON.
    pub inputs: String,
    /// JSON.
    pub context: String,
    /// Higher goes first.
    pub priority: i64,
    /// Sagas of one key run one at a time.
    pub concurrency_key: Option<String>,
    /// The caller's identity and request id.
    pub request_key: Option<String>,
    /// Of the start.
    pub body_hash: String,
    /// When it is cancelled.
    pub deadline_us: Option<i64>,
    /// The machine's state, in lower case.
    pub state: String,
    /// JSON.
    pub machine: String,
    /// Transitions so far.
    pub version: i64,
    /// The write id of the last one.
    pub last_write: String,
    /// The replica that has it in hand; empty for none.
    pub owner: String,
    /// When it may be taken if nobody has it.
    pub wake_us: Option<i64>,
    /// Replicas lost with it in hand since it last made progress.
    pub crashes: i64,
    /// When it was started.
    pub created_us: i64,
    /// When it first ran.
    pub started_us: Option<i64>,
    /// When it ended.
    pub ended_us: Option<i64>,
}

/// One transition of a saga.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SagaEventRow {
    /// Whose.
    pub saga_id: String,
    /// Its number, from 1.
    pub version: i64,
    /// When.
    pub time_us: i64,
    /// Who caused it; empty for the engine.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// JSON: what is remembered, and outputs.
    pub records: String,
}

/// Which sagas to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SagaListFilter {
    /// Only those in this state.
    pub state: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Only those of this definition.
    pub definition_name: Option<String>,
    /// Only those about this.
    pub deployment_id: Option<String>,
}

#[derive(FromRow)]
struct CountRow {
    state: String,
    count: i64,
}

impl Store {
    /// One saga.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga(&self, id: &str) -> Result<Option<SagaRow>, Error> {
        self.db().read(&GET).bind(id).optional().await
    }

    /// Sagas older than an id (the empty id means all), newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sagas(
        &self,
        filter: &SagaListFilter,
        before: &str,
        limit: i64,
    ) -> Result<Vec<SagaRow>, Error> {
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        self.db()
            .read(&LIST)
            .bind(before)
            .bind(&filter.state)
            .bind(&filter.kind)
            .bind(&filter.definition_name)
            .bind(&filter.deployment_id)
            .bind(limit)
            .all()
            .await
    }

    /// Transitions of one saga after a number.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_events(
        &self,
        id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<SagaEventRow>, Error> {
        self.db()
            .read(&EVENTS)
            .bind(id)
            .bind(after)
            .bind(limit)
            .all()
            .await
    }

    /// How many sagas stand in each state that is not an end.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_counts(&self) -> Result<Vec<(String, i64)>, Error> {
        let rows: Vec<CountRow> = self.db().read(&COUNTS).all().await?;
        Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
    }
}
