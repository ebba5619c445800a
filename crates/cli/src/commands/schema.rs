//! `steadfast schema`.

mod diff;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use steadfast_client::{
    Connection,
    api::schema::v1::{
        GetSchemaRequest, GetSchemaResponse, ListSchemasRequest, SchemaSummary,
        ValidateDocumentRequest, ValidateDocumentResponse,
    },
};

use crate::{
    commands::{Session, pages, publish::read_file},
    failure::{Exit, Failure},
    json,
    output::note,
    table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Print a package's schema, exactly as the package carries it
    Get(GetArgs),
    /// List the schemas of each package's latest version
    List(ListArgs),
    /// Check a document, such as a credential, against a schema; it is neither stored nor shown
    Validate(ValidateArgs),
    /// Compare the schemas of two versions: which credentials would the new one break?
    ///
    /// The exit code is 0 if all that fits the old schema fits the new one, 2 if something breaks or might, and 1 for every error.
    Diff(diff::DiffArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// NAME, or NAME@ and a version, tag or range
    package: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep packages whose name contains this text
    #[arg(default_value = "", hide_default_value = true)]
    query: String,
    /// The most schemas to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// NAME, or NAME@ and a version, tag or range
    package: String,
    /// The document; `-` for standard input
    file: PathBuf,
}

/// How much of an etag tells schemas apart.
const ETAG_LENGTH: usize = 12;
/// The most characters of a title in a list.
const TITLE_LENGTH: usize = 60;

pub(crate) async fn run(command: SchemaCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        SchemaCommand::Get(args) => get(args, &session.connect().await?, session).await,
        SchemaCommand::List(args) => list(args, &session.connect().await?, session).await,
        SchemaCommand::Validate(args) => validate(args, session).await,
        SchemaCommand::Diff(args) => diff::run(args, session).await,
    }
}

/// Splits at the `@` before the version; the first belongs to a scope.
fn split(package: &str) -> (String, String) {
    let at = package
        .char_indices()
        .skip(1)
        .find_map(|(at, char)| (char == '@').then_some(at));
    match at {
        Some(at) => (package[..at].to_owned(), package[at + 1..].to_owned()),
        None => (package.to_owned(), String::new()),
    }
}

async fn get(args: GetArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let (package, version) = split(&args.package);
    let request = GetSchemaRequest {
        package,
        version,
        ..GetSchemaRequest::default()
    };
    let mut client = connection.schemas();
    let answer = connection
        .call(client.get_schema(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &args.package))?;
    for warning in &answer.warnings {
        note(&format!("warning: {}", table::clean(warning)));
    }
    if session.output.is_json() {
        session.output.raw(&schema_json(&answer))?;
    } else {
        session.output.raw(&answer.schema_json)?;
    }
    Ok(Exit::Success)
}

/// The schema is embedded as it is: parsing it would change large numbers. A package may carry what is no JSON; that is a text.
fn schema_json(answer: &GetSchemaResponse) -> String {
    let mut fields = json!({
        "package": answer.package,
        "version": answer.version,
        "etag": answer.etag,
        "auth_kind": json::auth_kind(answer.auth_kind),
        "warnings": answer.warnings,
        "read_state": json::read_state(answer.read_state.as_ref()),
    });
    let schema = answer.schema_json.trim();
    if serde_json::from_str::<Value>(schema).is_err() {
        fields["schema_text"] = answer.schema_json.as_str().into();
        return fields.to_string();
    }
    let mut fields = fields.to_string();
    fields.pop();
    fields.push_str(",\"schema\":");
    fields.push_str(schema);
    fields.push('}');
    fields
}

async fn list(args: ListArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut client = connection.schemas();
    let ask = async |page_size, page_token| {
        let request = ListSchemasRequest {
            page_size,
            page_token,
            query: args.query.clone(),
            min_revision: None,
        };
        connection.call(client.list_schemas(request)).await
    };
    let (schemas, last) = pages::read(args.limit, ask, |answer| {
        (&mut answer.schemas, &mut answer.next_page_token)
    })
    .await?;
    session.output.print(
        || list_text(&schemas, last.total_size, &args.query),
        || {
            let schemas: Vec<_> = schemas.iter().map(json::schema_summary).collect();
            json!({
                "schemas": schemas,
                "total_size": last.total_size,
                "read_state": json::read_state(last.read_state.as_ref()),
            })
        },
    )?;
    Ok(Exit::Success)
}

fn list_text(schemas: &[SchemaSummary], total: i32, query: &str) -> String {
    if schemas.is_empty() {
        return if query.is_empty() {
            "no schemas yet: run `steadfast refresh`".to_owned()
        } else {
            format!(
                "no package with a schema contains {query:?}: `steadfast schema list` shows them all"
            )
        };
    }
    let mut rows = table::with_head(&["PACKAGE", "VERSION", "AUTH", "SIZE", "ETAG", "TITLE"]);
    for schema in schemas {
        rows.add_row([
            schema.package.clone(),
            schema.version.clone(),
            json::auth_kind(schema.auth_kind),
            table::size(schema.size.into()),
            schema.etag.chars().take(ETAG_LENGTH).collect(),
            table::shorten(&schema.title, TITLE_LENGTH),
        ]);
    }
    let shown = pages::shown(schemas.len(), total, "schema");
    format!("{}\n\n{shown}", table::text(&rows))
}

async fn validate(args: ValidateArgs, session: &Session) -> Result<Exit, Failure> {
    let (package, version) = split(&args.package);
    let document_json = String::from_utf8(read_file(&args.file)?).map_err(|error| {
        // The error's own text is left out: it may show the document.
        let at = error.utf8_error().valid_up_to();
        let file = args.file.display();
        Failure::new(Exit::Error, format!("{file}: not UTF-8 at byte {at}"))
    })?;
    let connection = session.connect().await?;
    let request = ValidateDocumentRequest {
        package,
        version,
        document_json,
        min_revision: None,
    };
    let mut client = connection.schemas();
    let answer = connection
        .call(client.validate_document(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &args.package))?;
    session
        .output
        .print(|| validation_text(&answer), || validation_json(&answer))?;
    Ok(if answer.valid {
        Exit::Success
    } else {
        Exit::Invalid
    })
}

fn validation_text(answer: &ValidateDocumentResponse) -> String {
    let schema = format!("{}@{}", answer.package, answer.version);
    if answer.valid {
        return format!("valid: the document fits the schema of {schema}");
    }
    let mut rows = table::with_head(&["AT", "PROBLEM", "FIELD", "SECRET"]);
    for violation in &answer.violations {
        let pointer = match violation.pointer.as_str() {
            "" => "(document)",
            pointer => pointer,
        };
        rows.add_row([
            table::clean(pointer),
            table::clean(&violation.message),
            table::clean(&violation.title),
            if violation.secret { "yes" } else { "" }.to_owned(),
        ]);
    }
    let problems = table::count(answer.violations.len(), "problem");
    format!(
        "{}\n\nnot valid: {problems} with the schema of {schema}",
        table::text(&rows)
    )
}

fn validation_json(answer: &ValidateDocumentResponse) -> Value {
    let violations: Vec<_> = answer.violations.iter().map(json::violation).collect();
    json!({
        "valid": answer.valid,
        "violations": violations,
        "package": answer.package,
        "version": answer.version,
        "schema_etag": answer.schema_etag,
        "auth_kind": json::auth_kind(answer.auth_kind),
        "read_state": json::read_state(answer.read_state.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::schema::v1::Violation;

    use super::*;

    #[test]
    fn json_stays_json_whatever_a_package_carries() {
        for (schema_json, field, expected) in [
            ("{\"a\":1}\n", "schema", json!({"a": 1})),
            ("{ not JSON", "schema_text", json!("{ not JSON")),
            ("", "schema_text", json!("")),
        ] {
            let answer = GetSchemaResponse {
                schema_json: schema_json.to_owned(),
                ..GetSchemaResponse::default()
            };
            let printed: Value = serde_json::from_str(&super::schema_json(&answer)).unwrap();
            assert_eq!(printed[field], expected, "{schema_json}");
        }
    }

    #[test]
    fn the_version_begins_after_the_second_at_of_a_scoped_name() {
        for (text, name, version) in [
            ("@a/b", "@a/b", ""),
            ("@a/b@^7", "@a/b", "^7"),
            ("b@latest", "b", "latest"),
            ("b", "b", ""),
            ("", "", ""),
        ] {
            assert_eq!(split(text), (name.to_owned(), version.to_owned()));
        }
    }

    #[test]
    fn the_schema_is_embedded_unchanged() {
        let answer = GetSchemaResponse {
            schema_json: "{\"maximum\": 12345678901234567890123}\n".to_owned(),
            package: "x".to_owned(),
            ..GetSchemaResponse::default()
        };
        let text = schema_json(&answer);
        assert!(
            text.ends_with(",\"schema\":{\"maximum\": 12345678901234567890123}}"),
            "{text}"
        );
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    }

    #[test]
    fn every_violation_is_shown() {
        let mut answer = ValidateDocumentResponse {
            package: "x".to_owned(),
            version: "1.0.0".to_owned(),
            violations: vec![
                Violation {
                    message: "is required".to_owned(),
                    pointer: "/password".to_owned(),
                    title: "Password".to_owned(),
                    secret: true,
                    ..Violation::default()
                },
                Violation {
                    message: "expected an object".to_owned(),
                    ..Violation::default()
                },
            ],
            ..ValidateDocumentResponse::default()
        };
        let text = validation_text(&answer);
        assert!(
            text.contains("/password") && text.contains("(document)"),
            "{text}"
        );
        assert!(
            text.ends_with("not valid: 2 problems with the schema of x@1.0.0"),
            "{text}"
        );
        assert_eq!(validation_json(&answer)["violations"][0]["secret"], true);
        answer.valid = true;
        assert!(validation_text(&answer).starts_with("valid: "));
    }

    #[test]
    fn no_schemas_say_what_to_do() {
        assert_eq!(
            list_text(&[], 0, ""),
            "no schemas yet: run `steadfast refresh`"
        );
    }
}
