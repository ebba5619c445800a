//! Sagas as they are read.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::transition::json;
use crate::{Error, Store, engine::statements};

statements! {
    /// One saga.
    GET = "saga_get" => ["SELECT * FROM saga WHERE id = $1"];
    /// A page of sagas, newest first. Absent filters are NULL; states are parted by commas, kinds and labels are JSON.
    LIST = "saga_list" => [
        postgres {
            "SELECT * FROM saga WHERE id < $1 \
             AND (CAST($2 AS TEXT) IS NULL OR state = ANY (string_to_array($2, ','))) \
             AND (CAST($3 AS TEXT) IS NULL OR kind IN (SELECT json_array_elements_text(CAST($3 AS json)))) \
             AND (CAST($4 AS TEXT) IS NULL OR CAST(labels AS jsonb) @> CAST($4 AS jsonb)) \
             AND (CAST($5 AS TEXT) IS NULL OR definition_name = $5) \
             AND (CAST($6 AS BIGINT) IS NULL OR definition_version = $6) \
             AND (CAST($7 AS TEXT) IS NULL OR deployment_id = $7) ORDER BY id DESC LIMIT $8"
        }
        sqlite {
            "SELECT * FROM saga WHERE id < $1 AND ($2 IS NULL OR instr(',' || $2 || ',', ',' || state || ',') > 0) \
             AND ($3 IS NULL OR kind IN (SELECT value FROM json_each($3))) \
             AND ($4 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each($4) wanted WHERE NOT EXISTS \
             (SELECT 1 FROM json_each(saga.labels) own WHERE own.key = wanted.key AND own.value = wanted.value))) \
             AND ($5 IS NULL OR definition_name = $5) AND ($6 IS NULL OR definition_version = $6) \
             AND ($7 IS NULL OR deployment_id = $7) ORDER BY id DESC LIMIT $8"
        }
    ];
    /// The same for states that are given and that hold few sagas: by the index over states.
    LIST_FEW = "saga_list_few" => [
        postgres {
            "SELECT * FROM saga WHERE id < $1 AND state = ANY (string_to_array($2, ',')) \
             AND (CAST($3 AS TEXT) IS NULL OR kind IN (SELECT json_array_elements_text(CAST($3 AS json)))) \
             AND (CAST($4 AS TEXT) IS NULL OR CAST(labels AS jsonb) @> CAST($4 AS jsonb)) \
             AND (CAST($5 AS TEXT) IS NULL OR definition_name = $5) \
             AND (CAST($6 AS BIGINT) IS NULL OR definition_version = $6) \
             AND (CAST($7 AS TEXT) IS NULL OR deployment_id = $7) ORDER BY id DESC LIMIT $8"
        }
        sqlite {
            "SELECT * FROM saga WHERE id < $1 \
             AND state IN (SELECT value FROM json_each('[\"' || replace($2, ',', '\",\"') || '\"]')) \
             AND ($3 IS NULL OR kind IN (SELECT value FROM json_each($3))) \
             AND ($4 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each($4) wanted WHERE NOT EXISTS \
             (SELECT 1 FROM json_each(saga.labels) own WHERE own.key = wanted.key AND own.value = wanted.value))) \
             AND ($5 IS NULL OR definition_name = $5) AND ($6 IS NULL OR definition_version = $6) \
             AND ($7 IS NULL OR deployment_id = $7) ORDER BY id DESC LIMIT $8"
        }
    ];
    /// What happened to one saga.
    EVENTS = "saga_events" => [
        "SELECT saga_id, version, time_us, actor, reason, records FROM saga_event \
         WHERE saga_id = $1 AND version > $2 ORDER BY version LIMIT $3"
    ];
    /// How many sagas stand in one state.
    COUNT = "saga_count" => ["SELECT count(*) AS count FROM saga WHERE state = $1"];
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
    /// Only those in one of these states; in any if there is none.
    pub states: Vec<String>,
    /// Only those of one of these kinds; of any if there is none.
    pub kinds: Vec<String>,
    /// Only those that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those of this definition.
    pub definition_name: Option<String>,
    /// Only those of this version of it.
    pub definition_version: Option<i64>,
    /// Only those about this.
    pub deployment_id: Option<String>,
}

/// States in which sagas stay for as long as they are kept, and so gather. The others are passed through, and hold few.
const GATHERING: [&str; 3] = ["completed", "compensated", "abandoned"];

#[derive(FromRow)]
struct CountRow {
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
        let states = Some(filter.states.join(",")).filter(|states| !states.is_empty());
        let kinds = match filter.kinds.as_slice() {
            [] => None,
            kinds => Some(json(&kinds)?),
        };
        let labels = match &filter.labels {
            labels if labels.is_empty() => None,
            labels => Some(json(labels)?),
        };
        let gathers = |state: &String| GATHERING.contains(&state.as_str());
        let statement = if filter.states.is_empty() || filter.states.iter().any(gathers) {
            &LIST
        } else {
            &LIST_FEW
        };
        self.db()
            .read(statement)
            .bind(before)
            .bind(&states)
            .bind(&kinds)
            .bind(&labels)
            .bind(&filter.definition_name)
            .bind(filter.definition_version)
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

    /// How many sagas stand in each of these states.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_counts(&self, states: &[&str]) -> Result<Vec<i64>, Error> {
        let mut counts = Vec::with_capacity(states.len());
        for state in states {
            let row: CountRow = self.db().read(&COUNT).bind(*state).one().await?;
            counts.push(row.count);
        }
        Ok(counts)
    }
}
