//! Answers over a real fill: documents checked, specifiers resolved, generated packages listed.

use std::time::Duration;

use serde_json::json;
use steadfast_api::{
    registry::v1::{ListPackagesRequest, MatchKind, ResolvePackageResponse},
    schema::v1::{AuthKind, ValidateDocumentRequest},
};
use steadfast_catalog::{Error, Options};
use steadfast_testkit::{NpmServer, PackageSpec, VersionSpec, npm::GeneratedPackages};

use crate::fixture::{DOTTED, Database, FHIR, HTTP, counts, options, registry};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

#[tokio::test]
async fn documents_are_checked_without_being_repeated() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    let check = async |package: &str, document: String| {
        let request = ValidateDocumentRequest {
            package: package.into(),
            document_json: document,
            ..Default::default()
        };
        replica.catalog.validate(request).await
    };
    let good = check(HTTP, json!({"password": "x"}).to_string())
        .await
        .expect("checks");
    assert!(good.valid && good.violations.is_empty());
    assert_eq!(
        (good.package.as_str(), good.version.as_str()),
        (HTTP, "7.2.0")
    );
    assert!(good.read_state.is_some());
    let bad = check(HTTP, json!({"password": ["hunter2"]}).to_string())
        .await
        .expect("checks");
    assert!(!bad.valid);
    assert!(bad.violations[0].secret);
    assert!(!format!("{bad:?}").contains("hunter2"));
    assert!(matches!(
        check(HTTP, "{".into()).await,
        Err(Error::InvalidDocument(_))
    ));
    assert!(matches!(
        check(DOTTED, "{}".into()).await,
        Err(Error::SchemaNotFound { .. })
    ));
}

#[tokio::test]
async fn a_schema_that_is_not_valid_is_served_and_refuses_to_check() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    npm.put(PackageSpec::new("broken").version(VersionSpec::new("1.0.0").schema_text("{nope")));
    npm.put(PackageSpec::new("oauth").version(
        VersionSpec::new("1.0.0").schema(&json!({"$comment": "OAuth2", "$schema": "urn:mine"})),
    ));
    let replica = database.replica(options(&npm, &["broken", "oauth"])).await;
    replica.filled().await;
    let snapshot = replica.catalog.snapshot();
    assert_eq!(
        snapshot.schema("broken", "").expect("is there").schema.text,
        "{nope"
    );
    let request = ValidateDocumentRequest {
        package: "broken".into(),
        document_json: "{}".into(),
        ..Default::default()
    };
    assert!(matches!(
        replica.catalog.validate(request).await,
        Err(Error::SchemaUnusable { .. })
    ));
    let oauth = snapshot.schema("oauth", "").expect("is there").schema;
    assert_eq!(oauth.auth_kind, AuthKind::Oauth2);
    assert!(oauth.warnings[0].contains("urn:mine"));
}

#[tokio::test]
async fn specifiers_resolve_alone_and_in_a_batch() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    let specifiers: Vec<String> = [
        format!("{HTTP}@^7"),
        HTTP.to_owned(),
        format!("{FHIR}@^2.0.0-a"),
        format!("{DOTTED}@4.4.2"),
        "nobody".to_owned(),
        "a@@".to_owned(),
    ]
    .into();
    let batch = replica
        .catalog
        .batch_resolve(&specifiers)
        .expect("resolves");
    let versions: Vec<_> = batch
        .results
        .iter()
        .map(|result| {
            let resolution = result.as_ref().ok()?;
            Some(resolution.version.as_ref()?.version.as_str())
        })
        .collect();
    let expected = [
        Some("7.2.0"),
        Some("7.2.0"),
        Some("2.0.0-rc.1"),
        Some("4.4.2"),
        None,
        None,
    ];
    assert_eq!(versions, expected);
    assert!(matches!(
        batch.results[4],
        Err(Error::PackageNotFound { .. })
    ));
    assert!(matches!(
        batch.results[5],
        Err(Error::InvalidSpecifier { .. })
    ));
    let one = replica
        .catalog
        .lookup_resolution(&specifiers[0])
        .expect("resolves");
    let one: ResolvePackageResponse = one.decode().expect("decodes");
    assert_eq!(one.resolution.expect("has one").r#match(), MatchKind::Range);
    for count in [0, 1_001] {
        let many = vec![HTTP.to_owned(); count];
        let refused = replica.catalog.batch_resolve(&many);
        assert!(
            matches!(refused, Err(Error::InvalidArgument { .. })),
            "{count}"
        );
    }
}

/// Has a registry serve so many packages, and gives their names.
fn generated(npm: &NpmServer, count: usize, versions: usize) -> Vec<String> {
    let packages = GeneratedPackages {
        prefix: "@bench/package-".into(),
        count,
        versions,
    };
    let names = (0..count).map(|index| packages.name(index)).collect();
    npm.generate(packages);
    names
}

#[tokio::test]
async fn many_packages_are_read_once_each() {
    for database in Database::both().await {
        let npm = registry().await;
        let names = generated(&npm, 150, 2);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let replica = database.replica(options(&npm, &names)).await;
        let filled = replica.filled().await;
        assert_eq!(counts(&filled)[0], [150, 150, 0, 0]);
        assert!(npm.in_flight_peak() <= 4, "{}", npm.in_flight_peak());
        assert!(npm.requests().per_path().values().all(|count| *count == 1));
        let list = replica.catalog.list_packages(&ListPackagesRequest {
            page_size: 1_000,
            ..Default::default()
        });
        let list = list.expect("lists");
        assert_eq!(list.total_size, 150);
        assert!(
            list.packages
                .is_sorted_by_key(|package| package.name.clone())
        );
    }
}

/// Each package that is read holds a connection for a moment, and so does whoever announces that more are begun.
#[tokio::test]
async fn more_packages_are_read_at_a_time_than_there_are_connections() {
    let mut database = Database::postgres().await;
    database.options.max_connections = 2;
    // The one connection that is left for reads is waited for by many, on a busy machine for long.
    database.options.connect_timeout = Duration::from_secs(10);
    let npm = registry().await;
    let names = generated(&npm, 600, 1);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = Options {
        refresh_concurrency: 32,
        ..options(&npm, &names)
    };
    let replica = database.replica(options).await;
    let filled = replica.filled().await;
    assert_eq!(counts(&filled)[0], [600, 600, 0, 0]);
    let attempts = filled.refresh.expect("has a refresh").attempts;
    assert_eq!(attempts, 1, "nothing interrupted it");
}
