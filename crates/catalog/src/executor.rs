//! Carrying out refreshes: one at a time in the whole fleet, under a lease.
//!
//! Every replica looks for work; the one that gets the lease takes the interrupted or the oldest queued run, reads what has no
//! item yet, and writes under the lease's fence. A replica that loses the lease, or cannot prolong it in time, stops where it
//! is: what it committed stays, and whoever takes the run goes on with the rest.
//! What is done with a run is in `run`.

use std::sync::Arc;

use steadfast_store::{Lease, Store, Wakeups};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    compiled::CompiledSchemas,
    error::Error,
    follow::Memory,
    local::Local,
    options::Options,
    report::wish_of,
    run::{Run, report},
};

/// The lease that covers refreshing.
pub(crate) const LEASE: &str = "refresh";

/// Looks for refreshes and carries them out.
pub(crate) struct Executor {
    pub(crate) store: Store,
    pub(crate) wakeups: Wakeups,
    pub(crate) compiled: CompiledSchemas,
    pub(crate) memory: Arc<Memory>,
    pub(crate) options: Arc<Options>,
    /// The roots of local sources.
    pub(crate) local: Arc<Local>,
    /// Somebody asked this replica for a refresh.
    pub(crate) asked: Arc<Notify>,
    /// Somebody cancelled one through this replica.
    pub(crate) cancelled: Arc<Notify>,
    /// Tells those who watch refreshes here that one has moved on.
    pub(crate) pulse: watch::Sender<()>,
}

// === impl Executor ===

impl Executor {
    /// Looks for work until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut poll = tokio::time::interval(self.options.refresh_poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Who stops takes nothing up again that others could go on with.
                biased;
                () = stop.cancelled() => return,
                () = self.asked.notified() => {}
                _ = poll.tick() => {}
            }
            if let Err(error) = self.work_if_any(&stop).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a refresh was interrupted; it goes on when the lease is free"
                );
            }
        }
    }

    async fn work_if_any(&self, stop: &CancellationToken) -> Result<(), Error> {
        match self.store.refresh_pending().await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                // Nothing is lost by not looking; whoever serves requests logs that the database is away.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot look for refreshes"
                );
                return Ok(());
            }
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
            outcome = self.work(&lease) => outcome,
            lost = keep(&self.store, &lease) => Err(lost),
        };
        // Also after an error: whoever is able to goes on at once. If the lease was lost this does nothing.
        self.store.release_lease(&lease).await?;
        outcome
    }

    async fn work(&self, lease: &Lease) -> Result<(), Error> {
        while let Some((row, done)) = self.store.take_refresh(lease, self.options.replica).await? {
            tracing::info!(
                refresh = row.id,
                cause = row.cause,
                requested_by = row.requested_by,
                attempt = row.attempts,
                "refreshing"
            );
            self.moved();
            let run = Run {
                wish: wish_of(&row),
                executor: self,
                lease,
                row,
            };
            let id = run.row.id.as_str();
            let outcome = tokio::select! {
                outcome = run.carry_out(&done) => outcome.map(|()| false),
                () = self.until_cancelled(id) => Ok(true),
            };
            let cancelled = match outcome {
                // A write that comes after the cancelling is refused as if somebody else had the run.
                Err(Error::Store(steadfast_store::Error::Fenced { .. })) => {
                    let cancelled = self.is_cancelled(id).await?;
                    if !cancelled {
                        return outcome.map(drop);
                    }
                    cancelled
                }
                // It would fail in the same way for ever, and those that wait for it with it.
                Err(error) if !may_pass(&error) => {
                    self.give_up(lease, id, error).await?;
                    false
                }
                outcome => outcome?,
            };
            if cancelled {
                tracing::info!(refresh = id, "cancelled");
            }
        }
        Ok(())
    }

    /// Ends a run that cannot be carried out.
    async fn give_up(&self, lease: &Lease, id: &str, error: Error) -> Result<(), Error> {
        tracing::error!(
            refresh = id,
            error = &error as &dyn std::error::Error,
            "a refresh cannot be carried out, and ends"
        );
        let keep = i64::from(self.options.refresh_history);
        let told = format!("it could not be carried out: {error}");
        let ended = self
            .store
            .finish_refresh(lease, id, "failed", &told, &[], keep);
        let ended = ended.await?;
        report(&ended);
        self.moved();
        Ok(())
    }

    /// Tells those who watch refreshes here that one has moved on.
    pub(crate) fn moved(&self) {
        self.pulse.send_replace(());
    }

    /// Looks from time to time whether a run was cancelled, through whichever replica, so that reading ends too and not only writing.
    async fn until_cancelled(&self, id: &str) {
        loop {
            tokio::select! {
                () = sleep(self.options.refresh_poll_interval) => {}
                () = self.cancelled.notified() => {}
            }
            if matches!(self.is_cancelled(id).await, Ok(true)) {
                return;
            }
        }
    }

    async fn is_cancelled(&self, id: &str) -> Result<bool, Error> {
        let found = self.store.refresh(id, 0, 0).await?;
        Ok(found.is_none_or(|(row, _)| row.state == "cancelled"))
    }
}

/// Whether the same run may go better when it is taken up again.
const fn may_pass(error: &Error) -> bool {
    use steadfast_store::Error as Failure;
    match error {
        Error::Store(Failure::Data { .. } | Failure::Corrupt(_)) => false,
        Error::Store(_) => true,
        _ => false,
    }
}

/// Prolongs the lease until it is lost. Without an answer from the database for the whole of its duration it counts as lost:
/// another replica may have it by then.
pub(crate) async fn keep(store: &Store, lease: &Lease) -> Error {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(lease.duration / 3).await;
        let asked = Instant::now();
        match store.renew_lease(lease).await {
            Ok(()) => renewed = asked,
            Err(error @ steadfast_store::Error::Fenced { .. }) => return error.into(),
            Err(error) if renewed.elapsed() >= lease.duration => return error.into(),
            Err(_) => {}
        }
    }
}
