//! Which packages there are: listings, searches, what they lose, and where schemas come from.

use std::time::Duration;

use serde_json::json;
use steadfast_api::registry::v1::{
    GetPackageResponse, ListPackagesRequest, RefreshItem, RefreshState, RemovePackageRequest,
    StartRefreshRequest,
};
use steadfast_catalog::{Error, Options, Patterns};
use steadfast_store::{Op, Read};
use steadfast_testkit::{Fault, NpmServer, PackageSpec, Times};
use steadfast_types::Cursor;
use steadfast_upstream::{NpmConfig, NpmRegistry, UrlTemplate};

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, Replica, counts, failures, npm_of, options, organization,
    registry, source, state, version,
};

const NEW: &str = "@s/language-new";
const OTHER: &str = "@s/other";

/// What became of the listings.
fn listings(items: &[RefreshItem]) -> Vec<(&str, String, &str)> {
    let of_sources = items.iter().filter(|item| !item.source.is_empty());
    let told = of_sources.map(|item| {
        let outcome = item.outcome().as_str_name();
        let outcome = outcome.replace("REFRESH_OUTCOME_", "");
        (item.source.as_str(), outcome, item.message.as_str())
    });
    told.collect()
}

fn names(replica: &Replica, include_unlisted: bool) -> Vec<String> {
    let request = ListPackagesRequest {
        include_unlisted,
        include_deprecated: true,
        ..Default::default()
    };
    let listed = replica.catalog.list_packages(&request).expect("lists");
    let names = listed.packages.into_iter().map(|package| package.name);
    names.collect()
}

fn is_unlisted(replica: &Replica, name: &str) -> bool {
    let answer = replica.catalog.lookup_package(name, "").expect("is there");
    let answer: GetPackageResponse = answer.decode().expect("decodes");
    answer.package.expect("has a package").unlisted
}

async fn changes_after(replica: &Replica, cursor: Cursor) -> Vec<(String, String, Op)> {
    let page = match replica.store.read_log(cursor, 100).await.expect("reads") {
        Read::Page(page) => page,
        other => panic!("{other:?}"),
    };
    let changes = page.entries.into_iter().flat_map(|entry| entry.changes);
    changes
        .map(|change| (change.topic, change.key, change.op))
        .collect()
}

#[tokio::test]
async fn rule_1_what_a_listing_loses_is_unlisted_kept_and_still_refreshed() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put(PackageSpec::new(OTHER).version("1.0.0"));
        let mut options = organization(&npm);
        npm_of(&mut options).patterns =
            Patterns::new(&["language-*".into()], &[]).expect("a pattern");
        let replica = database.replica(options.clone()).await;
        let filled = replica.filled().await;
        assert_eq!(state(&filled), RefreshState::Succeeded);
        assert_eq!(
            listings(&filled.items),
            [("npm", "CHANGED".into(), "2 new")]
        );
        assert_eq!(names(&replica, true), [FHIR, HTTP]);

        // One goes, one comes; what goes has another version all the same.
        npm.change(FHIR, |package| package.unlisted = true);
        npm.add_version(FHIR, version("1.1.0", "newer"));
        npm.put(PackageSpec::new(NEW).version("1.0.0"));
        let before = replica.store.head().await.expect("has a head").cursor;
        let found = replica.refresh().await;
        let told = ("npm", "CHANGED".into(), "1 new, 1 no longer listed");
        assert_eq!(listings(&found.items), [told]);
        assert_eq!(counts(&found)[0], [3, 2, 1, 0]);
        assert_eq!(names(&replica, false), [HTTP, NEW]);
        assert_eq!(names(&replica, true), [FHIR, HTTP, NEW]);
        assert!(is_unlisted(&replica, FHIR));
        let schema = replica.catalog.snapshot().schema(FHIR, "1.1.0");
        assert_eq!(schema.expect("is there").schema.title, "newer");
        let told = changes_after(&replica, before).await;
        let change = ("registry".to_owned(), FHIR.to_owned(), Op::Upsert);
        assert!(told.contains(&change), "{told:?}");

        // While the listing cannot be read, a replica that has never seen one knows the names.
        npm.fault("/-/org/*", Fault::status(503), Times::Forever);
        let checked = replica.store.sources_checked().await.expect("reads");
        replica.stop().await;
        let late = database.replica(options).await;
        let head = late.head().await;
        let found = late.refresh().await;
        assert_eq!(state(&found), RefreshState::Partial);
        assert_eq!(counts(&found)[0], [3, 0, 3, 0]);
        let failed = [(String::new(), String::new(), "UPSTREAM_UNAVAILABLE".into())];
        assert_eq!(failures(&found), failed);
        let error = found.refresh.expect("has one").error;
        assert!(error.starts_with("the names of source npm: "), "{error}");
        assert_eq!(late.head().await, head);
        let again = late.store.sources_checked().await.expect("reads");
        assert_eq!(again, checked, "not all of it was asked");

        npm.clear_faults();
        npm.change(FHIR, |package| package.unlisted = false);
        let found = late.refresh().await;
        assert_eq!(listings(&found.items)[0].2, "1 listed again");
        assert!(!is_unlisted(&late, FHIR));
    }
}

#[tokio::test]
async fn rule_1_a_search_adds_and_never_takes_away() {
    for database in Database::both().await {
        let npm = registry().await;
        let mut options = options(&npm, &[DOTTED]);
        npm_of(&mut options).search = Some("scope:s".into());
        let replica = database.replica(options).await;
        replica.filled().await;
        assert_eq!(names(&replica, false), [FHIR, HTTP, DOTTED]);
        // Registries leave deprecated packages out of searches.
        npm.change(FHIR, |package| {
            for version in &mut package.versions {
                version.deprecated = Some("gone".into());
            }
        });
        let found = replica.refresh().await;
        assert_eq!(listings(&found.items), [("npm", "UNCHANGED".into(), "")]);
        assert_eq!(counts(&found)[0], [3, 1, 2, 0]);
        assert!(!is_unlisted(&replica, FHIR));
        assert_eq!(names(&replica, false), [FHIR, HTTP, DOTTED]);
    }
}

#[tokio::test]
async fn rule_8_an_empty_or_shrunken_listing_changes_nothing_unless_forced() {
    for database in Database::both().await {
        let npm = registry().await;
        for name in ["a", "b", "c"] {
            npm.put(PackageSpec::new(format!("@s/{name}")).version("1.0.0"));
        }
        let replica = database.replica(organization(&npm)).await;
        replica.filled().await;
        let head = replica.head().await;
        let told = replica.store.source_names().await.expect("reads");
        npm.add_version(HTTP, version("7.3.0", "three"));
        let short = json!({ HTTP: "read", FHIR: "read" }).to_string();
        for (body, has) in [("{}", 0), (short.as_str(), 2)] {
            npm.clear_faults();
            npm.fault("/-/org/*", Fault::Body(body.to_owned()), Times::Forever);
            npm.reset_requests();
            let found = replica.refresh().await;
            assert_eq!(state(&found), RefreshState::Failed, "{body}");
            let failed = [(String::new(), String::new(), "LISTING_SHRUNKEN".into())];
            assert_eq!(failures(&found), failed);
            let error = found.refresh.expect("has one").error;
            let expected = format!("the listing of source npm has {has} packages, and had 5");
            assert!(error.contains(&expected), "{error}");
            assert_eq!(npm.requests().total(), 1, "no package was read");
            assert_eq!(replica.head().await, head);
            let again = replica.store.source_names().await.expect("reads");
            assert_eq!(again, told);
        }
        let request = StartRefreshRequest {
            force: true,
            ..Default::default()
        };
        let found = replica.ended(&replica.start(request).await).await;
        assert_eq!(state(&found), RefreshState::Succeeded);
        assert_eq!(listings(&found.items)[0].2, "3 no longer listed");
        assert_eq!(names(&replica, false), [FHIR, HTTP]);
        assert_eq!(names(&replica, true).len(), 5);
    }
}

#[tokio::test]
async fn rule_1_an_unlisted_package_goes_by_an_admin_or_after_its_time() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put(PackageSpec::new(NEW).version("1.0.0"));
        npm.put(PackageSpec::new(OTHER).version("1.0.0"));
        let mut patient = organization(&npm);
        patient.remove_absent_after = Some(Duration::from_secs(3_600));
        let replica = database.replica(patient.clone()).await;
        replica.filled().await;
        let remove = async |replica: &Replica, name: &str| {
            let request = RemovePackageRequest { name: name.into() };
            replica.catalog.remove_package(&request).await
        };
        match remove(&replica, FHIR).await {
            Err(Error::PackageListed { source_name, .. }) => assert_eq!(source_name, "npm"),
            other => panic!("{other:?}"),
        }
        // Both are gone from their registry; one of them is wanted no more at once.
        npm.remove(FHIR);
        npm.remove(NEW);
        let found = replica.refresh().await;
        assert_eq!(counts(&found)[0], [4, 0, 2, 2]);
        assert!(is_unlisted(&replica, FHIR) && is_unlisted(&replica, NEW));
        let before = replica.store.head().await.expect("has a head").cursor;
        let removed = remove(&replica, NEW).await.expect("is removed");
        assert_eq!(
            removed.cursor.expect("a cursor").revision,
            before.revision.0 + 1
        );
        replica.level().await;
        let gone = vec![("registry".to_owned(), NEW.to_owned(), Op::Delete)];
        assert_eq!(changes_after(&replica, before).await, gone);
        let missing = replica.catalog.lookup_package(NEW, "");
        assert!(matches!(missing, Err(Error::PackageNotFound { .. })));
        let again = remove(&replica, NEW).await;
        assert!(
            matches!(again, Err(Error::PackageNotFound { .. })),
            "{again:?}"
        );
        // Patience lasts.
        let found = replica.refresh().await;
        assert_eq!(counts(&found)[0], [3, 0, 2, 1]);
        assert!(is_unlisted(&replica, FHIR));
        replica.stop().await;

        let mut impatient = patient;
        impatient.remove_absent_after = Some(Duration::from_micros(1));
        let replica = database.replica(impatient).await;
        let before = replica.store.head().await.expect("has a head").cursor;
        let found = replica.refresh().await;
        assert_eq!(counts(&found)[0], [3, 1, 2, 0]);
        let told = changes_after(&replica, before).await;
        let expected = [
            ("registry".to_owned(), FHIR.to_owned(), Op::Delete),
            ("schema".to_owned(), format!("{FHIR}@1.0.0"), Op::Delete),
        ];
        assert_eq!(told, expected);
        assert_eq!(names(&replica, true), [HTTP, OTHER]);
        let told = replica.store.source_names().await.expect("reads");
        assert_eq!(told.len(), 2);
        assert_eq!(counts(&replica.refresh().await)[0], [2, 0, 2, 0]);
    }
}

#[tokio::test]
async fn rule_1_a_package_that_comes_back_is_no_longer_absent() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(organization(&npm)).await;
        replica.filled().await;
        npm.change(FHIR, |package| package.unlisted = true);
        npm.fault(&format!("/{FHIR}"), Fault::status(404), Times::Forever);
        let absent = async || {
            let told = replica.store.sources_of(FHIR).await.expect("reads");
            told[0].absent_us
        };
        replica.refresh().await;
        let since = absent().await;
        assert!(since.is_some());
        replica.refresh().await;
        assert_eq!(absent().await, since, "the first time counts");
        npm.clear_faults();
        replica.refresh().await;
        assert_eq!(absent().await, None);
        assert!(is_unlisted(&replica, FHIR));
    }
}

#[tokio::test]
async fn rule_1_of_a_name_in_two_sources_the_first_one_is_asked() {
    let database = Database::sqlite().await;
    let (first, second) = (registry().await, registry().await);
    second.put(PackageSpec::new(NEW).version("1.0.0"));
    let mut options = organization(&first);
    let mut other = crate::fixture::organization(&second).sources.remove(0);
    other.name = "second".into();
    options.sources.push(other);
    let replica = database.replica(options).await;
    let filled = replica.filled().await;
    assert_eq!(counts(&filled)[0], [3, 3, 0, 0]);
    let told: Vec<_> = listings(&filled.items)
        .into_iter()
        .map(|(source, _, message)| (source, message))
        .collect();
    assert_eq!(told, [("npm", "2 new"), ("second", "3 new")]);
    assert_eq!(first.requests().count("/@s/language-http"), 1);
    assert_eq!(second.requests().count("/@s/language-http"), 0);
    assert_eq!(second.requests().count("/@s/language-new"), 1);
    let snapshot = replica.catalog.snapshot();
    let of = |name: &str| {
        snapshot
            .content
            .get(name)
            .expect("is there")
            .document
            .source
            .clone()
    };
    assert_eq!((of(HTTP), of(NEW)), ("npm".to_owned(), "second".to_owned()));
}

/// A source on a registry that wants a token, which is sent nowhere else.
fn with_token(npm: &NpmServer, name: &str, token: &str) -> steadfast_catalog::Source {
    npm.require_token(token);
    let mut source = source(npm, &[]);
    source.name = name.into();
    let steadfast_catalog::SourceKind::Npm(of_npm) = &mut source.kind else {
        unreachable!("it is a registry");
    };
    let url = npm.url().parse().expect("a URL");
    let config = NpmConfig::for_registry(npm.url()).expect("an address");
    let client = steadfast_upstream::HttpClient::new(Default::default()).expect("a client");
    of_npm.registry = NpmRegistry::new(client, config.with_token(&url, token));
    of_npm.organization = Some("s".into());
    source
}

#[tokio::test]
async fn rule_1_registries_with_tokens_stand_side_by_side() {
    let database = Database::sqlite().await;
    let (first, second) = (registry().await, registry().await);
    first.remove(FHIR);
    second.remove(HTTP);
    let mut options = options(&first, &[]);
    options.sources = vec![
        with_token(&first, "a", "t0ken-a"),
        with_token(&second, "b", "t0ken-b"),
    ];
    let replica = database.replica(options).await;
    let filled = replica.filled().await;
    assert_eq!(state(&filled), RefreshState::Succeeded, "{filled:?}");
    assert_eq!(names(&replica, false), [FHIR, HTTP]);
    for (npm, token) in [(&first, "Bearer t0ken-a"), (&second, "Bearer t0ken-b")] {
        let requests = npm.requests();
        assert!(requests.count("/*/-/*.tgz") > 0 && requests.count("/-/org/*") == 1);
        for request in &requests.0 {
            assert_eq!(
                request.header("authorization"),
                Some(token),
                "{}",
                request.path
            );
        }
    }
}

#[tokio::test]
async fn rule_2_schemas_come_from_an_address_and_an_absence_is_asked_about_again() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let schema = |title: &str| Fault::Body(json!({ "type": "object", "title": title }).to_string());
    npm.fault(
        &format!("/cdn/{HTTP}@7.2.0"),
        schema("from afar"),
        Times::Forever,
    );
    let mut options = options(&npm, &[HTTP]);
    let template = format!("{}/cdn/{{name}}@{{version}}", npm.url());
    npm_of(&mut options).schema_url = Some(UrlTemplate::parse(&template).expect("a template"));
    let replica = database.replica(options).await;
    let filled = replica.filled().await;
    assert_eq!(counts(&filled), [[1, 1, 0, 0], [2, 2, 0, 0]]);
    let requests = npm.requests();
    assert_eq!((requests.count("/*/-/*"), requests.count("/cdn/*")), (0, 2));
    let schema_of = |version: &str| replica.catalog.snapshot().schema(HTTP, version);
    assert_eq!(
        schema_of("7.2.0").expect("is there").schema.title,
        "from afar"
    );
    assert!(matches!(
        schema_of("7.1.0"),
        Err(Error::SchemaNotFound { .. })
    ));

    // What is there is final, and what is not is not asked about before its time.
    let head = replica.head().await;
    npm.reset_requests();
    assert_eq!(counts(&replica.refresh().await)[1], [2, 0, 2, 0]);
    assert_eq!(npm.requests().count("/cdn/*"), 0);
    let due = async || {
        let postgres = database.postgres.as_ref().expect("is PostgreSQL");
        postgres
            .psql("UPDATE package_schema SET retry_us = 1 WHERE retry_us IS NOT NULL")
            .await;
    };
    due().await;
    assert_eq!(counts(&replica.refresh().await)[1], [2, 0, 2, 0]);
    let asked = npm.requests();
    assert_eq!(asked.count("/cdn/*"), 1);
    assert_eq!(asked.count(&format!("/cdn/{HTTP}@7.1.0")), 1);
    assert_eq!(replica.head().await, head, "another miss is no change");
    let (_, rows) = replica.store.stored_package(HTTP).await.expect("reads");
    let misses: Vec<_> = rows
        .iter()
        .map(|row| (row.version.as_str(), row.misses))
        .collect();
    assert_eq!(misses, [("7.1.0", 2), ("7.2.0", 0)]);

    // A failure is no absence; an arrival is a change.
    due().await;
    npm.fault(
        &format!("/cdn/{HTTP}@7.1.0"),
        Fault::status(500),
        Times::N(2),
    );
    npm.fault(
        &format!("/cdn/{HTTP}@7.1.0"),
        schema("at last"),
        Times::Forever,
    );
    let found = replica.refresh().await;
    assert_eq!(failures(&found)[0].2, "UPSTREAM_UNAVAILABLE");
    assert_eq!(replica.head().await, head);
    assert_eq!(counts(&replica.refresh().await)[1], [2, 1, 1, 0]);
    assert_eq!(replica.head().await, head + 1);
    assert_eq!(
        schema_of("7.1.0").expect("is there").schema.title,
        "at last"
    );
}

#[tokio::test]
async fn rule_1_a_name_that_was_never_there_and_is_no_longer_listed_is_forgotten() {
    for database in Database::both().await {
        let npm = registry().await;
        let options = Options {
            refresh_on_empty: false,
            ..organization(&npm)
        };
        npm.put(PackageSpec::new("@s/private").version("1.0.0"));
        npm.fault("/@s/private", Fault::status(404), Times::Forever);
        let replica = database.replica(options).await;
        assert_eq!(failures(&replica.refresh().await).len(), 1);
        npm.remove("@s/private");
        let found = replica.refresh().await;
        assert_eq!(
            state(&found),
            RefreshState::Succeeded,
            "{:?}",
            failures(&found)
        );
        let told = replica.store.source_names().await.expect("reads");
        assert!(
            told.iter().all(|row| row.package != "@s/private"),
            "{told:?}"
        );
    }
}
