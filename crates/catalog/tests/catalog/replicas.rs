//! Several replicas on one PostgreSQL.

use std::time::Duration;

use steadfast_api::{
    common::v1::Cursor as CursorMessage,
    registry::v1::{GetPackageResponse, RefreshState},
};
use steadfast_catalog::Error;
use steadfast_store::{
    Change, NewRefresh, Op, PackageRow, PackageWrite, Publish, RefreshAsk, RefreshPlacement,
    Refreshed,
};
use steadfast_types::ReplicaId;

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, Replica, eventually, options, registry, state, version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

fn package(replica: &Replica, name: &str) -> GetPackageResponse {
    let answer = replica.catalog.lookup_package(name, "").expect("is there");
    answer.decode().expect("decodes")
}

#[tokio::test]
async fn rule_6_a_refresh_is_read_once_and_both_replicas_answer_the_same() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let (a, b) = tokio::join!(
        database.replica(options(&npm, ALL)),
        database.replica(options(&npm, ALL))
    );
    a.filled().await;
    b.level().await;
    // 3 packuments and 4 tarballs, whoever was first.
    assert_eq!(
        npm.requests().total(),
        3 + 4,
        "{:?}",
        npm.requests().per_path()
    );
    npm.add_version(HTTP, version("7.3.0", "three"));
    npm.reset_requests();
    let id = b.start(Default::default()).await;
    a.ended(&id).await;
    b.ended(&id).await;
    assert_eq!(npm.requests().total(), 3 + 1);
    let checked = eventually("both show the same state", async || {
        let (left, right) = (package(&a, HTTP), package(&b, HTTP));
        (left.read_state == right.read_state).then_some((left, right))
    });
    let (left, right) = checked.await;
    assert_eq!(left, right);
    assert_eq!(left.package.expect("has one").versions[0].version, "7.3.0");
}

#[tokio::test]
async fn rule_10_a_late_replica_is_right_at_once_without_asking_the_registry() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let first = database.replica(options(&npm, ALL)).await;
    first.filled().await;
    npm.reset_requests();
    npm.set_down(true);
    let late = database.replica(options(&npm, ALL)).await;
    assert_eq!(package(&late, HTTP).package, package(&first, HTTP).package);
    let schema = late.catalog.snapshot().schema(HTTP, "").expect("is there");
    assert_eq!(schema.schema.title, "two");
    assert_eq!(npm.requests().total(), 0);
}

#[tokio::test]
async fn rule_6_a_killed_owner_is_followed_by_another_that_reads_only_the_rest() {
    let database = Database::postgres().await;
    let npm = registry().await;
    // The dead one's runtime is its process: it ends without a word, the lease still held.
    let process = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let gate = npm.hold(&format!("/{DOTTED}*"));
    let database = std::sync::Arc::new(database);
    let doomed = {
        let database = std::sync::Arc::clone(&database);
        let options = options(&npm, ALL);
        let start = async move { database.replica(options).await };
        process.spawn(start).await.expect("starts")
    };
    gate.arrived(1).await;
    let (id, before) = eventually("the others landed", async || {
        let list = doomed.catalog.refreshes().list(&Default::default()).await;
        let id = list.expect("lists").refreshes[0].id.clone();
        let found = doomed.get(&id).await;
        (found.items.len() == 5).then_some((id, found))
    })
    .await;
    assert_eq!(state(&before), RefreshState::Running);
    process.shutdown_background();
    npm.reset_requests();
    let heir = database.replica(options(&npm, ALL)).await;
    assert!(
        heir.catalog.lookup_package(HTTP, "").is_ok(),
        "what landed is there"
    );
    let started = tokio::time::Instant::now();
    gate.arrived(2).await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "within the lease and a look"
    );
    gate.release();
    let ended = heir.ended(&id).await;
    let refresh = ended.refresh.clone().expect("has one");
    assert_eq!(refresh.state(), RefreshState::Succeeded);
    assert_eq!(refresh.attempts, 2);
    assert_eq!(ended.items.len(), 7);
    assert_eq!(ended.items[..5], before.items[..]);
    // Packument and tarball of the one that was missing.
    assert_eq!(npm.requests().total(), 2, "{:?}", npm.requests().per_path());
    std::mem::forget(doomed);
}

#[tokio::test]
async fn rule_6_an_owner_that_lost_its_lease_writes_nothing_more() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let mut slow = options(&npm, ALL);
    slow.lease_duration = Duration::from_millis(600);
    let replica = database.replica(slow).await;
    replica.filled().await;
    npm.add_version(HTTP, version("7.3.0", "three"));
    let gate = npm.hold(&format!("/{HTTP}*"));
    let id = replica.start(Default::default()).await;
    gate.arrived(1).await;
    // Somebody else took the lease behind its back.
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    postgres
        .psql("UPDATE lease SET fence = fence + 1, expires_us = steadfast_now_us() + 1000000 WHERE name = 'refresh'")
        .await;
    let head = replica.head().await;
    gate.release();
    // It notices, stops, and takes the run up again once the thief's lease has run out.
    let ended = replica.ended(&id).await;
    assert_eq!(ended.refresh.expect("has one").attempts, 2);
    assert_eq!(
        replica.head().await,
        head + 1,
        "the change was written once"
    );
}

#[tokio::test]
async fn rule_10_a_lookup_waits_for_a_revision_and_refuses_another_history() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        // A publish on another topic moves the stamp too.
        let published = replica
            .store
            .publish(Publish {
                origin: String::new(),
                changes: vec![Change::new("app/x", "k", Op::Upsert, "")],
                request: None,
            })
            .await
            .expect("publishes");
        let cursor = CursorMessage {
            store_id: replica.hub.store_id().to_string(),
            revision: published.revision.0,
            mark: published.mark.0,
        };
        replica
            .catalog
            .reach(Some(&cursor))
            .await
            .expect("is reached");
        assert_eq!(
            package(&replica, HTTP)
                .read_state
                .expect("has one")
                .revision,
            cursor.revision
        );
        replica
            .catalog
            .reach(None)
            .await
            .expect("nothing to wait for");
        let reach = async |change: fn(&mut CursorMessage)| {
            let mut other = cursor.clone();
            change(&mut other);
            replica.catalog.reach(Some(&other)).await
        };
        let ahead = reach(|cursor| cursor.revision += 1).await;
        assert!(matches!(ahead, Err(Error::StoreChanged)), "{ahead:?}");
        let foreign = reach(|cursor| cursor.mark ^= 1).await;
        assert!(matches!(foreign, Err(Error::StoreChanged)), "{foreign:?}");
        let elsewhere = reach(|cursor| cursor.store_id = uuid::Uuid::nil().to_string()).await;
        assert!(
            matches!(elsewhere, Err(Error::StoreChanged)),
            "{elsewhere:?}"
        );
        let malformed = reach(|cursor| cursor.store_id = "x".into()).await;
        assert!(
            matches!(malformed, Err(Error::InvalidArgument { .. })),
            "{malformed:?}"
        );
    }
}

#[tokio::test]
async fn each_write_of_a_stale_owner_is_refused() {
    for database in Database::both().await {
        let npm = registry().await;
        let mut idle = options(&npm, ALL);
        idle.sources.clear();
        let replica = database.replica(idle).await;
        let store = &replica.store;
        let ask = RefreshAsk {
            cause: "request",
            requested_by: String::new(),
            request: None,
            only_if_empty: None,
        };
        let queue = |_: &[_]| {
            RefreshPlacement::Queue(NewRefresh {
                packages: true,
                schemas: true,
                icons: false,
                package: None,
                dry_run: false,
                forced: false,
            })
        };
        store.ask_refresh(&ask, queue).await.expect("queues");
        let (old, new) = (ReplicaId::random(), ReplicaId::random());
        let claim = async |owner, duration| {
            let lease = store.claim_lease("refresh", owner, duration).await;
            lease.expect("claims").expect("is free")
        };
        let stale = claim(old, Duration::ZERO).await;
        let (run, _) = store
            .take_refresh(&stale, old)
            .await
            .expect("takes")
            .expect("is queued");
        let lease = claim(new, Duration::from_secs(60)).await;
        let write = PackageWrite {
            name: HTTP.into(),
            package: Some(PackageRow {
                name: HTTP.into(),
                source: "npm".into(),
                document: "{}".into(),
                content_hash: "h".into(),
                upstream_etag: String::new(),
            }),
            ..Default::default()
        };
        let brought = [Refreshed {
            write: Some(write),
            ..Default::default()
        }];
        let id = run.id.as_str();
        let refused = [
            store.take_refresh(&stale, old).await.map(drop),
            store.begin_reading(&stale, id, "z", 1).await,
            store
                .save_listing(&stale, id, &Default::default(), &[])
                .await,
            store
                .save_refreshed(&stale, id, &brought, false)
                .await
                .map(drop),
            store
                .finish_refresh(&stale, id, "succeeded", "", &["npm".into()], 1)
                .await
                .map(drop),
        ];
        for refused in refused {
            let fenced = matches!(refused, Err(steadfast_store::Error::Fenced { .. }));
            assert!(fenced, "{refused:?}");
        }
        assert_eq!(replica.head().await, 0);
        assert!(store.sources_checked().await.expect("reads").is_empty());
        // The new owner's go through, until the run has ended.
        let save = async || store.save_refreshed(&lease, id, &brought, false).await;
        assert!(save().await.expect("saves").is_some());
        let ended = store.finish_refresh(&lease, id, "succeeded", "", &[], 1);
        ended.await.expect("ends");
        let late = save().await;
        assert!(
            matches!(late, Err(steadfast_store::Error::Fenced { .. })),
            "{late:?}"
        );
        assert_eq!(replica.head().await, 1);
    }
}

#[tokio::test]
async fn another_history_is_loaded_whole() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    let before = package(&replica, HTTP).read_state.expect("has one");
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    // What a restore does: rows of another time under another identity.
    postgres
        .psql(&format!(
            "BEGIN; DELETE FROM package WHERE name = '{HTTP}'; \
             UPDATE store_meta SET store_id = gen_random_uuid()::text; COMMIT;"
        ))
        .await;
    eventually("the other history is loaded", async || {
        replica
            .catalog
            .lookup_package(HTTP, "")
            .is_err()
            .then_some(())
    })
    .await;
    let after = package(&replica, FHIR).read_state.expect("has one");
    assert_ne!(before.store_id, after.store_id);
    let cursor = CursorMessage {
        store_id: before.store_id,
        revision: before.revision,
        mark: before.mark,
    };
    let refused = replica.catalog.reach(Some(&cursor)).await;
    assert!(matches!(refused, Err(Error::StoreChanged)), "{refused:?}");
}
