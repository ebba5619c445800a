//! Migrations, compaction, and what a stalled or crashed client of the database can do to the log.

use std::time::{Duration, Instant};

use steadfast_types::{ReplicaId, Revision};

use super::publishing::{publish, start};
use crate::{
    Error, Read, Retention, Store,
    engine::Db,
    schema_version,
    test_stores::{both, postgres, sqlite},
};

#[tokio::test]
async fn migrating_twice_changes_nothing_and_keeps_the_identity() {
    for fixture in both().await {
        let store = &fixture.store;
        let before = store.store_id().await.unwrap();
        let report = store.migrate().await.unwrap();
        assert_eq!(
            (report.from, report.to),
            (schema_version(), schema_version())
        );
        assert_eq!(store.store_id().await.unwrap(), before);
        store.check_schema().await.unwrap();
    }
}

#[tokio::test]
async fn replicas_that_migrate_at_once_do_it_once() {
    let database = steadfast_testkit::postgres::TestDatabase::create_empty().await;
    let options = crate::Options {
        url: database.url(),
        ..crate::Options::default()
    };
    let replicas = (0..4).map(|_| async {
        let store = Store::open(&options).await.unwrap();
        store.migrate().await.unwrap();
        store.store_id().await.unwrap()
    });
    let ids = futures::future::join_all(replicas).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused_with_both_numbers() {
    for fixture in both().await {
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'later', true, x, 0)";
        match fixture.store.db() {
            Db::Postgres { connections, .. } => {
                let sql = newer.replace(" x,", " '\\x00'::bytea,");
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .execute(connections.pool())
                    .await
                    .unwrap();
            }
            Db::Sqlite { writer, .. } => {
                let sql = newer.replace(" x,", " x'00',");
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .execute(writer)
                    .await
                    .unwrap();
            }
        }
        for refused in [
            fixture.store.migrate().await.map(drop),
            fixture.store.check_schema().await,
        ] {
            let error = refused.unwrap_err();
            let known = schema_version();
            assert!(
                matches!(error, Error::SchemaTooNew { found: 9999, known: k } if k == known),
                "{error:?}"
            );
            assert!(
                error.to_string().contains("9999")
                    && error.to_string().contains(&known.to_string())
            );
        }
    }
}

#[tokio::test]
async fn an_unmigrated_database_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let options = crate::Options {
        data_dir: folder.path().to_owned(),
        ..crate::Options::default()
    };
    let store = Store::open(&options).await.unwrap();
    let error = store.check_schema().await.unwrap_err();
    assert!(error.to_string().contains("steadfast migrate"), "{error}");
}

#[tokio::test]
async fn a_second_server_cannot_open_the_same_file() {
    let fixture = sqlite().await;
    let error = Store::open(&fixture.options).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[tokio::test]
async fn compaction_keeps_the_floor_and_the_mark() {
    for fixture in both().await {
        let store = &fixture.store;
        let zero = start(store).await;
        for n in 0..20 {
            store.publish(publish(&format!("k{n}"))).await.unwrap();
        }
        let lease = store
            .claim_lease("compaction", ReplicaId::random(), Duration::from_secs(60))
            .await
            .unwrap()
            .unwrap();
        let keep = |age, revisions, floor| Retention {
            age: Duration::from_secs(age),
            revisions,
            floor,
        };
        assert_eq!(store.compact(&lease, keep(3600, 100, 5)).await.unwrap(), 0);
        // By count: 21 rows with revision 0, keep 15.
        assert_eq!(store.compact(&lease, keep(3600, 15, 5)).await.unwrap(), 6);
        let read = store.read_log(zero, 10).await.unwrap();
        let Read::Compacted { compacted, head } = read else {
            panic!("{read:?}");
        };
        assert_eq!((compacted.revision, head), (Revision(5), Revision(20)));
        // The compaction point itself can be resumed from, and its mark is still checked.
        let Read::Page(page) = store.read_log(compacted, 100).await.unwrap() else {
            panic!("resumes at the compaction point");
        };
        assert_eq!(page.entries.len(), 15);
        let forged = steadfast_types::Cursor {
            mark: steadfast_types::Mark(compacted.mark.0 ^ 1),
            ..compacted
        };
        let read = store.read_log(forged, 10).await.unwrap();
        assert!(matches!(read, Read::Diverged { .. }), "{read:?}");
        // By age: everything is older than nothing, but the floor stays.
        assert_eq!(store.compact(&lease, keep(0, 100, 5)).await.unwrap(), 10);
        assert_eq!(store.compact(&lease, keep(0, 1, 0)).await.unwrap(), 4);
        let head = store.head().await.unwrap();
        assert_eq!(
            head.cursor.revision,
            Revision(20),
            "the newest always stays"
        );
        store.publish(publish("next")).await.unwrap();
        assert_eq!(store.head().await.unwrap().cursor.revision, Revision(21));
    }
}

/// A client paused inside a transaction that holds the log's lock stalls publishes until the server ends its session, and no
/// longer.
#[tokio::test]
async fn a_paused_writer_stalls_publishes_for_the_idle_timeout_at_most() {
    let fixture = postgres().await;
    let store = &fixture.store;
    store.publish(publish("before")).await.unwrap();
    let Db::Postgres { connections, .. } = store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    // A connection of the pool, so with the pool's own settings.
    let mut paused = connections.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM log_lock FOR UPDATE")
        .execute(&mut *paused)
        .await
        .unwrap();
    let started = Instant::now();
    store.publish(publish("stalled")).await.unwrap();
    let stalled = started.elapsed();
    let idle = fixture.options.idle_in_transaction_timeout;
    assert!(
        stalled >= idle / 2,
        "it was not stalled at all: {stalled:?}"
    );
    assert!(stalled < idle + Duration::from_secs(3), "{stalled:?}");
    assert!(
        paused.commit().await.is_err(),
        "the paused session was ended"
    );
    let _ = fixture.database.as_ref();
}

#[tokio::test]
async fn publishes_survive_the_loss_of_every_connection() {
    let fixture = postgres().await;
    let store = &fixture.store;
    store.publish(publish("before")).await.unwrap();
    fixture
        .database
        .as_ref()
        .unwrap()
        .terminate_backends()
        .await;
    store.publish(publish("after")).await.unwrap();
    assert_eq!(store.head().await.unwrap().cursor.revision, Revision(2));
}

/// Sessions keep the plans that they made while the tables were empty. None of them may read a table from end to end, or a log
/// that grows makes every publish and every read of a page slower.
#[tokio::test]
async fn no_hot_statement_reads_a_whole_table() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let zero = start(store).await;
    let lease = store
        .claim_lease("compaction", ReplicaId::random(), Duration::from_secs(60))
        .await
        .unwrap()
        .unwrap();
    let retention = Retention {
        age: Duration::from_secs(3600),
        revisions: 10,
        floor: 1,
    };
    // More often than a session waits before it keeps a plan.
    for n in 0..30 {
        store.publish(publish(&format!("k{n}"))).await.unwrap();
        let mut repeatable = publish("k");
        repeatable.request = Some(("me".to_owned(), format!("r{n}")));
        store.publish(repeatable).await.unwrap();
        store.read_log(zero, 10).await.unwrap();
        store.locate(zero).await.unwrap();
        store.compact(&lease, retention).await.unwrap();
        store.prune_requests().await.unwrap();
    }
    let Db::Postgres { connections, .. } = store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    let compiles: String = sqlx::query_scalar("SHOW jit")
        .fetch_one(connections.pool())
        .await
        .unwrap();
    assert_eq!(compiles, "off");
    // Sessions hand in their statistics when they end.
    store.close().await;
    let read = "SELECT coalesce(sum(seq_tup_read), -1) FROM pg_stat_user_tables \
                WHERE relname IN ('change_log', 'request_outcome')";
    assert_eq!(fixture.database.as_ref().unwrap().psql(read).await, "0");
}
