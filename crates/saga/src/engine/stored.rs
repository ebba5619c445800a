//! Between rows and values.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use steadfast_store::{Request, SagaDefinitionRow, SagaEventRow, SagaRow};
use steadfast_types::Timestamp;

use super::{DOCUMENT_BYTES, Error, LABELS, NAME_BYTES};
use crate::{Definition, Direction, Record, Saga, State, Step};

/// Events of one transition are numbered within it, up to this many.
const EVENTS_PER_TRANSITION: i64 = 16;

/// A definition, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDefinition {
    /// What it says.
    pub definition: Definition,
    /// The same as JSON.
    pub document: String,
    /// Of the document.
    pub hash: String,
    /// When it was created.
    pub create_time: Timestamp,
}

/// What a saga is started with.
#[derive(Debug, Clone, PartialEq)]
pub enum DefinitionRef {
    /// A stored definition.
    Named {
        /// Its name.
        name: String,
        /// Its version; the newest if absent.
        version: Option<i32>,
    },
    /// Steps of its own.
    Inline(Vec<Step>),
}

/// A saga to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct StartSaga {
    /// For example `provision`.
    pub kind: String,
    /// What it is about.
    pub deployment_id: String,
    /// A user, or `system:` and a reason.
    pub triggered_by: String,
    /// Its steps.
    pub definition: DefinitionRef,
    /// For templates.
    pub inputs: Value,
    /// For templates.
    pub context: Value,
    /// For lists.
    pub labels: BTreeMap<String, String>,
    /// Higher goes first.
    pub priority: i32,
    /// Sagas of one key run one at a time.
    pub concurrency_key: Option<String>,
    /// When it is cancelled.
    pub deadline: Option<Timestamp>,
}

/// Which sagas to list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SagaFilter {
    /// Only those in one of these states; in any if there is none.
    pub states: Vec<State>,
    /// Only those of one of these kinds; of any if there is none.
    pub kinds: Vec<String>,
    /// Only those that have all of these.
    pub labels: BTreeMap<String, String>,
    /// Only those of this definition.
    pub definition_name: Option<String>,
    /// Only those of this version of it.
    pub definition_version: Option<i32>,
    /// Only those about this.
    pub deployment_id: Option<String>,
}

/// A saga, for its readers.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaView {
    /// A UUIDv7.
    pub id: String,
    /// See [`StartSaga`].
    pub kind: String,
    /// The definition's name; empty for steps of its own.
    pub definition_name: String,
    /// The definition's version; 0 likewise.
    pub definition_version: i32,
    /// See [`StartSaga`].
    pub deployment_id: String,
    /// See [`StartSaga`].
    pub triggered_by: String,
    /// See [`StartSaga`].
    pub labels: BTreeMap<String, String>,
    /// JSON.
    pub inputs: String,
    /// JSON.
    pub context: String,
    /// See [`StartSaga`].
    pub priority: i32,
    /// See [`StartSaga`].
    pub concurrency_key: Option<String>,
    /// See [`StartSaga`].
    pub deadline: Option<Timestamp>,
    /// Where it stands; without outputs.
    pub saga: Saga,
    /// Its steps.
    pub steps: Arc<Vec<Step>>,
    /// When it was started.
    pub create_time: Timestamp,
    /// When it first ran.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// The replica that has it in hand.
    pub owner: Option<String>,
    /// When it goes on by itself, if it waits.
    pub wake_time: Option<Timestamp>,
    /// Transitions so far.
    pub version: i64,
}

/// One thing that happened to a saga.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaEventView {
    /// Grows; not without gaps.
    pub seq: i64,
    /// When.
    pub time: Timestamp,
    /// For example `step_done`.
    pub kind: String,
    /// The step's name.
    pub step: Option<String>,
    /// Which way.
    pub direction: Option<Direction>,
    /// The attempt; 0 where there is none.
    pub attempt: u32,
    /// Who; empty for the engine.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// What the actor did, for example `cancel`; empty for the engine.
    pub verb: String,
    /// Everything else.
    pub detail: Value,
}

#[derive(Deserialize)]
struct Records {
    records: Vec<Value>,
    #[serde(default)]
    outputs: BTreeMap<usize, Value>,
    #[serde(default)]
    verb: String,
}

// === impl StoredDefinition ===

impl StoredDefinition {
    pub(super) fn read(row: SagaDefinitionRow) -> Result<Self, Error> {
        let definition = serde_json::from_str(&row.document)
            .map_err(|_| Error::Internal("a definition that cannot be read"))?;
        Ok(Self {
            definition,
            document: row.document,
            hash: row.hash,
            create_time: Timestamp(row.created_us),
        })
    }
}

// === impl StartSaga ===

impl StartSaga {
    /// Checks limits before anything is asked of the database.
    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |field, message: String| Err(Error::InvalidArgument { field, message });
        let named = [
            ("kind", self.kind.as_str()),
            ("deployment_id", self.deployment_id.as_str()),
            ("triggered_by", self.triggered_by.as_str()),
            (
                "concurrency_key",
                self.concurrency_key.as_deref().unwrap_or(""),
            ),
        ];
        for (field, text) in named {
            if text.len() > NAME_BYTES || text.contains('\0') {
                return invalid(
                    field,
                    format!("at most {NAME_BYTES} bytes, without NUL characters"),
                );
            }
        }
        if self.labels.len() > LABELS {
            return invalid(
                "labels",
                format!("{} labels; at most {LABELS}", self.labels.len()),
            );
        }
        for (name, value) in &self.labels {
            let fits = |text: &str| text.len() <= NAME_BYTES && !text.contains('\0');
            if name.is_empty() || !fits(name) || !fits(value) {
                return invalid(
                    "labels",
                    format!("names and values take at most {NAME_BYTES} bytes"),
                );
            }
        }
        for (field, value) in [
            ("inputs_json", &self.inputs),
            ("context_json", &self.context),
        ] {
            if !value.is_object() && !value.is_null() {
                return invalid(field, "it must be a JSON object".to_owned());
            }
            check_document(field, value)?;
        }
        Ok(())
    }

    pub(super) fn into_row(
        self,
        id: String,
        (definition_name, definition_version): (String, i64),
        plan_hash: String,
        request: Option<Request>,
    ) -> Result<SagaRow, Error> {
        let labels = serde_json::to_string(&self.labels).map_err(|_| Error::Internal("labels"))?;
        let (request_key, body_hash) = request.map_or((None, String::new()), |request| {
            // A NUL keeps identity and id apart; PostgreSQL does not take one, so the unit separator stands in for it.
            let key = format!("{}\u{1f}{}", request.identity, request.id);
            (Some(key), request.body_hash)
        });
        Ok(SagaRow {
            last_write: id.clone(),
            id,
            kind: self.kind,
            definition_name,
            definition_version,
            plan_hash,
            deployment_id: self.deployment_id,
            triggered_by: self.triggered_by,
            labels,
            inputs: self.inputs.to_string(),
            context: self.context.to_string(),
            priority: i64::from(self.priority),
            concurrency_key: self.concurrency_key.filter(|key| !key.is_empty()),
            request_key,
            body_hash,
            deadline_us: self.deadline.map(|deadline| deadline.0),
            state: String::new(),
            machine: String::new(),
            version: 1,
            owner: String::new(),
            wake_us: None,
            crashes: 0,
            created_us: 0,
            started_us: None,
            ended_us: None,
        })
    }
}

// === impl SagaView ===

impl SagaView {
    pub(super) fn read(row: SagaRow, steps: &Arc<Vec<Step>>) -> Result<Self, Error> {
        let saga = read_machine(&row)?;
        let labels = serde_json::from_str(&row.labels).map_err(|_| Error::Internal("labels"))?;
        Ok(Self {
            id: row.id,
            kind: row.kind,
            definition_name: row.definition_name,
            definition_version: i32::try_from(row.definition_version).unwrap_or(i32::MAX),
            deployment_id: row.deployment_id,
            triggered_by: row.triggered_by,
            labels,
            inputs: row.inputs,
            context: row.context,
            priority: i32::try_from(row.priority).unwrap_or(0),
            concurrency_key: row.concurrency_key,
            deadline: row.deadline_us.map(Timestamp),
            saga,
            steps: Arc::clone(steps),
            create_time: Timestamp(row.created_us),
            start_time: row.started_us.map(Timestamp),
            end_time: row.ended_us.map(Timestamp),
            owner: Some(row.owner).filter(|owner| !owner.is_empty()),
            wake_time: row
                .wake_us
                .map(Timestamp)
                .filter(|_| row.ended_us.is_none()),
            version: row.version,
        })
    }
}

// === impl SagaEventView ===

impl SagaEventView {
    /// The transition before the one in which the event after `seq` may be.
    pub(super) fn version_of(seq: i64) -> i64 {
        (seq / EVENTS_PER_TRANSITION - 1).max(0)
    }

    pub(super) fn read(row: &SagaEventRow, steps: &[Step]) -> Result<Vec<Self>, Error> {
        let records: Records = serde_json::from_str(&row.records)
            .map_err(|_| Error::Internal("records that cannot be read"))?;
        let first = row.version * EVENTS_PER_TRANSITION;
        let mut all = records.records;
        if row.version == 1 {
            all.insert(0, json!({ "type": "created" }));
        }
        Ok((first..)
            .zip(all)
            .map(|(seq, mut detail)| {
                let text = |detail: &Value, name: &str| {
                    detail.get(name).and_then(Value::as_str).map(str::to_owned)
                };
                let step = detail.get("step").and_then(Value::as_u64);
                let step = step.and_then(|at| usize::try_from(at).ok());
                let kind = text(&detail, "type").unwrap_or_default();
                let direction = match text(&detail, "direction").as_deref() {
                    Some("forward") => Some(Direction::Forward),
                    Some("backward") => Some(Direction::Backward),
                    _ => None,
                };
                let attempt = detail.get("attempt").and_then(Value::as_u64).unwrap_or(0);
                if let Some(members) = detail.as_object_mut() {
                    for known in ["type", "step", "direction", "attempt"] {
                        members.remove(known);
                    }
                    let output = step.and_then(|at| records.outputs.get(&at));
                    if let Some(output) = output
                        && matches!(kind.as_str(), "step_done" | "step_skipped")
                    {
                        members.insert("output".to_owned(), output.clone());
                    }
                }
                Self {
                    seq,
                    time: Timestamp(row.time_us),
                    kind,
                    step: step
                        .and_then(|at| steps.get(at))
                        .map(|step| step.name.clone()),
                    direction,
                    attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
                    actor: row.actor.clone(),
                    reason: row.reason.clone(),
                    verb: records.verb.clone(),
                    detail,
                }
            })
            .collect())
    }
}

/// Whether a value can be kept.
pub(super) fn check_document(field: &'static str, value: &Value) -> Result<(), Error> {
    let text = value.to_string();
    let message = if text.len() > DOCUMENT_BYTES {
        format!("{} bytes; at most {DOCUMENT_BYTES}", text.len())
    } else if has_nul(value) {
        "NUL characters are not accepted".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidArgument { field, message })
}

pub(super) fn read_machine(row: &SagaRow) -> Result<Saga, Error> {
    serde_json::from_str(&row.machine).map_err(|_| Error::Internal("a saga that cannot be read"))
}

/// The stored form of a state, as serde spells it.
pub(super) fn state_text(state: State) -> String {
    match state {
        State::Pending => "pending",
        State::Running => "running",
        State::Paused => "paused",
        State::Compensating => "compensating",
        State::Completed => "completed",
        State::Compensated => "compensated",
        State::Stuck => "stuck",
        State::Abandoned => "abandoned",
    }
    .to_owned()
}

/// What is remembered of a transition, with the outputs that it brought, and the verb that caused it.
pub(super) fn records_text(
    records: &[Record],
    outputs: &BTreeMap<usize, Value>,
    verb: Option<&str>,
) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Written<'a> {
        records: &'a [Record],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        outputs: &'a BTreeMap<usize, Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verb: Option<&'a str>,
    }
    super::to_json(&Written {
        records,
        outputs,
        verb,
    })
}

/// Whether a text or a name in it has a NUL character, which not every database keeps.
#[must_use]
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Puts the outputs that were recorded back into a saga.
pub(super) fn restore_outputs<'a>(
    saga: &mut Saga,
    events: impl Iterator<Item = &'a SagaEventRow>,
) -> Result<(), Error> {
    for event in events {
        let records: Records = serde_json::from_str(&event.records)
            .map_err(|_| Error::Internal("records that cannot be read"))?;
        for (at, output) in records.outputs {
            if let Some(step) = saga.steps.get_mut(at) {
                step.output = Some(output);
            }
        }
    }
    Ok(())
}
