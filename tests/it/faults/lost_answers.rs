//! Connections to the database that are lost at the worst moment: the commit may have happened, and nobody says so.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_client::api::registry::v1::{GetRefreshResponse, RefreshState};
use steadfast_testkit::{
    ClusterOptions, PrivateCluster, Proxy, Server, TestDatabase,
    history::{StartAt, check},
};
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

use super::fleet::{Caller, Registry, assert_same, eventually};
use crate::history::{
    publishing::{Acknowledged, Writers, change, publish, publish_stubbornly},
    recording::Recorder,
    seed, truth,
    watching::Endpoints,
};

/// Cuts all connections at random moments, a number of times: a slow machine would otherwise never get anything done between
/// two cuts.
struct Cutter {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

// === impl Cutter ===

impl Cutter {
    fn start(proxy: &Arc<Proxy>, seed: u64, times: usize, pause_ms: Range<u64>) -> Self {
        let proxy = Arc::clone(proxy);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut random = StdRng::seed_from_u64(seed);
        let task = tokio::spawn(async move {
            let mut cuts = 0;
            while cuts < times && !stopped.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(random.random_range(pause_ms.clone()))).await;
                proxy.cut();
                cuts += 1;
            }
            cuts
        });
        Self { stop, task }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("cutting goes on to the end")
    }
}

async fn committed(database: &TestDatabase) -> Vec<steadfast_testkit::history::Committed> {
    truth::parse(&database.psql(truth::POSTGRES).await)
}

/// How many calls to commit publishes wait for a lock.
async fn waiting(database: &TestDatabase) -> usize {
    let count = database
        .psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ \
             'publish_(append|batch)' AND pid <> pg_backend_pid()",
        )
        .await;
    count.parse().expect("a count is a number")
}

/// The first attempt is under way when its connection is lost, and commits nevertheless; so do those after it.
async fn lost_while_committing(request_ids: bool) {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.target()).await;
    let server = Server::builder().database_url(database.url_through(&proxy));
    let server = server.start().await;
    let caller = Caller::to(&server).await;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut blocker = database.session().await;
        let lock = "BEGIN; SELECT 1 FROM log_lock FOR UPDATE;";
        blocker.run(lock).await.expect("locks");
        let request_id = match request_ids {
            true => Uuid::new_v4().to_string(),
            false => String::new(),
        };
        let changes = vec![
            change("app/a", format!("{round}")),
            change("app/b", format!("{round}")),
        ];
        let (connection, id) = (caller.0.clone(), request_id.clone());
        let again = changes.clone();
        let call = tokio::spawn(async move { publish(&connection, changes, &id).await });
        for attempt in 1..=2 + round % 2 {
            eventually("another attempt waits in the database", async || {
                (waiting(&database).await == attempt).then_some(())
            })
            .await;
            // PostgreSQL does not notice while it waits: each of them will commit, or find that another did.
            proxy.cut();
        }
        blocker.run("COMMIT;").await.expect("unlocks");
        let (ack, _) = call
            .await
            .expect("does not panic")
            .expect("the answer was found");
        if request_ids {
            let (same, replayed) = publish(&caller.0, again, &request_id)
                .await
                .expect("may be repeated");
            assert_eq!((same.cursor, replayed), (ack.cursor, true));
        }
        acknowledged.push(ack);
    }
    let committed = committed(&database).await;
    truth::check_acknowledged(&committed, &acknowledged);
    assert_eq!(
        committed.len(),
        acknowledged.len(),
        "{:?}",
        truth::keys(&committed)
    );
}

#[tokio::test]
async fn a_publish_that_was_committed_is_found_again() {
    lost_while_committing(false).await;
}

#[tokio::test]
async fn a_publish_with_a_request_id_is_found_again() {
    lost_while_committing(true).await;
}

/// Commits hang in PostgreSQL until a standby that does not exist has them; they are kept from then on, but seen by nobody.
async fn hold_commits(cluster: &PrivateCluster, hold: bool) {
    let standby = if hold { "nobody" } else { "" };
    let sql = format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{standby}'; SELECT pg_reload_conf();"
    );
    let mut session = cluster.session("postgres").await;
    for statement in sql.split_inclusive(';') {
        session.run(statement).await.expect("a setting can change");
    }
}

#[tokio::test]
async fn what_a_refresh_brought_is_recorded_once_though_its_commit_is_slow_and_its_answer_lost() {
    let cluster = PrivateCluster::start(ClusterOptions {
        // Without it no commit waits for a standby.
        fsync: true,
        ..ClusterOptions::default()
    })
    .await;
    cluster.create_database("refresh").await;
    let proxy = Proxy::start(cluster.target()).await;
    let registry = Registry::start(6).await;
    let url = cluster.url_through(&proxy, "refresh");
    let server = registry.server().database_url(url).start().await;
    let caller = Caller::to(&server).await;
    let gate = registry.upstream.hold("/@acme/part-00004*");
    let run = caller.start_refresh().await.refresh.expect("has one");
    gate.arrived(1).await;
    eventually("the others have landed", async || {
        (caller.listed().await.len() == 5).then_some(())
    })
    .await;
    hold_commits(&cluster, true).await;
    gate.release();
    let count = async |condition: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'refresh' AND {condition}"
        );
        cluster.psql("postgres", &sql).await
    };
    eventually("the commit hangs", async || {
        (count("wait_event = 'SyncRep' AND query = 'COMMIT'").await == "1").then_some(())
    })
    .await;
    proxy.cut();
    eventually("the next attempt waits for the first", async || {
        let waiting = "wait_event_type = 'Lock' AND query LIKE 'UPDATE refresh_run%'";
        (count(waiting).await == "1").then_some(())
    })
    .await;
    hold_commits(&cluster, false).await;
    let ended = caller.ended(&run.id).await;
    let refresh = ended.refresh.clone().expect("has one");
    assert_eq!(
        (refresh.state(), refresh.attempts),
        (RefreshState::Succeeded, 1),
        "{refresh:?}"
    );
    assert_each_item_once(&ended);
    let committed = truth::parse(&cluster.psql("refresh", truth::POSTGRES).await);
    assert_eq!(committed.len(), 6, "{committed:?}");
    let all = caller.catalogue(&registry.names).await;
    assert!(all.iter().all(Option::is_some));
}

/// No item is recorded twice, and each package is counted as changed once.
fn assert_each_item_once(ended: &GetRefreshResponse) {
    let mut items: Vec<_> = ended
        .items
        .iter()
        .map(|item| (item.kind(), &item.package, &item.version))
        .collect();
    let count = items.len();
    items.sort_unstable();
    items.dedup();
    assert_eq!(items.len(), count, "no item is recorded twice");
    let refresh = ended.refresh.as_ref().expect("has one");
    for counts in &refresh.counts {
        let items = ended.items.iter().filter(|item| item.kind == counts.kind);
        let items = i32::try_from(items.count()).expect("not so many");
        assert_eq!(
            (counts.listed, counts.changed),
            (items, items),
            "{counts:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_through_a_network_that_is_cut_at_random() {
    let seed = seed();
    let database = TestDatabase::create().await;
    let proxy = Arc::new(Proxy::start(database.target()).await);
    let server = Server::builder().database_url(database.url_through(&proxy));
    let server = server.start().await;
    let endpoints = Endpoints::new([server.grpc_endpoint()]);
    let mut watcher = Recorder::new("watcher", StartAt::Earliest);
    let cutter = Cutter::start(&proxy, seed, 60, 5..120);
    let writers = Writers::start(6, seed, &endpoints);
    let stubborn = futures::future::join_all((0..6).map(|writer| {
        let endpoints = endpoints.clone();
        async move {
            let mut acknowledged = Vec::new();
            for call in 0..40 {
                let key = format!("stubborn-{writer}-{call}");
                acknowledged.push(publish_stubbornly(&endpoints, key).await);
            }
            acknowledged
        }
    }));
    let stubborn = stubborn.await;
    let written = writers.stop().await;
    let cuts = cutter.stop().await;
    let (count, _) = written.counts();
    let mut calls = written.calls;
    calls.extend(stubborn.concat().iter().map(Acknowledged::call));
    let committed = committed(&database).await;
    let answers = truth::check_answers(&committed, &calls);
    println!("{cuts} cuts, {} committed, {answers}", committed.len());
    assert!(cuts > 10 && count > 10, "{cuts} cuts, {count} acknowledged");
    let last = committed.last().expect("some").revision;
    let endpoint = server.grpc_endpoint();
    let caught_up = watcher.catch_up(&endpoint, last).await;
    caught_up.expect("nothing ends the stream");
    let store_id = server.store_id().parse().expect("a UUID");
    check(store_id, &committed, &[watcher.into_log(true)]).expect("delivered as committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_through_a_network_that_is_cut_at_random() {
    let seed = seed();
    let database = TestDatabase::create().await;
    let proxy = Arc::new(Proxy::start(database.target()).await);
    let mut registry = Registry::start(40).await;
    registry.lease = Duration::from_millis(1_500);
    let direct = registry.server().database_url(database.url()).start().await;
    let observer = Caller::to(&direct).await;
    // Asked through a steady connection, done through the bad one: the steady replica does not look for work of its own.
    direct.signal(steadfast_testkit::Signal::SIGSTOP);
    let url = database.url_through(&proxy);
    let server = registry.server().database_url(url).start().await;
    let caller = Caller::to(&server).await;
    let run = caller.start_refresh().await.refresh.expect("has one");
    let cutter = Cutter::start(&proxy, seed, 15, 80..400);
    eventually("the refresh ends in spite of the cuts", async || {
        let state = format!("SELECT state FROM refresh_run WHERE id = '{}'", run.id);
        let state = database.psql(&state).await;
        (state != "queued" && state != "running").then_some(())
    })
    .await;
    let cuts = cutter.stop().await;
    direct.signal(steadfast_testkit::Signal::SIGCONT);
    let ended = observer.ended(&run.id).await;
    let refresh = ended.refresh.clone().expect("has one");
    println!("{cuts} cuts, {} attempts", refresh.attempts);
    assert_eq!(refresh.state(), RefreshState::Succeeded, "{refresh:?}");
    assert_each_item_once(&ended);
    assert_eq!(ended.items.len(), 120);
    assert_eq!(committed(&database).await.len(), 40, "one revision each");
    assert_same(&observer, &caller, &registry.names).await;
    assert_eq!(observer.listed().await.len(), 40);
}
