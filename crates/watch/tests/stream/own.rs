//! What this process commits reaches its streams without being read back, and never instead of what others committed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_store::{
    Change, Op, Publish, Store, Wakeups,
    fault::{Fault, Faults, Point},
};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::ReplicaId;
use steadfast_watch::{Event, Hub, Options, ResetReason, Start};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::scene::{Fixture, OPTIONS, counting, keys_until, opened};

/// Nothing is found by polling within a test.
const NO_POLL: Options = Options {
    poll_interval: Duration::from_secs(600),
    ..OPTIONS
};

#[tokio::test]
async fn own_commits_are_not_read_back() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(database)] {
        let (faults, reads) = counting("log_page");
        let fixture = Fixture::open_with(NO_POLL, database, faults).await;
        let mut stream = fixture.watch(Start::Now).await;
        opened(&mut stream).await;
        // The tailer looks once when it begins, and once when it can listen.
        if fixture.database.is_some() {
            let mut woken = fixture.wakeups.subscribe();
            while !fixture.wakeups.is_listening() {
                woken.changed().await.unwrap();
            }
        }
        fixture.publish("app/t", &["first"], "").await;
        assert_eq!(keys_until(&mut stream, "first").await, ["first"]);
        let before = reads.load(Ordering::SeqCst);
        let keys: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        for key in &keys {
            fixture.publish_only("app/t", &[key], "").await;
        }
        assert_eq!(keys_until(&mut stream, "39").await, keys);
        let pages = reads.load(Ordering::SeqCst) - before;
        // What the kick of the first publish asked for may still be under way.
        assert!(pages <= 1, "{pages} pages were read");
    }
}

/// Many at once are told in batches, and by two pipelines whose answers may overtake each other.
#[tokio::test]
async fn own_commits_arrive_in_order_whatever_their_batches() {
    for fixture in Fixture::both(NO_POLL).await {
        let mut stream = fixture.watch(Start::Now).await;
        opened(&mut stream).await;
        let published = futures::future::join_all(
            (0..300).map(|n| publish_some(&fixture.store, n, n % 3 == 0)),
        );
        let mut cursors = published.await;
        cursors.sort_unstable();
        let expected: Vec<String> = cursors.iter().map(|(_, key)| key.clone()).collect();
        let last = expected.last().unwrap();
        assert_eq!(keys_until(&mut stream, last).await, expected);
    }
}

/// One of them with a request id takes another way through the database.
async fn publish_some(store: &Store, n: usize, with_request: bool) -> (i64, String) {
    let key = n.to_string();
    let published = store
        .publish(Publish {
            changes: vec![Change::new("app/t", key.as_str(), Op::Upsert, "")],
            origin: String::new(),
            request: with_request.then(|| ("test".to_owned(), key.clone())),
        })
        .await
        .unwrap();
    (published.revision.0, key)
}

#[tokio::test]
async fn what_others_committed_before_comes_first() {
    let database = TestDatabase::create_empty().await;
    let url = database.url();
    let here = Fixture::open(NO_POLL, Some(database)).await;
    // It wakes nobody up.
    let there = Store::open(&steadfast_store::Options {
        url,
        ..steadfast_store::Options::default()
    })
    .await
    .unwrap();
    let mut stream = here.watch(Start::Now).await;
    opened(&mut stream).await;
    let mut expected = Vec::new();
    for n in 0..20 {
        let (_, foreign) = publish_some(&there, 2 * n, false).await;
        let own = format!("own {n}");
        here.publish_only("app/t", &[&own], "").await;
        expected.extend([foreign, own]);
    }
    assert_eq!(keys_until(&mut stream, "own 19").await, expected);
}

/// A restored backup that is as long as what this replica knows, or longer: only the mark before an own commit tells.
#[tokio::test]
async fn an_own_commit_does_not_continue_another_history() {
    for rewrite in [
        "UPDATE change_log SET mark = mark # 1 WHERE revision > 3",
        "DELETE FROM change_log WHERE revision > 3",
    ] {
        let database = TestDatabase::create_empty().await;
        let fixture = Fixture::open(NO_POLL, Some(database)).await;
        let mut stream = fixture.watch(Start::Now).await;
        opened(&mut stream).await;
        for n in 0..6 {
            fixture.publish_only("app/t", &[&n.to_string()], "").await;
        }
        keys_until(&mut stream, "5").await;
        fixture.database.as_ref().unwrap().psql(rewrite).await;
        fixture.publish_only("app/t", &["elsewhere"], "").await;
        let reset = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        let event = reset.expect("an event within 20 s").unwrap();
        let Event::Reset { reason, .. } = event else {
            panic!("{rewrite}: a reset comes first, not {event:?}");
        };
        assert_eq!(reason, ResetReason::StoreChanged);
    }
}

/// A notification costs each listener and the database something; alone there is nobody to notify.
#[tokio::test]
async fn a_replica_alone_notifies_nobody_until_another_listens() {
    let database = TestDatabase::create_empty().await;
    let url = database.url();
    let (faults, sent) = counting("notify");
    let here = Fixture::open_with(NO_POLL, Some(database), faults).await;
    let mut woken = here.wakeups.subscribe();
    while !here.wakeups.is_listening() {
        woken.changed().await.unwrap();
    }
    let tests = sent.load(Ordering::SeqCst);
    assert_eq!(tests, 1, "its own test");
    for n in 0..20 {
        here.publish("app/t", &[&n.to_string()], "").await;
    }
    assert_eq!(sent.load(Ordering::SeqCst), tests, "nobody listens");

    let store = Store::open(&steadfast_store::Options {
        url,
        ..steadfast_store::Options::default()
    })
    .await
    .unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let coalesce = Duration::from_millis(5);
    let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
    let hub = Hub::start(store, &wakeups, NO_POLL, &stop, &tasks)
        .await
        .unwrap();
    let mut stream = hub
        .subscribe(crate::scene::from(Start::Earliest))
        .await
        .unwrap();
    opened(&mut stream).await;
    // Published at any moment of its arrival, it is found without polling.
    for n in 20..60 {
        here.publish("app/t", &[&n.to_string()], "").await;
    }
    let keys = keys_until(&mut stream, "59").await;
    assert_eq!(keys, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(sent.load(Ordering::SeqCst) > tests);
    stop.cancel();
}

#[tokio::test]
async fn own_commits_do_not_wait_for_a_page_of_the_log() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(database)] {
        let (stuck, is_stuck) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (plan, told) = (Arc::clone(&stuck), Arc::clone(&is_stuck));
        let faults = Faults::planned(move |point| {
            if point == Point::Sending("log_page") && plan.load(Ordering::SeqCst) {
                told.notify_one();
                return Fault::Stop;
            }
            Fault::None
        });
        let fixture = Fixture::open_with(OPTIONS, database, faults).await;
        let mut stream = fixture.watch(Start::Now).await;
        opened(&mut stream).await;
        stuck.store(true, Ordering::SeqCst);
        // The poll's page never comes.
        is_stuck.notified().await;
        for key in ["a", "b", "c"] {
            fixture.publish("app/t", &[key], "").await;
        }
        assert_eq!(keys_until(&mut stream, "c").await, ["a", "b", "c"]);
    }
}
