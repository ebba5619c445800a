//! Memory is always one state of the database, and is stamped with that one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use steadfast_api::registry::v1::GetPackageResponse;
use steadfast_catalog::{Options, PackageDocument, VersionDocument};
use steadfast_store::{Lease, LocalSave, LocalSaved, PackageRow, PackageWrite, Store};
use steadfast_types::ReplicaId;

use crate::fixture::Database;

/// It is written until so many states were seen.
const STATES: usize = 12;

/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Two packages, written in turn.
const NAMES: [&str; 2] = ["even", "odd"];

/// A package that says which revision wrote it.
fn write(name: &str, revision: i64) -> PackageWrite {
    let document = PackageDocument {
        name: name.to_owned(),
        source: "dev".to_owned(),
        description: revision.to_string(),
        versions: vec![VersionDocument {
            version: "local".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let canonical = document.canonical().expect("encodes");
    PackageWrite {
        name: name.to_owned(),
        package: Some(PackageRow {
            name: name.to_owned(),
            source: document.source,
            document: canonical.text,
            content_hash: canonical.hash,
            upstream_etag: format!("{revision}"),
        }),
        ..PackageWrite::default()
    }
}

/// Writes a package as somebody who looked at the database just now.
async fn save(store: &Store, lease: &Lease, name: &str, revision: i64) -> LocalSaved {
    let names = [name.to_owned()].into();
    let view = store.local_view("dev", &names).await.expect("reads");
    let compared: BTreeMap<_, _> = view
        .origins
        .into_iter()
        .filter(|row| row.name == name)
        .map(|row| (row.name.clone(), row))
        .collect();
    let save = LocalSave {
        writes: vec![write(name, revision)],
        compared,
        ..LocalSave::default()
    };
    store.save_local(lease, &save).await.expect("writes")
}

async fn claimed(store: &Store, seconds: u64) -> Lease {
    let duration = Duration::from_secs(seconds);
    let claimed = store.claim_lease("local/dev//a", ReplicaId::random(), duration);
    claimed.await.expect("answers").expect("is free")
}

#[tokio::test]
async fn rule_10_an_answer_shows_the_revision_that_it_is_stamped_with() {
    for database in Database::both().await {
        let replica = database.replica(Options::new(ReplicaId::random())).await;
        let other = match &database.postgres {
            Some(_) => Some(database.replica(Options::new(ReplicaId::random())).await),
            None => None,
        };
        let store = replica.store.clone();
        let lease = claimed(&store, 60).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let writer = tokio::spawn(async move {
            let mut revision = 0;
            while !over.load(Ordering::Relaxed) {
                revision += 1;
                let name = NAMES[usize::try_from(revision % 2).expect("0 or 1")];
                let saved = save(&store, &lease, name, revision).await;
                assert!(matches!(saved, LocalSaved::Stored(Some(_))), "{saved:?}");
            }
            revision
        });
        let mut states = BTreeSet::new();
        let began = Instant::now();
        while states.len() < STATES {
            assert!(began.elapsed() < DEADLINE, "few states: {states:?}");
            for found in [Some(&replica), other.as_ref()].into_iter().flatten() {
                for (parity, name) in (0..).zip(NAMES) {
                    let Ok(answer) = found.catalog.lookup_package(name, "") else {
                        continue;
                    };
                    let answer: GetPackageResponse = answer.decode().expect("decodes");
                    let stamp = answer.read_state.expect("is stamped").revision;
                    let package = answer.package.expect("a package");
                    let shown: i64 = package.description.parse().expect("a number");
                    // The newest revision up to the stamp that wrote this package.
                    let newest = stamp - (stamp - parity).rem_euclid(2);
                    assert_eq!(shown, newest, "{name} is stamped with {stamp}");
                    states.insert(stamp);
                }
            }
            tokio::task::yield_now().await;
        }
        is_over.store(true, Ordering::Relaxed);
        let written = writer.await.expect("wrote");
        assert!(states.iter().all(|state| *state <= written), "{states:?}");
    }
}

#[tokio::test]
async fn rule_4_a_write_under_a_lost_lease_or_against_a_change_is_refused() {
    for database in Database::both().await {
        let replica = database.replica(Options::new(ReplicaId::random())).await;
        let store = &replica.store;
        let lost = claimed(store, 0).await;
        let lease = claimed(store, 60).await;
        let unseen = LocalSave {
            writes: vec![write("p", 1)],
            ..LocalSave::default()
        };
        let refused = store.save_local(&lost, &unseen).await.expect_err("fenced");
        assert!(
            matches!(refused, steadfast_store::Error::Fenced { .. }),
            "{refused}"
        );
        let saved = store.save_local(&lease, &unseen).await.expect("writes");
        assert!(matches!(saved, LocalSaved::Stored(Some(_))));
        // The same once more, by somebody who has not seen it: there it was nothing, and now it is something.
        let saved = store.save_local(&lease, &unseen).await.expect("answers");
        assert_eq!(saved, LocalSaved::Stale);
        let removal = LocalSave {
            removals: vec!["p".to_owned()],
            ..LocalSave::default()
        };
        let saved = store.save_local(&lease, &removal).await.expect("answers");
        assert_eq!(saved, LocalSaved::Stale);
        assert_eq!(replica.head().await, 1);
        assert!(matches!(
            save(store, &lease, "p", 2).await,
            LocalSaved::Stored(Some(_))
        ));
        assert_eq!(replica.head().await, 2);
    }
}
