//! Cursors of another history are never followed.

use steadfast_api::watch::v1::watch_response::Event as Wire;
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::{Cursor, Mark};
use steadfast_watch::{End, Error, Event, OnLost, ResetReason, Start, SubscribeOptions};

use crate::scene::{Fixture, OPTIONS, from, keys_until, next, opened};

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
