//! One refresh, from the first package to the verdict.
//!
//! Reading and writing are decoupled: packages are read many at a time and handed to one writer. While it commits, further ones
//! arrive, and its next transaction takes them all; each that changes something is a revision of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use steadfast_api::registry::v1::RefreshState;
use steadfast_store::{Lease, RefreshItemRow, RefreshRow, Refreshed};
use steadfast_types::Backoff;
use steadfast_upstream::PackageName;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    error::Error,
    executor::Executor,
    metric,
    options::Source,
    plan::{self, Kinds, Tally},
    reading::{Findings, Reader},
    refresh::state_text,
    schema::Schema,
};

/// Findings that wait for the writer, at most.
const QUEUE: usize = 64;

/// Packages being read at a time, per request that may be in flight: while some are compared, others are waited for.
const READ_AHEAD: usize = 2;

/// Reading is announced ahead for this many times the concurrency: one small write per so many packages.
const ANNOUNCED_WINDOWS: usize = 4;

/// What a registry says of a package that it does not have. It is an answer, so that the source counts as asked.
const ABSENT: &str = "UPSTREAM_NOT_FOUND";

/// One run in progress.
pub(crate) struct Run<'a> {
    pub(crate) executor: &'a Executor,
    pub(crate) lease: &'a Lease,
    pub(crate) row: RefreshRow,
    pub(crate) kinds: Kinds,
}

// === impl Run ===

impl Run<'_> {
    /// Reads what has no item yet, commits it, and ends the run.
    ///
    /// # Errors
    /// If the lease is lost, or the database does not answer.
    pub(crate) async fn carry_out(&self, done: &BTreeSet<String>) -> Result<(), Error> {
        let options = &self.executor.options;
        let mut packages: Vec<_> = options.packages();
        if let Some(only) = &self.row.package {
            packages.retain(|(name, _)| name.as_str() == only);
            if packages.is_empty() && !done.contains(only) {
                let findings = Findings::not_configured(only);
                self.record(vec![findings]).await?;
            }
        }
        let listed = match (&self.row.package, self.kinds.packages) {
            (_, false) => 0,
            (Some(_), true) => 1,
            (None, true) => packages.len(),
        };
        packages.retain(|(name, _)| !done.contains(name.as_str()));
        let (send, receive) = mpsc::channel(QUEUE);
        let (read, written) = tokio::join!(
            self.read_all(&packages, listed, send),
            self.write_all(receive)
        );
        // The writer's error first: the reader only notices that nobody listens any more.
        written?;
        read?;
        self.finish(options.packages()).await
    }

    /// Reads packages, many at a time, and hands over what each brought.
    async fn read_all(
        &self,
        packages: &[(&PackageName, &Source)],
        listed: usize,
        send: mpsc::Sender<Findings>,
    ) -> Result<(), Error> {
        let options = &self.executor.options;
        let concurrency = options.refresh_concurrency.max(1);
        let permits = Semaphore::new(concurrency);
        let reader = Reader {
            store: &self.executor.store,
            options,
            compiled: &self.executor.compiled,
            kinds: self.kinds,
            permits: &permits,
        };
        let window = concurrency * ANNOUNCED_WINDOWS;
        let mut reading = FuturesUnordered::new();
        let mut next = 0;
        loop {
            while next < packages.len() && reading.len() < concurrency * READ_AHEAD {
                if next % window == 0 {
                    let last = packages.len().min(next + window) - 1;
                    self.announce(packages[last].0, listed).await?;
                }
                let (name, source) = packages[next];
                reading.push(read_and_send(&reader, name, source, &send));
                next += 1;
            }
            match reading.next().await {
                None => return Ok(()),
                Some(read) => read?,
            }
        }
    }

    async fn announce(&self, through: &PackageName, listed: usize) -> Result<(), Error> {
        let listed = i64::try_from(listed).unwrap_or(i64::MAX);
        let store = &self.executor.store;
        let announced = store.begin_reading(self.lease, &self.row.id, through.as_str(), listed);
        Ok(announced.await?)
    }

    /// Commits what was read, as it arrives.
    async fn write_all(&self, mut receive: mpsc::Receiver<Findings>) -> Result<(), Error> {
        let mut arrived = Vec::new();
        let mut held: Vec<Arc<Schema>> = Vec::new();
        while receive.recv_many(&mut arrived, QUEUE).await > 0 {
            for findings in &mut arrived {
                held.append(&mut findings.schemas);
            }
            self.record(std::mem::take(&mut arrived)).await?;
        }
        Ok(())
    }

    /// Commits findings. While the database is away it tries again, as long as the lease lasts.
    async fn record(&self, findings: Vec<Findings>) -> Result<(), Error> {
        let brought: Vec<Refreshed> = findings
            .into_iter()
            .map(|findings| findings.refreshed)
            .filter(|refreshed| *refreshed != Refreshed::default())
            .collect();
        if brought.is_empty() {
            return Ok(());
        }
        for refreshed in &brought {
            count(&refreshed.items);
        }
        let store = &self.executor.store;
        let mut waits = Backoff::RECONNECT.waits();
        let mut again = false;
        loop {
            let saved = store.save_refreshed(self.lease, &self.row.id, &brought, again);
            match saved.await {
                Ok(landed) => {
                    if landed.is_some() || again {
                        self.executor.wakeups.kick();
                    }
                    return Ok(());
                }
                Err(error) if error.is_unavailable() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "what a refresh brought cannot be stored yet"
                    );
                    again = true;
                    tokio::time::sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Judges the run by what was recorded, by whichever replica.
    async fn finish(&self, configured: Vec<(&PackageName, &Source)>) -> Result<(), Error> {
        let executor = self.executor;
        let store = &executor.store;
        let id = &self.row.id;
        let (row, _) = store
            .refresh(id, 0, 0)
            .await?
            .ok_or(Error::Internal("a running refresh is gone"))?;
        let verdict = plan::verdict(
            self.kinds,
            packages_of(&row),
            schemas_of(&row),
            icons_of(&row),
        );
        let mut checked: BTreeMap<&str, bool> = BTreeMap::new();
        let complete =
            self.kinds.packages && row.package.is_none() && verdict.state != RefreshState::Failed;
        if complete {
            let unanswered = store.unanswered_packages(id, ABSENT).await?;
            for (name, source) in configured {
                let answered = checked.entry(&source.name).or_insert(true);
                *answered &= !unanswered.contains(name.as_str());
            }
        }
        let checked: Vec<String> = checked
            .into_iter()
            .filter(|(_, answered)| *answered)
            .map(|(source, _)| source.to_owned())
            .collect();
        if row.icons_changed > 0 {
            self.prune_icons().await;
        }
        let ended = store
            .finish_refresh(
                self.lease,
                id,
                state_text(verdict.state),
                &verdict.error,
                &checked,
                i64::from(executor.options.refresh_history),
            )
            .await?;
        executor.memory.recheck.notify_one();
        report(&ended);
        Ok(())
    }
}

impl Run<'_> {
    /// Bytes that no icon has any more take only space: a failure is left to the next run.
    async fn prune_icons(&self) {
        if let Err(error) = self.executor.store.prune_icon_blobs().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "bytes of former icons stay for now"
            );
        }
    }
}

/// Part of the future that reads, so that while the writer is behind the other reads go on.
async fn read_and_send(
    reader: &Reader<'_>,
    name: &PackageName,
    source: &Source,
    send: &mpsc::Sender<Findings>,
) -> Result<(), Error> {
    let findings = reader.read(name, source).await?;
    send.send(findings)
        .await
        .map_err(|_| Error::Internal("the writer of a refresh has ended"))
}

fn packages_of(row: &RefreshRow) -> Tally {
    Tally {
        listed: row.packages_listed,
        changed: row.packages_changed,
        unchanged: row.packages_unchanged,
        failed: row.packages_failed,
    }
}

fn schemas_of(row: &RefreshRow) -> Tally {
    Tally {
        listed: row.schemas_listed,
        changed: row.schemas_changed,
        unchanged: row.schemas_unchanged,
        failed: row.schemas_failed,
    }
}

fn icons_of(row: &RefreshRow) -> Tally {
    Tally {
        listed: row.icons_listed,
        changed: row.icons_changed,
        unchanged: row.icons_unchanged,
        failed: row.icons_failed,
    }
}

fn count(items: &[RefreshItemRow]) {
    for item in items {
        let labels = [
            ("kind", item.kind.clone()),
            ("outcome", item.outcome.clone()),
        ];
        metrics::counter!(metric::REFRESH_ITEMS, &labels).increment(1);
        if item.outcome == "failed" {
            tracing::warn!(
                kind = item.kind,
                package = item.package,
                version = item.version,
                reason = item.reason,
                "not refreshed: {}",
                item.message
            );
        }
    }
}

fn report(row: &RefreshRow) {
    let took = row
        .end()
        .zip(row.start())
        .map_or(Duration::ZERO, |(end, start)| end.since(start));
    metrics::counter!(metric::REFRESHES, "state" => row.state.clone()).increment(1);
    metrics::histogram!(metric::REFRESH_SECONDS).record(took);
    tracing::info!(
        refresh = row.id,
        state = row.state,
        duration_ms = took.as_millis() as u64,
        packages_listed = row.packages_listed,
        packages_changed = row.packages_changed,
        packages_failed = row.packages_failed,
        schemas_listed = row.schemas_listed,
        schemas_changed = row.schemas_changed,
        schemas_failed = row.schemas_failed,
        icons_listed = row.icons_listed,
        icons_changed = row.icons_changed,
        icons_failed = row.icons_failed,
        error = row.error,
        "refreshed"
    );
}
