//! The log is compacted while streams are on their way through it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_api::watch::v1::watch_response::Event as Wire;
use steadfast_testkit::history::{Committed, Event, Segment, StartAt, WatcherLog, check, key};
use steadfast_types::{Cursor, Mark, Revision};
use steadfast_watch::{
    End, Event as Told, Filters, OnLost, Options, Pace, ResetReason, Start, SubscribeOptions,
};

use crate::scene::{Fixture, OPTIONS, decoded, from, keys_until, next, opened};

/// Whoever is a little behind reads the log, in many pages.
const SMALL: Options = Options {
    ring_revisions: 4,
    page_revisions: 5,
    ..OPTIONS
};

#[tokio::test]
async fn a_replay_that_compaction_passes_is_told_and_never_skips() {
    for fixture in Fixture::both(SMALL).await {
        let zero = fixture.store.head().await.unwrap().cursor;
        let mut cursors = vec![zero];
        for n in 1..=100 {
            cursors.push(fixture.publish("app/t", &[&n.to_string()], "").await);
        }
        fixture.reach(cursors[100]).await;
        let mut slow = fixture.watch(Start::After(zero)).await;
        let mut strict = fixture
            .hub
            .subscribe(SubscribeOptions {
                on_lost: OnLost::Fail,
                ..from(Start::After(zero))
            })
            .await
            .unwrap();
        // Beyond what will be gone, by then.
        let mut ahead = fixture.watch(Start::After(cursors[70])).await;
        for stream in [&mut slow, &mut strict, &mut ahead] {
            opened(stream).await;
        }
        assert_eq!(keys_until(&mut slow, "5").await, ["1", "2", "3", "4", "5"]);
        assert_eq!(keys_until(&mut strict, "10").await.len(), 10);
        assert_eq!(keys_until(&mut ahead, "75").await.len(), 5);
        fixture.compact(40).await;

        // What was read for another stream may still come, and it goes on from where this one stood.
        let mut seen = Vec::new();
        let (reason, head, compacted) = loop {
            let told = slow.next().await.unwrap();
            if let Told::Reset {
                reason,
                head,
                compacted,
            } = told
            {
                break (reason, head, compacted);
            }
            let Wire::Batch(batch) = decoded(&told.frame()) else {
                panic!("{told:?}");
            };
            seen.extend(batch.changes.into_iter().map(|change| change.revision));
        };
        assert!(seen.len() < 55 && seen.iter().copied().eq((6..).take(seen.len())));
        assert_eq!(reason, ResetReason::Compacted);
        assert_eq!(head, cursors[100]);
        assert_eq!(compacted, cursors[60]);
        let end = End::Compacted {
            compacted: cursors[60].revision,
            head: cursors[100].revision,
        };
        assert_eq!(strict.next().await.unwrap_err(), end);
        let rest: Vec<String> = (76..=100).map(|n| n.to_string()).collect();
        assert_eq!(keys_until(&mut ahead, "100").await, rest);
        fixture.publish("app/t", &["after"], "").await;
        assert_eq!(keys_until(&mut slow, "after").await, ["after"]);

        // The oldest that is left is where the log was compacted.
        let mut oldest = fixture.watch(Start::After(cursors[60])).await;
        opened(&mut oldest).await;
        assert_eq!(keys_until(&mut oldest, "after").await.len(), 41);
        let mut older = fixture.watch(Start::After(cursors[59])).await;
        opened(&mut older).await;
        assert!(matches!(next(&mut older).await, Wire::Reset(_)));
    }
}

/// What a stream is asked for, and how long it dawdles.
const WATCHED: [(&[(&str, &str)], u64); 6] = [
    (&[], 0),
    (&[], 30),
    (&[("app/t", "1")], 20),
    (&[("app/u", "")], 5),
    (&[("app/none", "")], 10),
    (&[("app/*", "")], 60),
];

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_every_pace_are_whole_between_resets() {
    for fixture in Fixture::both(SMALL).await {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let stop = AtomicBool::new(false);
        let publishing = async {
            let mut random = StdRng::seed_from_u64(seed);
            let mut committed = Vec::new();
            for n in 0..600 {
                let topic = ["app/t", "app/u"][random.random_range(0..2)];
                let names: Vec<String> = (0..random.random_range(1..4))
                    .map(|at| format!("{n}-{at}"))
                    .collect();
                let keys: Vec<&str> = names.iter().map(String::as_str).collect();
                let cursor = fixture.publish(topic, &keys, "").await;
                committed.push(Committed {
                    revision: cursor.revision,
                    mark: cursor.mark,
                    keys: keys.iter().map(|k| key(&format!("{topic}:{k}"))).collect(),
                });
                if random.random_bool(0.05) {
                    fixture.compact(random.random_range(1..30)).await;
                }
                if random.random_bool(0.1) {
                    tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
                }
            }
            stop.store(true, Ordering::SeqCst);
            committed
        };
        let zero = fixture.store.head().await.unwrap().cursor;
        let watching = WATCHED.iter().enumerate().map(|(number, (filters, pace))| {
            let random = StdRng::seed_from_u64(seed.wrapping_add(1 + number as u64));
            watch(&fixture, zero, filters, *pace, random, &stop)
        });
        let (committed, logs) = tokio::join!(publishing, join_all(watching));
        let summary = check(zero.store_id, &committed, &logs).unwrap();
        println!("{summary:?}");
        assert_eq!(summary.revisions, 600);
        assert!(summary.resets > 3, "{summary:?}");
        assert!(summary.delivered > 1_000, "{summary:?}");
    }
}

/// Reads at its pace until everything is published and it stands at the head.
async fn watch(
    fixture: &Fixture,
    start: Cursor,
    filters: &[(&str, &str)],
    pace_ms: u64,
    mut random: StdRng,
    stop: &AtomicBool,
) -> WatcherLog {
    let options = SubscribeOptions {
        filters: Filters::parse(filters.iter().copied()).unwrap(),
        pace: Pace::Every(Duration::from_millis(50)),
        ..from(Start::After(start))
    };
    let mut stream = fixture.hub.subscribe(options).await.unwrap();
    let mut events = Vec::new();
    loop {
        let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        let told = told.expect("progress, at least").unwrap();
        events.push(event(decoded(&told.frame())));
        let head = fixture.hub.position().borrow().applied;
        if stop.load(Ordering::SeqCst) && head.revision.0 == 600 && stream.cursor() == head {
            // What it stands at was told, not only reached.
            if matches!(events.last(), Some(Event::Batch { cursor, .. } | Event::Progress { cursor }) if *cursor == head)
            {
                break;
            }
        }
        if pace_ms > 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..pace_ms))).await;
        }
    }
    let names = filters.iter().map(|(topic, prefix)| {
        let above = topic.strip_suffix('*').map(ToOwned::to_owned);
        above.unwrap_or_else(|| format!("{topic}:{prefix}"))
    });
    WatcherLog {
        name: format!("{filters:?} every {pace_ms} ms"),
        prefixes: names.collect(),
        segments: vec![Segment {
            start: StartAt::After(start),
            events,
        }],
        finished: true,
    }
}

fn event(wire: Wire) -> Event {
    let cursor = |message: Option<steadfast_api::common::v1::Cursor>| {
        let message = message.unwrap();
        Cursor {
            store_id: message.store_id.parse().unwrap(),
            revision: Revision(message.revision),
            mark: Mark(message.mark),
        }
    };
    match wire {
        Wire::Opened(opened) => Event::Opened {
            head: cursor(opened.head),
        },
        Wire::Progress(progress) => Event::Progress {
            cursor: cursor(progress.cursor),
        },
        Wire::Reset(reset) => Event::Reset {
            head: cursor(reset.head),
        },
        Wire::Batch(batch) => Event::Batch {
            changes: batch
                .changes
                .iter()
                .map(|change| {
                    let name = format!("{}:{}", change.topic, change.key);
                    (Revision(change.revision), key(&name))
                })
                .collect(),
            cursor: cursor(batch.cursor),
            more: batch.more,
        },
    }
}
