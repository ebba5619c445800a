//! Leases, fences and schedules.

use std::time::Duration;

use steadfast_types::{ReplicaId, Timestamp};

use crate::{Error, engine::Db, test_stores::both};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_lease_has_one_owner_until_it_is_released_or_runs_out() {
    for fixture in both().await {
        let store = &fixture.store;
        let (a, b) = (ReplicaId::random(), ReplicaId::random());
        let first = store.claim_lease("work", a, LONG).await.unwrap().unwrap();
        assert_eq!(store.claim_lease("work", b, LONG).await.unwrap(), None);
        store.renew_lease(&first).await.unwrap();
        store.release_lease(&first).await.unwrap();
        let second = store
            .claim_lease("work", b, Duration::ZERO)
            .await
            .unwrap()
            .unwrap();
        assert!(second.fence > first.fence);
        let renewed = store.renew_lease(&first).await;
        assert!(matches!(renewed, Err(Error::Fenced { .. })), "{renewed:?}");
        // The second ran out at once; nobody took it, so it can still be renewed.
        store.renew_lease(&second).await.unwrap();
        let third = store.claim_lease("work", a, LONG).await.unwrap().unwrap();
        assert!(third.fence > second.fence);
    }
}

#[tokio::test]
async fn a_write_under_an_old_fence_is_refused() {
    for fixture in both().await {
        let store = &fixture.store;
        let old = store
            .claim_lease("work", ReplicaId::random(), Duration::ZERO)
            .await
            .unwrap()
            .unwrap();
        let mut tx = store.db().begin().await.unwrap();
        old.guard(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        store
            .claim_lease("work", ReplicaId::random(), LONG)
            .await
            .unwrap()
            .unwrap();
        let mut tx = store.db().begin().await.unwrap();
        let refused = old.guard(&mut tx).await;
        assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    }
}

/// The guard is a lock, not a look: a takeover waits until the guarded transaction has ended.
#[tokio::test]
async fn a_takeover_waits_for_a_guarded_transaction() {
    let fixture = crate::test_stores::postgres().await;
    let store = &fixture.store;
    let old = store
        .claim_lease("work", ReplicaId::random(), Duration::ZERO)
        .await
        .unwrap()
        .unwrap();
    let mut tx = store.db().begin().await.unwrap();
    old.guard(&mut tx).await.unwrap();
    let mut takeover = Box::pin(store.claim_lease("work", ReplicaId::random(), LONG));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut takeover).await;
    assert!(early.is_err(), "the takeover did not wait");
    tx.commit().await.unwrap();
    assert!(takeover.await.unwrap().is_some());
}

/// A restored copy counts fences again from where it was: the fence alone does not say who holds the lease.
#[tokio::test]
async fn a_lease_of_another_history_is_not_the_same_lease() {
    for fixture in both().await {
        let store = &fixture.store;
        let old = store
            .claim_lease("work", ReplicaId::random(), Duration::from_secs(60))
            .await
            .unwrap()
            .unwrap();
        match store.db() {
            Db::Postgres { connections, .. } => sqlx::query("DELETE FROM lease")
                .execute(connections.pool())
                .await
                .map(drop),
            Db::Sqlite { writer, .. } => sqlx::query("DELETE FROM lease")
                .execute(writer)
                .await
                .map(drop),
        }
        .unwrap();
        let new = store
            .claim_lease("work", ReplicaId::random(), Duration::from_secs(60))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(new.fence, old.fence);
        let renewed = store.renew_lease(&old).await;
        assert!(matches!(renewed, Err(Error::Fenced { .. })), "{renewed:?}");
        store.release_lease(&old).await.unwrap();
        store.renew_lease(&new).await.unwrap();
        let mut tx = store.db().begin().await.unwrap();
        assert!(old.guard(&mut tx).await.is_err());
        new.guard(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            store
                .claim_lease("work", ReplicaId::random(), Duration::from_secs(60))
                .await
                .unwrap(),
            None,
            "the old owner handed back what was not its own"
        );
    }
}

#[tokio::test]
async fn a_due_run_is_taken_once() {
    for fixture in both().await {
        let store = &fixture.store;
        let (due, next) = (Timestamp(1_000), Timestamp(i64::MAX));
        store
            .put_schedule("s", "* * * * *", "UTC", due)
            .await
            .unwrap();
        // Configured again after a restart: the state stays.
        store
            .put_schedule("s", "* * * * *", "UTC", next)
            .await
            .unwrap();
        let taken = futures::future::join_all(
            (0..8).map(|_| async { store.take_due_run("s", due, next).await.unwrap() }),
        )
        .await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
        store.pause_schedule("s", true, due).await.unwrap();
        assert!(
            !store.take_due_run("s", due, next).await.unwrap(),
            "it is paused"
        );
        let (schedules, _) = store.list_schedules().await.unwrap();
        assert_eq!(schedules[0].next_due, None);
        store.pause_schedule("s", false, due).await.unwrap();
        assert!(store.take_due_run("s", due, next).await.unwrap());
        store
            .record_schedule_result("s", "refresh 1")
            .await
            .unwrap();
        let (schedules, now) = store.list_schedules().await.unwrap();
        assert_eq!(schedules[0].last_result, "refresh 1");
        assert!(schedules[0].last_run.is_some_and(|time| time <= now));
    }
}
