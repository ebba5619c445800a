//! A failover that lost commits, and an older copy that was put back: the log's tail is gone or is another one, whoever looks and
//! however late.

use steadfast_api::watch::v1::watch_response::Event as Wire;
use steadfast_store::{Change, Op, Publish};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::Cursor;
use steadfast_watch::{End, Error, Filters, OnLost, Options, ResetReason, Start, SubscribeOptions};
use tokio::time::{Duration, timeout};

use crate::scene::{Fixture, OPTIONS, from, keys_until, next, opened};

/// What was committed before the tail, and in all.
const KEPT: usize = 30;
const ALL: usize = 60;

/// Streams that are behind are off the ring, and read pages.
const SMALL: Options = Options {
    ring_revisions: 4,
    page_revisions: 7,
    ..OPTIONS
};

/// What becomes of the tail: how long the log is afterwards.
const HEADS: [usize; 4] = [KEPT, ALL - 10, ALL, ALL + 40];

/// Puts other revisions in the place of the tail, up to `head`.
fn lose(head: usize) -> String {
    let mut sql = format!("DELETE FROM change_log WHERE revision > {KEPT};");
    for revision in KEPT + 1..=head {
        let mark: i64 = rand::random();
        sql.push_str(&format!(
            "INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes) VALUES ({revision}, {mark}, \
             'other {revision}', '', 1, '[{{\"t\":\"app/t\",\"k\":\"other {revision}\",\"o\":\"u\"}}]');"
        ));
    }
    sql
}

async fn publish_all(fixture: &Fixture) -> Vec<Cursor> {
    let mut cursors = vec![fixture.store.head().await.unwrap().cursor];
    for n in 1..=ALL {
        cursors.push(fixture.publish("app/t", &[&n.to_string()], "").await);
    }
    fixture.reach(cursors[ALL]).await;
    cursors
}

/// What a stream may say before it is reset: what it has asked for, from where it stood, of the one history or of the other.
fn assert_follows(seen: &[String], after: usize) {
    let old = (after + 1..).map(|revision| revision.to_string());
    let other = (after + 1..).map(|revision| match revision {
        ..=KEPT => revision.to_string(),
        _ => format!("other {revision}"),
    });
    let follows = seen.iter().cloned().eq(old.take(seen.len()))
        || seen.iter().cloned().eq(other.take(seen.len()));
    assert!(follows, "after {after}: {seen:?}");
}

#[tokio::test]
async fn under_a_running_replica_every_stream_is_reset() {
    for head in HEADS {
        for fixture in Fixture::both(SMALL).await {
            let cursors = publish_all(&fixture).await;
            let before = fixture.hub.store_id();
            let open = async |start: usize, filter: &[(&str, &str)], on_lost| {
                let options = SubscribeOptions {
                    filters: Filters::parse(filter.iter().copied()).unwrap(),
                    on_lost,
                    ..from(Start::After(cursors[start]))
                };
                let mut stream = fixture.hub.subscribe(options).await.unwrap();
                opened(&mut stream).await;
                (start, stream)
            };
            let nothing: &[(&str, &str)] = &[("app/none", "")];
            let mut streams = [
                // Level, level and deaf, on the ring, and parked above and below what is lost.
                open(ALL, &[], OnLost::Reset).await,
                open(ALL, nothing, OnLost::Reset).await,
                open(ALL - 2, &[], OnLost::Reset).await,
                open(KEPT + 5, &[], OnLost::Reset).await,
                open(KEPT - 20, &[], OnLost::Reset).await,
                open(0, nothing, OnLost::Reset).await,
            ];
            // Two of them are in the middle of a page.
            for (start, stream) in &mut streams[3..5] {
                let page: Vec<_> = (*start + 1..=*start + 7).map(|n| n.to_string()).collect();
                assert_eq!(keys_until(stream, &page[6]).await, page);
                *start += 7;
            }
            let mut strict = [
                open(ALL, &[], OnLost::Fail).await,
                open(KEPT + 5, &[], OnLost::Fail).await,
            ];
            fixture.rewrite(&lose(head)).await;

            for (start, stream) in &mut streams {
                let mut seen = Vec::new();
                let reset = loop {
                    match next(stream).await {
                        Wire::Batch(batch) => {
                            seen.extend(batch.changes.into_iter().map(|change| change.key));
                        }
                        Wire::Progress(_) => {}
                        Wire::Reset(reset) => break reset,
                        Wire::Opened(_) => panic!("it is open"),
                    }
                };
                assert_follows(&seen, *start);
                assert_eq!(
                    reset.reason(),
                    steadfast_api::watch::v1::ResetReason::StoreChanged
                );
                let told = reset.head.unwrap();
                assert_ne!(told.store_id, before.to_string(), "a new identity");
                assert_eq!(told.revision, i64::try_from(head).unwrap());
            }
            for (_, stream) in &mut strict {
                let ended = async {
                    loop {
                        if let Err(end) = stream.next().await {
                            return end;
                        }
                    }
                };
                let end = timeout(Duration::from_secs(20), ended).await.unwrap();
                assert_eq!(end, End::StoreChanged);
            }
            fixture.publish("app/t", &["after"], "").await;
            for at in [0, 2, 3, 4] {
                assert_eq!(keys_until(&mut streams[at].1, "after").await, ["after"]);
            }
            // No cursor of before is taken for one of now, also where it would have been a place in what was kept.
            for start in [0, KEPT, KEPT + 1, ALL] {
                let options = SubscribeOptions {
                    on_lost: OnLost::Fail,
                    ..from(Start::After(cursors[start]))
                };
                let refused = fixture.hub.subscribe(options).await;
                assert!(matches!(refused, Err(Error::StoreChanged)), "{refused:?}");
            }
        }
    }
}

/// A page of the log is read at once and delivered in several batches, between which the history may turn out to be another one.
#[tokio::test]
async fn what_is_left_of_a_page_of_another_history_is_not_delivered() {
    let options = Options {
        ring_revisions: 1,
        ..OPTIONS
    };
    for fixture in Fixture::both(options).await {
        let zero = fixture.store.head().await.unwrap().cursor;
        let mut last = zero;
        for n in 0..6 {
            let changes = vec![Change {
                payload: vec![7; 100 << 10],
                ..Change::new("app/t", n.to_string(), Op::Upsert, "")
            }];
            let published = fixture.store.publish(Publish {
                changes,
                origin: String::new(),
                request: None,
            });
            let published = published.await.unwrap();
            last = Cursor {
                revision: published.revision,
                mark: published.mark,
                ..zero
            };
        }
        fixture.reach(last).await;
        let mut stream = fixture.watch(Start::After(zero)).await;
        opened(&mut stream).await;
        assert_eq!(keys_until(&mut stream, "1").await, ["0", "1"]);
        fixture
            .rewrite("DELETE FROM change_log WHERE revision > 4")
            .await;
        let mut position = fixture.hub.position();
        let noticed = position.wait_for(|now| now.applied.store_id != zero.store_id);
        let noticed = timeout(Duration::from_secs(20), noticed).await;
        noticed.expect("within 20 s").unwrap();
        let Wire::Reset(reset) = next(&mut stream).await else {
            panic!("the rest of the page is of another history");
        };
        assert_eq!(reset.head.unwrap().revision, 4);
        fixture.publish("app/t", &["after"], "").await;
        assert_eq!(keys_until(&mut stream, "after").await, ["after"]);
    }
}

/// It has nothing to compare with: only the marks of those who ask tell what they have seen.
#[tokio::test]
async fn before_a_replica_starts_whoever_saw_what_was_lost_is_told() {
    for head in HEADS {
        for postgres in [false, true] {
            let database = match postgres {
                true => Some(TestDatabase::create_empty().await),
                false => None,
            };
            let fixture = Fixture::open(SMALL, database).await;
            let cursors = publish_all(&fixture).await;
            let fixture = fixture.restart_after(SMALL, &lose(head)).await;
            let last = match head {
                KEPT => KEPT.to_string(),
                _ => format!("other {head}"),
            };
            for start in [0, 7, KEPT - 1, KEPT, KEPT + 1, ALL - 10, ALL] {
                let reset = from(Start::After(cursors[start]));
                let fail = SubscribeOptions {
                    on_lost: OnLost::Fail,
                    ..reset.clone()
                };
                let strict = fixture.hub.subscribe(fail).await;
                let mut stream = fixture.hub.subscribe(reset).await.unwrap();
                opened(&mut stream).await;
                if start > KEPT {
                    assert!(matches!(strict, Err(Error::StoreChanged)), "{start}");
                    let steadfast_watch::Event::Reset {
                        reason, head: to, ..
                    } = stream.next().await.unwrap()
                    else {
                        panic!("{start} is no place in this history");
                    };
                    assert_eq!(reason, ResetReason::StoreChanged);
                    assert_eq!(to.revision.0, i64::try_from(head).unwrap());
                } else if start < head {
                    for mut stream in [strict.unwrap(), stream] {
                        let seen = keys_until(&mut stream, &last).await;
                        assert_eq!(seen.len(), head - start);
                        assert_follows(&seen, start);
                    }
                } else {
                    assert!(strict.is_ok(), "it stands at the head");
                }
            }
        }
    }
}
