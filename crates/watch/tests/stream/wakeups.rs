//! Notifications: how many there are, and what happens when they stop coming.

use std::time::Duration;

use steadfast_store::{Store, Wakeups};
use steadfast_testkit::{postgres::TestDatabase, proxy::Proxy};
use steadfast_types::ReplicaId;
use steadfast_watch::{Hub, Options, Start};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::scene::{Fixture, OPTIONS, from, keys_until, opened};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until notifications arrive, or until it is known that they do not.
async fn until_listening(wakeups: &Wakeups, wanted: bool) {
    let mut woken = wakeups.subscribe();
    let reached = async {
        while wakeups.is_listening() != wanted {
            woken.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

async fn open(url: String) -> Store {
    let options = steadfast_store::Options {
        url,
        listen_test_interval: Duration::from_millis(300),
        ..steadfast_store::Options::default()
    };
    Store::open(&options).await.unwrap()
}

/// The network between a replica and PostgreSQL forgets the connection that listens: nobody is told, and nothing arrives.
#[tokio::test]
async fn a_half_open_listening_connection_is_noticed_and_costs_no_change() {
    let database = TestDatabase::create_empty().await;
    let proxy = Proxy::start(database.target()).await;
    let url = database.url_through(&proxy);
    let here = Fixture::open(OPTIONS, Some(database)).await;
    let store = open(url).await;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let coalesce = Duration::from_millis(5);
    let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
    let follow = async |poll_interval| {
        let options = Options {
            poll_interval,
            ..OPTIONS
        };
        let hub = Hub::start(store.clone(), &wakeups, options, &stop, &tasks).await;
        let mut stream = hub.unwrap().subscribe(from(Start::Now)).await.unwrap();
        opened(&mut stream).await;
        stream
    };
    until_listening(&wakeups, true).await;
    let mut polling = follow(Duration::from_millis(50)).await;
    // Only a notification, or what is done when they come again, tells this one anything.
    let mut hearing = follow(Duration::from_secs(600)).await;
    here.publish("app/t", &["announced"], "").await;
    for stream in [&mut polling, &mut hearing] {
        assert_eq!(keys_until(stream, "announced").await, ["announced"]);
    }

    assert_eq!(proxy.freeze_those_that_said("LISTEN"), 1);
    let frozen = Instant::now();
    let keys: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for key in &keys {
        here.publish("app/t", &[key], "").await;
    }
    assert_eq!(keys_until(&mut polling, "29").await, keys);
    until_listening(&wakeups, false).await;
    let noticed = frozen.elapsed();
    // It is tested every 0.3 s, and a test may take 2 s.
    assert!(noticed < Duration::from_secs(4), "{noticed:?}");
    until_listening(&wakeups, true).await;
    assert_eq!(keys_until(&mut hearing, "29").await, keys);
    here.publish("app/t", &["again"], "").await;
    assert_eq!(keys_until(&mut hearing, "again").await, ["again"]);
    stop.cancel();
}

/// Each costs PostgreSQL and every listener something, and says no more than the one before.
#[tokio::test]
async fn a_burst_is_announced_once_in_a_while() {
    const COALESCE: Duration = Duration::from_millis(20);
    let database = TestDatabase::create_empty().await;
    let url = database.url();
    let fixture = Fixture::open(OPTIONS, Some(database)).await;
    let database = fixture.database.as_ref().unwrap();
    let mut raw = database.session().await;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let store = open(url).await;
    let replica = ReplicaId::random();
    let wakeups = Wakeups::start(&store, replica, COALESCE, &stop, &tasks);
    // Each knows that the other listens: otherwise nobody would be told anything.
    until_listening(&wakeups, true).await;
    until_listening(&fixture.wakeups, true).await;
    raw.run("LISTEN steadfast_log;").await.unwrap();

    let began = Instant::now();
    let mut kicks = 0_u64;
    while began.elapsed() < Duration::from_millis(600) {
        wakeups.kick();
        kicks += 1;
        tokio::task::yield_now().await;
    }
    let took = began.elapsed();
    // What was sent is with the listener as soon as it has an answer to a later question.
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let heard = raw.run("SELECT 1;").await.unwrap();
    let announced = format!("with payload \"{replica}\"");
    let count = heard.matches(&announced).count() as u128;
    let most = took.as_millis() / COALESCE.as_millis() + 2;
    println!("{kicks} kicks, {count} notifications in {took:?}");
    assert!((2..=most).contains(&count), "{count} in {took:?}");
    assert!(u128::from(kicks) > 20 * most, "a burst: {kicks}");
}
