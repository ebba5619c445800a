//! What keeps the store small: old revisions, old request outcomes and the like go, a batch at a time, by one replica at a time.

use std::{collections::BTreeSet, time::Duration};

use steadfast_drift::Sweeper;
use steadfast_store::{DriftRetention, Error, Lease, Retention, Store};
use steadfast_types::ReplicaId;

/// How often there is something to look at.
const INTERVAL: Duration = Duration::from_secs(60);
/// A pause between two batches, so that others get the database.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);
const LEASE: &str = "maintenance";
/// How long a node is remembered after its lease has ended: whoever looks for one that is gone finds it. As the contract says.
const NODE_AGE: Duration = Duration::from_secs(3_600);
/// Bytes of icons that are looked at in one pass.
const LOOSE_ICONS_MAX: i64 = 10_000;
/// Those that are removed in one transaction: each may be as large as an icon.
const LOOSE_ICONS_BATCH: usize = 100;

/// After how long inventories are looked after here.
#[derive(Debug, Clone, Copy)]
struct Ages {
    /// One that nobody ended fails.
    open: Duration,
    /// One whose end is not finished is brought there: who was at it may have been killed.
    ending: Duration,
}

/// As the contract says.
const AGES: Ages = Ages {
    open: Duration::from_secs(86_400),
    ending: Duration::from_secs(30),
};

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Of the change log.
    pub(crate) log: Retention,
    /// Of drifts and what led to them.
    pub(crate) drift: DriftRetention,
}

/// Runs for ever; the caller drops it.
pub(crate) async fn run(
    store: Store,
    sweeper: Sweeper,
    replica: ReplicaId,
    lease_duration: Duration,
    keep: Keep,
) {
    let mut loose_icons = BTreeSet::new();
    loop {
        // Spread over replicas.
        tokio::time::sleep(INTERVAL.mul_f64(0.5 + rand::random::<f64>())).await;
        let pass = once(
            &store,
            &sweeper,
            replica,
            lease_duration,
            keep,
            &mut loose_icons,
        );
        if let Err(error) = pass.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "maintenance did not finish; it is tried again later"
            );
        }
    }
}

/// Ends what inventories nobody ends, and lets what they say be compared at once, as if somebody had ended them. Returns how many.
async fn end_inventories(store: &Store, sweeper: &Sweeper, ages: Ages) -> Result<u64, Error> {
    let mut ended = store.fail_abandoned_inventories(ages.open).await?;
    ended.extend(store.resume_inventory_ends(ages.ending).await?);
    for id in &ended {
        sweeper.ask_due(&format!("inventory:{id}")).await?;
    }
    Ok(ended.len() as u64)
}

/// Removes bytes that no icon refers to now and none referred to at the last look, and remembers those of now. Who found a hash in
/// memory a moment before it went reads its bytes in between. Only memory knows of the last look: when it is lost, these bytes go a
/// look later. Returns how many went.
async fn prune_icons(
    store: &Store,
    lease: &Lease,
    loose: &mut BTreeSet<String>,
) -> Result<u64, Error> {
    let now = store.loose_icon_blobs(LOOSE_ICONS_MAX).await?;
    let (former, fresh): (Vec<_>, Vec<_>) = now.into_iter().partition(|hash| loose.contains(hash));
    *loose = fresh.into_iter().collect();
    let mut pruned = 0;
    for batch in former.chunks(LOOSE_ICONS_BATCH) {
        pruned += store.prune_icon_blobs(batch).await?;
        tokio::time::sleep(BETWEEN_BATCHES).await;
        store.renew_lease(lease).await?;
    }
    Ok(pruned)
}

async fn once(
    store: &Store,
    sweeper: &Sweeper,
    replica: ReplicaId,
    lease_duration: Duration,
    keep: Keep,
    loose_icons: &mut BTreeSet<String>,
) -> Result<(), Error> {
    let Some(lease) = store.claim_lease(LEASE, replica, lease_duration).await? else {
        return Ok(());
    };
    let (mut revisions, mut requests, mut drift, mut nodes) = (0, 0, 0, 0);
    let inventories = end_inventories(store, sweeper, AGES).await?;
    let icons = prune_icons(store, &lease, loose_icons).await?;
    loop {
        let compacted = store.compact(&lease, keep.log).await?;
        let pruned = store.prune_requests().await?;
        let drifts = store.prune_drift(&keep.drift).await?;
        let gone = store.prune_nodes(NODE_AGE).await?;
        revisions += compacted;
        requests += pruned;
        drift += drifts;
        nodes += gone;
        if compacted + pruned + drifts + gone == 0 {
            break;
        }
        tokio::time::sleep(BETWEEN_BATCHES).await;
        store.renew_lease(&lease).await?;
    }
    if revisions + requests + drift + nodes + inventories + icons > 0 {
        tracing::info!(
            revisions,
            requests,
            drift,
            nodes,
            inventories,
            icons,
            "compacted"
        );
    }
    store.release_lease(&lease).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steadfast_drift::{Rules, SweepOptions};
    use steadfast_store::{
        BundlePackage, IconBlob, IconRow, NewReports, Observed, Options, PackageRow, ResourceName,
        Wakeups,
    };
    use tempfile::TempDir;
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;

    async fn sqlite() -> (Store, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            data_dir: folder.path().to_owned(),
            ..Options::default()
        };
        let store = Store::open(&options).await.unwrap();
        store.migrate().await.unwrap();
        (store, folder)
    }

    fn with_icon(name: &str, hash: &str) -> BundlePackage {
        let row = PackageRow {
            name: name.to_owned(),
            source: "npm".to_owned(),
            document: "{}".to_owned(),
            content_hash: "h".to_owned(),
            upstream_etag: String::new(),
        };
        let icon = IconRow {
            package: name.to_owned(),
            shape: "square".to_owned(),
            ext: "png".to_owned(),
            hash: Some(hash.to_owned()),
            size: 1,
            upstream_etag: String::new(),
            misses: 0,
            due: false,
        };
        let blob = IconBlob {
            hash: hash.to_owned(),
            bytes: b"x".to_vec(),
        };
        BundlePackage {
            row,
            schemas: Vec::new(),
            texts: Vec::new(),
            icons: vec![(icon, blob)],
        }
    }

    /// However its package went. Whoever looked it up a moment before still finds the bytes.
    #[tokio::test]
    async fn rule_3_bytes_without_an_icon_go_with_the_second_look() {
        let (store, _folder) = sqlite().await;
        let lease = store.claim_lease("refresh", ReplicaId::random(), NODE_AGE);
        let lease = lease.await.unwrap().unwrap();
        let mut import = store.import_catalog(&lease).await.unwrap();
        for (name, hash) in [("a", "1"), ("b", "2"), ("c", "2"), ("d", "3")] {
            import.put(&with_icon(name, hash)).await.unwrap();
        }
        import.commit().await.unwrap();
        let (mut loose, mut other) = (BTreeSet::new(), BTreeSet::new());
        let look = async |loose: &mut BTreeSet<String>| {
            let pruned = prune_icons(&store, &lease, loose).await.unwrap();
            let hashes = ["1", "2", "3"].map(str::to_owned);
            let left = store.icon_blobs(&hashes).await.unwrap();
            let left: Vec<_> = left.into_iter().map(|blob| blob.hash).collect();
            (pruned, left.join(" "))
        };
        assert_eq!(look(&mut loose).await, (0, "1 2 3".to_owned()));
        let mut import = store.import_catalog(&lease).await.unwrap();
        for name in ["a", "b", "d"] {
            import.remove(name).await.unwrap();
        }
        import.commit().await.unwrap();
        assert_eq!(look(&mut loose).await, (0, "1 2 3".to_owned()));
        // Another replica's first look is no second one.
        assert_eq!(look(&mut other).await, (0, "1 2 3".to_owned()));
        // It is back: some package has it again.
        let mut import = store.import_catalog(&lease).await.unwrap();
        import.put(&with_icon("e", "3")).await.unwrap();
        import.commit().await.unwrap();
        assert_eq!(look(&mut loose).await, (1, "2 3".to_owned()));
        assert_eq!(look(&mut loose).await, (0, "2 3".to_owned()));
    }

    /// What an inventory brought that nobody ended is waited for by sweeps: it is compared when the inventory has failed.
    #[tokio::test]
    async fn a_sweep_is_asked_for_when_an_inventory_fails_for_its_age() {
        let (store, _folder) = sqlite().await;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let replica = ReplicaId::random();
        let wakeups = Wakeups::start(&store, replica, Duration::from_millis(5), &stop, &tasks);
        let rules = Arc::new(Rules::new(&[], &Default::default(), None).unwrap());
        let sweeper = Sweeper::new(store.clone(), wakeups, rules, SweepOptions::new(replica));
        let begun = store.begin_inventory("cloud", &[], "tests").await.unwrap();
        let seen = NewReports {
            inventory: Some(begun.id.clone()),
            observed: vec![Observed {
                name: ResourceName {
                    provider: "cloud".to_owned(),
                    kind: "vm".to_owned(),
                    id: "1".to_owned(),
                },
                attributes: "{}".to_owned(),
                digest: "d".to_owned(),
                transition: String::new(),
                gone: false,
                age: Duration::ZERO,
            }],
        };
        store.report_resources(seen).await.unwrap();
        let ended = async |open| {
            let ages = Ages { open, ..AGES };
            let ended = end_inventories(&store, &sweeper, ages).await.unwrap();
            let sweeps = store.sweeps(&[], "", 10).await.unwrap();
            let causes = sweeps.into_iter().map(|row| row.triggered_by);
            (ended, causes.collect::<Vec<_>>())
        };
        assert_eq!(ended(AGES.open).await, (0, vec![]));
        let caused = vec![format!("inventory:{}", begun.id)];
        assert_eq!(ended(Duration::ZERO).await, (1, caused.clone()));
        assert_eq!(ended(Duration::ZERO).await, (0, caused));
        let row = store.inventory(&begun.id).await.unwrap().unwrap();
        assert_eq!(row.state, "failed");
        stop.cancel();
    }
}
