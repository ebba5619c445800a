//! What streams may take: their number, their connections, and the time that a hub gives them when it drains.

use std::time::Duration;

use futures::future::join_all;
use steadfast_api::watch::v1::watch_response::Event as Wire;
use steadfast_testkit::postgres::TestDatabase;
use steadfast_watch::{End, Error, Event, Options, Start, Subscription};

use crate::scene::{Fixture, OPTIONS, from, next, opened};

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

/// However many streams wait for the log, others get a connection.
#[tokio::test]
async fn streams_off_the_ring_leave_connections_to_others() {
    let options = Options {
        ring_revisions: 1,
        page_revisions: 1,
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
        assert!(matches!(next(&mut stream).await, Wire::Batch(_)));
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
        page_revisions: 1,
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
    assert!(matches!(next(&mut parked).await, Wire::Batch(_)));
    let mut session = fixture.database.as_ref().unwrap().session().await;
    session
        .run("BEGIN; LOCK TABLE change_log IN ACCESS EXCLUSIVE MODE;")
        .await
        .unwrap();
    let read = tokio::time::timeout(Duration::from_millis(200), parked.next()).await;
    assert!(read.is_err(), "it is not parked: {read:?}");
    // Nor does one that has yet to be opened.
    let opening = fixture.hub.subscribe(from(Start::After(parked.cursor())));
    let drain = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fixture.hub.drain();
    };
    let (refused, ()) = tokio::time::timeout(Duration::from_secs(2), async {
        tokio::join!(opening, drain)
    })
    .await
    .expect("it ends with the hub");
    assert!(matches!(refused, Err(Error::Draining)), "{refused:?}");
    let last = tokio::time::timeout(Duration::from_secs(2), parked.next()).await;
    assert!(matches!(last, Ok(Ok(Event::Progress(_)))), "{last:?}");
    assert_eq!(parked.next().await.err(), Some(End::Draining));
}
