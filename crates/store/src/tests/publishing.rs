//! Publishing: dense revisions, request ids, refused data.

use futures::future::join_all;
use steadfast_types::{Cursor, Mark, Revision};

use crate::{
    Change, Error, Op, Publish, Read, Store,
    test_stores::{both, postgres},
};

pub(super) fn publish(key: &str) -> Publish {
    Publish {
        changes: vec![Change::new("app/test", key, Op::Upsert, "")],
        origin: "node-1".to_owned(),
        request: None,
    }
}

fn with_request(key: &str, id: &str) -> Publish {
    Publish {
        request: Some(("me".to_owned(), id.to_owned())),
        ..publish(key)
    }
}

pub(super) async fn start(store: &Store) -> Cursor {
    Cursor {
        store_id: store.store_id().await.unwrap(),
        ..store.head().await.unwrap().cursor
    }
}

#[tokio::test]
async fn concurrent_publishes_get_dense_revisions_and_are_read_back_whole() {
    for fixture in both().await {
        let store = &fixture.store;
        let zero = start(store).await;
        let outcomes = join_all((0..200).map(|n| {
            let mut publish = publish(&format!("k{n}"));
            publish.changes.push(Change {
                payload: vec![0, 1, 255],
                ..Change::new("app/other", "x\"y\\z", Op::Delete, "e1")
            });
            store.publish(publish)
        }))
        .await;
        let mut revisions: Vec<i64> = outcomes
            .iter()
            .map(|outcome| outcome.as_ref().unwrap().revision.0)
            .collect();
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
        let Read::Page(page) = store.read_log(zero, 1_000).await.unwrap() else {
            panic!("the cursor is of this history");
        };
        assert_eq!((page.entries.len(), page.head), (200, Revision(200)));
        for entry in &page.entries {
            assert_eq!(entry.origin, "node-1");
            assert_eq!(entry.changes[1].payload, [0, 1, 255]);
            assert_eq!(entry.changes[1].key, "x\"y\\z");
            let outcome = outcomes
                .iter()
                .map(|outcome| outcome.as_ref().unwrap())
                .find(|outcome| outcome.revision == entry.revision);
            assert_eq!(outcome.map(|outcome| outcome.mark), Some(entry.mark));
        }
    }
}

#[tokio::test]
async fn a_request_id_makes_a_publish_safe_to_repeat() {
    for fixture in both().await {
        let store = &fixture.store;
        let first = store.publish(with_request("a", "r1")).await.unwrap();
        assert!(!first.replayed);
        let again = store.publish(with_request("a", "r1")).await.unwrap();
        assert_eq!((again.revision, again.mark), (first.revision, first.mark));
        assert!(again.replayed);
        let other = store.publish(with_request("b", "r1")).await;
        assert!(matches!(other, Err(Error::RequestIdReused)), "{other:?}");
        let mut someone_else = with_request("b", "r1");
        someone_else.request = Some(("you".to_owned(), "r1".to_owned()));
        assert!(!store.publish(someone_else).await.unwrap().replayed);
        assert_eq!(store.head().await.unwrap().cursor.revision, Revision(2));
    }
}

#[tokio::test]
async fn one_request_id_sent_many_times_at_once_is_one_revision() {
    for fixture in both().await {
        let store = &fixture.store;
        let outcomes = join_all((0..20).map(|n| async move {
            // Others in between, so that batches are mixed.
            store.publish(publish(&format!("k{n}"))).await.unwrap();
            store.publish(with_request("same", "r")).await.unwrap()
        }))
        .await;
        assert_eq!(
            outcomes.iter().filter(|outcome| !outcome.replayed).count(),
            1
        );
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.revision == outcomes[0].revision)
        );
        assert_eq!(store.head().await.unwrap().cursor.revision, Revision(21));
    }
}

/// PostgreSQL refuses NUL characters. Callers check for them; should one come through, only its own write suffers.
#[tokio::test]
async fn refused_data_does_not_take_its_batch_along() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let mut bad = publish("bad");
    bad.origin = "nul \0 character".to_owned();
    let (bad, good) = tokio::join!(
        store.publish(bad),
        join_all((0..31).map(|n| store.publish(publish(&format!("k{n}"))))),
    );
    assert!(matches!(bad, Err(Error::Data { .. })), "{bad:?}");
    assert!(good.iter().all(Result::is_ok), "{good:?}");
    assert_eq!(store.head().await.unwrap().cursor.revision, Revision(31));
}

#[tokio::test]
async fn two_replicas_share_one_dense_history() {
    let fixture = postgres().await;
    let other = Store::open(&fixture.options).await.unwrap();
    let zero = start(&other).await;
    let writers = [&fixture.store, &other].map(|store| async move {
        for n in 0..100 {
            store.publish(publish(&format!("k{n}"))).await.unwrap();
        }
    });
    join_all(writers).await;
    let Read::Page(page) = other.read_log(zero, 1_000).await.unwrap() else {
        panic!("the cursor is of this history");
    };
    assert_eq!(page.entries.len(), 200);
}

#[tokio::test]
async fn a_cursor_of_another_history_is_noticed() {
    for fixture in both().await {
        let store = &fixture.store;
        for n in 0..5 {
            store.publish(publish(&format!("k{n}"))).await.unwrap();
        }
        let here = start(store).await;
        let other_mark = Cursor {
            mark: Mark(here.mark.0 ^ 1),
            ..here
        };
        let ahead = Cursor {
            revision: Revision(6),
            ..here
        };
        for wrong in [other_mark, ahead] {
            let read = store.read_log(wrong, 10).await.unwrap();
            assert!(matches!(read, Read::Diverged { .. }), "{wrong}: {read:?}");
            let located = store.locate(wrong).await.unwrap();
            assert_eq!(located, crate::Located::Diverged);
        }
        assert_eq!(store.locate(here).await.unwrap(), crate::Located::Here);
        let new = store.declare_new_history(here.store_id).await.unwrap();
        assert_ne!(new, here.store_id);
        // A second replica that noticed the same keeps what the first one drew.
        assert_eq!(store.declare_new_history(here.store_id).await.unwrap(), new);
        let read = store.read_log(here, 10).await.unwrap();
        assert!(matches!(read, Read::Diverged { .. }), "{read:?}");
    }
}

/// A follower that is behind holds a page: a page of large revisions is a short one.
#[tokio::test]
async fn pages_are_bounded_in_bytes_and_never_empty_before_the_head() {
    for fixture in both().await {
        let store = &fixture.store;
        let mut cursor = start(store).await;
        for n in 0..6 {
            let mut large = publish(&format!("k{n}"));
            large.changes[0].payload = vec![7; 600 << 10];
            store.publish(large).await.unwrap();
        }
        let mut pages = Vec::new();
        while cursor.revision < Revision(6) {
            let Read::Page(page) = store.read_log(cursor, 100).await.unwrap() else {
                panic!("the cursor is of this history");
            };
            let last = page.entries.last().unwrap();
            (cursor.revision, cursor.mark) = (last.revision, last.mark);
            pages.push(page.entries.len());
        }
        assert_eq!(pages, [2, 2, 2]);
    }
}
