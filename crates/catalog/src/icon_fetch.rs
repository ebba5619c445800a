//! Fetching icons that somebody asked for and nobody has read: once in the whole fleet.
//!
//! A lookup never waits for an upstream: it leaves word here and is told to come back. Here the fetch is claimed in the database, so
//! that of many replicas one does it; a failure is remembered there too, and nobody tries again for a while. Only packages in the
//! catalogue are ever asked about, and a bounded number at a time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use steadfast_store::{IconClaim, IconWrite, Store, Wakeups};
use steadfast_upstream::{IconShape, IconUpstream, PackageName};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Error,
    icon_reading::{IconReading, read_icon},
    options::Options,
};

/// Icons that are waited for at a time; who asks for one more asks again.
const WANTED_MAX: usize = 1_024;
/// Fetches under way in this process at a time.
const CONCURRENCY: usize = 8;
/// How long one may take.
const FETCH_MAX: Duration = Duration::from_secs(20);
/// How long a fetch is the claimant's: longer than it may take, so that only a lost replica's is claimed again.
const CLAIM: Duration = Duration::from_secs(30);
/// After a failure nobody tries again for this long, doubled with each further one ...
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Fetches what lookups want.
#[derive(Debug)]
pub(crate) struct IconFetcher {
    pub(crate) store: Store,
    pub(crate) wakeups: Wakeups,
    pub(crate) options: Arc<Options>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    wanted: Mutex<HashSet<(String, IconShape)>>,
    permits: Semaphore,
}

// === impl IconFetcher ===

impl IconFetcher {
    pub(crate) fn new(
        store: Store,
        wakeups: Wakeups,
        options: Arc<Options>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            wakeups,
            options,
            stop,
            tasks,
            wanted: Mutex::default(),
            permits: Semaphore::new(CONCURRENCY),
        })
    }

    /// Leaves word that a package of the catalogue is wanted an icon of. False if its source has no icons.
    pub(crate) fn want(self: &Arc<Self>, package: &str, source: &str, shape: IconShape) -> bool {
        let named = self
            .options
            .sources
            .iter()
            .find(|named| named.name == source);
        let Some(upstream) = named.and_then(|source| source.icons()) else {
            return false;
        };
        let Ok(name) = PackageName::parse(package) else {
            return false;
        };
        let wanted = (package.to_owned(), shape);
        {
            let mut all = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= WANTED_MAX || !all.insert(wanted.clone()) {
                return true;
            }
        }
        let (fetcher, upstream) = (Arc::clone(self), upstream.clone());
        self.tasks.spawn(async move {
            let fetch = fetcher.fetch(&upstream, &name, shape);
            if let Some(Err(error)) = fetcher.stop.run_until_cancelled(fetch).await {
                tracing::warn!(
                    package = %name,
                    shape = shape.as_str(),
                    error = &error as &dyn std::error::Error,
                    "an icon that was asked for cannot be fetched now"
                );
            }
            let mut all = fetcher
                .wanted
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.remove(&wanted);
        });
        true
    }

    async fn fetch(
        &self,
        upstream: &IconUpstream,
        name: &PackageName,
        shape: IconShape,
    ) -> Result<(), Error> {
        // The semaphore is never closed; if it were, going on without a permit would do no harm.
        let _permit = self.permits.acquire().await.ok();
        let claimed = self.store.claim_icon(name.as_str(), shape.as_str(), CLAIM);
        let Some(claim) = claimed.await? else {
            return Ok(());
        };
        // Another replica may have brought it since this one looked.
        let stored = self.store.icons_of(name.as_str()).await?;
        if stored.iter().any(|row| row.shape == shape.as_str()) {
            self.store.save_fetched_icons(&claim, &[]).await?;
            return Ok(());
        }
        let read = tokio::time::timeout(FETCH_MAX, read_all(upstream, name, shape)).await;
        match read {
            Ok(Ok(icons)) => {
                let saved = self.store.save_fetched_icons(&claim, &icons).await?;
                if saved.landed.is_some() {
                    self.wakeups.kick();
                }
                if saved.late > 0 {
                    tracing::info!(
                        package = claim.package,
                        shape = claim.shape,
                        icons = saved.late,
                        "what was fetched came too late and is dropped: something newer was stored meanwhile"
                    );
                }
                Ok(())
            }
            Ok(Err(error)) => self.fail(&claim, &error.to_string()).await,
            Err(_) => self.fail(&claim, "it took too long").await,
        }
    }

    async fn fail(&self, claim: &IconClaim, reason: &str) -> Result<(), Error> {
        let doublings = u32::try_from(claim.failures).unwrap_or(u32::MAX).min(10);
        let pause = (PAUSE_FIRST * 2_u32.pow(doublings)).min(PAUSE_MAX);
        tracing::warn!(
            package = claim.package,
            shape = claim.shape,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "an icon that was asked for was not fetched: {reason}"
        );
        Ok(self.store.fail_icon(claim, pause).await?)
    }
}

/// All formats of one shape; one that cannot be read fails all, so that no answer is taken for another.
async fn read_all(
    upstream: &IconUpstream,
    name: &PackageName,
    shape: IconShape,
) -> Result<Vec<IconWrite>, steadfast_upstream::Error> {
    let mut icons = Vec::new();
    for &format in upstream.template().formats() {
        match read_icon(upstream, name, shape, format, None, false).await? {
            IconReading::None(icon)
            | IconReading::Removed(icon)
            | IconReading::Changed(icon)
            | IconReading::Retagged(icon) => icons.push(icon),
            IconReading::Unchanged | IconReading::StillNone => {}
        }
    }
    Ok(icons)
}
