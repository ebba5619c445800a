//! What keeps the store small: old revisions and old request outcomes go, a batch at a time, by one replica at a time.

use std::time::Duration;

use steadfast_store::{Error, Retention, Store};
use steadfast_types::ReplicaId;

/// How often there is something to look at.
const INTERVAL: Duration = Duration::from_secs(60);
/// A pause between two batches, so that others get the database.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);
const LEASE: &str = "maintenance";

/// Runs for ever; the caller drops it.
pub(crate) async fn run(
    store: Store,
    replica: ReplicaId,
    lease_duration: Duration,
    retention: Retention,
) {
    loop {
        // Spread over replicas.
        tokio::time::sleep(INTERVAL.mul_f64(0.5 + rand::random::<f64>())).await;
        if let Err(error) = once(&store, replica, lease_duration, retention).await {
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
    retention: Retention,
) -> Result<(), Error> {
    let Some(lease) = store.claim_lease(LEASE, replica, lease_duration).await? else {
        return Ok(());
    };
    let (mut revisions, mut requests) = (0, 0);
    loop {
        let compacted = store.compact(&lease, retention).await?;
        let pruned = store.prune_requests().await?;
        revisions += compacted;
        requests += pruned;
        if compacted + pruned == 0 {
            break;
        }
        tokio::time::sleep(BETWEEN_BATCHES).await;
        store.renew_lease(&lease).await?;
    }
    if revisions + requests > 0 {
        tracing::info!(revisions, requests, "compacted");
    }
    store.release_lease(&lease).await
}
