//! Streams over real databases: whole, in order, resumable, honest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::future::join_all;
use prost::Message as _;
use steadfast_api::watch::v1::{WatchResponse, watch_response::Event as Wire};
use steadfast_store::{Change, Op, Publish, Store, Wakeups};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::{Cursor, Mark, ReplicaId};
use steadfast_watch::{
    End, Error, Event, Filters, Hub, OnLost, Options, Pace, ResetReason, Start, SubscribeOptions,
    Subscription,
};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const OPTIONS: Options = Options {
    ring_revisions: 1_000,
    ring_bytes: 1 << 20,
    poll_interval: Duration::from_millis(50),
    page_revisions: 100,
    max_streams: 100,
};

struct Fixture {
    store: Store,
    hub: Hub,
    wakeups: Wakeups,
    stop: CancellationToken,
    database: Option<TestDatabase>,
    _folder: Option<TempDir>,
}

impl Fixture {
    async fn open(options: Options, database: Option<TestDatabase>) -> Self {
        let folder = database.is_none().then(|| tempfile::tempdir().unwrap());
        let store = Store::open(&steadfast_store::Options {
            url: database.as_ref().map(TestDatabase::url).unwrap_or_default(),
            data_dir: folder
                .as_ref()
                .map(|f| f.path().to_owned())
                .unwrap_or_default(),
            ..steadfast_store::Options::default()
        })
        .await
        .unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let coalesce = Duration::from_millis(5);
        let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
        let hub = Hub::start(store.clone(), &wakeups, options, &stop, &tasks)
            .await
            .unwrap();
        Self {
            store,
            hub,
            wakeups,
            stop,
            database,
            _folder: folder,
        }
    }

    async fn both(options: Options) -> [Self; 2] {
        let database = TestDatabase::create_empty().await;
        [
            Self::open(options, None).await,
            Self::open(options, Some(database)).await,
        ]
    }

    async fn publish(&self, topic: &str, keys: &[&str], origin: &str) -> Cursor {
        let published = self
            .store
            .publish(Publish {
                changes: keys
                    .iter()
                    .map(|key| Change::new(topic, *key, Op::Upsert, ""))
                    .collect(),
                origin: origin.to_owned(),
                request: None,
            })
            .await
            .unwrap();
        self.wakeups.kick();
        Cursor {
            store_id: self.hub.store_id(),
            revision: published.revision,
            mark: published.mark,
        }
    }

    async fn watch(&self, start: Start) -> Subscription {
        self.hub.subscribe(from(start)).await.unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn from(start: Start) -> SubscribeOptions {
    SubscribeOptions {
        filters: Filters::default(),
        start,
        on_lost: OnLost::Reset,
        pace: Pace::Every(Duration::from_secs(60)),
        incarnation: String::new(),
    }
}

/// The next event, decoded as a client would.
async fn next(subscription: &mut Subscription) -> Wire {
    let event = tokio::time::timeout(Duration::from_secs(20), subscription.next())
        .await
        .expect("an event within 20 s")
        .unwrap();
    WatchResponse::decode(event.encode())
        .unwrap()
        .event
        .unwrap()
}

async fn opened(subscription: &mut Subscription) {
    assert!(matches!(next(subscription).await, Wire::Opened(_)));
}

/// Collects keys until one of them is `last`.
async fn keys_until(subscription: &mut Subscription, last: &str) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        match next(subscription).await {
            Wire::Batch(batch) => keys.extend(batch.changes.into_iter().map(|change| change.key)),
            Wire::Opened(_) | Wire::Progress(_) => {}
            Wire::Reset(reset) => panic!("{reset:?}"),
        }
        if keys.last().is_some_and(|key| key == last) {
            return keys;
        }
    }
}

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
async fn cursors_without_a_future_are_refused_or_reset() {
    for fixture in Fixture::both(OPTIONS).await {
        let good = fixture.publish("app/t", &["k"], "").await;
        let forged = Cursor {
            mark: Mark(good.mark.0 ^ 1),
            ..good
        };
        let future = Cursor {
            revision: good.revision.next(),
            ..good
        };
        for cursor in [forged, future] {
            let refused = fixture
                .hub
                .subscribe(SubscribeOptions {
                    on_lost: OnLost::Fail,
                    ..from(Start::After(cursor))
                })
                .await;
            assert!(matches!(refused, Err(Error::StoreChanged)), "{refused:?}");
            let mut subscription = fixture.watch(Start::After(cursor)).await;
            opened(&mut subscription).await;
            let Wire::Reset(reset) = next(&mut subscription).await else {
                panic!("a reset comes first");
            };
            let head = reset.head.expect("a reset tells the head").revision;
            let last = fixture.publish("app/t", &["next"], "").await;
            // Every revision has one key here. This replica may not have read the newest ones yet when it told its head.
            let keys = keys_until(&mut subscription, "next").await;
            let expected = usize::try_from(last.revision.0 - head).unwrap();
            assert_eq!(keys.len(), expected, "it goes on from the head it was told");
        }
    }
}

/// What a restored backup looks like to a running replica: its own newest revision is gone, or is somebody else's.
#[tokio::test]
async fn another_history_under_a_running_replica_resets_its_streams() {
    for rewrite in [
        "DELETE FROM change_log WHERE revision > 3",
        "UPDATE change_log SET mark = mark # 1 WHERE revision > 3",
    ] {
        let database = TestDatabase::create_empty().await;
        let fixture = Fixture::open(OPTIONS, Some(database)).await;
        let mut subscription = fixture.watch(Start::Now).await;
        let mut failing = fixture
            .hub
            .subscribe(SubscribeOptions {
                on_lost: OnLost::Fail,
                ..from(Start::Now)
            })
            .await
            .unwrap();
        for n in 0..6 {
            fixture.publish("app/t", &[&n.to_string()], "").await;
        }
        keys_until(&mut subscription, "5").await;
        keys_until(&mut failing, "5").await;
        let before = fixture.hub.store_id();
        let last = subscription.cursor();
        fixture.database.as_ref().unwrap().psql(rewrite).await;
        let Event::Reset { reason, head, .. } = subscription.next().await.unwrap() else {
            panic!("a reset comes first");
        };
        assert_eq!(reason, ResetReason::StoreChanged);
        assert_ne!(head.store_id, before, "{rewrite}");
        assert_eq!(failing.next().await.err(), Some(End::StoreChanged));
        // Whoever resumes later learns it as well, and the stream goes on.
        fixture.publish("app/t", &["after"], "").await;
        assert_eq!(keys_until(&mut subscription, "after").await, ["after"]);
        let mut late = fixture.watch(Start::After(last)).await;
        opened(&mut late).await;
        assert!(matches!(next(&mut late).await, Wire::Reset(_)), "{rewrite}");
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

#[tokio::test]
async fn draining_tells_the_cursor_and_ends() {
    let fixture = Fixture::open(OPTIONS, None).await;
    let mut subscription = fixture.watch(Start::Now).await;
    opened(&mut subscription).await;
    fixture.hub.drain();
    assert!(matches!(next(&mut subscription).await, Wire::Progress(_)));
    assert_eq!(subscription.next().await.err(), Some(End::Draining));
    let refused = fixture.hub.subscribe(from(Start::Now)).await;
    assert!(matches!(refused, Err(Error::Draining)), "{refused:?}");
}

/// Behind a lock that nobody gets, as good as a database that does not answer.
#[tokio::test]
async fn draining_does_not_wait_for_the_database() {
    let options = Options {
        ring_revisions: 1,
        ..OPTIONS
    };
    let fixture = Fixture::open(options, Some(TestDatabase::create_empty().await)).await;
    let zero = fixture.store.head().await.unwrap().cursor;
    for n in 0..3 {
        fixture.publish("app/t", &[&n.to_string()], "").await;
    }
    let mut position = fixture.hub.position();
    position
        .wait_for(|position| position.applied.revision.0 == 3)
        .await
        .unwrap();
    let mut parked = fixture.watch(Start::After(zero)).await;
    opened(&mut parked).await;
    let mut session = fixture.database.as_ref().unwrap().session().await;
    session
        .run("BEGIN; LOCK TABLE change_log IN ACCESS EXCLUSIVE MODE;")
        .await
        .unwrap();
    let read = tokio::time::timeout(Duration::from_millis(200), parked.next()).await;
    assert!(read.is_err(), "it is not parked: {read:?}");
    fixture.hub.drain();
    let last = tokio::time::timeout(Duration::from_secs(2), parked.next()).await;
    assert!(matches!(last, Ok(Ok(Event::Progress(_)))), "{last:?}");
    assert_eq!(parked.next().await.err(), Some(End::Draining));
}

/// However many streams wait for the log, others get a connection.
#[tokio::test]
async fn streams_off_the_ring_leave_connections_to_others() {
    let options = Options {
        ring_revisions: 1,
        ..OPTIONS
    };
    let fixture = Fixture::open(options, Some(TestDatabase::create_empty().await)).await;
    let zero = fixture.store.head().await.unwrap().cursor;
    for n in 0..3 {
        fixture.publish("app/t", &[&n.to_string()], "").await;
    }
    let mut position = fixture.hub.position();
    position
        .wait_for(|position| position.applied.revision.0 == 3)
        .await
        .unwrap();
    let mut parked = Vec::new();
    for _ in 0..40 {
        let mut stream = fixture.watch(Start::After(zero)).await;
        opened(&mut stream).await;
        parked.push(stream);
    }
    let mut session = fixture.database.as_ref().unwrap().session().await;
    session
        .run("BEGIN; LOCK TABLE change_log IN ACCESS EXCLUSIVE MODE;")
        .await
        .unwrap();
    let reading = join_all(parked.iter_mut().map(Subscription::next));
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::time::timeout(Duration::from_secs(2), fixture.store.ping()).await
    };
    tokio::select! {
        read = reading => panic!("the log is locked: {read:?}"),
        answered = other => assert!(matches!(answered, Ok(Ok(()))), "{answered:?}"),
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
async fn the_number_of_streams_is_limited() {
    let options = Options {
        max_streams: 2,
        ..OPTIONS
    };
    let fixture = Fixture::open(options, None).await;
    let first = fixture.watch(Start::Now).await;
    let _second = fixture.watch(Start::Now).await;
    let refused = fixture.hub.subscribe(from(Start::Now)).await;
    assert!(
        matches!(refused, Err(Error::TooManyStreams { limit: 2 })),
        "{refused:?}"
    );
    drop(first);
    fixture.watch(Start::Now).await;
}
