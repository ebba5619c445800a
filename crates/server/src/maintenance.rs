//! What keeps the store small: old revisions and old request outcomes go, a batch at a time, by one replica at a time.

use std::time::Duration;

use steadfast_store::{DriftRetention, Error, Retention, Store};
use steadfast_types::ReplicaId;

/// How often there is something to look at.
const INTERVAL: Duration = Duration::from_secs(60);
/// A pause between two batches, so that others get the database.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);
const LEASE: &str = "maintenance";
/// An inventory that nobody ended for this long fails, as the contract says.
const INVENTORY_AGE: Duration = Duration::from_secs(86_400);
/// The end of an inventory that is not finished after this long is gone on with here: who was at it may have been killed.
const ENDING_AGE: Duration = Duration::from_secs(30);

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Of the change log.
    pub(crate) log: Retention,
    /// Of drifts and what led to them.
    pub(crate) drift: DriftRetention,
}

/// Runs for ever; the caller drops it.
pub(crate) async fn run(store: Store, replica: ReplicaId, lease_duration: Duration, keep: Keep) {
    loop {
        // Spread over replicas.
        tokio::time::sleep(INTERVAL.mul_f64(0.5 + rand::random::<f64>())).await;
        if let Err(error) = once(&store, replica, lease_duration, keep).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "maintenance did not finish; it is tried again later"
            );
        }
    }
}

async fn once(
    store: &Store,
    replica: ReplicaId,
    lease_duration: Duration,
    keep: Keep,
) -> Result<(), Error> {
    let Some(lease) = store.claim_lease(LEASE, replica, lease_duration).await? else {
        return Ok(());
    };
    let (mut revisions, mut requests, mut drift) = (0, 0, 0);
    let mut inventories = store.fail_abandoned_inventories(INVENTORY_AGE).await?;
    inventories.extend(store.resume_inventory_ends(ENDING_AGE).await?);
    let inventories = inventories.len() as u64;
    loop {
        let compacted = store.compact(&lease, keep.log).await?;
        let pruned = store.prune_requests().await?;
        let drifts = store.prune_drift(&keep.drift).await?;
        revisions += compacted;
        requests += pruned;
        drift += drifts;
        if compacted + pruned + drifts == 0 {
            break;
        }
        tokio::time::sleep(BETWEEN_BATCHES).await;
        store.renew_lease(&lease).await?;
    }
    if revisions + requests + drift + inventories > 0 {
        tracing::info!(revisions, requests, drift, inventories, "compacted");
    }
    store.release_lease(&lease).await
}
