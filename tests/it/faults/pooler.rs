//! Behind PgBouncer, which in transaction mode gives each transaction any of its sessions.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use steadfast_client::api::registry::v1::RefreshState;
use steadfast_testkit::{
    PgBouncer, PoolMode, Server, TestDatabase,
    history::{StartAt, check},
    steadfast,
};
use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Caller, Registry, assert_same, eventually, http_get};
use crate::history::{
    publishing::{Writers, publish_all},
    recording::{PATIENCE, Recorder},
    seed, truth,
    watching::{Endpoints, Watchers},
};

/// Fewer than the clients, so that all of them are given each other's sessions.
const SESSIONS: u32 = 3;

const POLL: Duration = Duration::from_millis(300);

const SAGA: &str = r#"
name = "greeting"
version = 1

[[steps]]
name = "greet"
action.builtin = { name = "noop", input = { text = "hello" } }
undo.builtin = { name = "noop" }
"#;

async fn listens(server: &Server) -> bool {
    let (_, metrics) = http_get(server, "/metrics").await;
    metrics.contains("\nsteadfast_listen_usable 1\n")
}

/// What one transaction must not leave to the next, whoever's that is.
async fn assert_nothing_is_left(pooler: &PgBouncer, database: &str) {
    // Of the session that answers: others take locks of their own meanwhile, in this database and in those of other tests. It
    // sleeps so that as many questions at once are given as many sessions.
    let asked = "SELECT current_setting('enable_seqscan') || current_setting('jit') || \
                 current_setting('statement_timeout') || current_setting('lock_timeout') || \
                 (SELECT count(*) FROM pg_prepared_statements) || \
                 (SELECT count(*) FROM pg_listening_channels()) || \
                 (SELECT count(*) FROM pg_locks \
                  WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
                 FROM pg_sleep(0.05);";
    for _ in 0..4 {
        let asking = (0..SESSIONS).map(|_| pooler.psql(database, asked));
        for left in join_all(asking).await {
            assert_eq!(left, "onon00000");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_transaction_mode_everything_works_and_nothing_is_left_behind() {
    let seed = seed();
    let database = Arc::new(TestDatabase::create().await);
    let pooler = PgBouncer::start(&database.target(), PoolMode::Transaction, SESSIONS).await;
    let registry = Registry::start(6).await;
    let poll = POLL.as_millis().to_string();
    let small = |name: &str, value: &str| (format!("STEADFAST_WATCH__{name}"), value.to_owned());
    let mut builder = registry.server();
    for (name, value) in [
        small("POLL_INTERVAL_MS", &poll),
        small("RING_REVISIONS", "256"),
        small("PAGE_REVISIONS", "64"),
    ] {
        builder = builder.variable(&name, value);
    }
    let behind = builder
        .clone()
        .database_url(pooler.url(database.name()))
        .start()
        .await;
    let direct = builder.database_url(database.url()).start().await;

    // It says so, and the other one, which can hear, is not told otherwise.
    let log = behind.log();
    for said in [
        "reached through a pooler in transaction mode",
        "LISTEN does not work through a pooler in transaction mode",
    ] {
        assert_eq!(log.matches(said).count(), 1, "{log}");
    }
    assert!(!listens(&behind).await);
    eventually("the direct one listens", async || {
        listens(&direct).await.then_some(())
    })
    .await;

    // What the other commits is found by polling, and what this one commits is announced.
    let (here, there) = (Caller::to(&behind).await, Caller::to(&direct).await);
    let mut recorder = Recorder::new("behind the pooler", StartAt::Now);
    let mut stream = recorder.open(&behind.grpc_endpoint()).await.expect("opens");
    for number in 0..5 {
        let key = format!("foreign-{number}");
        let published = publish_all(&there.0, [key]).await;
        let began = Instant::now();
        let until = stream.until(published[0].cursor.revision);
        timeout(PATIENCE, until)
            .await
            .expect("polled")
            .expect("open");
        let took = began.elapsed();
        assert!(took < POLL + Duration::from_secs(1), "{took:?}");
        sleep(Duration::from_millis(20)).await;
    }
    drop(stream);

    // Everybody at once, on both, in each other's sessions.
    let endpoints = Endpoints::new([behind.grpc_endpoint(), direct.grpc_endpoint()]);
    let watchers = Watchers::start(8, seed, &endpoints);
    let writers = Writers::start(6, seed, &endpoints);
    let run = here.start_refresh().await.refresh.expect("has one");
    let ended = here.ended(&run.id).await.refresh.expect("has one");
    assert_eq!(ended.state(), RefreshState::Succeeded, "{ended:?}");
    std::fs::write(behind.directory().join("greeting.toml"), SAGA).expect("can be written");
    let defined = behind.cli(&["saga", "define", "greeting.toml"]).await;
    assert!(defined.status.success(), "{defined:?}");
    for _ in 0..3 {
        let started = behind.cli(&["saga", "start", "greeting", "--wait"]).await;
        assert!(started.success().contains("● completed"), "{started:?}");
    }
    eventually("some hundred publishes", async || {
        (writers.count() > 300).then_some(())
    })
    .await;
    assert_nothing_is_left(&pooler, database.name()).await;
    let written = writers.stop().await;
    assert_eq!(written.counts().1, 0, "nothing went wrong");
    assert_same(&here, &there, &registry.names).await;

    let committed = truth::parse(&database.psql(truth::POSTGRES).await);
    let answers = truth::check_answers(&committed, &written.calls);
    let last = committed.last().expect("some").revision;
    let mut logs = watchers.finish(&endpoints, last).await;
    recorder
        .catch_up(&behind.grpc_endpoint(), last)
        .await
        .expect("nothing ends the stream");
    logs.push(recorder.into_log(true));
    let store_id = behind.store_id().parse().expect("a UUID");
    let summary = check(store_id, &committed, &logs).expect("as committed");
    println!("{summary:?}, {answers}");
    assert_eq!(summary.resets, 0);
    assert!(!listens(&behind).await);
}

#[tokio::test]
async fn in_session_mode_it_listens() {
    let database = TestDatabase::create().await;
    let pooler = PgBouncer::start(&database.target(), PoolMode::Session, 40).await;
    let server = Server::builder().database_url(pooler.url(database.name()));
    let server = server.start().await;
    eventually("it listens", async || listens(&server).await.then_some(())).await;
    assert!(!server.log().contains("pooler"), "{}", server.log());
}

#[tokio::test]
async fn in_statement_mode_it_says_what_to_do() {
    let database = TestDatabase::create().await;
    let pooler = PgBouncer::start(&database.target(), PoolMode::Statement, SESSIONS).await;
    let server = Server::builder().database_url(pooler.url(database.name()));
    let failure = server.try_start().await.expect_err("it cannot work");
    let told = failure.to_string();
    assert!(told.contains("`pool_mode` to `transaction`"), "{told}");
}

#[tokio::test]
async fn migrations_run_once_through_it() {
    let database = TestDatabase::create_empty().await;
    let pooler = PgBouncer::start(&database.target(), PoolMode::Transaction, SESSIONS).await;
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (behind, direct) = (pooler.url(database.name()), database.url());
    let migrate = async |url: &str| {
        let arguments = ["migrate", "--database-url", url];
        steadfast(directory.path(), &[], &arguments).await
    };
    // All at once, some of them not through it.
    let (one, two, three, four) = tokio::join!(
        migrate(&behind),
        migrate(&direct),
        migrate(&behind),
        migrate(&direct)
    );
    for output in [one, two, three, four] {
        assert!(output.status.success(), "{output:?}");
    }
    assert_nothing_is_left(&pooler, database.name()).await;
    let applied = "SELECT count(*) = max(version) AND bool_and(success) FROM _sqlx_migrations";
    assert_eq!(database.psql(applied).await, "t");
    // Again, in sessions that have seen it before.
    for url in [&behind, &behind, &direct] {
        let output = migrate(url).await;
        assert!(output.status.success(), "{output:?}");
    }
    assert_nothing_is_left(&pooler, database.name()).await;
}
