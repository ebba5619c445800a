//! Sweeps: comparing what is due, and writing what is new.
//!
//! Cost follows what changed. A resource is due when something happened that can change what it is called; a sweep goes through
//! those, a page at a time, and takes each away only if nothing else happened to it meanwhile. While one page is written the next
//! is compared and the one after that is read, so that memory holds a few pages, however many resources there are.
//!
//! One sweep runs in the whole fleet, under a lease; a replica that loses it stops where it is, and whoever takes the sweep goes on
//! behind the last page that was written. Who asks while one runs gets that one, and it does not end before it has gone through
//! what was due when they asked.
//!
//! `judge` is the pure part; `carry` reads and hands on, `write` writes, and `careful` goes on where that has failed again and again.

mod careful;
mod carry;
mod judge;
mod rules;
mod tally;
mod write;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_store::{Lease, NewSweep, RulesStanding, Store, SweepAsked, Wakeups};
use steadfast_types::ReplicaId;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use tally::SweepTally;

use crate::Rules;

/// The lease that covers sweeping.
const LEASE: &str = "drift_sweep";

/// Limits and manners of sweeps.
#[derive(Debug, Clone, Copy)]
pub struct SweepOptions {
    /// This process.
    pub replica: ReplicaId,
    /// How long the lease lasts; it is renewed at a third of this.
    pub lease_duration: Duration,
    /// How often to look for a sweep that another replica was asked for, or was killed in.
    pub poll_interval: Duration,
    /// Ended sweeps that are kept.
    pub history: u32,
    /// Resources in one page at most.
    pub page_resources: u32,
    /// Bytes of documents in one page at most, beyond the resource that exceeds it.
    pub page_bytes: u32,
}

/// Asks for sweeps and, while [`Sweeper::run`] runs, carries them out. Clones share it.
#[derive(Clone)]
pub struct Sweeper {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    wakeups: Wakeups,
    rules: Arc<Rules>,
    options: SweepOptions,
    /// Somebody asked this replica for a sweep.
    asked: Notify,
    /// A sweep has ended here.
    ended: Notify,
    /// Another replica's rules count.
    outdated: AtomicBool,
}

// === impl SweepOptions ===

impl SweepOptions {
    /// The defaults.
    #[must_use]
    pub fn new(replica: ReplicaId) -> Self {
        Self {
            replica,
            lease_duration: Duration::from_secs(10),
            poll_interval: Duration::from_secs(2),
            history: 1_000,
            page_resources: 2_048,
            page_bytes: 4 << 20,
        }
    }
}

// === impl Sweeper ===

impl Sweeper {
    /// One for this process. `wakeups` is told of new revisions.
    #[must_use]
    pub fn new(store: Store, wakeups: Wakeups, rules: Arc<Rules>, options: SweepOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                wakeups,
                rules,
                options,
                asked: Notify::new(),
                ended: Notify::new(),
                outdated: AtomicBool::new(false),
            }),
        }
    }

    /// What is declared.
    #[must_use]
    pub fn rules(&self) -> &Arc<Rules> {
        &self.inner.rules
    }

    /// Makes what is declared that by which everything is compared, and all due if it was not; and hides what was kept before it was
    /// declared secret. Replicas with other rules sweep no more: the one that started last decides. What is interrupted goes on when
    /// this is called again.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn adopt_rules(&self) -> Result<(), steadfast_store::Error> {
        rules::adopt(&self.inner.store, &self.inner.rules).await
    }

    /// Asks for a sweep. If one is under way, it is that one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ask(&self, new: &NewSweep) -> Result<SweepAsked, steadfast_store::Error> {
        let asked = self.inner.store.ask_sweep(new).await?;
        self.inner.asked.notify_one();
        Ok(asked)
    }

    /// Asks for a sweep of what is due.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ask_due(&self, triggered_by: &str) -> Result<SweepAsked, steadfast_store::Error> {
        let new = NewSweep {
            labels: BTreeMap::new(),
            triggered_by: triggered_by.to_owned(),
            ..NewSweep::default()
        };
        self.ask(&new).await
    }

    /// Waits until a sweep has ended, at most for a time, and returns how it is then; `None` if there is no such sweep.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn wait(
        &self,
        id: &str,
        patience: Duration,
    ) -> Result<Option<steadfast_store::SweepRow>, steadfast_store::Error> {
        let until = Instant::now() + patience;
        loop {
            // Before the look: it may end between that and the wait.
            let ended = self.inner.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let row = self.inner.store.sweep(id).await?;
            let running = row.as_ref().is_some_and(|row| row.state == "running");
            if !running || Instant::now() >= until {
                return Ok(row);
            }
            // Another replica may have it in hand.
            let look = Instant::now() + self.inner.options.poll_interval / 4;
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep_until(look.min(until)) => {}
            }
        }
    }

    /// Looks for sweeps and carries them out until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut poll = tokio::time::interval(self.inner.options.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Who stops takes nothing up again that others could go on with.
                biased;
                () = stop.cancelled() => return,
                () = self.inner.asked.notified() => {}
                _ = poll.tick() => {}
            }
            if let Err(error) = self.inner.work_if_any(&stop).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a sweep was interrupted; it goes on when its lease is free"
                );
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    async fn work_if_any(&self, stop: &CancellationToken) -> Result<(), steadfast_store::Error> {
        match self.store.sweep_pending().await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                // Nothing is lost by not looking; whoever serves requests logs that the database is away.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot look for sweeps"
                );
                return Ok(());
            }
        }
        if self.store.rules_standing(self.rules.digest()).await? == RulesStanding::Foreign {
            self.tell_of_other_rules();
            return Ok(());
        }
        let duration = self.options.lease_duration;
        let claimed = self
            .store
            .claim_lease(LEASE, self.options.replica, duration)
            .await?;
        let Some(lease) = claimed else {
            return Ok(());
        };
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            outcome = carry::work(self, &lease) => outcome,
            lost = self.keep(&lease) => Err(lost),
        };
        // Also after an error: whoever is able to goes on at once. If the lease was lost this does nothing.
        self.store.release_lease(&lease).await?;
        outcome
    }

    /// Once is enough: it stays so until this process or another one starts.
    fn tell_of_other_rules(&self) {
        if !self.outdated.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a replica that started later declares other comparators: it sweeps, and this one leaves that to it until it starts again"
            );
        }
    }

    /// Prolongs the lease until it is lost. Without an answer from the database for the whole of its duration it counts as lost:
    /// another replica may have it by then.
    async fn keep(&self, lease: &Lease) -> steadfast_store::Error {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(lease.duration / 3).await;
            let asked = Instant::now();
            match self.store.renew_lease(lease).await {
                Ok(()) => renewed = asked,
                Err(error @ steadfast_store::Error::Fenced { .. }) => return error,
                Err(error) if renewed.elapsed() >= lease.duration => return error,
                Err(_) => {}
            }
        }
    }
}

impl std::fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}
