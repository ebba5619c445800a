//! Lists of sagas, and what is forgotten of their executors.

use std::{collections::BTreeMap, time::Duration};

use steadfast_types::ReplicaId;
use uuid::Uuid;

use crate::{
    Error, NewSaga, SagaFirst, SagaListFilter, SagaPlanRow, SagaRow, Store, test_stores::both,
};

const LONG: Duration = Duration::from_secs(60);

/// A saga in a state, in an executor's hand or in nobody's.
pub(super) fn saga(state: &str, owner: &str, labels: &str) -> NewSaga {
    let first = SagaFirst {
        owner: owner.to_owned(),
        wake_us: None,
        state: state.to_owned(),
        machine: "{}".to_owned(),
        records: "{\"records\":[]}".to_owned(),
    };
    let id = Uuid::now_v7().to_string();
    NewSaga {
        plan: SagaPlanRow {
            hash: "p".to_owned(),
            document: "[]".to_owned(),
        },
        row: SagaRow {
            last_write: id.clone(),
            id,
            kind: "k".to_owned(),
            definition_name: "d".to_owned(),
            definition_version: 1,
            plan_hash: "p".to_owned(),
            deployment_id: String::new(),
            triggered_by: String::new(),
            labels: labels.to_owned(),
            inputs: "{}".to_owned(),
            context: "null".to_owned(),
            priority: 0,
            concurrency_key: None,
            request_key: None,
            body_hash: String::new(),
            deadline_us: None,
            state: String::new(),
            machine: String::new(),
            version: 1,
            owner: String::new(),
            wake_us: None,
            crashes: 0,
            created_us: 0,
            started_us: None,
            ended_us: None,
        },
        free: first.clone(),
        waiting: first,
    }
}

async fn ids(store: &Store, filter: &SagaListFilter, before: &str, limit: i64) -> Vec<String> {
    let rows = store.sagas(filter, before, limit).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn lists_are_filtered_by_the_database_and_their_pages_are_full() {
    for fixture in both().await {
        let store = &fixture.store;
        let states = ["completed", "stuck", "paused", "running"];
        let mut started = Vec::new();
        for n in 0..120_i64 {
            let labels = match n % 5 {
                0 => r#"{"team":"a","we \"\\ird\n":"ü"}"#,
                _ => r#"{"team":"b"}"#,
            };
            let mut new = saga(states[(n % 4) as usize], "", labels);
            new.row.kind = format!("kind,{}", n % 3);
            new.row.definition_version = 1 + n % 2;
            new.row.deployment_id = format!("x{}", n % 7);
            started.push(store.start_saga(new).await.unwrap().row);
        }
        started.sort_by(|a, b| b.id.cmp(&a.id));
        let weird = BTreeMap::from([
            ("team".to_owned(), "a".to_owned()),
            ("we \"\\ird\n".to_owned(), "ü".to_owned()),
        ]);
        let other = BTreeMap::from([("team".to_owned(), "c".to_owned())]);
        let text = |text: &str| text.to_owned();
        let live = vec![text("stuck"), text("paused")];
        let mut filters = Vec::new();
        for states in [vec![], live.clone(), vec![text("completed"), text("stuck")]] {
            for kinds in [vec![], vec![text("kind,1"), text("kind,2")]] {
                for labels in [BTreeMap::new(), weird.clone(), other.clone()] {
                    for definition_version in [None, Some(2)] {
                        filters.push(SagaListFilter {
                            states: states.clone(),
                            kinds: kinds.clone(),
                            labels: labels.clone(),
                            definition_name: definition_version.map(|_| text("d")),
                            definition_version,
                            deployment_id: None,
                        });
                    }
                }
            }
        }
        filters.push(SagaListFilter {
            deployment_id: Some(text("x3")),
            ..SagaListFilter::default()
        });
        let mut kept = 0;
        for filter in filters {
            let has = |row: &SagaRow, (key, value): (&String, &String)| {
                let labels: BTreeMap<String, String> = serde_json::from_str(&row.labels).unwrap();
                labels.get(key) == Some(value)
            };
            let expected: Vec<String> = started
                .iter()
                .filter(|row| filter.states.is_empty() || filter.states.contains(&row.state))
                .filter(|row| filter.kinds.is_empty() || filter.kinds.contains(&row.kind))
                .filter(|row| filter.labels.iter().all(|label| has(row, label)))
                .filter(|row| {
                    filter
                        .definition_version
                        .is_none_or(|version| version == row.definition_version)
                })
                .filter(|row| {
                    filter
                        .deployment_id
                        .as_ref()
                        .is_none_or(|id| *id == row.deployment_id)
                })
                .map(|row| row.id.clone())
                .collect();
            kept += expected.len();
            // Pages of three, each full but for the last.
            let (mut found, mut before) = (Vec::new(), String::new());
            loop {
                let page = ids(store, &filter, &before, 3).await;
                assert_eq!(
                    page.len(),
                    3.min(expected.len() - found.len()),
                    "{filter:?}"
                );
                let Some(last) = page.last() else { break };
                before.clone_from(last);
                found.extend(page);
            }
            assert_eq!(found, expected, "{filter:?}");
        }
        assert!(
            kept > 500,
            "the filters keep too little to prove anything: {kept}"
        );
        let counts = store.saga_counts(&["stuck", "running", "pending"]).await;
        assert_eq!(counts.unwrap(), [30, 30, 0]);
    }
}

#[tokio::test]
async fn leases_of_lost_executors_go_once_their_sagas_are_taken_over() {
    for fixture in both().await {
        let store = &fixture.store;
        let (dead, idle, alive) = (
            ReplicaId::random(),
            ReplicaId::random(),
            ReplicaId::random(),
        );
        let name = |id: ReplicaId| format!("saga/{id}");
        let claim = async |name: &str, owner, duration| {
            let lease = store.claim_lease(name, owner, duration).await.unwrap();
            lease.unwrap()
        };
        let of_dead = claim(&name(dead), dead, Duration::ZERO).await;
        claim(&name(idle), idle, Duration::ZERO).await;
        let of_alive = claim(&name(alive), alive, LONG).await;
        // Names that only look alike, and an expired one that is a fence for other work.
        claim("saga-retention", alive, Duration::ZERO).await;
        claim("maintenance", alive, Duration::ZERO).await;
        let owned = saga("running", &dead.to_string(), "{}");
        store.start_saga(owned).await.unwrap();

        // Not old enough.
        assert_eq!(store.prune_saga_leases("saga/", LONG).await.unwrap(), 0);
        // `dead` still has a saga that nobody took over, `alive` is alive.
        let prune = async || store.prune_saga_leases("saga/", Duration::ZERO).await;
        assert_eq!(prune().await.unwrap(), 1);
        assert_eq!(
            store.dead_saga_owners("saga/", alive).await.unwrap(),
            [(dead.to_string(), true)]
        );
        let taken_lease = claim(&name(dead), alive, LONG).await;
        assert!(taken_lease.fence > of_dead.fence);
        let dead_name = dead.to_string();
        let taken = store
            .take_over_sagas(&of_alive, alive, (&dead_name, true), 10)
            .await
            .unwrap();
        assert_eq!(taken.len(), 1);
        store.release_lease(&taken_lease).await.unwrap();
        assert_eq!(prune().await.unwrap(), 1);
        assert_eq!(prune().await.unwrap(), 0);

        // Whoever wakes up late finds nothing that it could go on with, before and after the name is taken again.
        for _ in 0..2 {
            let renewed = store.renew_lease(&of_dead).await;
            assert!(matches!(renewed, Err(Error::Fenced { .. })), "{renewed:?}");
            let claimed = store.claim_sagas(&of_dead, dead, 10).await;
            assert!(matches!(claimed, Err(Error::Fenced { .. })), "{claimed:?}");
            store.claim_lease(&name(dead), alive, LONG).await.unwrap();
        }
        // The others are where they were: their fences go on.
        for other in ["saga-retention", "maintenance"] {
            let again = claim(other, dead, LONG).await;
            assert_eq!(again.fence.0, 2, "{other}");
        }
    }
}

/// A saga that was paused while it waited for its key asks for the key again, and no wake-up is lost either way.
#[tokio::test]
async fn a_saga_that_is_let_begin_takes_its_key_or_waits_for_it() {
    for fixture in both().await {
        let store = &fixture.store;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut new = saga("pending", "", "{}");
            new.row.concurrency_key = Some("key".to_owned());
            new.free.wake_us = Some(0);
            ids.push(store.start_saga(new).await.unwrap().row.id);
        }
        let steer = async |id: &str, state: &str, begin: bool, release: bool| {
            let steered = store.steer_saga(id, |row| {
                Ok::<_, Error>(crate::SteerWrite {
                    owner: String::new(),
                    wake_us: None,
                    state: state.to_owned(),
                    machine: row.machine.clone(),
                    records: "{\"records\":[]}".to_owned(),
                    ended: release,
                    release,
                    begin,
                    deadline_done: false,
                    crashes: 0,
                    actor: "a".to_owned(),
                    reason: "r".to_owned(),
                })
            });
            match steered.await.unwrap() {
                crate::Steered::Moved(row) => row.wake_us,
                other => panic!("{other:?}"),
            }
        };
        // The first holds the key: the second waits on.
        assert_eq!(steer(&ids[1], "paused", false, false).await, None);
        assert_eq!(steer(&ids[1], "pending", true, false).await, None);
        // Paused when the key is let go: it takes it when it is resumed.
        assert_eq!(steer(&ids[1], "paused", false, false).await, None);
        steer(&ids[0], "abandoned", false, true).await;
        let paused = store.saga(&ids[1]).await.unwrap().unwrap();
        assert_eq!(paused.wake_us, None);
        assert_eq!(steer(&ids[1], "pending", true, false).await, Some(0));
        // It holds it now: a third one waits, and is handed it.
        let mut third = saga("pending", "", "{}");
        third.row.concurrency_key = Some("key".to_owned());
        third.free.wake_us = Some(0);
        let third = store.start_saga(third).await.unwrap();
        assert!(third.waits);
        steer(&ids[1], "abandoned", false, true).await;
        let third = store.saga(&third.row.id).await.unwrap().unwrap();
        assert!(third.wake_us.is_some_and(|at| at > 0));
    }
}
