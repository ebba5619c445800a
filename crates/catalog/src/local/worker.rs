//! The task that reads one root as long as the root's lease is this replica's.

mod report;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use steadfast_store::{Lease, LocalSave, LocalSaved, RefreshRow, Store, Wakeups};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::report::Told;
use super::{
    Local, Root,
    compare::{Comparison, Precedence, compare, names},
    folder::{self, Listing, RootError},
    turn::is_asking,
    watching::Watching,
};
use crate::{
    compiled::CompiledSchemas, error::Error, executor::keep, options::Options, schema::Schema,
};

/// A change counts once nothing has changed for so long: files are written in steps.
const QUIET: Duration = Duration::from_millis(50);

/// But no later than this.
const QUIET_MAX: Duration = Duration::from_millis(250);

/// What is gone or broken is looked at again after this.
const SECOND_LOOK: Duration = Duration::from_millis(150);

/// How long to wait for the first look at the roots that come before, so that what they shadow is not stored for a moment.
const EARLIER_PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait for a lease that is free.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(1);

/// After a failure, all is looked at again this soon, or with the next rescan if that is sooner.
const RETRY: Duration = Duration::from_secs(1);

/// How often a look begins anew because somebody else wrote meanwhile.
const STALE_MAX: usize = 5;

/// Reads a root.
pub(crate) struct Worker {
    pub(crate) store: Store,
    pub(crate) wakeups: Wakeups,
    pub(crate) compiled: CompiledSchemas,
    pub(crate) options: Arc<Options>,
    pub(crate) local: Arc<Local>,
    pub(crate) rescan_interval: Duration,
    /// The root's place among this replica's.
    pub(crate) at: usize,
}

/// What is remembered from look to look; nothing of it is missed when it is lost.
#[derive(Default)]
struct Memo {
    /// Lent to the thread that looks.
    watching: Arc<Mutex<Option<Watching>>>,
    changed: Arc<Notify>,
    told: Told,
    /// Held, so that they are compiled once.
    schemas: Vec<Arc<Schema>>,
    /// The refresh that was last reported to.
    reported: Option<String>,
}

// === impl Worker ===

impl Worker {
    /// Reads the root whenever the lease can be had, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let root = self.root();
        let lease_name = root.key.lease();
        let wait = (self.options.lease_duration / 3).min(CLAIM_WAIT_MAX);
        let mut memo = Memo::default();
        loop {
            let claim = self.store.claim_lease(
                &lease_name,
                self.options.replica,
                self.options.lease_duration,
            );
            match claim.await {
                Ok(Some(lease)) => {
                    let outcome = tokio::select! {
                        outcome = self.hold(&lease, &mut memo) => outcome,
                        lost = keep(&self.store, &lease) => Err(lost),
                        () = stop.cancelled() => Ok(()),
                    };
                    memo.told.forget(&root.key);
                    // If the lease was lost this does nothing.
                    if let Err(error) = self.store.release_lease(&lease).await {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "a root's lease runs out by itself"
                        );
                    }
                    if let Err(error) = outcome {
                        tracing::warn!(
                            source = root.key.source,
                            root = root.key.root,
                            error = &error as &dyn std::error::Error,
                            "a root is no longer read here; whoever has its lease goes on"
                        );
                    }
                }
                // Another replica reads it.
                Ok(None) => {
                    root.looked.send_replace(true);
                }
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot ask for a root's lease"
                ),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Looks whenever there is reason to, until the lease is lost.
    async fn hold(&self, lease: &Lease, memo: &mut Memo) -> Result<(), Error> {
        let root = self.root();
        self.wait_for_earlier().await;
        let mut poll = tokio::time::interval(self.options.refresh_poll_interval);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rescan_at = Instant::now();
        loop {
            let (is_rescan, is_poll) = tokio::select! {
                biased;
                () = sleep_until(rescan_at) => (true, false),
                () = memo.changed.notified() => {
                    self.settle(memo).await;
                    (false, false)
                }
                () = root.poke.notified() => (false, false),
                _ = poll.tick() => (false, true),
            };
            let run = match self.asking(memo).await {
                Ok(run) => run,
                Err(error) if error.is_unavailable() => None,
                Err(error) => return Err(error.into()),
            };
            if is_poll && run.is_none() {
                continue;
            }
            let looked = self.look(lease, memo, run.as_ref(), is_rescan).await;
            root.looked.send_replace(true);
            let wait = match looked {
                Ok(true) => self.rescan_interval,
                Ok(false) => RETRY.min(self.rescan_interval),
                // Of the refresh, which has ended, or of the lease, which the next look finds out.
                Err(Error::Store(steadfast_store::Error::Fenced { .. })) if run.is_some() => {
                    Duration::ZERO
                }
                Err(Error::Store(error)) if error.is_unavailable() => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a root's changes cannot be stored yet"
                    );
                    RETRY
                }
                Err(error) => return Err(error),
            };
            if is_rescan || wait < self.rescan_interval {
                rescan_at = Instant::now() + wait;
            }
        }
    }

    /// The first of several roots wins, so it is given a head start.
    async fn wait_for_earlier(&self) {
        let deadline = Instant::now() + EARLIER_PATIENCE;
        for earlier in &self.local.roots[..self.at] {
            let mut looked = earlier.looked.subscribe();
            // Without one, what is shadowed is found out later.
            let waited = looked.wait_for(|looked| *looked);
            let _ = tokio::time::timeout_at(deadline, waited).await;
        }
    }

    /// Waits until nothing changes for a moment.
    async fn settle(&self, memo: &Memo) {
        let deadline = Instant::now() + QUIET_MAX;
        while Instant::now() < deadline {
            if timeout(QUIET, memo.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// The refresh that asks for a look and was not told of one yet.
    async fn asking(&self, memo: &Memo) -> Result<Option<RefreshRow>, steadfast_store::Error> {
        let running = self.store.running_refresh().await?;
        let Some(run) = running.filter(is_asking) else {
            return Ok(None);
        };
        if memo.reported.as_ref() == Some(&run.id) {
            return Ok(None);
        }
        // By this replica before it lost the lease, or by another one.
        let recorded = self.store.recorded_packages(&run.id).await?;
        Ok((!recorded.contains(&self.root().key.text())).then_some(run))
    }

    /// Reads, compares and stores. False if the root cannot be read.
    async fn look(
        &self,
        lease: &Lease,
        memo: &mut Memo,
        run: Option<&RefreshRow>,
        is_rescan: bool,
    ) -> Result<bool, Error> {
        let root = self.root();
        let mut is_second = false;
        let mut renew = is_rescan;
        for _ in 0..STALE_MAX {
            let looked = self.compared(memo, renew).await?;
            renew = false;
            let (listing, comparison) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    memo.told.unusable(&root.key, &error);
                    if let Some(run) = run {
                        let report = report::of_failure(run, &root.key, &error);
                        self.save(lease, memo, LocalSave::of_report(report)).await?;
                    }
                    return Ok(false);
                }
            };
            let doubtful = comparison.is_doubtful() || memo.told.has_newly_broken(&listing.broken);
            if doubtful && !is_second {
                is_second = true;
                sleep(SECOND_LOOK).await;
                continue;
            }
            let report = run.map(|run| report::of_look(run, &root.key, &listing, &comparison));
            let must_save = !comparison.is_settled() || report.is_some() || is_rescan;
            memo.told.looked(&root.key, &listing, &comparison);
            let save = LocalSave {
                writes: comparison.writes,
                removals: comparison.removals,
                compared: comparison.compared,
                checked: must_save.then(|| root.key.text()),
                report,
            };
            if must_save && self.save(lease, memo, save).await? == LocalSaved::Stale {
                continue;
            }
            memo.schemas = listing
                .packages
                .iter()
                .filter_map(|found| found.schema.clone())
                .collect();
            if root.found(names(&listing)) {
                self.poke_others();
            }
            return Ok(true);
        }
        Err(Error::Internal("packages of a root change all the time"))
    }

    async fn save(
        &self,
        lease: &Lease,
        memo: &mut Memo,
        save: LocalSave,
    ) -> Result<LocalSaved, Error> {
        let saved = self.store.save_local(lease, &save).await?;
        if let LocalSaved::Stored(landed) = saved {
            if landed.is_some() {
                self.wakeups.kick();
            }
            self.local.memory.recheck.notify_one();
            if let Some(report) = save.report {
                memo.reported = Some(report.run_id);
                self.local.looked.notify_one();
            }
        }
        Ok(saved)
    }

    /// Reads the root, off the runtime's threads, and compares it with what is stored.
    async fn compared(
        &self,
        memo: &Memo,
        renew: bool,
    ) -> Result<Result<(Listing, Comparison), RootError>, Error> {
        let key = &self.root().key;
        let read = {
            let (key, compiled) = (key.clone(), self.compiled.clone());
            let (watching, changed) = (Arc::clone(&memo.watching), Arc::clone(&memo.changed));
            tokio::task::spawn_blocking(move || {
                let mut watching = watching.lock().unwrap_or_else(PoisonError::into_inner);
                if renew || watching.is_none() {
                    *watching = start_watching(&key.root, changed, watching.as_ref());
                }
                let read = || folder::read(&key.root, &key.source, &compiled);
                let listing = read()?;
                let mut watch = |folders: &[String]| {
                    let watching = watching.as_mut();
                    watching.is_some_and(|watching| watching.watch(folders))
                };
                // What changed before the watch began was perhaps not yet there when it was read.
                if watch(&listing.watched) {
                    return read();
                }
                Ok(listing)
            })
            .await
            .map_err(|_| Error::Internal("a root cannot be read"))?
        };
        let listing = match read {
            Ok(listing) => listing,
            Err(error) => return Ok(Err(error)),
        };
        let view = self.store.local_view(&key.source, &names(&listing)).await?;
        let precedence = Precedence::new(&self.options, key);
        Ok(compare(&listing, &view, &precedence).map(|comparison| (listing, comparison)))
    }

    /// What one root has or no longer has matters to those after it.
    fn poke_others(&self) {
        for (at, root) in self.local.roots.iter().enumerate() {
            if at != self.at {
                root.poke.notify_one();
            }
        }
    }

    fn root(&self) -> &Root {
        &self.local.roots[self.at]
    }
}

fn start_watching(root: &str, changed: Arc<Notify>, before: Option<&Watching>) -> Option<Watching> {
    Watching::start(root, changed, before)
        .inspect_err(|error| {
            tracing::warn!(
                root,
                error = error as &dyn std::error::Error,
                "changes cannot be watched; they are found when all is read again"
            );
        })
        .ok()
}
