//! What keeps the store small: old revisions and old request outcomes go, a batch at a time, by one replica at a time.

use std::time::Duration;

use steadfast_drift::Sweeper;
use steadfast_store::{DriftRetention, Error, Retention, Store};
use steadfast_types::ReplicaId;

/// How often there is something to look at.
const INTERVAL: Duration = Duration::from_secs(60);
/// A pause between two batches, so that others get the database.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);
const LEASE: &str = "maintenance";
/// How long a node is remembered after its lease has ended: whoever looks for one that is gone finds it. As the contract says.
const NODE_AGE: Duration = Duration::from_secs(3_600);

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
    loop {
        // Spread over replicas.
        tokio::time::sleep(INTERVAL.mul_f64(0.5 + rand::random::<f64>())).await;
        if let Err(error) = once(&store, &sweeper, replica, lease_duration, keep).await {
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

async fn once(
    store: &Store,
    sweeper: &Sweeper,
    replica: ReplicaId,
    lease_duration: Duration,
    keep: Keep,
) -> Result<(), Error> {
    let Some(lease) = store.claim_lease(LEASE, replica, lease_duration).await? else {
        return Ok(());
    };
    let (mut revisions, mut requests, mut drift, mut nodes) = (0, 0, 0, 0);
    let inventories = end_inventories(store, sweeper, AGES).await?;
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
    if revisions + requests + drift + nodes + inventories > 0 {
        tracing::info!(revisions, requests, drift, nodes, inventories, "compacted");
    }
    store.release_lease(&lease).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steadfast_drift::{Rules, SweepOptions};
    use steadfast_store::{NewReports, Observed, Options, ResourceName, Wakeups};
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;

    /// What an inventory brought that nobody ended is waited for by sweeps: it is compared when the inventory has failed.
    #[tokio::test]
    async fn a_sweep_is_asked_for_when_an_inventory_fails_for_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            data_dir: folder.path().to_owned(),
            ..Options::default()
        };
        let store = Store::open(&options).await.unwrap();
        store.migrate().await.unwrap();
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
