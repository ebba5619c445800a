//! Registries that are down, slow, lying or overloaded, and databases that go away.

use steadfast_api::registry::v1::RefreshState;
use steadfast_testkit::{Fault, Proxy, Times};

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, counts, eventually, failures, options, registry, state, version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

#[tokio::test]
async fn rule_7_each_failure_is_named_and_yesterdays_data_stays() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let head = replica.head().await;
        let packument = format!("/{HTTP}");
        for (fault, reason) in [
            (Fault::status(500), "UPSTREAM_UNAVAILABLE"),
            (Fault::too_many_requests(3_600), "RATE_LIMITED"),
            (Fault::status(404), "UPSTREAM_NOT_FOUND"),
            (Fault::status(403), "UPSTREAM_FORBIDDEN"),
            (Fault::Body("not json".into()), "MALFORMED_ANSWER"),
            (Fault::Disconnect, "UPSTREAM_UNAVAILABLE"),
            (Fault::Truncated, "TRUNCATED_ANSWER"),
            (Fault::Dripping, "UPSTREAM_TIMEOUT"),
        ] {
            npm.add_version(HTTP, version("7.9.0", "never"));
            npm.fault(&packument, fault.clone(), Times::Forever);
            let found = replica.refresh().await;
            assert_eq!(state(&found), RefreshState::Partial, "{fault:?}");
            let expected = (HTTP.to_owned(), String::new(), reason.to_owned());
            assert_eq!(failures(&found), [expected], "{fault:?}");
            assert_eq!(replica.head().await, head, "{fault:?}");
            let snapshot = replica.catalog.snapshot();
            let latest = snapshot.resolution(HTTP).expect("resolves");
            assert_eq!(latest.version.expect("has one").version, "7.2.0");
            npm.clear_faults();
            npm.change(HTTP, |package| package.versions.truncate(3));
        }
        assert_eq!(state(&replica.refresh().await), RefreshState::Succeeded);
    }
}

#[tokio::test]
async fn rule_2_a_tarball_that_lies_is_no_absence() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        for (fault, reason) in [
            (Fault::WrongIntegrity, "INTEGRITY_MISMATCH"),
            (Fault::status(404), "UPSTREAM_NOT_FOUND"),
            (Fault::Truncated, "TRUNCATED_ANSWER"),
        ] {
            npm.add_version(HTTP, version("7.3.0", "three"));
            npm.fault(&format!("/{HTTP}/-/*"), fault.clone(), Times::Forever);
            let found = replica.refresh().await;
            assert_eq!(state(&found), RefreshState::Partial, "{fault:?}");
            let expected = (HTTP.to_owned(), "7.3.0".to_owned(), reason.to_owned());
            assert_eq!(failures(&found), [expected], "{fault:?}");
            let snapshot = replica.catalog.snapshot();
            assert!(
                snapshot.resolution(&format!("{HTTP}@7.3.0")).is_ok(),
                "the package landed"
            );
            assert_eq!(
                snapshot.schema(HTTP, "7.2.0").expect("stays").schema.title,
                "two"
            );
            npm.clear_faults();
            npm.change(HTTP, |package| package.versions.truncate(3));
            replica.refresh().await;
        }
    }
}

#[tokio::test]
async fn a_registry_that_is_down_fails_the_refresh_and_nothing_else() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let head = replica.head().await;
        npm.set_down(true);
        let found = replica.refresh().await;
        assert_eq!(state(&found), RefreshState::Failed);
        assert_eq!(counts(&found)[0], [3, 0, 0, 3]);
        assert_eq!(
            found.refresh.expect("has one").error,
            "nothing could be read"
        );
        assert_eq!(replica.head().await, head);
        assert!(replica.catalog.lookup_package(HTTP, "").is_ok());
        npm.set_down(false);
        assert_eq!(state(&replica.refresh().await), RefreshState::Succeeded);
    }
}

#[tokio::test]
async fn a_first_fill_that_failed_is_tried_again_at_the_next_start() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    npm.set_down(true);
    let replica = database.replica(options(&npm, ALL)).await;
    assert_eq!(state(&replica.filled().await), RefreshState::Failed);
    replica.stop().await;
    npm.set_down(false);
    let replica = database.replica(options(&npm, ALL)).await;
    let list = replica.catalog.refreshes().list(&Default::default()).await;
    let newest = list.expect("lists").refreshes[0].id.clone();
    assert_eq!(
        state(&replica.ended(&newest).await),
        RefreshState::Succeeded
    );
    replica.stop().await;
    let replica = database.replica(options(&npm, ALL)).await;
    let list = replica.catalog.refreshes().list(&Default::default()).await;
    assert_eq!(
        list.expect("lists").refreshes[0].id,
        newest,
        "it is not empty any more"
    );
}

#[tokio::test]
async fn rule_10_lookups_go_on_while_the_database_is_away_and_a_refresh_goes_on_after() {
    let mut database = Database::postgres().await;
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    let proxy = Proxy::start(postgres.target()).await;
    database.options.url = postgres.url_through(&proxy);
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    npm.add_version(HTTP, version("7.3.0", "three"));
    let gate = npm.hold(&format!("/{HTTP}*"));
    let id = replica.start(Default::default()).await;
    gate.arrived(1).await;
    proxy.refuse(true);
    proxy.cut();
    gate.release();
    let lookup = replica.catalog.lookup_package(HTTP, "");
    assert!(lookup.is_ok(), "memory needs no database");
    eventually("the database is noticed to be away", async || {
        replica.store.head().await.is_err().then_some(())
    })
    .await;
    assert!(replica.catalog.lookup_package(HTTP, "").is_ok());
    proxy.refuse(false);
    eventually("the database is back", async || {
        replica.store.head().await.ok()
    })
    .await;
    let ended = replica.ended(&id).await;
    assert_eq!(state(&ended), RefreshState::Succeeded);
    let resolved = replica
        .catalog
        .snapshot()
        .resolution(HTTP)
        .expect("resolves");
    assert_eq!(resolved.version.expect("has one").version, "7.3.0");
    let mut packages: Vec<_> = ended
        .items
        .iter()
        .filter(|item| item.version.is_empty())
        .map(|item| item.package.as_str())
        .collect();
    packages.sort_unstable();
    assert_eq!(packages, [FHIR, HTTP, DOTTED], "each is recorded once");
}
