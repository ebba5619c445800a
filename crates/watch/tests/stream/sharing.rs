//! What is done once for many streams.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use prost::Message as _;
use steadfast_api::{
    registry::v1::{GetPackageResponse, Package},
    watch::v1::{Change as Told, value::Kind, watch_response::Event as Wire},
};
use steadfast_store::fault::Faults;
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::{Cursor, Revision};
use steadfast_watch::{
    Event, Filters, Options, Start, SubscribeOptions, Subscription, Value, Values,
};
use tokio::sync::watch;

use crate::scene::{Fixture, OPTIONS, counting, decoded, from, keys_until, next, opened};

/// A log of so many revisions, all of them off the ring, and some of their cursors.
async fn behind(fixture: &Fixture, revisions: i64) -> BTreeMap<i64, Cursor> {
    let zero = fixture.store.head().await.unwrap().cursor;
    let mut cursors = BTreeMap::from([(zero.revision.0, zero)]);
    let mut published = Vec::new();
    for n in 1..=revisions {
        let key = n.to_string();
        published.push(async move { fixture.publish_only("app/t", &[&key], "").await });
        if published.len() == 64 || n == revisions {
            let landed = join_all(std::mem::take(&mut published)).await;
            cursors.extend(landed.into_iter().map(|cursor| (cursor.revision.0, cursor)));
        }
    }
    fixture.wakeups.kick();
    let mut position = fixture.hub.position();
    let reached = position.wait_for(|position| position.applied.revision.0 == revisions);
    reached.await.unwrap();
    cursors
}

/// The revisions of all changes until the log's end.
async fn revisions(stream: &mut Subscription, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        if let Wire::Batch(batch) = next(stream).await {
            seen.extend(batch.changes.iter().map(|change| change.revision));
        }
    }
    seen
}

/// A restarted replica has an empty ring, and all of its streams come back at once.
#[tokio::test]
async fn streams_that_resume_at_about_the_same_place_read_the_log_together() {
    const LAST: i64 = 2_000;
    let options = Options {
        ring_revisions: 1,
        page_revisions: 500,
        max_streams: 1_000,
        poll_interval: Duration::from_secs(600),
        ..OPTIONS
    };
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(database)] {
        let (faults, reads) = counting("log_page");
        let fixture = Fixture::open_with(options, database, faults).await;
        let cursors = behind(&fixture, LAST).await;
        let before = reads.load(Ordering::SeqCst);
        let resuming = (0..300).map(|n| {
            let (fixture, from) = (&fixture, 100 + n % 27);
            let cursor = cursors[&from];
            async move {
                let mut stream = fixture.watch(Start::After(cursor)).await;
                let seen = revisions(&mut stream, LAST).await;
                assert_eq!(seen, (from + 1..=LAST).collect::<Vec<_>>(), "after {from}");
            }
        });
        join_all(resuming).await;
        let pages = reads.load(Ordering::SeqCst) - before;
        // Four would do, if they began where the streams do; and the tailer may still look once because of its kick.
        assert!((4..=6).contains(&pages), "{pages} pages were read");
    }
}

/// They come back within seconds, and each may be level before the next one comes.
#[tokio::test]
async fn streams_that_resume_one_after_the_other_read_the_log_once() {
    let options = Options {
        ring_revisions: 1,
        poll_interval: Duration::from_secs(600),
        ..OPTIONS
    };
    let (faults, reads) = counting("log_page");
    let fixture = Fixture::open_with(options, None, faults).await;
    let cursors = behind(&fixture, 50).await;
    let before = reads.load(Ordering::SeqCst);
    for n in 0..20 {
        let mut stream = fixture.watch(Start::After(cursors[&n])).await;
        assert_eq!(revisions(&mut stream, 50).await.len(), 50 - n as usize);
    }
    let pages = reads.load(Ordering::SeqCst) - before;
    // The tailer may still look once because of its kick.
    assert!((1..=2).contains(&pages), "{pages} pages were read");
}

/// Where they are cannot be told apart from where they may be, so it is not asked apart either.
#[tokio::test]
async fn resuming_off_the_ring_asks_the_database_nothing_but_pages() {
    let options = Options {
        ring_revisions: 1,
        ..OPTIONS
    };
    let (faults, asked) = counting("log_mark");
    let fixture = Fixture::open_with(options, None, faults).await;
    let cursors = behind(&fixture, 50).await;
    for n in 0..20 {
        let mut stream = fixture.watch(Start::After(cursors[&n])).await;
        assert_eq!(revisions(&mut stream, 50).await.len(), 50 - n as usize);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// Batches of streams at one place are the same bytes, if they want the same and caused none of it.
#[tokio::test]
async fn what_is_put_together_for_one_stream_is_handed_to_others() {
    for fixture in Fixture::both(OPTIONS).await {
        let zero = fixture.store.head().await.unwrap().cursor;
        for n in 0..20 {
            let origin = if n == 7 { "me" } else { "" };
            let topic = if n % 2 == 0 { "app/even" } else { "app/odd" };
            fixture.publish(topic, &[&n.to_string()], origin).await;
        }
        let mut position = fixture.hub.position();
        let reached = position.wait_for(|position| position.applied.revision.0 == 20);
        reached.await.unwrap();
        let first = async |filters: &[(&str, &str)], incarnation: &str, suppress_own: bool| {
            let options = SubscribeOptions {
                filters: Filters::parse(filters.iter().copied()).unwrap(),
                incarnation: incarnation.to_owned(),
                suppress_own,
                ..from(Start::After(zero))
            };
            let mut stream = fixture.hub.subscribe(options).await.unwrap();
            opened(&mut stream).await;
            match stream.next().await.unwrap() {
                event @ Event::Batch(_) => event.frame(),
                other => panic!("{other:?}"),
            }
        };
        let keys = |bytes: &bytes::Bytes| -> Vec<(String, bool)> {
            match decoded(bytes) {
                Wire::Batch(batch) => {
                    let changes = batch.changes.into_iter();
                    changes.map(|change| (change.key, change.own)).collect()
                }
                other => panic!("{other:?}"),
            }
        };
        let told = |wanted: &dyn Fn(i32) -> bool, own: Option<i32>| -> Vec<(String, bool)> {
            let numbers = (0..20).filter(|n| wanted(*n));
            numbers.map(|n| (n.to_string(), Some(n) == own)).collect()
        };
        let all = first(&[], "", false).await;
        assert_eq!(keys(&all), told(&|_| true, None));
        assert_eq!(first(&[], "other", false).await.as_ptr(), all.as_ptr());
        let odd = first(&[("app/odd", "")], "", false).await;
        assert_eq!(keys(&odd), told(&|n| n % 2 == 1, None));
        let again = first(&[("app/odd", "")], "", true).await;
        assert_eq!(again.as_ptr(), odd.as_ptr());
        // What it caused itself is told to it alone.
        assert_eq!(
            keys(&first(&[], "me", false).await),
            told(&|_| true, Some(7))
        );
        assert_eq!(keys(&first(&[], "me", true).await), told(&|n| n != 7, None));
        assert_eq!(first(&[], "", false).await.as_ptr(), all.as_ptr());
    }
}

/// A revision that does not fit whole beside others comes in a batch of its own.
#[tokio::test]
async fn batches_end_with_whole_revisions() {
    let fixture = Fixture::open(OPTIONS, None).await;
    let mut stream = fixture.watch(Start::Now).await;
    opened(&mut stream).await;
    let keys: Vec<Vec<String>> = (0..3)
        .map(|n| {
            (0..500)
                .map(|m| format!("{n}-{m}-{}", "x".repeat(400)))
                .collect()
        })
        .collect();
    for keys in &keys {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        fixture.publish("app/t", &keys, "").await;
    }
    let mut position = fixture.hub.position();
    let reached = position.wait_for(|position| position.applied.revision.0 == 3);
    reached.await.unwrap();
    for (number, keys) in (1..).zip(&keys) {
        let Wire::Batch(batch) = next(&mut stream).await else {
            panic!("a batch");
        };
        assert!(!batch.more);
        assert_eq!(batch.cursor.unwrap().revision, number);
        let told: Vec<String> = batch.changes.into_iter().map(|change| change.key).collect();
        assert_eq!(told, *keys);
    }
}

/// Values that reflect the log up to where a test says.
#[derive(Debug)]
struct Memory {
    reached: watch::Sender<Cursor>,
}

impl Memory {
    fn value(&self, key: &str) -> Vec<u8> {
        let name = format!("{key} as of {}", self.reached.borrow().revision.0);
        let package = Package {
            name,
            ..Package::default()
        };
        let answer = GetPackageResponse {
            package: Some(package),
            ..GetPackageResponse::default()
        };
        answer.encode_to_vec()
    }
}

impl Values for Memory {
    fn reached(&self) -> watch::Receiver<Cursor> {
        self.reached.subscribe()
    }

    fn value(&self, topic: &str, key: &str) -> Option<Value> {
        let mut bytes = self.value(key);
        match (topic, key) {
            ("app/large", _) => bytes.resize((1 << 20) + 1, 0),
            ("app/none", _) => return None,
            _ => {}
        }
        let rest = bytes.split_off(bytes.len() / 2);
        Some(Value {
            field: 1,
            parts: [bytes.into(), rest.into(), bytes::Bytes::new()],
        })
    }
}

fn name(change: &Told) -> Option<String> {
    match change.value.clone()?.kind? {
        Kind::Package(answer) => Some(answer.package?.name),
        Kind::Schema(schema) => panic!("{schema:?}"),
    }
}

#[tokio::test]
async fn changes_wait_for_values_that_reflect_them() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(database)] {
        let fixture = Fixture::open_with(OPTIONS, database, Faults::default()).await;
        let zero = fixture.store.head().await.unwrap().cursor;
        let memory = Arc::new(Memory {
            reached: watch::Sender::new(zero),
        });
        let options = SubscribeOptions {
            values: Some(Arc::clone(&memory) as Arc<dyn Values>),
            ..from(Start::After(zero))
        };
        let mut stream = fixture.hub.subscribe(options.clone()).await.unwrap();
        opened(&mut stream).await;
        let first = fixture.publish("app/t", &["a"], "").await;
        let second = fixture.publish("app/t", &["a", "b"], "").await;
        let last = fixture.publish("app/none", &["c"], "").await;
        // Whoever wants no values has the changes.
        let mut plain = fixture.watch(Start::After(zero)).await;
        assert_eq!(keys_until(&mut plain, "c").await, ["a", "a", "b", "c"]);
        let waiting = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
        assert!(waiting.is_err(), "{waiting:?}");

        memory.reached.send_replace(first);
        let Wire::Batch(batch) = next(&mut stream).await else {
            panic!("a batch");
        };
        assert_eq!(batch.cursor.unwrap().revision, first.revision.0);
        assert_eq!(batch.changes.len(), 1);
        assert_eq!(name(&batch.changes[0]).as_deref(), Some("a as of 1"));

        // Of another history, memory reflects nothing.
        memory.reached.send_replace(Cursor {
            store_id: steadfast_types::StoreId::random(),
            revision: Revision(1_000),
            ..second
        });
        let waiting = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
        assert!(waiting.is_err(), "{waiting:?}");

        memory.reached.send_replace(last);
        let Wire::Batch(batch) = next(&mut stream).await else {
            panic!("a batch");
        };
        let names: Vec<Option<String>> = batch.changes.iter().map(name).collect();
        assert_eq!(
            names,
            [
                Some("a as of 3".to_owned()),
                Some("b as of 3".to_owned()),
                None
            ]
        );
        // Too large to travel; and not shared with streams that want none.
        let large = fixture.publish("app/large", &["d"], "").await;
        memory.reached.send_replace(large);
        let Wire::Batch(batch) = next(&mut stream).await else {
            panic!("a batch");
        };
        assert_eq!(batch.changes.len(), 1);
        assert_eq!(batch.changes[0].value, None);
        let mut plain = fixture.watch(Start::After(first)).await;
        opened(&mut plain).await;
        let Wire::Batch(batch) = next(&mut plain).await else {
            panic!("a batch");
        };
        assert!(batch.changes.iter().all(|change| change.value.is_none()));
    }
}
