//! `resource.record`: what a saga has provisioned is what was asked for from now on.
//!
//! It is the last step of a provisioning: the sweep then compares what the provider says with it. To record the same again is to
//! apply it again, so that an attempt may be repeated; what became of a lost one is told by the saga that the record names.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_drift::{Rules, intake};
use steadfast_saga::{Act, Attempt, Outcome, Probed};
use steadfast_store::{NewRecord, Recorded, Store, Wakeups};

use super::of_store;

/// Labels of one resource at most, and bytes of each key and value, as the contract says.
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 128;

/// Records specs.
#[derive(Clone)]
pub(super) struct RecordAct {
    pub(super) store: Store,
    pub(super) wakeups: Wakeups,
    pub(super) rules: Arc<Rules>,
}

/// The input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    provider: String,
    #[serde(rename = "type")]
    kind: String,
    /// The provider's own id; many give numbers.
    id: Value,
    /// What was asked for.
    spec: Value,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// It is not applied yet.
    #[serde(default)]
    pending: bool,
    /// Who asks for it; the saga if absent.
    #[serde(default)]
    recorded_by: Option<String>,
}

// === impl RecordAct ===

impl RecordAct {
    async fn record(self, attempt: Attempt) -> Outcome {
        let record = match self.read(&attempt) {
            Ok(record) => record,
            Err(message) => {
                return Outcome::invalid_input(format!("`resource.record`: {message}"));
            }
        };
        match self.store.record_resource(record).await {
            Ok(Recorded::Done { version, changed }) => {
                self.wakeups.kick();
                Outcome::Done(json!({ "spec_version": version, "changed": changed }))
            }
            // No version was expected.
            Ok(Recorded::Changed { version }) => Outcome::Unknown {
                message: format!("the resource is of version {version}"),
            },
            Err(error) => of_store(&error),
        }
    }

    fn read(&self, attempt: &Attempt) -> Result<NewRecord, String> {
        let input: Input =
            serde_json::from_value(attempt.input.clone()).map_err(|error| error.to_string())?;
        let id = match input.id {
            Value::String(id) => id,
            Value::Number(id) => id.to_string(),
            _ => return Err("`id` has to be a text or a number".to_owned()),
        };
        let told = |wrong: intake::Wrong| wrong.to_string();
        let name = intake::name(&input.provider, &input.kind, &id).map_err(told)?;
        let is_long = |text: &String| text.len() > MAX_LABEL_BYTES || text.contains('\0');
        if input.labels.len() > MAX_LABELS
            || input
                .labels
                .iter()
                .any(|(key, value)| key.is_empty() || is_long(key) || is_long(value))
        {
            let allowed = format!("at most {MAX_LABELS}, of {MAX_LABEL_BYTES} bytes each");
            return Err(format!("`labels`: {allowed}"));
        }
        let rules = self.rules.of(&name.provider, &name.kind);
        let recorded_by = input
            .recorded_by
            .unwrap_or_else(|| format!("saga:{}", attempt.saga_id));
        if is_long(&recorded_by) {
            return Err(format!("`recorded_by`: at most {MAX_LABEL_BYTES} bytes"));
        }
        Ok(NewRecord {
            spec: intake::spec(rules, &input.spec.to_string()).map_err(told)?,
            labels: serde_json::to_string(&input.labels).map_err(|error| error.to_string())?,
            name,
            recorded_by,
            saga_id: attempt.saga_id.clone(),
            pending: input.pending,
            expected_version: None,
        })
    }

    /// It is done if the record is this saga's, and says this.
    async fn look(self, attempt: Attempt) -> Probed {
        let Ok(record) = self.read(&attempt) else {
            return Probed::NotDone;
        };
        match self.store.resource(&record.name).await {
            Ok(Some(row)) if row.saga_id == record.saga_id && row.spec == record.spec => {
                Probed::Done(json!({ "spec_version": row.spec_version, "changed": true }))
            }
            Ok(Some(row)) if row.saga_id == record.saga_id => Probed::Inconclusive,
            Ok(_) => Probed::NotDone,
            Err(_) => Probed::Inconclusive,
        }
    }
}

impl Act for RecordAct {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        self.clone().record(attempt).boxed()
    }

    fn probe(&self, attempt: Attempt) -> BoxFuture<'static, Probed> {
        self.clone().look(attempt).boxed()
    }

    fn can_probe(&self) -> bool {
        true
    }
}
