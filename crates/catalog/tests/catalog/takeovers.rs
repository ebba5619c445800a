//! Runs that change hands in the middle: what was read counts once, and the rest is still asked for.

use std::{path::Path, time::Duration};

use serde_json::json;
use steadfast_api::registry::v1::{RefreshKind, RefreshState, StartRefreshRequest};
use steadfast_catalog::{LocalSource, Options, Source, SourceKind};
use steadfast_testkit::{Fault, NpmServer, Times};

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, counts, eventually, options, registry, state, version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

fn schemas() -> StartRefreshRequest {
    StartRefreshRequest {
        kinds: vec![RefreshKind::Schemas.into()],
        ..Default::default()
    }
}

/// Somebody else takes the lease on refreshing behind the owner's back, and is never heard of again.
async fn steal(database: &Database) {
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    postgres
        .psql("UPDATE lease SET fence = fence + 1, expires_us = steadfast_now_us() + 1000000 WHERE name = 'refresh'")
        .await;
}

#[tokio::test]
async fn rule_9_a_run_of_schemas_that_changes_hands_counts_each_once() {
    let database = Database::postgres().await;
    let npm = registry().await;
    npm.fault(&format!("/{HTTP}/-/*"), Fault::status(500), Times::Forever);
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    npm.clear_faults();
    let gate = npm.hold(&format!("/{HTTP}/-/*"));
    let id = replica.start(schemas()).await;
    gate.arrived(1).await;
    eventually("the others are counted", async || {
        let found = replica.get(&id).await;
        (counts(&found)[0][0] == 2).then_some(())
    })
    .await;
    steal(&database).await;
    gate.arrived(3).await;
    gate.release();
    let found = replica.ended(&id).await;
    assert_eq!(found.refresh.as_ref().expect("has one").attempts, 2);
    assert_eq!(counts(&found), [[4, 2, 2, 0]]);
}

/// Options with a folder beside the registry.
fn with_folder(npm: &NpmServer, root: &Path) -> Options {
    let folder = root.join("packages/a");
    std::fs::create_dir_all(&folder).expect("a folder");
    let manifest = json!({"name": "in-a-folder"}).to_string();
    std::fs::write(folder.join("package.json"), manifest).expect("a file");
    let mut options = options(npm, ALL);
    options.sources.push(Source {
        name: "local".into(),
        kind: SourceKind::Local(LocalSource {
            roots: vec![root.to_str().expect("plain").to_owned()],
            rescan_interval: Duration::from_secs(60),
        }),
    });
    options
}

#[tokio::test]
async fn rule_6_a_run_that_changes_hands_while_folders_are_looked_at_still_has_them_looked_at() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let root = tempfile::tempdir().expect("a folder");
    let replica = database.replica(with_folder(&npm, root.path())).await;
    replica.filled().await;
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    // Another replica has the root, and does not look at it.
    postgres
        .psql(
            "UPDATE lease SET fence = fence + 1, expires_us = steadfast_now_us() + 600000000 WHERE name LIKE 'local/%'",
        )
        .await;
    let id = replica.start(schemas()).await;
    let begun = "SELECT count(*) FROM refresh_run WHERE state = 'running' AND begun_through > 'zz'";
    eventually("it waits for the root", async || {
        (postgres.psql(begun).await.trim() == "1").then_some(())
    })
    .await;
    steal(&database).await;
    eventually("it is taken up again", async || {
        let refresh = replica.get(&id).await.refresh.expect("has one");
        (refresh.attempts == 2).then_some(())
    })
    .await;
    postgres
        .psql("UPDATE lease SET expires_us = 0 WHERE name LIKE 'local/%'")
        .await;
    let found = replica.ended(&id).await;
    assert_eq!(state(&found), RefreshState::Succeeded);
}

#[tokio::test]
async fn rule_6_a_package_that_was_read_before_the_run_changed_hands_is_joined_no_more() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let mut narrow = options(&npm, ALL);
    narrow.refresh_concurrency = 2;
    let replica = database.replica(narrow).await;
    replica.filled().await;
    // The first of the names hangs; the last one is read and recorded.
    let gate = npm.hold(&format!("/{FHIR}"));
    let id = replica.start(Default::default()).await;
    gate.arrived(1).await;
    eventually("the others are recorded", async || {
        (replica.get(&id).await.items.len() == 2).then_some(())
    })
    .await;
    steal(&database).await;
    gate.arrived(2).await;
    npm.add_version(DOTTED, version("5.0.0", "new"));
    let one = StartRefreshRequest {
        package: DOTTED.to_owned(),
        ..Default::default()
    };
    let follow_up = replica.start(one).await;
    gate.release();
    replica.ended(&id).await;
    replica.ended(&follow_up).await;
    let snapshot = replica.catalog.snapshot();
    assert!(snapshot.resolution(&format!("{DOTTED}@5.0.0")).is_ok());
}
