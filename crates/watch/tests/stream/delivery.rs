//! What comes, in which order, in which parts, and what a silent stream says.

use std::time::Duration;

use futures::future::join_all;
use steadfast_api::watch::v1::watch_response::Event as Wire;
use steadfast_store::{Change, Op, Publish, Store, Wakeups};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::ReplicaId;
use steadfast_watch::{Filters, Hub, Options, Pace, Start, SubscribeOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::scene::{Fixture, OPTIONS, from, keys_until, next, opened};

#[tokio::test]
async fn every_subscriber_gets_everything_in_order_wherever_it_begins() {
    // Small enough that early cursors are off the ring.
    let options = Options {
        ring_revisions: 16,
        page_revisions: 7,
        ..OPTIONS
    };
    for fixture in Fixture::both(options).await {
        let zero = fixture.store.head().await.unwrap().cursor;
        let mut cursors = vec![zero];
        let mut live = fixture.watch(Start::Now).await;
        opened(&mut live).await;
        for n in 0..60 {
            let (a, b) = (format!("{n}a"), format!("{n}b"));
            cursors.push(fixture.publish("app/t", &[&a, &b], "").await);
        }
        let all: Vec<String> = (0..60)
            .flat_map(|n| [format!("{n}a"), format!("{n}b")])
            .collect();
        assert_eq!(keys_until(&mut live, "59b").await, all);
        assert_eq!(live.cursor(), cursors[60]);
        let resumed = cursors[..60].iter().enumerate().map(|(n, cursor)| {
            let (fixture, all) = (&fixture, &all);
            async move {
                let mut resumed = fixture.watch(Start::After(*cursor)).await;
                assert_eq!(
                    keys_until(&mut resumed, "59b").await,
                    all[2 * n..],
                    "after {n}"
                );
            }
        });
        join_all(resumed).await;
        let mut earliest = fixture.watch(Start::Earliest).await;
        assert_eq!(keys_until(&mut earliest, "59b").await, all);
    }
}

#[tokio::test]
async fn filters_and_own_changes() {
    for fixture in Fixture::both(OPTIONS).await {
        let mut subscription = fixture
            .hub
            .subscribe(SubscribeOptions {
                filters: Filters::parse([("app/a", "x")]).unwrap(),
                incarnation: "me".to_owned(),
                ..from(Start::Now)
            })
            .await
            .unwrap();
        opened(&mut subscription).await;
        fixture.publish("app/b", &["x1"], "").await;
        fixture.publish("app/a", &["y", "x2", "z"], "me").await;
        fixture.publish("app/a", &["x3"], "other").await;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let Wire::Batch(batch) = next(&mut subscription).await else {
                panic!("only batches");
            };
            seen.extend(
                batch
                    .changes
                    .into_iter()
                    .map(|change| (change.key, change.own)),
            );
        }
        assert_eq!(seen, [("x2".to_owned(), true), ("x3".to_owned(), false)]);
    }
}

#[tokio::test]
async fn a_revision_larger_than_a_batch_comes_in_parts_and_is_marked_whole_at_the_end() {
    let fixture = Fixture::open(OPTIONS, None).await;
    let mut subscription = fixture.watch(Start::Now).await;
    opened(&mut subscription).await;
    let before = subscription.cursor();
    let changes: Vec<Change> = (0..200)
        .map(|n| Change {
            payload: vec![7; 4096],
            ..Change::new("app/t", n.to_string(), Op::Upsert, "")
        })
        .collect();
    fixture
        .store
        .publish(Publish {
            changes,
            origin: String::new(),
            request: None,
        })
        .await
        .unwrap();
    fixture.wakeups.kick();
    let (mut keys, mut parts) = (Vec::new(), 0);
    loop {
        let Wire::Batch(batch) = next(&mut subscription).await else {
            panic!("only batches");
        };
        parts += 1;
        keys.extend(batch.changes.into_iter().map(|change| change.key));
        let revision = batch.cursor.unwrap().revision;
        if !batch.more {
            assert_eq!(revision, before.revision.0 + 1);
            break;
        }
        assert_eq!(
            revision, before.revision.0,
            "a part does not move the cursor"
        );
    }
    assert_eq!(keys, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(parts > 1);
}

#[tokio::test]
async fn a_quiet_stream_tells_its_cursor() {
    let fixture = Fixture::open(OPTIONS, None).await;
    let mut subscription = fixture
        .hub
        .subscribe(SubscribeOptions {
            filters: Filters::parse([("app/nothing", "")]).unwrap(),
            pace: Pace::Every(Duration::from_millis(50)),
            ..from(Start::Now)
        })
        .await
        .unwrap();
    opened(&mut subscription).await;
    let cursor = fixture.publish("app/t", &["k"], "").await;
    loop {
        let Wire::Progress(progress) = next(&mut subscription).await else {
            panic!("nothing matches");
        };
        if progress.cursor.unwrap().revision == cursor.revision.0 {
            break;
        }
    }
}

#[tokio::test]
async fn a_stream_that_catches_up_in_silence_tells_its_cursor() {
    let options = Options {
        ring_revisions: 1,
        page_revisions: 1,
        ..OPTIONS
    };
    for fixture in Fixture::both(options).await {
        let zero = fixture.store.head().await.unwrap().cursor;
        for n in 0..20 {
            fixture.publish("app/t", &[&n.to_string()], "").await;
        }
        let mut position = fixture.hub.position();
        position
            .wait_for(|position| position.applied.revision.0 == 20)
            .await
            .unwrap();
        let mut subscription = fixture
            .hub
            .subscribe(SubscribeOptions {
                filters: Filters::parse([("app/nothing", "")]).unwrap(),
                pace: Pace::Every(Duration::from_nanos(1)),
                ..from(Start::After(zero))
            })
            .await
            .unwrap();
        opened(&mut subscription).await;
        let Wire::Progress(progress) = next(&mut subscription).await else {
            panic!("nothing matches");
        };
        assert!(progress.cursor.unwrap().revision < 20, "on its way");
    }
}

#[tokio::test]
async fn two_replicas_hear_of_each_other() {
    let database = TestDatabase::create_empty().await;
    let slow_poll = Options {
        poll_interval: Duration::from_secs(60),
        ..OPTIONS
    };
    let url = database.url();
    let here = Fixture::open(slow_poll, Some(database)).await;
    let store = Store::open(&steadfast_store::Options {
        url,
        ..steadfast_store::Options::default()
    })
    .await
    .unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let coalesce = Duration::from_millis(5);
    let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
    let hub = Hub::start(store, &wakeups, slow_poll, &stop, &tasks)
        .await
        .unwrap();
    // Only a notification can be this fast, so wait until the other one listens.
    let mut woken = wakeups.subscribe();
    while !wakeups.is_listening() {
        woken.changed().await.unwrap();
    }
    let mut there = hub.subscribe(from(Start::Now)).await.unwrap();
    opened(&mut there).await;
    here.publish("app/t", &["k"], "").await;
    assert_eq!(keys_until(&mut there, "k").await, ["k"]);
    stop.cancel();
}
