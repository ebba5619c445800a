//! `steadfast package`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use steadfast_client::{
    Code, Connection,
    api::{
        common::v1::ItemError,
        registry::v1::{
            BatchResolvePackagesRequest, GetPackageRequest, ListPackagesRequest, Package,
            PackageSummary, RemovePackageRequest, Resolution, ResolvePackageRequest,
            batch_resolve_packages_response::result::Result as Outcome,
        },
    },
};

use crate::{
    commands::{Session, pages},
    failure::{Exit, Failure, code_name},
    json, moment, table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum PackageCommand {
    /// List packages by name
    List(ListArgs),
    /// Show one package with its versions
    Get(GetArgs),
    /// Resolve names, versions, tags and ranges to exact versions
    Resolve(ResolveArgs),
    /// Remove a package that no source lists any more, with its schemas
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep packages whose name, label or description contains this text
    #[arg(default_value = "", hide_default_value = true)]
    query: String,
    /// Also list packages all of whose versions are deprecated
    #[arg(long)]
    deprecated: bool,
    /// Also list packages that their source no longer lists
    #[arg(long)]
    unlisted: bool,
    /// The most packages to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The package's name
    name: String,
    /// The most versions to show; JSON has them all
    #[arg(long, default_value_t = 10, value_name = "N")]
    versions: usize,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The package's name
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// NAME, NAME@VERSION, NAME@TAG or NAME@RANGE, for example '@openfn/language-http@^7'
    #[arg(required = true, num_args = 1..=1_000, value_name = "SPECIFIER")]
    specifiers: Vec<String>,
}

/// The most characters of a description in a list.
const DESCRIPTION_LENGTH: usize = 60;

pub(crate) async fn run(command: PackageCommand, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    match command {
        PackageCommand::List(args) => list(args, &connection, session).await,
        PackageCommand::Get(args) => get(args, &connection, session).await,
        PackageCommand::Remove(args) => remove(args.name, &connection, session).await,
        PackageCommand::Resolve(mut args) => match args.specifiers.as_mut_slice() {
            [one] => resolve_one(std::mem::take(one), &connection, session).await,
            _ => resolve_many(args.specifiers, &connection, session).await,
        },
    }
}

async fn list(args: ListArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut client = connection.registry();
    let ask = async |page_size, page_token| {
        let request = ListPackagesRequest {
            page_size,
            page_token,
            query: args.query.clone(),
            include_deprecated: args.deprecated,
            include_unlisted: args.unlisted,
            min_revision: None,
        };
        connection.call(client.list_packages(request)).await
    };
    let (packages, last) = pages::read(args.limit, ask, |answer| {
        (&mut answer.packages, &mut answer.next_page_token)
    })
    .await?;
    let checked = last
        .read_state
        .as_ref()
        .and_then(|state| state.checked_time);
    session.output.print(
        || {
            let checked = moment::relative(checked.as_ref());
            list_text(&packages, last.total_size, &args.query, &checked)
        },
        || {
            let packages: Vec<_> = packages.iter().map(json::package_summary).collect();
            json!({
                "packages": packages,
                "total_size": last.total_size,
                "read_state": json::read_state(last.read_state.as_ref()),
            })
        },
    )?;
    Ok(Exit::Success)
}

fn list_text(packages: &[PackageSummary], total: i32, query: &str, checked: &str) -> String {
    if packages.is_empty() {
        return if query.is_empty() {
            "no packages yet: run `steadfast refresh`".to_owned()
        } else {
            format!("no package contains {query:?}: `steadfast package list` shows them all")
        };
    }
    let mut rows = table::with_head(&["NAME", "LATEST", "VERSIONS", "SCHEMA", "DESCRIPTION"]);
    for package in packages {
        let deprecated = match (package.unlisted, package.deprecated) {
            (true, _) => "unlisted: ",
            (false, true) => "deprecated: ",
            (false, false) => "",
        };
        let words = if package.description.is_empty() {
            &package.label
        } else {
            &package.description
        };
        rows.add_row([
            package.name.clone(),
            package.latest_version.clone(),
            package.version_count.to_string(),
            if package.has_schema { "yes" } else { "" }.to_owned(),
            table::shorten(&format!("{deprecated}{words}"), DESCRIPTION_LENGTH),
        ]);
    }
    let shown = pages::shown(packages.len(), total, "package");
    format!("{}\n\n{shown}; checked {checked}", table::text(&rows))
}

async fn get(args: GetArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let request = GetPackageRequest {
        name: args.name.clone(),
        ..GetPackageRequest::default()
    };
    let mut client = connection.registry();
    let answer = connection
        .call(client.get_package(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &args.name))?;
    let package = answer.package.unwrap_or_default();
    let checked = answer
        .read_state
        .as_ref()
        .and_then(|state| state.checked_time);
    session.output.print(
        || {
            let checked = moment::relative(checked.as_ref());
            package_text(&package, args.versions, &checked)
        },
        || {
            json!({
                "package": json::package(&package),
                "read_state": json::read_state(answer.read_state.as_ref()),
            })
        },
    )?;
    Ok(Exit::Success)
}

fn package_text(package: &Package, most_versions: usize, checked: &str) -> String {
    let repository = package
        .repository
        .as_ref()
        .map_or_else(String::new, |repository| {
            format!("{} {}", repository.url, repository.directory)
        });
    let source = if package.unlisted {
        format!("{} (no longer listed there)", package.source)
    } else {
        package.source.clone()
    };
    let fields = table::of_fields([
        ("name", package.name.clone()),
        ("label", table::clean(&package.label)),
        ("description", table::clean(&package.description)),
        ("homepage", table::clean(&package.homepage)),
        ("repository", table::clean(&repository)),
        ("license", table::clean(&package.license)),
        ("source", source),
        ("checked", checked.to_owned()),
    ]);
    let mut rows = table::with_head(&["VERSION", "PUBLISHED", "TAGS", "SIZE", "NOTE"]);
    for version in package.versions.iter().take(most_versions) {
        let mut tags: Vec<_> = package
            .dist_tags
            .iter()
            .filter_map(|(tag, named)| (*named == version.version).then_some(tag.as_str()))
            .collect();
        tags.sort_unstable();
        let published = match &version.publish_time {
            Some(time) => moment::relative(Some(time)),
            None => String::new(),
        };
        let note = match (version.deprecated, version.deprecation_message.as_str()) {
            (false, _) => String::new(),
            (true, "") => "deprecated".to_owned(),
            (true, message) => format!("deprecated: {message}"),
        };
        rows.add_row([
            version.version.clone(),
            published,
            tags.join(", "),
            table::size(version.unpacked_size),
            table::clean(&note),
        ]);
    }
    let more = package.versions.len().saturating_sub(most_versions);
    let rest = if more > 0 {
        format!("\n\n{more} more; --versions shows them")
    } else {
        String::new()
    };
    format!("{fields}\n\n{}{rest}", table::text(&rows))
}

async fn remove(name: String, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let request = RemovePackageRequest { name: name.clone() };
    let mut client = connection.registry();
    let answer = connection
        .call(client.remove_package(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &name))?;
    let cursor = json::cursor_text(answer.cursor.as_ref());
    let revision = answer.cursor.unwrap_or_default().revision;
    session.output.print(
        || format!("{} is removed, as revision {revision}", table::clean(&name)),
        || json!({ "name": name, "revision": revision, "cursor": cursor }),
    )?;
    Ok(Exit::Success)
}

async fn resolve_one(
    specifier: String,
    connection: &Connection,
    session: &Session,
) -> Result<Exit, Failure> {
    let request = ResolvePackageRequest {
        specifier: specifier.clone(),
        min_revision: None,
    };
    let mut client = connection.registry();
    let answer = connection
        .call(client.resolve_package(request))
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &specifier))?;
    let resolution = answer.resolution.unwrap_or_default();
    session.output.print(
        || resolution_text(&resolution),
        || {
            json!({
                "resolution": json::resolution(&resolution),
                "read_state": json::read_state(answer.read_state.as_ref()),
            })
        },
    )?;
    Ok(Exit::Success)
}

fn resolution_text(resolution: &Resolution) -> String {
    let version = resolution.version.clone().unwrap_or_default();
    let mut text = format!("{}@{}", resolution.name, version.version);
    if version.deprecated {
        text.push_str(" (deprecated)");
    }
    text
}

async fn resolve_many(
    specifiers: Vec<String>,
    connection: &Connection,
    session: &Session,
) -> Result<Exit, Failure> {
    let request = BatchResolvePackagesRequest {
        specifiers: specifiers.clone(),
        min_revision: None,
    };
    let mut client = connection.registry();
    let answer = connection
        .call(client.batch_resolve_packages(request))
        .await?;
    let outcomes: Vec<_> = specifiers
        .iter()
        .zip(answer.results.iter().map(|result| result.result.as_ref()))
        .collect();
    session.output.print(
        || outcomes_text(&outcomes),
        || {
            let results: Vec<_> = outcomes
                .iter()
                .map(|(specifier, outcome)| outcome_json(specifier, *outcome))
                .collect();
            json!({
                "results": results,
                "read_state": json::read_state(answer.read_state.as_ref()),
            })
        },
    )?;
    let failed = |(_, outcome): &&(&String, Option<&Outcome>)| {
        !matches!(outcome, Some(Outcome::Resolution(_)))
    };
    Ok(match outcomes.iter().filter(failed).count() {
        0 => Exit::Success,
        _ => Exit::Partial,
    })
}

fn outcomes_text(outcomes: &[(&String, Option<&Outcome>)]) -> String {
    let mut rows = table::with_head(&["SPECIFIER", "VERSION", "BY", "LATEST", "NOTE"]);
    for (specifier, outcome) in outcomes {
        let specifier = table::clean(specifier);
        match outcome {
            Some(Outcome::Resolution(resolution)) => {
                let version = resolution.version.clone().unwrap_or_default();
                let note = if version.deprecated { "deprecated" } else { "" };
                rows.add_row([
                    specifier,
                    version.version,
                    json::match_kind(resolution.r#match),
                    resolution.latest_version.clone(),
                    note.to_owned(),
                ]);
            }
            Some(Outcome::Error(error)) => {
                let note = table::clean(&error_text(error));
                rows.add_row([
                    specifier,
                    "-".to_owned(),
                    String::new(),
                    String::new(),
                    note,
                ]);
            }
            None => {
                rows.add_row([specifier, "-".to_owned()]);
            }
        }
    }
    table::text(&rows)
}

fn error_text(error: &ItemError) -> String {
    let nearest = match error.metadata.get("nearest") {
        Some(names) if !names.is_empty() => names.replace(',', ", "),
        _ => String::new(),
    };
    let nearest = if nearest.is_empty() || error.message.contains(&nearest) {
        String::new()
    } else {
        format!("; did you mean {nearest}?")
    };
    let name = if error.reason.is_empty() {
        code_name(Code::from(error.code))
    } else {
        &error.reason
    };
    format!("{name}: {}{nearest}", error.message)
}

fn outcome_json(specifier: &str, outcome: Option<&Outcome>) -> Value {
    match outcome {
        Some(Outcome::Resolution(resolution)) => {
            json!({ "specifier": specifier, "resolution": json::resolution(resolution) })
        }
        Some(Outcome::Error(error)) => {
            json!({ "specifier": specifier, "error": json::item_error(error) })
        }
        None => json!({ "specifier": specifier }),
    }
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::registry::v1::PackageVersion;

    use super::*;

    #[test]
    fn an_empty_list_says_what_to_do() {
        let text = list_text(&[], 0, "", "never");
        assert_eq!(text, "no packages yet: run `steadfast refresh`");
        assert!(list_text(&[], 0, "x", "never").contains("\"x\""));
    }

    #[test]
    fn a_cut_list_says_how_much_is_missing() {
        let package = PackageSummary {
            name: "@a/b".to_owned(),
            latest_version: "1.2.3".to_owned(),
            version_count: 4,
            deprecated: true,
            has_schema: true,
            description: "does things".to_owned(),
            ..PackageSummary::default()
        };
        let text = list_text(std::slice::from_ref(&package), 9, "", "2m ago");
        assert!(text.contains("deprecated: does things"), "{text}");
        assert!(
            text.ends_with("1 of 9 packages; --limit shows more; checked 2m ago"),
            "{text}"
        );
        let text = list_text(std::slice::from_ref(&package), 1, "", "2m ago");
        assert!(text.ends_with("\n1 package; checked 2m ago"), "{text}");
    }

    #[test]
    fn versions_show_their_tags_and_the_rest_is_counted() {
        let version = |text: &str, deprecated| PackageVersion {
            version: text.to_owned(),
            deprecated,
            ..PackageVersion::default()
        };
        let package = Package {
            name: "x".to_owned(),
            dist_tags: [("next", "2.0.0"), ("latest", "2.0.0")]
                .map(|(tag, version)| (tag.to_owned(), version.to_owned()))
                .into(),
            versions: vec![
                version("2.0.0", false),
                version("1.0.0", true),
                version("0.1.0", false),
            ],
            ..Package::default()
        };
        let text = package_text(&package, 2, "now");
        assert!(text.contains("latest, next"), "{text}");
        assert!(text.contains("deprecated"), "{text}");
        assert!(!text.contains("0.1.0") && text.ends_with("1 more; --versions shows them"));
    }

    #[test]
    fn each_specifier_has_its_row() {
        let resolution = Outcome::Resolution(Resolution {
            version: Some(PackageVersion {
                version: "7.2.0".to_owned(),
                ..PackageVersion::default()
            }),
            r#match: 3,
            ..Resolution::default()
        });
        let error = Outcome::Error(ItemError {
            code: 5,
            reason: "PACKAGE_NOT_FOUND".to_owned(),
            message: "there is no package y".to_owned(),
            metadata: [("nearest".to_owned(), "x".to_owned())].into(),
        });
        let specifiers = ["x@^7".to_owned(), "y".to_owned()];
        let outcomes = [
            (&specifiers[0], Some(&resolution)),
            (&specifiers[1], Some(&error)),
        ];
        let text = outcomes_text(&outcomes);
        assert!(text.contains("7.2.0") && text.contains("range"), "{text}");
        assert!(
            text.contains("PACKAGE_NOT_FOUND: there is no package y; did you mean x?"),
            "{text}"
        );
        assert_eq!(
            outcome_json("y", Some(&error))["error"]["metadata"]["nearest"],
            "x"
        );
    }
}
