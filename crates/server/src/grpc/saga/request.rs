//! Reading requests: every argument is checked, and named if it is wrong, before the engine is asked.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use serde_json::Value;
use steadfast_api::saga::v1::{self as api, start_saga_request::Plan};
use steadfast_saga::{
    DefinitionRef, KnownActions, SagaFilter, StartSaga, State, check::parse_steps, has_nul,
};
use steadfast_types::Timestamp;
use tonic::Status;

use super::message;
use crate::grpc::{
    field::{check, check_optional_text, check_text, decision, read_labels},
    status::{self, Problem},
};

/// Callers have no identity yet.
const ANONYMOUS: &str = "anonymous";
/// Bytes of a JSON document at most.
const MAX_DOCUMENT_BYTES: usize = 64 << 10;
/// Bytes of a concurrency key at most: the key of any resource fits.
const MAX_KEY_BYTES: usize = 512;
/// How long a start may wait for its saga at most.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Kinds of one filter at most.
const MAX_KINDS: usize = 16;

/// Which sagas a list keeps.
#[derive(Debug, Default)]
pub(super) struct Filter {
    states: Vec<State>,
    kinds: Vec<String>,
    labels: Vec<(String, String)>,
    definition: Option<(String, Option<i32>)>,
    deployment_id: String,
}

/// A saga to be started.
pub(super) fn start(
    request: api::StartSagaRequest,
    known: &KnownActions,
) -> Result<StartSaga, Problem> {
    let (definition, default_kind) = match request.plan {
        Some(Plan::Definition(definition)) => {
            let version = version_of("definition.version", definition.version)?;
            let name = definition.name;
            check_text("definition.name", &name)?;
            (
                DefinitionRef::Named {
                    name: name.clone(),
                    version,
                },
                name,
            )
        }
        Some(Plan::StepsJson(text)) => {
            let steps = parse_steps(&text, Some(known))
                .map_err(|problems| status::definition_problem(&problems, "steps_json"))?;
            (DefinitionRef::Inline(steps), "inline".to_owned())
        }
        None => {
            return Err(status::invalid(
                "definition",
                "name a definition, or give steps_json",
            ));
        }
    };
    for (field, text) in [
        ("kind", &request.kind),
        ("deployment_id", &request.deployment_id),
        ("triggered_by", &request.triggered_by),
    ] {
        check_optional_text(field, text)?;
    }
    if !request.concurrency_key.is_empty() {
        check("concurrency_key", &request.concurrency_key, MAX_KEY_BYTES)?;
    }
    let inputs = match read_document("inputs_json", &request.inputs_json)? {
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other,
    };
    let deadline = request.deadline.map(|time| {
        Timestamp(
            time.seconds
                .saturating_mul(1_000_000)
                .saturating_add(i64::from(time.nanos / 1_000)),
        )
    });
    Ok(StartSaga {
        kind: if request.kind.is_empty() {
            default_kind
        } else {
            request.kind
        },
        deployment_id: request.deployment_id,
        triggered_by: request.triggered_by,
        definition,
        inputs,
        context: read_document("context_json", &request.context_json)?,
        labels: read_labels(request.labels)?.into_iter().collect(),
        priority: request.priority,
        concurrency_key: Some(request.concurrency_key).filter(|key| !key.is_empty()),
        deadline,
    })
}

/// How long the answer may wait for the saga.
pub(super) fn wait_timeout(request: &api::StartSagaRequest) -> Result<Duration, Problem> {
    let Some(wait) = request.wait_timeout else {
        return Ok(Duration::ZERO);
    };
    Duration::try_from(wait)
        .ok()
        .filter(|wait| *wait <= MAX_WAIT)
        .ok_or_else(|| {
            status::invalid(
                "wait_timeout",
                format!("it must be 0 to {} s", MAX_WAIT.as_secs()),
            )
        })
}

/// The call's request id with a hash of its arguments, if it has one.
pub(super) fn request_id(
    request: &api::StartSagaRequest,
) -> Result<Option<steadfast_store::Request>, Problem> {
    if request.request_id.is_empty() {
        return Ok(None);
    }
    check_text("request_id", &request.request_id)?;
    // Maps are encoded in no certain order: they are hashed apart, sorted.
    let mut labels: Vec<_> = request.labels.iter().collect();
    labels.sort();
    let mut body = format!("{labels:?}").into_bytes();
    let rest = api::StartSagaRequest {
        labels: HashMap::new(),
        request_id: String::new(),
        wait_timeout: None,
        ..request.clone()
    };
    body.extend(rest.encode_to_vec());
    Ok(Some(steadfast_store::Request {
        identity: ANONYMOUS.to_owned(),
        rpc: "StartSaga",
        id: request.request_id.clone(),
        body_hash: steadfast_store::Request::hash(&body),
    }))
}

/// A saga's id, which has to be there; what it is not, is not found.
pub(super) fn id(id: &str) -> Result<(), Status> {
    text("id", id)
}

/// A text that has to be there.
pub(super) fn text(field: &str, text: &str) -> Result<(), Status> {
    Ok(check_text(field, text)?)
}

/// What every verb needs.
pub(super) fn steering(saga: &str, actor: &str, reason: &str) -> Result<(), Status> {
    id(saga)?;
    Ok(decision(actor, reason)?)
}

/// A JSON document; nothing is null.
pub(super) fn document(field: &str, text: &str) -> Result<Value, Status> {
    Ok(read_document(field, text)?)
}

/// A definition's version; 0 is the newest.
pub(super) fn version(field: &str, version: i32) -> Result<Option<i32>, Status> {
    Ok(version_of(field, version)?)
}

fn version_of(field: &str, version: i32) -> Result<Option<i32>, Problem> {
    match version {
        ..0 => Err(status::invalid(field, "it is below 0")),
        0 => Ok(None),
        1.. => Ok(Some(version)),
    }
}

fn read_document(field: &str, text: &str) -> Result<Value, Problem> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes; at most {MAX_DOCUMENT_BYTES}", text.len());
        return Err(status::invalid(field, message));
    }
    let value = serde_json::from_str(text)
        .map_err(|error| status::invalid(field, format!("it is not JSON: {error}")))?;
    if has_nul(&value) {
        return Err(status::invalid(field, "NUL characters are not accepted"));
    }
    Ok(value)
}

// === impl Filter ===

impl Filter {
    pub(super) fn read(request: &api::ListSagasRequest) -> Result<Self, Status> {
        let mut states = Vec::new();
        for (index, state) in request.states.iter().enumerate() {
            let state = api::SagaState::try_from(*state)
                .ok()
                .and_then(message::state_of)
                .ok_or_else(|| {
                    status::invalid_argument(&format!("states[{index}]"), "not one of the states")
                })?;
            states.push(state);
        }
        if request.kinds.len() > MAX_KINDS {
            let message = format!("{} kinds; at most {MAX_KINDS}", request.kinds.len());
            return Err(status::invalid_argument("kinds", message));
        }
        for (index, kind) in request.kinds.iter().enumerate() {
            text(&format!("kinds[{index}]"), kind)?;
        }
        let definition = match &request.definition {
            None => None,
            Some(definition) => {
                text("definition.name", &definition.name)?;
                let version = version("definition.version", definition.version)?;
                Some((definition.name.clone(), version))
            }
        };
        check_optional_text("deployment_id", &request.deployment_id)?;
        Ok(Self {
            states,
            kinds: request.kinds.clone(),
            labels: read_labels(request.labels.clone())?,
            definition,
            deployment_id: request.deployment_id.clone(),
        })
    }

    /// What a page token is bound to.
    pub(super) fn bound(&self) -> Vec<String> {
        vec![
            format!("{:?}", self.states),
            format!("{:?}", self.kinds),
            format!("{:?}", self.labels),
            format!("{:?}", self.definition),
            self.deployment_id.clone(),
        ]
    }

    /// The same for the engine.
    pub(super) fn wanted(&self) -> SagaFilter {
        SagaFilter {
            states: self.states.clone(),
            kinds: self.kinds.clone(),
            labels: self.labels.iter().cloned().collect(),
            definition_name: self.definition.as_ref().map(|(name, _)| name.clone()),
            definition_version: self.definition.as_ref().and_then(|(_, version)| *version),
            deployment_id: Some(self.deployment_id.clone()).filter(|id| !id.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: api::StartSagaRequest) -> Result<StartSaga, Problem> {
        start(request, &steadfast_saga::Actions::new().known())
    }

    fn named(name: &str) -> api::StartSagaRequest {
        api::StartSagaRequest {
            plan: Some(Plan::Definition(api::DefinitionRef {
                name: name.to_owned(),
                version: 0,
            })),
            ..api::StartSagaRequest::default()
        }
    }

    fn field(outcome: Result<impl Sized, Problem>) -> String {
        use tonic_types::StatusExt as _;
        let Err(problem) = outcome else {
            return "none".to_owned();
        };
        let details = problem.into_status().get_error_details();
        details
            .bad_request()
            .map(|request| request.field_violations[0].field.clone())
            .unwrap_or_default()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let started = read(named("a")).unwrap_or_else(|_| panic!("it is complete"));
        assert_eq!(started.kind, "a");
        assert_eq!(started.inputs, serde_json::json!({}));
        assert_eq!(started.context, Value::Null);
        assert_eq!((started.concurrency_key, started.deadline), (None, None));
        let inline = api::StartSagaRequest {
            plan: Some(Plan::StepsJson(
                r#"[{"name":"a","action":{"builtin":{"name":"noop"}},"undo":"none"}]"#.to_owned(),
            )),
            ..api::StartSagaRequest::default()
        };
        let started = read(inline).unwrap_or_else(|_| panic!("it is well-formed"));
        assert_eq!(started.kind, "inline");
    }

    #[test]
    fn a_wrong_argument_is_named() {
        let wrong = |change: fn(&mut api::StartSagaRequest)| {
            let mut request = named("a");
            change(&mut request);
            field(read(request))
        };
        assert_eq!(wrong(|_| {}), "none");
        assert_eq!(wrong(|request| request.plan = None), "definition");
        assert_eq!(
            wrong(|request| request.plan = named("").plan),
            "definition.name"
        );
        assert_eq!(wrong(|request| request.kind = "k".repeat(129)), "kind");
        assert_eq!(
            wrong(|request| request.inputs_json = "{".to_owned()),
            "inputs_json"
        );
        assert_eq!(
            wrong(|request| request.inputs_json = format!("[{}1]", " ".repeat(64 << 10))),
            "inputs_json"
        );
        assert_eq!(
            wrong(|request| request.context_json = "{\"a\":\"\\u0000\"}".to_owned()),
            "context_json"
        );
        assert_eq!(
            wrong(|request| {
                request.labels = (0..33).map(|n| (n.to_string(), String::new())).collect();
            }),
            "labels"
        );
        assert_eq!(
            wrong(|request| {
                request.labels.insert("a".to_owned(), "v".repeat(129));
            }),
            "labels[\"a\"]"
        );
        assert_eq!(
            wrong(|request| request.plan = Some(Plan::StepsJson("[1]".to_owned()))),
            "steps_json[0]"
        );
    }

    #[test]
    fn a_request_id_goes_with_its_arguments() {
        let hash = |change: fn(&mut api::StartSagaRequest)| {
            let mut request = named("a");
            request.request_id = "r".to_owned();
            request.labels = [("b", "1"), ("a", "2"), ("c", "3")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
            change(&mut request);
            request_id(&request)
                .unwrap_or_else(|_| panic!("it is well-formed"))
                .map(|request| request.body_hash)
        };
        let first = hash(|_| {});
        assert!(first.is_some());
        for _ in 0..8 {
            // Another map each time, in another order.
            assert_eq!(hash(|_| {}), first);
        }
        assert_ne!(hash(|request| request.priority = 1), first);
        assert_ne!(
            hash(|request| {
                request.labels.remove("a");
            }),
            first
        );
        assert_eq!(hash(|request| request.request_id.clear()), None);
    }

    #[test]
    fn a_page_token_belongs_to_the_filters() {
        let mut request = api::ListSagasRequest {
            states: vec![api::SagaState::Stuck.into()],
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..api::ListSagasRequest::default()
        };
        let filter = Filter::read(&request).unwrap_or_else(|_| panic!("it is well-formed"));
        let wanted = filter.wanted();
        assert_eq!(wanted.states, [State::Stuck]);
        assert_eq!(wanted.labels.get("a").map(String::as_str), Some("1"));
        assert_eq!((wanted.definition_name, wanted.deployment_id), (None, None));
        request.states.push(api::SagaState::Paused.into());
        let two = Filter::read(&request).unwrap_or_else(|_| panic!("it is well-formed"));
        assert_ne!(two.bound(), filter.bound());
        request.states.push(0);
        assert!(Filter::read(&request).is_err());
    }
}
