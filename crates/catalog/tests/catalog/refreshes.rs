//! What a refresh writes, and what it leaves alone.

use steadfast_api::registry::v1::{
    GetPackageResponse, RefreshKind, RefreshOutcome, RefreshState, RefreshTrigger,
    StartRefreshRequest,
};
use steadfast_catalog::Error;
use steadfast_store::{Op, Read};
use steadfast_testkit::npm::Integrity;
use steadfast_types::{Cursor, Mark, Revision};

use crate::fixture::{
    ABSENT, DOTTED, Database, FHIR, HTTP, counts, eventually, failures, options, registry, state,
    version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

#[tokio::test]
async fn rule_6_an_empty_catalogue_fills_itself_once_and_a_second_refresh_moves_nothing() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        let filled = replica.filled().await;
        let refresh = filled.refresh.clone().expect("has a refresh");
        assert_eq!(refresh.state(), RefreshState::Succeeded);
        assert_eq!(refresh.trigger(), RefreshTrigger::EmptyCatalogue);
        assert_eq!(refresh.attempts, 1);
        // HTTP: the two newest; FHIR: the newest stable and `latest` are one; the pre-release has no tag.
        assert_eq!(counts(&filled), [[3, 3, 0, 0], [4, 4, 0, 0]]);
        assert_eq!(filled.items.len(), 7);
        assert!(filled.items.iter().all(|item| item.revision > 0));

        let head = replica.head().await;
        assert_eq!(head, 3, "one revision per package");
        npm.reset_requests();
        let again = replica.refresh().await;
        assert_eq!(state(&again), RefreshState::Succeeded);
        assert_eq!(counts(&again), [[3, 0, 3, 0], [4, 0, 4, 0]]);
        assert_eq!(replica.head().await, head);
        let requests = npm.requests();
        assert_eq!(requests.total(), 3, "{:?}", requests.per_path());
        let conditional = requests
            .0
            .iter()
            .filter(|request| request.header("if-none-match").is_some());
        assert_eq!(conditional.count(), 3);
        replica.stop().await;
    }
}

#[tokio::test]
async fn rule_7_what_changed_is_announced_and_nothing_else() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let before = replica.store.head().await.expect("has a head").cursor;
        npm.add_version(HTTP, version("7.3.0", "three"));
        let found = replica.refresh().await;
        assert_eq!(counts(&found), [[3, 1, 2, 0], [4, 1, 3, 0]]);
        let changes = match replica.store.read_log(before, 100).await.expect("reads") {
            Read::Page(page) => page.entries,
            other => panic!("{other:?}"),
        };
        assert_eq!(changes.len(), 1);
        let told: Vec<_> = changes[0]
            .changes
            .iter()
            .map(|change| (change.topic.as_str(), change.key.as_str(), change.op))
            .collect();
        let schema = format!("{HTTP}@7.3.0");
        assert_eq!(
            told,
            [
                ("registry", HTTP, Op::Upsert),
                ("schema", schema.as_str(), Op::Upsert)
            ]
        );
        let answer = replica.catalog.lookup_package(HTTP, "").expect("is there");
        let answer: GetPackageResponse = answer.decode().expect("decodes");
        let package = answer.package.expect("has a package");
        assert_eq!(package.etag, changes[0].changes[0].etag);
        assert_eq!(package.versions[0].version, "7.3.0");
        let read = answer.read_state.expect("has a read state");
        assert_eq!(read.revision, changes[0].revision.0);
        assert!(read.checked_time.is_some());
    }
}

#[tokio::test]
async fn rule_7_the_checked_time_moves_without_a_revision() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let checked = || {
            let answer = replica.catalog.lookup_package(HTTP, "").expect("is there");
            let answer: GetPackageResponse = answer.decode().expect("decodes");
            let read = answer.read_state.expect("has a read state");
            let time = read.checked_time.map(|time| (time.seconds, time.nanos));
            (read.revision, time)
        };
        let first = eventually("the first check shows", async || {
            checked().1.map(|time| (checked().0, time))
        })
        .await;
        replica.refresh().await;
        let second = eventually("the second check shows", async || {
            checked()
                .1
                .filter(|time| *time > first.1)
                .map(|_| checked().0)
        })
        .await;
        assert_eq!(first.0, second);
        // A refresh that could not ask about everything is no check.
        npm.set_down(true);
        let before = checked();
        assert_eq!(state(&replica.refresh().await), RefreshState::Failed);
        assert_eq!(
            replica.store.sources_checked().await.expect("reads").len(),
            1
        );
        assert_eq!(checked(), before);
    }
}

#[tokio::test]
async fn rule_7_names_that_the_registry_does_not_have_are_reported_and_the_others_land() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, &[HTTP, ABSENT])).await;
        let filled = replica.filled().await;
        assert_eq!(state(&filled), RefreshState::Partial);
        let expected = (
            ABSENT.to_owned(),
            String::new(),
            "UPSTREAM_NOT_FOUND".to_owned(),
        );
        assert_eq!(failures(&filled), [expected]);
        assert!(replica.catalog.lookup_package(HTTP, "").is_ok());
        match replica.catalog.lookup_package("@s/language-htpp", "") {
            Err(Error::PackageNotFound { nearest, .. }) => assert_eq!(nearest, [HTTP]),
            other => panic!("{other:?}"),
        }
        // Being told that it is absent is an answer.
        let checked = replica.store.sources_checked().await.expect("reads");
        assert!(checked.contains_key("npm"));
    }
}

#[tokio::test]
async fn rule_2_a_schema_that_failed_is_read_again_and_one_that_is_absent_is_not() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.change(HTTP, |package| {
            for version in &mut package.versions {
                if version.version == "7.2.0" {
                    version.integrity = Integrity::Stated(format!("sha512-{}==", "A".repeat(86)));
                }
            }
        });
        let replica = database.replica(options(&npm, ALL)).await;
        let filled = replica.filled().await;
        assert_eq!(state(&filled), RefreshState::Partial);
        let expected = (
            HTTP.to_owned(),
            "7.2.0".to_owned(),
            "INTEGRITY_MISMATCH".to_owned(),
        );
        assert_eq!(failures(&filled), [expected]);
        assert!(matches!(
            replica.catalog.snapshot().schema(HTTP, "7.2.0"),
            Err(Error::SchemaNotFetched { .. })
        ));
        assert!(replica.catalog.snapshot().schema(HTTP, "7.1.0").is_ok());
        assert!(matches!(
            replica.catalog.snapshot().schema(DOTTED, ""),
            Err(Error::SchemaNotFound { .. })
        ));

        npm.reset_requests();
        replica.refresh().await;
        assert_eq!(
            npm.requests().count("/*/-/*"),
            1,
            "only the one that failed"
        );

        npm.change(HTTP, |package| {
            for version in &mut package.versions {
                version.integrity = Integrity::Sha512;
            }
        });
        let mended = replica.refresh().await;
        assert_eq!(state(&mended), RefreshState::Succeeded);
        let snapshot = replica.catalog.snapshot();
        let schema = snapshot.schema(HTTP, "").expect("is there");
        assert_eq!(
            (schema.version.as_str(), schema.schema.title.as_str()),
            ("7.2.0", "two")
        );
        let label = &snapshot.content.get(HTTP).expect("is there").document.label;
        assert_eq!(label, "HTTP");
    }
}

#[tokio::test]
async fn an_unpublished_version_takes_its_schema_along() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        npm.change(HTTP, |package| {
            package
                .versions
                .retain(|version| version.version != "7.1.0");
        });
        let found = replica.refresh().await;
        // The next older version moves up among those whose schemas are kept.
        assert_eq!(counts(&found), [[3, 1, 2, 0], [4, 1, 3, 0]]);
        let snapshot = replica.catalog.snapshot();
        assert!(matches!(
            snapshot.schema(HTTP, "7.1.0"),
            Err(Error::VersionNotFound { .. })
        ));
        assert_eq!(
            snapshot
                .schema(HTTP, "6.0.0")
                .expect("is there")
                .schema
                .title,
            "old"
        );
        let entry = snapshot.content.get(HTTP).expect("is there");
        assert!(!entry.schemas.contains_key("7.1.0"));
    }
}

#[tokio::test]
async fn one_package_and_one_kind_can_be_refreshed_alone() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        npm.reset_requests();
        let id = replica
            .start(StartRefreshRequest {
                package: HTTP.into(),
                kinds: vec![RefreshKind::Packages.into()],
                ..Default::default()
            })
            .await;
        let found = replica.ended(&id).await;
        assert_eq!(counts(&found), [[1, 0, 1, 0]]);
        assert_eq!(npm.requests().total(), 1);
        let id = replica
            .start(StartRefreshRequest {
                kinds: vec![RefreshKind::Schemas.into()],
                ..Default::default()
            })
            .await;
        let found = replica.ended(&id).await;
        assert_eq!(counts(&found), [[4, 0, 4, 0]]);
        assert_eq!(state(&found), RefreshState::Succeeded);
        assert_eq!(npm.requests().total(), 1, "nothing had to be read");
    }
}

#[tokio::test]
async fn rule_6_a_request_joins_what_has_yet_to_read_it_and_queues_otherwise() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let gate = npm.hold("/@s/*");
        let start = async |request_id: &str, package: &str| {
            let request = StartRefreshRequest {
                request_id: request_id.into(),
                package: package.into(),
                ..Default::default()
            };
            let refreshes = replica.catalog.refreshes();
            let answer = refreshes
                .start(&request, "me", RefreshTrigger::Request)
                .await;
            answer.map(|answer| (answer.refresh.expect("has one").id, answer.joined))
        };
        let (running, joined) = start("", "").await.expect("starts");
        assert!(!joined);
        gate.arrived(1).await;
        let (follow_up, joined) = start("r1", "").await.expect("queues");
        assert!(!joined);
        assert_ne!(follow_up, running);
        assert_eq!(
            start("", "").await.expect("joins"),
            (follow_up.clone(), true)
        );
        assert_eq!(
            start("", HTTP).await.expect("joins"),
            (follow_up.clone(), true)
        );
        // Repeated with the same id, it is the same answer; with other arguments it is refused.
        assert_eq!(
            start("r1", "").await.expect("repeats"),
            (follow_up.clone(), false)
        );
        assert!(matches!(
            start("r1", HTTP).await,
            Err(Error::RequestIdReused)
        ));
        gate.release();
        assert_eq!(
            state(&replica.ended(&running).await),
            RefreshState::Succeeded
        );
        assert_eq!(
            state(&replica.ended(&follow_up).await),
            RefreshState::Succeeded
        );
        assert!(matches!(
            start("", ABSENT).await,
            Err(Error::PackageNotConfigured { .. })
        ));
        assert!(matches!(
            start("", "a b").await,
            Err(Error::InvalidSpecifier {
                field: "package",
                ..
            })
        ));
        assert!(matches!(
            start(&"x".repeat(129), "").await,
            Err(Error::InvalidArgument {
                field: "request_id",
                ..
            })
        ));
    }
}

#[tokio::test]
async fn rule_9_history_is_listed_in_pages_and_pruned() {
    for database in Database::both().await {
        let npm = registry().await;
        let mut options = options(&npm, &[DOTTED]);
        options.refresh_history = 3;
        let replica = database.replica(options).await;
        let first = replica.filled().await.refresh.expect("has one").id;
        let mut newest = Vec::new();
        for _ in 0..4 {
            newest.insert(0, replica.refresh().await.refresh.expect("has one").id);
        }
        newest.truncate(3);
        let mut seen = Vec::new();
        let mut request = steadfast_api::registry::v1::ListRefreshesRequest {
            page_size: 2,
            ..Default::default()
        };
        loop {
            let page = replica
                .catalog
                .refreshes()
                .list(&request)
                .await
                .expect("lists");
            seen.extend(page.refreshes.into_iter().map(|refresh| refresh.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen, newest);
        for id in [first.as_str(), "nonsense"] {
            let request = steadfast_api::registry::v1::GetRefreshRequest {
                id: id.into(),
                skip_items: 0,
            };
            let gone = replica.catalog.refreshes().get(&request).await;
            assert!(
                matches!(gone, Err(Error::RefreshNotFound { .. })),
                "{gone:?}"
            );
        }
    }
}

#[tokio::test]
async fn rule_9_items_are_followed_by_how_many_were_seen() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        let filled = replica.filled().await;
        let request = steadfast_api::registry::v1::GetRefreshRequest {
            id: filled.refresh.expect("has one").id,
            skip_items: 5,
        };
        let rest = replica
            .catalog
            .refreshes()
            .get(&request)
            .await
            .expect("is there");
        assert_eq!(rest.items, filled.items[5..]);
        let packages = filled
            .items
            .iter()
            .filter(|item| item.kind() == RefreshKind::Packages);
        assert!(
            packages
                .clone()
                .all(|item| item.outcome() == RefreshOutcome::Changed)
        );
        assert_eq!(packages.count(), 3);
    }
}

#[tokio::test]
async fn without_a_source_there_is_nothing_to_refresh() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    let mut options = options(&npm, &[]);
    options.sources.clear();
    let replica = database.replica(options).await;
    let refreshes = replica.catalog.refreshes();
    let refused = refreshes
        .start(&Default::default(), "me", RefreshTrigger::Request)
        .await;
    assert!(matches!(refused, Err(Error::NoSource)));
    assert!(!replica.catalog.has_source());
    assert_eq!(npm.requests().total(), 0);
    let cursor = Cursor {
        revision: Revision(0),
        mark: Mark(1),
        ..replica.store.head().await.expect("has a head").cursor
    };
    let message = steadfast_api::common::v1::Cursor {
        store_id: cursor.store_id.to_string(),
        revision: 0,
        mark: 1,
    };
    assert!(matches!(
        replica.catalog.reach(Some(&message)).await,
        Err(Error::StoreChanged)
    ));
}
