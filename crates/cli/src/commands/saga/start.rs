//! Starting sagas, one or many.

use std::{collections::HashMap, path::PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};
use steadfast_client::{
    Code,
    api::saga::v1::{
        BatchStartSagasRequest, DefinitionRef, Saga, StartSagaRequest,
        batch_start_sagas_response::result::Result as BatchResult, start_saga_request::Plan,
    },
};
use uuid::Uuid;

use super::{NameAndVersion, define, timeline};
use crate::{
    args::key_and_value,
    commands::{Session, document, publish::read_file, who::user},
    failure::{Exit, Failure},
    json,
    output::note,
    table::clean,
};

/// Requests of one call at most, which the contract tells.
const BATCH: usize = 100;

/// What a line of `start-many` may say.
const LINE_FIELDS: [&str; 11] = [
    "definition",
    "steps",
    "inputs",
    "labels",
    "kind",
    "deployment",
    "triggered_by",
    "key",
    "priority",
    "context",
    "request_id",
];

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The definition: NAME for its newest version, or NAME@VERSION
    #[arg(required_unless_present = "steps_file", conflicts_with = "steps_file")]
    definition: Option<NameAndVersion>,
    /// Instead of a definition, a file with the `steps` of one, in TOML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    steps_file: Option<PathBuf>,
    /// An input; a value that is JSON counts as such, any other as text; may be repeated
    #[arg(long = "input", value_name = "KEY=VALUE", value_parser = key_and_value)]
    inputs: Vec<(String, String)>,
    /// A file with inputs, in TOML or JSON; --input replaces single ones
    #[arg(long, value_name = "FILE")]
    inputs_file: Option<PathBuf>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// What it does, for example provision; the definition's name if it is left out
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// What it is about
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    deployment: String,
    /// Who or what causes it; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    triggered_by: Option<String>,
    /// Only one saga with this key runs at a time
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "KEY"
    )]
    key: String,
    /// Higher goes first
    #[arg(
        long,
        default_value_t = 0,
        allow_negative_numbers = true,
        value_name = "NUMBER"
    )]
    priority: i32,
    /// JSON to keep with it
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "JSON"
    )]
    context: String,
    /// Cancel it if it still goes forward this many seconds from now
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline: Option<u32>,
    /// Makes a repetition safe: the same id starts one saga; drawn if it is left out
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Follow it, until it has ended or needs a person
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ManyArgs {
    /// One JSON object on each line: `definition` (NAME or NAME@VERSION) or `steps`; and as needed `inputs`, `labels`, `kind`,
    /// `deployment`, `triggered_by`, `key`, `priority`, `context`, `request_id`. `-` for standard input
    file: PathBuf,
}

pub(super) async fn run(args: StartArgs, session: &Session) -> Result<Exit, Failure> {
    let wait = args.wait;
    let request = request(args)?;
    let request_id = request.request_id.clone();
    let connection = session.connect().await?;
    let mut client = connection.sagas();
    let answer = match connection.call(client.start_saga(request)).await {
        Ok(answer) => answer,
        Err(error) if error.reason == "DEFINITION_INVALID" => return Err(define::invalid(&error)),
        // The answer was lost, perhaps not the saga.
        Err(error) if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) => {
            return Err(Failure::from(&error).hint(format!(
                "repeat the command with --request-id {request_id} to learn whether it was started, or to start it"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let saga = answer.saga.unwrap_or_default();
    if answer.replayed {
        note(&format!("note: saga {} was started before", saga.id));
    }
    if wait {
        if !session.output.is_json() {
            note(&format!("saga {}", saga.id));
        }
        return timeline::wait(&connection, &saga.id, session).await;
    }
    session.output.print(
        || {
            format!(
                "saga {id} is {}; `steadfast saga watch {id}` follows it",
                if answer.replayed {
                    json::saga::state(saga.state)
                } else {
                    "started".to_owned()
                },
                id = saga.id
            )
        },
        || {
            json!({
                "saga": json::saga::saga(&saga),
                "replayed": answer.replayed,
                "request_id": request_id,
            })
        },
    )?;
    Ok(Exit::Success)
}

fn request(args: StartArgs) -> Result<StartSagaRequest, Failure> {
    let plan = match (args.definition, args.steps_file) {
        (Some(definition), _) => Plan::Definition(definition.into()),
        (None, Some(file)) => Plan::StepsJson(steps_of(document::read(&file)?).to_string()),
        (None, None) => return Err(Failure::new(Exit::Usage, "name a definition")),
    };
    let mut inputs = match &args.inputs_file {
        Some(file) => document::read_object(file)?,
        None => Map::new(),
    };
    for (key, value) in args.inputs {
        inputs.insert(key, value_of(value));
    }
    let deadline = args.deadline.map(|seconds| prost_types::Timestamp {
        seconds: chrono::Utc::now().timestamp() + i64::from(seconds),
        nanos: 0,
    });
    Ok(StartSagaRequest {
        plan: Some(plan),
        kind: args.kind,
        deployment_id: args.deployment,
        triggered_by: args.triggered_by.or_else(user).unwrap_or_default(),
        inputs_json: Value::Object(inputs).to_string(),
        context_json: args.context,
        labels: args.labels.into_iter().collect(),
        priority: args.priority,
        concurrency_key: args.key,
        deadline,
        request_id: args
            .request_id
            .unwrap_or_else(|| Uuid::now_v7().to_string()),
        // It is followed as it goes instead.
        wait_timeout: None,
    })
}

/// The steps alone, or those of a whole definition.
fn steps_of(document: Value) -> Value {
    match document {
        Value::Object(mut object) if object.contains_key("steps") => object["steps"].take(),
        other => other,
    }
}

/// JSON where it is JSON, else a text.
fn value_of(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

impl From<NameAndVersion> for DefinitionRef {
    fn from(from: NameAndVersion) -> Self {
        Self {
            name: from.name,
            version: from.version,
        }
    }
}

pub(super) async fn run_many(args: &ManyArgs, session: &Session) -> Result<Exit, Failure> {
    let bytes = read_file(&args.file)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut requests = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        requests.push(request_of_line(line).map_err(|problem| {
            Failure::new(
                Exit::Usage,
                format!("{}: line {}: {problem}", args.file.display(), index + 1),
            )
        })?);
    }
    let connection = session.connect().await?;
    let mut client = connection.sagas();
    let (mut started, mut refused): (Vec<Saga>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for chunk in requests.chunks(BATCH) {
        let request = BatchStartSagasRequest {
            requests: chunk.to_vec(),
        };
        let answer = connection.call(client.batch_start_sagas(request)).await?;
        for (result, request) in answer.results.into_iter().zip(chunk) {
            match result.result {
                Some(BatchResult::Started(answer)) => {
                    let saga = answer.saga.unwrap_or_default();
                    lines.push(saga.id.clone());
                    started.push(saga);
                }
                Some(BatchResult::Error(error)) => {
                    lines.push(format!(
                        "refused {}: {}",
                        error.reason,
                        clean(&error.message)
                    ));
                    refused.push(json!({
                        "request_id": request.request_id,
                        "error": json::item_error(&error),
                    }));
                }
                None => {}
            }
        }
    }
    session.output.print(
        || {
            lines.push(format!(
                "{} started, {} refused",
                started.len(),
                refused.len()
            ));
            lines.join("\n")
        },
        || {
            let started: Vec<_> = started.iter().map(json::saga::saga).collect();
            json!({ "started": started, "refused": refused })
        },
    )?;
    Ok(if refused.is_empty() {
        Exit::Success
    } else {
        Exit::Partial
    })
}

fn request_of_line(line: &str) -> Result<StartSagaRequest, String> {
    let Value::Object(fields) = serde_json::from_str(line).map_err(|error| error.to_string())?
    else {
        return Err("it must be an object".to_owned());
    };
    let mut request = StartSagaRequest {
        triggered_by: user().unwrap_or_default(),
        request_id: Uuid::now_v7().to_string(),
        ..StartSagaRequest::default()
    };
    for (name, value) in fields {
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("`{name}` must be a text"))
        };
        match name.as_str() {
            "definition" => {
                let reference: NameAndVersion = text(&value)?.parse()?;
                request.plan = Some(Plan::Definition(reference.into()));
            }
            "steps" => request.plan = Some(Plan::StepsJson(value.to_string())),
            "inputs" => request.inputs_json = value.to_string(),
            "context" => request.context_json = value.to_string(),
            "kind" => request.kind = text(&value)?,
            "deployment" => request.deployment_id = text(&value)?,
            "triggered_by" => request.triggered_by = text(&value)?,
            "key" => request.concurrency_key = text(&value)?,
            "request_id" => request.request_id = text(&value)?,
            "priority" => {
                request.priority = value
                    .as_i64()
                    .and_then(|number| i32::try_from(number).ok())
                    .ok_or("`priority` must be a whole number")?;
            }
            "labels" => {
                let labels = value.as_object().ok_or("`labels` must be an object")?;
                request.labels = labels
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), text(value)?)))
                    .collect::<Result<HashMap<_, _>, String>>()?;
            }
            _ => {
                return Err(format!(
                    "`{name}` is not known; there are {}",
                    LINE_FIELDS.join(", ")
                ));
            }
        }
    }
    if request.plan.is_none() {
        return Err("it needs `definition` or `steps`".to_owned());
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: StartArgs,
    }

    fn parse(line: &str) -> Result<StartSagaRequest, String> {
        let words = std::iter::once("start").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        request(line.args).map_err(|failure| failure.message)
    }

    #[test]
    fn inputs_are_json_where_they_can_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("inputs.toml");
        std::fs::write(&file, "region = \"x\"\nsize = 1\n").expect("it is written");
        let line = format!(
            "a@2 --inputs-file {} --input size=2 --input name=web --input tags=[\"a\"] --label env=prod --key k \
             --priority -3 --request-id r --triggered-by me",
            file.display()
        );
        let request = parse(&line).expect("it is complete");
        assert_eq!(
            request.inputs_json,
            r#"{"region":"x","size":2,"name":"web","tags":["a"]}"#
        );
        assert_eq!(request.labels["env"], "prod");
        assert_eq!((request.priority, request.request_id.as_str()), (-3, "r"));
        assert_eq!(
            request.plan,
            Some(Plan::Definition(DefinitionRef {
                name: "a".to_owned(),
                version: 2
            }))
        );
    }

    #[test]
    fn steps_stand_for_a_definition() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("steps.json");
        for text in [r#"[{"name":"a"}]"#, r#"{"steps":[{"name":"a"}]}"#] {
            std::fs::write(&file, text).expect("it is written");
            let request = parse(&format!("--steps-file {}", file.display())).expect("complete");
            assert_eq!(
                request.plan,
                Some(Plan::StepsJson(r#"[{"name":"a"}]"#.to_owned()))
            );
        }
        assert!(parse("").is_err());
        assert!(parse("a --steps-file x").is_err());
        assert!(parse("a --input x").is_err());
    }

    #[test]
    fn lines_say_what_is_wrong_with_them() {
        let request = request_of_line(
            r#"{"definition":"a@1","inputs":{"x":1},"labels":{"a":"b"},"priority":4}"#,
        )
        .expect("it is complete");
        assert_eq!(request.inputs_json, r#"{"x":1}"#);
        assert!(!request.request_id.is_empty());
        for (line, part) in [
            ("[]", "object"),
            ("{}", "definition"),
            (r#"{"definition":1}"#, "text"),
            (r#"{"steps":[],"priority":"x"}"#, "priority"),
            (r#"{"steps":[],"color":"x"}"#, "request_id"),
            (r#"{"steps":[],"labels":{"a":1}}"#, "labels"),
        ] {
            let problem = request_of_line(line).expect_err(line);
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }
}
