//! `steadfast schema diff`: what another version of a schema means for the credentials that there are.

use clap::Args;
use serde_json::{Value, json};
use steadfast_client::api::schema::v1::{
    DiffSchemasRequest, DiffSchemasResponse, SchemaChangeClass as Class,
};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json, table,
};

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The package's name
    package: String,
    /// The old version: a version, tag or range; left out, the newest before the new one
    #[arg(default_value = "", hide_default_value = true)]
    from: String,
    /// The new version: a version, tag or range
    #[arg(default_value = "", hide_default_value = true)]
    to: String,
}

pub(crate) async fn run(args: DiffArgs, session: &Session) -> Result<Exit, Failure> {
    // 2 means that something breaks, and 1 stands for all that went wrong.
    compared(args, session).await.map_err(|failure| Failure {
        exit: Exit::Error,
        ..failure
    })
}

async fn compared(args: DiffArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = DiffSchemasRequest {
        package: args.package.clone(),
        from_version: args.from,
        to_version: args.to,
        min_revision: None,
    };
    let mut client = connection.schemas();
    let answer = connection
        .call(client.diff_schemas(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &args.package))?;
    session
        .output
        .print(|| text(&answer), || as_json(&answer))?;
    Ok(match answer.class() {
        Class::Breaking | Class::PossiblyBreaking => Exit::Drifted,
        Class::Unspecified | Class::Compatible | Class::Cosmetic => Exit::Success,
    })
}

fn text(answer: &DiffSchemasResponse) -> String {
    let versions = format!(
        "{}: {} to {}",
        answer.package, answer.from_version, answer.to_version
    );
    if answer.changes.is_empty() {
        return if answer.to_etag.is_empty() {
            format!("{versions}: neither version carries a schema")
        } else {
            format!("{versions}: the same schema")
        };
    }
    let mut rows = table::with_head(&["CLASS", "AT", "CHANGE", "FIELD", "SECRET"]);
    for change in &answer.changes {
        let pointer = match change.pointer.as_str() {
            "" => "(document)",
            pointer => pointer,
        };
        rows.add_row([
            words(change.class()).to_owned(),
            table::clean(pointer),
            table::clean(&change.message),
            table::clean(&change.title),
            if change.secret { "yes" } else { "" }.to_owned(),
        ]);
    }
    let counts: Vec<_> = [
        Class::Breaking,
        Class::PossiblyBreaking,
        Class::Compatible,
        Class::Cosmetic,
    ]
    .into_iter()
    .filter_map(|class| {
        let of_class = answer
            .changes
            .iter()
            .filter(|change| change.class() == class);
        let count = of_class.count();
        (count > 0).then(|| format!("{count} {}", words(class)))
    })
    .collect();
    let advice = match answer.class() {
        Class::Breaking | Class::PossiblyBreaking => {
            "; check credentials with `steadfast schema validate` before they are used with it"
        }
        _ => "",
    };
    format!(
        "{}\n\n{versions}: {}{advice}",
        table::text(&rows),
        counts.join(", ")
    )
}

const fn words(class: Class) -> &'static str {
    match class {
        Class::Breaking => "breaking",
        Class::PossiblyBreaking => "possibly breaking",
        Class::Compatible => "compatible",
        Class::Cosmetic => "cosmetic",
        Class::Unspecified => "",
    }
}

fn as_json(answer: &DiffSchemasResponse) -> Value {
    let changes: Vec<_> = answer.changes.iter().map(json::schema_change).collect();
    json!({
        "changes": changes,
        "class": json::schema_change_class(answer.class),
        "package": answer.package,
        "from_version": answer.from_version,
        "to_version": answer.to_version,
        "from_etag": answer.from_etag,
        "to_etag": answer.to_etag,
        "read_state": json::read_state(answer.read_state.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::schema::v1::SchemaChange;

    use super::*;

    #[test]
    fn the_gravest_stands_first_and_all_are_counted() {
        let change = |class: Class, pointer: &str| SchemaChange {
            pointer: pointer.to_owned(),
            message: "is required now".to_owned(),
            class: class.into(),
            secret: true,
            ..SchemaChange::default()
        };
        let mut answer = DiffSchemasResponse {
            changes: vec![change(Class::Breaking, "/a"), change(Class::Cosmetic, "")],
            class: Class::Breaking.into(),
            package: "x".to_owned(),
            from_version: "1.0.0".to_owned(),
            to_version: "2.0.0".to_owned(),
            to_etag: "e".to_owned(),
            ..DiffSchemasResponse::default()
        };
        let shown = text(&answer);
        assert!(
            shown.contains("(document)") && shown.contains("yes"),
            "{shown}"
        );
        assert!(
            shown.contains("x: 1.0.0 to 2.0.0: 1 breaking, 1 cosmetic; check credentials"),
            "{shown}"
        );
        assert_eq!(as_json(&answer)["changes"][0]["class"], "breaking");
        answer.changes.clear();
        assert_eq!(text(&answer), "x: 1.0.0 to 2.0.0: the same schema");
    }
}
