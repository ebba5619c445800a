//! What a database can do to its clients: run full, forget connections, fall silent.

use std::time::Duration;

use steadfast_testkit::{
    postgres::TestDatabase,
    proxy::{Proxy, Target},
};
use steadfast_types::Revision;

use super::publishing::publish;
use crate::{
    Error, Options, Store,
    engine::{Db, Tx},
    test_stores::{postgres, sqlite},
};

#[tokio::test]
async fn a_full_disk_is_named_and_ends_when_there_is_room_again() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let Db::Sqlite { writer, .. } = store.db() else {
        panic!("the fixture is SQLite");
    };
    let limit = |pages: u32| format!("PRAGMA max_page_count = {pages}");
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(writer)
        .await
        .unwrap();
    let full = limit(u32::try_from(pages).unwrap());
    sqlx::query(sqlx::AssertSqlSafe(full))
        .execute(writer)
        .await
        .unwrap();
    let mut large = publish("k");
    large.changes[0].payload = vec![7; 64 << 10];
    for _ in 0..3 {
        let refused = store.publish(large.clone()).await;
        assert!(
            matches!(refused, Err(Error::NotWritable { reason, .. }) if reason.contains("full")),
            "{refused:?}"
        );
    }
    sqlx::query(sqlx::AssertSqlSafe(limit(100_000)))
        .execute(writer)
        .await
        .unwrap();
    store.publish(large).await.unwrap();
    assert_eq!(store.head().await.unwrap().cursor.revision, Revision(1));
}

/// A full or failing disk can make SQLite end a transaction by itself, at its commit for example. The writer survives that.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_does_not_block_the_writer() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let mut tx = store.db().begin().await.unwrap();
    let Tx::Sqlite(inner, _) = &mut tx else {
        panic!("the fixture is SQLite");
    };
    sqlx::query("ROLLBACK").execute(&mut **inner).await.unwrap();
    assert!(tx.commit().await.is_err());
    store.publish(publish("after")).await.unwrap();
}

#[tokio::test]
async fn sqlite_is_as_durable_as_promised_and_its_readers_cannot_write() {
    let fixture = sqlite().await;
    let Db::Sqlite {
        readers, writer, ..
    } = fixture.store.db()
    else {
        panic!("the fixture is SQLite");
    };
    for pool in [readers, writer] {
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(pool)
            .await
            .unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(pool)
            .await
            .unwrap();
        let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!((journal.as_str(), synchronous, foreign_keys), ("wal", 2, 1));
    }
    let written = sqlx::query("DELETE FROM change_log").execute(readers).await;
    let error = Error::before_commit(written.unwrap_err());
    assert!(matches!(error, Error::NotWritable { .. }), "{error:?}");
}

/// Connections that died while they were idle are not handed out: after a restart of the server the first call works.
#[tokio::test]
async fn connections_that_died_idle_fail_no_call() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let Db::Postgres { connections, .. } = store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    // One of those that the options allow is for listening.
    let all = fixture.options.max_connections as usize - 1;
    let mut held = Vec::new();
    for _ in 0..all {
        held.push(store.db().begin().await.unwrap());
    }
    for tx in held {
        tx.rollback().await.unwrap();
    }
    while connections.pool().num_idle() + connections.warm() < all {
        tokio::task::yield_now().await;
    }
    // With others to spare, the one that was used last is kept.
    store.head().await.unwrap();
    assert!(connections.warm() > 0);
    // As long as any restart takes.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let database = fixture.database.as_ref().unwrap();
    assert!(database.terminate_backends().await >= all);
    store.head().await.unwrap();
    store.publish(publish("after")).await.unwrap();
}

#[tokio::test]
async fn migrating_waits_for_another_replica_longer_than_statements_wait() {
    let database = TestDatabase::create_empty().await;
    let options = Options {
        url: database.url(),
        lock_timeout: Duration::from_millis(100),
        statement_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let store = Store::open(&options).await.unwrap();
    // The lock that sqlx takes: a number made of the database's name.
    let mut migrating = database.session().await;
    let lock = format!(
        "SELECT pg_advisory_lock({})",
        0x3d32_ad9e_i64 * i64::from(crc32(database.name()))
    );
    migrating.run(&lock).await.unwrap();
    let waiting = store.migrate();
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(1_000), &mut waiting).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    drop(migrating);
    waiting.await.unwrap();
}

/// CRC-32 as in ISO-HDLC.
fn crc32(text: &str) -> u32 {
    !text.bytes().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

/// A host that vanishes closes no connection. Whoever waits for it gives up, and goes on as soon as another one answers.
#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let database = TestDatabase::create_empty().await;
    let (silent, other) = (
        Proxy::start(database.target()).await,
        Proxy::start(database.target()).await,
    );
    let front = Proxy::start(Target::Tcp(silent.address())).await;
    let options = Options {
        url: database.url_through(&front),
        // One is for listening, and one may be lost for as long as the system takes to give it up: the pool asks it whether it
        // is alive when it is given back.
        max_connections: 3,
        statement_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let store = Store::open(&options).await.unwrap();
    store.migrate().await.unwrap();
    store.publish(publish("before")).await.unwrap();
    silent.pause();
    front.retarget(Target::Tcp(other.address()));
    let given_up = Duration::from_secs(15);
    let abandoned = tokio::time::timeout(Duration::from_millis(100), store.head()).await;
    assert!(abandoned.is_err(), "{abandoned:?}");
    let publishing = tokio::time::timeout(given_up, store.publish(publish("lost"))).await;
    assert!(
        matches!(publishing, Ok(Ok(_) | Err(Error::Unavailable { .. }))),
        "{publishing:?}"
    );
    let after = tokio::time::timeout(given_up, store.publish(publish("after"))).await;
    assert!(matches!(after, Ok(Ok(_))), "{after:?}");
}

/// A caller that leaves while its transaction is being begun, as every cancelled call may. Were that transaction left open on a
/// connection of the pool, whatever ran there next would be acknowledged and never committed.
#[tokio::test]
async fn a_transaction_that_is_given_up_while_it_begins_takes_no_other_with_it() {
    let database = TestDatabase::create_empty().await;
    let options = Options {
        url: database.url(),
        max_connections: 1,
        ..Options::default()
    };
    let store = Store::open(&options).await.unwrap();
    store.migrate().await.unwrap();
    publish_among_the_given_up(&store).await;
    // As somebody else sees it.
    let count = "SELECT count(*) FROM change_log WHERE revision > 0";
    assert_eq!(database.psql(count).await, "40");

    let fixture = sqlite().await;
    publish_among_the_given_up(&fixture.store).await;
    // Read on another connection than it was written on.
    let head = fixture.store.head().await.unwrap();
    assert_eq!(head.cursor.revision.0, 40);
}

async fn publish_among_the_given_up(store: &Store) {
    let mut given_up = 0;
    for _ in 0..20 {
        for write in [true, false] {
            let beginning = async {
                match write {
                    true => store.db().begin().await.unwrap(),
                    false => store.db().begin_snapshot().await.unwrap(),
                };
            };
            tokio::select! {
                biased;
                () = beginning => {}
                () = tokio::task::yield_now() => given_up += 1,
            }
            store.publish(publish("kept")).await.unwrap();
        }
    }
    assert!(given_up > 10, "{given_up} were given up");
}
