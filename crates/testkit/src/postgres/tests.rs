use std::time::Duration;

use tokio::{net::UnixStream, time::timeout};

use super::*;

#[tokio::test]
async fn databases_are_apart_and_vanish() {
    let one = TestDatabase::create_empty().await;
    let other = TestDatabase::create_empty().await;
    one.psql("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2);")
        .await;
    assert_eq!(one.psql("SELECT n FROM t ORDER BY n;").await, "1\n2");
    assert_eq!(other.psql("SELECT to_regclass('t') IS NULL;").await, "t");

    let name = one.name().to_owned();
    let _held = one.session().await;
    drop(one);
    let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}';");
    assert_eq!(other.psql(&sql).await, "0");
}

#[tokio::test]
async fn a_session_holds_locks_reports_errors_and_can_be_ended() {
    let database = TestDatabase::create_empty().await;
    database
        .psql("CREATE TABLE t (n int); INSERT INTO t VALUES (1);")
        .await;
    let mut holder = database.session().await;
    holder.run("BEGIN; UPDATE t SET n = 2;").await.unwrap();

    let mut waiter = database.session().await;
    waiter
        .send("UPDATE t SET n = n + 10 RETURNING n;")
        .await
        .unwrap();
    assert!(
        timeout(Duration::from_millis(50), waiter.wait())
            .await
            .is_err()
    );
    let mut late = database.session().await;
    let refused = late
        .run("SET lock_timeout = '10ms'; UPDATE t SET n = 0;")
        .await;
    assert!(refused.is_err_and(|error| error.0.contains("55P03")));

    let pid = holder.backend_pid().await;
    assert!(pid > 0);
    holder.run("COMMIT;").await.unwrap();
    assert_eq!(waiter.wait().await.unwrap(), "12");
    assert_eq!(database.terminate_backends().await, 3);
    assert!(holder.run("SELECT 1;").await.is_err());
}

#[tokio::test]
async fn a_proxy_stands_before_the_cluster() {
    let database = TestDatabase::create_empty().await;
    let proxy = Proxy::start(database.target()).await;
    let mut session = PsqlSession::open(&database.url_through(&proxy)).await;
    assert_eq!(session.run("SELECT 1 + 1;").await.unwrap(), "2");
    proxy.cut();
    assert!(session.run("SELECT 1;").await.is_err());
}

#[tokio::test]
async fn a_cluster_of_ones_own_goes_back_in_time() {
    let cluster = PrivateCluster::start(ClusterOptions {
        fsync: true,
        settings: vec![("deadlock_timeout".to_owned(), "123ms".to_owned())],
    })
    .await;
    assert_eq!(
        cluster.psql("postgres", "SHOW deadlock_timeout;").await,
        "123ms"
    );
    cluster.create_database("d").await;
    cluster
        .psql("d", "CREATE TABLE t (n int); INSERT INTO t VALUES (1);")
        .await;
    cluster.stop(StopMode::Fast).await;
    let copy = cluster.copy_data().await;
    cluster.resume().await;
    cluster.psql("d", "INSERT INTO t VALUES (2);").await;
    cluster.stop(StopMode::Immediate).await;
    cluster.resume().await;
    assert_eq!(cluster.psql("d", "SELECT max(n) FROM t;").await, "2");

    cluster.stop(StopMode::Immediate).await;
    cluster.restore(&copy).await;
    cluster.resume().await;
    assert_eq!(cluster.psql("d", "SELECT max(n) FROM t;").await, "1");

    let Target::Unix(socket) = cluster.target() else {
        unreachable!("a cluster listens on a socket");
    };
    drop(cluster);
    assert!(UnixStream::connect(socket).await.is_err());
}
