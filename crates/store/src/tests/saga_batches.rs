//! Starts and transitions of sagas that arrive together.

use std::time::Duration;

use futures::future::{join, join_all};
use steadfast_types::{Cursor, ReplicaId};

use super::sagas::saga;
use crate::{
    Error, Lease, NewSaga, OwnCommit, Read, SagaTransition, StartedSaga, Store, TransitionOutcome,
    engine::Db,
    test_stores::{both, postgres},
};

const LONG: Duration = Duration::from_secs(60);

/// An executor with sagas in hand.
struct Executor {
    id: ReplicaId,
    lease: Lease,
    sagas: Vec<String>,
}

impl Executor {
    async fn with(store: &Store, sagas: usize) -> Self {
        let id = ReplicaId::random();
        let lease = store.claim_lease(&format!("saga/{id}"), id, LONG).await;
        let mut executor = Self {
            id,
            lease: lease.unwrap().unwrap(),
            sagas: Vec::new(),
        };
        for _ in 0..sagas {
            let started = store.start_saga(executor.another()).await.unwrap();
            executor.sagas.push(started.row.id);
        }
        executor
    }

    fn another(&self) -> NewSaga {
        saga("running", &self.id.to_string(), "{}")
    }

    fn requested(&self, key: &str, body: &str) -> NewSaga {
        let mut new = self.another();
        new.row.request_key = Some(key.to_owned());
        new.row.body_hash = body.to_owned();
        new
    }

    fn step(&self, id: &str, expected: i64, state: &str) -> SagaTransition {
        let ended = state == "completed";
        SagaTransition {
            id: id.to_owned(),
            expected,
            held_by: self.id.to_string(),
            owner: if ended {
                String::new()
            } else {
                self.id.to_string()
            },
            wake_us: None,
            state: state.to_owned(),
            machine: format!("{{\"at\":{expected}}}"),
            records: "{\"records\":[]}".to_owned(),
            ended,
            release: false,
            progress: true,
            lease: self.lease.clone(),
        }
    }
}

/// Hands all of it to the pipeline before anything of it is committed.
async fn together(
    store: &Store,
    steps: Vec<SagaTransition>,
    starts: Vec<NewSaga>,
) -> (
    Vec<Result<TransitionOutcome, Error>>,
    Vec<Result<StartedSaga, Error>>,
) {
    let steps = steps.into_iter().map(|step| store.commit_saga(step));
    let starts = starts.into_iter().map(|new| store.start_saga(new));
    join(join_all(steps), join_all(starts)).await
}

async fn cursor(store: &Store) -> Cursor {
    store.head().await.unwrap().cursor
}

/// Each revision's keys and etags.
async fn revisions(store: &Store, after: Cursor) -> Vec<Vec<(String, String)>> {
    let read = store.read_log(after, 100).await.unwrap();
    let Read::Page(page) = read else {
        panic!("{read:?}")
    };
    let entries = page.entries.into_iter();
    entries
        .map(|entry| {
            let changes = entry.changes.into_iter();
            changes.map(|change| (change.key, change.etag)).collect()
        })
        .collect()
}

fn told(id: &str, etag: &str) -> (String, String) {
    (id.to_owned(), etag.to_owned())
}

#[tokio::test]
async fn starts_and_transitions_that_arrive_together_are_one_revision() {
    for fixture in both().await {
        let store = &fixture.store;
        let executor = Executor::with(store, 3).await;
        let [a, b, c] = &executor.sagas[..] else {
            panic!("three")
        };
        let before = cursor(store).await;
        let mut own = store.own_commits();
        let steps = vec![
            executor.step(a, 1, "running"),
            executor.step(b, 1, "completed"),
            executor.step(c, 1, "running"),
        ];
        let (moved, started) =
            together(store, steps, vec![executor.another(), executor.another()]).await;

        let Ok(TransitionOutcome::Committed(Some(time))) = moved[0] else {
            panic!("{moved:?}")
        };
        for outcome in &moved {
            assert!(
                matches!(outcome, Ok(TransitionOutcome::Committed(at)) if *at == Some(time)),
                "{moved:?}"
            );
        }
        let started: Vec<StartedSaga> = started.into_iter().map(Result::unwrap).collect();
        for one in &started {
            assert!(!one.replayed && !one.waits);
            let stored = store.saga(&one.row.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&one.row));
        }
        let expected = vec![vec![
            told(a, "running/2"),
            told(b, "completed/2"),
            told(c, "running/2"),
            told(&started[0].row.id, "running/1"),
            told(&started[1].row.id, "running/1"),
        ]];
        assert_eq!(revisions(store, before).await, expected);
        let OwnCommit::Told(appended) = &*own.recv().await.unwrap() else {
            panic!("it is not told where it landed")
        };
        assert_eq!(appended.after, before.mark);
        let marks: Vec<_> = appended.entries.iter().map(|entry| entry.mark).collect();
        assert_eq!(marks, [cursor(store).await.mark]);

        let ended = store.saga(b).await.unwrap().unwrap();
        assert_eq!((ended.state.as_str(), ended.version), ("completed", 2));
        assert_eq!(ended.ended_us, Some(time.0));
        let ids = [a.as_str(), b, c, &started[0].row.id, &started[1].row.id];
        let events = store.saga_histories(&ids).await.unwrap();
        let versions = |id: &str| -> Vec<i64> {
            let of = events.iter().filter(|event| event.saga_id == id);
            of.map(|event| event.version).collect()
        };
        assert_eq!(versions(a), [1, 2]);
        assert_eq!(versions(b), [1, 2]);
        assert_eq!(versions(&started[1].row.id), [1]);
    }
}

#[tokio::test]
async fn what_something_is_in_the_way_of_is_left_out_of_the_batch() {
    for fixture in both().await {
        let store = &fixture.store;
        let executor = Executor::with(store, 2).await;
        let [fine, stale] = &executor.sagas[..] else {
            panic!("two")
        };
        let earlier = executor.requested("repeated", "same");
        let earlier = store.start_saga(earlier).await.unwrap().row;
        let other = executor.requested("reused", "other");
        store.start_saga(other).await.unwrap();
        let before = cursor(store).await;

        let steps = vec![
            executor.step(stale, 7, "running"),
            executor.step(fine, 1, "running"),
            executor.step("nobody", 1, "running"),
        ];
        let starts = vec![
            executor.requested("repeated", "same"),
            executor.another(),
            executor.requested("reused", "mine"),
        ];
        let new = starts[1].row.id.clone();
        let (moved, started) = together(store, steps, starts).await;

        assert!(matches!(moved[0], Ok(TransitionOutcome::Changed)));
        assert!(matches!(moved[1], Ok(TransitionOutcome::Committed(_))));
        assert!(matches!(moved[2], Ok(TransitionOutcome::Changed)));
        let replayed = started[0].as_ref().unwrap();
        assert_eq!((&replayed.row, replayed.replayed), (&earlier, true));
        let added = started[1].as_ref().unwrap();
        assert_eq!(
            (added.row.id.as_str(), added.replayed),
            (new.as_str(), false)
        );
        assert!(matches!(started[2], Err(Error::RequestIdReused)));
        assert_eq!(
            revisions(store, before).await,
            [[told(fine, "running/2"), told(&new, "running/1")]]
        );
        assert_eq!(store.saga(stale).await.unwrap().unwrap().version, 1);
        assert_eq!(store.saga(&new).await.unwrap().unwrap(), added.row);
        let events = store.saga_histories(&[stale, fine, &new]).await.unwrap();
        assert_eq!(events.len(), 4, "{events:?}");
    }
}

#[tokio::test]
async fn a_lost_lease_refuses_the_transitions_of_a_batch_and_not_its_starts() {
    for fixture in both().await {
        let store = &fixture.store;
        let executor = Executor::with(store, 2).await;
        store.release_lease(&executor.lease).await.unwrap();
        let name = &executor.lease.name;
        let taken = store.claim_lease(name, ReplicaId::random(), LONG).await;
        taken.unwrap().unwrap();
        let before = cursor(store).await;

        let steps = executor.sagas.iter();
        let steps = steps.map(|id| executor.step(id, 1, "completed")).collect();
        let (moved, started) = together(store, steps, vec![executor.another()]).await;
        for outcome in &moved {
            assert!(
                matches!(outcome, Ok(TransitionOutcome::Fenced)),
                "{moved:?}"
            );
        }
        let started = started[0].as_ref().unwrap();
        assert_eq!(
            revisions(store, before).await,
            [[told(&started.row.id, "running/1")]]
        );
        for id in &executor.sagas {
            let row = store.saga(id).await.unwrap().unwrap();
            assert_eq!((row.state.as_str(), row.version), ("running", 1));
        }
    }
}

/// What is in the way of a transition may not be committed yet when it comes.
#[tokio::test]
async fn one_transition_sees_what_it_had_to_wait_for() {
    let in_the_way = [
        (
            "UPDATE lease SET fence = fence + 1, owner = 'another'",
            TransitionOutcome::Fenced,
        ),
        (
            "UPDATE saga SET version = version + 1",
            TransitionOutcome::Changed,
        ),
    ];
    for (statement, expected) in in_the_way {
        let fixture = postgres().await;
        let store = &fixture.store;
        let executor = Executor::with(store, 1).await;
        let id = executor.sagas[0].as_str();
        let before = cursor(store).await;
        let Db::Postgres { connections, .. } = store.db() else {
            panic!("the fixture is PostgreSQL");
        };
        let mut other = connections.pool().begin().await.unwrap();
        sqlx::query(statement).execute(&mut *other).await.unwrap();
        let mut step = Box::pin(store.commit_saga(executor.step(id, 1, "completed")));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut step).await;
        assert!(early.is_err(), "it did not wait: {early:?}");
        other.commit().await.unwrap();
        assert_eq!(step.await.unwrap(), expected);
        assert_eq!(cursor(store).await, before);
        let row = store.saga(id).await.unwrap().unwrap();
        assert_eq!(
            (row.state.as_str(), row.machine.as_str()),
            ("running", "{}")
        );
        assert_eq!(store.saga_histories(&[id]).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn sagas_with_keys_start_beside_transitions() {
    for fixture in both().await {
        let store = &fixture.store;
        let executor = Executor::with(store, 2).await;
        let keyed = || {
            let mut new = executor.another();
            new.row.concurrency_key = Some("host/a".to_owned());
            new.waiting.state = "pending".to_owned();
            new.waiting.owner = String::new();
            new
        };
        let steps = executor.sagas.iter();
        let steps = steps.map(|id| executor.step(id, 1, "running")).collect();
        let starts = vec![keyed(), executor.another(), keyed()];
        let (moved, started) = together(store, steps, starts).await;
        for outcome in &moved {
            assert!(
                matches!(outcome, Ok(TransitionOutcome::Committed(_))),
                "{moved:?}"
            );
        }
        let waits: Vec<(bool, String)> = started
            .into_iter()
            .map(|one| one.map(|one| (one.waits, one.row.state)).unwrap())
            .collect();
        let expected = [(false, "running"), (false, "running"), (true, "pending")];
        assert_eq!(
            waits,
            expected.map(|(waits, state)| (waits, state.to_owned()))
        );
    }
}

/// SQLite stores such a text.
#[tokio::test]
async fn a_start_that_the_database_refuses_takes_nothing_along() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let executor = Executor::with(store, 3).await;
    let mut refused = executor.another();
    refused.row.labels = "a\0b".to_owned();
    let id = refused.row.id.clone();
    let steps = executor.sagas.iter();
    let steps = steps.map(|id| executor.step(id, 1, "running")).collect();
    let (moved, started) = together(store, steps, vec![executor.another(), refused]).await;
    for outcome in &moved {
        assert!(
            matches!(outcome, Ok(TransitionOutcome::Committed(_))),
            "{moved:?}"
        );
    }
    started[0].as_ref().unwrap();
    assert!(matches!(started[1], Err(Error::Data { .. })), "{started:?}");
    assert!(store.saga(&id).await.unwrap().is_none());
}
