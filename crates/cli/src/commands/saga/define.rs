//! Definitions: stored, checked, listed, printed.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use steadfast_client::{
    Error as CallError,
    api::saga::v1::{
        CreateSagaDefinitionRequest, GetSagaDefinitionRequest, ListSagaDefinitionsRequest,
        SagaDefinition,
    },
};

use super::NameAndVersion;
use crate::{
    commands::{Session, document},
    failure::{Exit, Failure},
    json, moment, table,
};

/// Definitions of one answer at most, which the contract tells.
const PAGE_SIZE: u32 = 1_000;

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// A definition in TOML or JSON; `-` for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The most definitions to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// NAME for the newest version, or NAME@VERSION
    name: NameAndVersion,
}

pub(super) async fn define(args: &FileArgs, session: &Session) -> Result<Exit, Failure> {
    let definition = create(args, false, session)
        .await?
        .map_err(|error| invalid(&error))?;
    session.output.print(
        || {
            format!(
                "{}@{} is defined, with {}",
                definition.name,
                definition.version,
                table::count(definition.steps.len(), "step")
            )
        },
        || json::saga::definition(&definition),
    )?;
    Ok(Exit::Success)
}

pub(super) async fn validate(args: &FileArgs, session: &Session) -> Result<Exit, Failure> {
    match create(args, true, session).await? {
        Ok(definition) => {
            session.output.print(
                || {
                    format!(
                        "{}@{} is valid, with {}",
                        definition.name,
                        definition.version,
                        table::count(definition.steps.len(), "step")
                    )
                },
                || json!({ "valid": true, "problems": [] }),
            )?;
            Ok(Exit::Success)
        }
        Err(error) => {
            session
                .output
                .print(|| problems_text(&error), || problems_json(&error))?;
            Ok(Exit::Invalid)
        }
    }
}

/// The inner error is an invalid definition.
async fn create(
    args: &FileArgs,
    validate_only: bool,
    session: &Session,
) -> Result<Result<SagaDefinition, CallError>, Failure> {
    let definition_json = document::read(&args.file)?.to_string();
    let connection = session.connect().await?;
    let request = CreateSagaDefinitionRequest {
        definition_json,
        validate_only,
    };
    let mut client = connection.sagas();
    match connection
        .call(client.create_saga_definition(request))
        .await
    {
        Ok(answer) => Ok(Ok(answer.definition.unwrap_or_default())),
        Err(error) if error.reason == "DEFINITION_INVALID" => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

/// The same problem of inline steps is told likewise.
pub(super) fn invalid(error: &CallError) -> Failure {
    let failure = Failure::new(Exit::Invalid, "the definition is invalid");
    problems(error).fold(failure, |failure, (at, problem)| {
        failure.hint(format!("{at}: {problem}"))
    })
}

fn problems(error: &CallError) -> impl Iterator<Item = (String, String)> {
    error.field_violations.iter().map(|violation| {
        let at = violation
            .field
            .strip_prefix("definition_json")
            .unwrap_or(&violation.field);
        let at = match at.trim_start_matches('.') {
            "" => "the document",
            at => at,
        };
        (table::clean(at), table::clean(&violation.description))
    })
}

fn problems_text(error: &CallError) -> String {
    let mut rows = table::with_head(&["AT", "PROBLEM"]);
    let mut count = 0;
    for (at, problem) in problems(error) {
        rows.add_row([at, problem]);
        count += 1;
    }
    format!(
        "{}\n\n{}",
        table::text(&rows),
        table::count(count, "problem")
    )
}

fn problems_json(error: &CallError) -> Value {
    let problems: Vec<_> = problems(error)
        .map(|(at, message)| json!({ "at": at, "message": message }))
        .collect();
    json!({ "valid": false, "problems": problems })
}

pub(super) async fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.sagas();
    let limit = args.limit as usize;
    let mut definitions: Vec<SagaDefinition> = Vec::new();
    let mut page_token = String::new();
    loop {
        let missing = u32::try_from(limit - definitions.len()).unwrap_or(PAGE_SIZE);
        let request = ListSagaDefinitionsRequest {
            page_size: missing.min(PAGE_SIZE).cast_signed(),
            page_token,
        };
        let mut answer = connection
            .call(client.list_saga_definitions(request))
            .await?;
        definitions.append(&mut answer.definitions);
        page_token = answer.next_page_token;
        if page_token.is_empty() || definitions.len() >= limit {
            break;
        }
    }
    session.output.print(
        || list_text(&definitions),
        || {
            let definitions: Vec<_> = definitions.iter().map(json::saga::definition).collect();
            json!({ "definitions": definitions })
        },
    )?;
    Ok(Exit::Success)
}

fn list_text(definitions: &[SagaDefinition]) -> String {
    if definitions.is_empty() {
        return "no definitions: `steadfast saga define FILE` stores one".to_owned();
    }
    let mut rows = table::with_head(&["NAME", "VERSION", "CREATED", "STEPS"]);
    for definition in definitions {
        let steps: Vec<_> = definition
            .steps
            .iter()
            .map(|step| step.name.as_str())
            .collect();
        rows.add_row([
            definition.name.clone(),
            definition.version.to_string(),
            moment::relative(definition.create_time.as_ref()),
            steps.join(" → "),
        ]);
    }
    table::text(&rows)
}

pub(super) async fn get(args: GetArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = GetSagaDefinitionRequest {
        name: args.name.name,
        version: args.name.version,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.get_saga_definition(request)).await?;
    let told = json::saga::definition(&answer.definition.unwrap_or_default());
    // The document alone can be edited and given to `define` again.
    session
        .output
        .print(|| format!("{:#}", told["definition"]), || told.clone())?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use steadfast_client::{Code, FieldViolation, api::saga::v1::StepSummary};

    use super::*;
    use crate::hint::tests::call_error;

    fn two_problems() -> CallError {
        let mut error = call_error(Code::InvalidArgument, "DEFINITION_INVALID", "2 problems");
        for (field, description) in [
            ("definition_json.steps[1].undo", "say `none`"),
            ("definition_json", "no steps"),
        ] {
            error.field_violations.push(FieldViolation {
                field: field.to_owned(),
                description: description.to_owned(),
            });
        }
        error
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = problems_text(&two_problems());
        assert!(text.contains("steps[1].undo  say `none`"), "{text}");
        assert!(
            text.contains("the document") && text.ends_with("2 problems"),
            "{text}"
        );
        assert_eq!(
            problems_json(&two_problems())["problems"][0]["at"],
            "steps[1].undo"
        );
        let failure = invalid(&two_problems());
        assert_eq!(failure.exit, Exit::Invalid);
        assert_eq!(failure.hints[0], "steps[1].undo: say `none`");
    }

    #[test]
    fn definitions_show_their_steps_in_order() {
        let step = |name: &str| StepSummary {
            name: name.to_owned(),
            ..StepSummary::default()
        };
        let definition = SagaDefinition {
            name: "a".to_owned(),
            version: 2,
            steps: vec![step("x"), step("y")],
            ..SagaDefinition::default()
        };
        assert!(list_text(&[definition]).contains("x → y"));
        assert!(list_text(&[]).contains("saga define"));
    }
}
