//! One refresh, from the first package to the verdict.
//!
//! Reading and writing are decoupled: packages are read many at a time and handed to one writer. While it commits, further ones
//! arrive, and its next transaction takes them all; each that changes something is a revision of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use steadfast_api::registry::v1::RefreshState;
use steadfast_store::{Lease, RefreshDeltas, RefreshItemRow, RefreshRow, Refreshed};
use steadfast_types::{Backoff, Timestamp};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    error::Error,
    executor::Executor,
    listing::Listings,
    local,
    membership::{self, Member},
    metric,
    plan::{self, Tally, Wish},
    reading::{Findings, Reader},
    report::state_text,
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

/// The reason of a package whose data the database refuses.
const NOT_STORABLE: &str = "NOT_STORABLE";

/// One run in progress.
pub(crate) struct Run<'a> {
    pub(crate) executor: &'a Executor,
    pub(crate) lease: &'a Lease,
    pub(crate) row: RefreshRow,
    pub(crate) wish: Wish,
}

// === impl Run ===

impl Run<'_> {
    /// Reads what has no item yet, commits it, and ends the run.
    ///
    /// # Errors
    /// If the lease is lost, or the database does not answer.
    pub(crate) async fn carry_out(&self, done: &BTreeSet<String>) -> Result<(), Error> {
        let sources = &self.executor.options.sources;
        let listings = self.listings().await?;
        let found = membership::members(sources, &listings.told, &listings.distrusted);
        for (source, (names, one)) in &found.shadowed {
            tracing::info!(
                source,
                names,
                example = one,
                "packages that an earlier source has as well are taken from that one"
            );
        }
        let members = found.members;
        let mut packages: Vec<&Member<'_>> = members.iter().collect();
        if let Some(only) = &self.row.package {
            packages.retain(|member| member.name.as_str() == only);
        }
        let listed = if self.wish.kinds.packages {
            packages.len()
        } else {
            0
        };
        let is_listed = !packages.is_empty();
        packages.retain(|member| !done.contains(member.name.as_str()));
        let (send, receive) = mpsc::channel(QUEUE);
        let (read, written) = tokio::join!(
            self.read_all(&packages, listed, send),
            self.write_all(receive)
        );
        // The writer's error first: the reader only notices that nobody listens any more.
        written?;
        read?;
        self.read_local(is_listed, listed, done).await?;
        self.finish(&members, &listings).await
    }

    /// Has local sources looked at, unless only a package is wanted that a registry alone has. A dry run leaves them alone: what lies in
    /// their folders is stored as soon as it does.
    async fn read_local(
        &self,
        is_listed: bool,
        listed: usize,
        done: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let local = &self.executor.local;
        let only = self.row.package.as_ref();
        let is_wanted = only.is_none_or(|only| !is_listed || local.knows(only));
        if self.wish.dry_run && !is_listed && only.is_some_and(|only| local.knows(only)) {
            return Ok(());
        }
        if is_wanted && !local.roots.is_empty() && !self.wish.dry_run {
            let listed = i64::try_from(listed).unwrap_or(i64::MAX);
            local::turn(self.executor, local, self.lease, &self.row, listed).await?;
        }
        match only {
            Some(only) if !is_listed && !done.contains(only) => {
                let recorded = self.executor.store.recorded_packages(&self.row.id).await?;
                if recorded.contains(only) {
                    return Ok(());
                }
                self.record(vec![Findings::not_configured(only)]).await
            }
            _ => Ok(()),
        }
    }

    /// Reads packages, many at a time, and hands over what each brought.
    async fn read_all(
        &self,
        packages: &[&Member<'_>],
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
            wish: &self.wish,
            began: Timestamp(self.row.start_us.unwrap_or(self.row.create_us)),
            permits: &permits,
        };
        let window = concurrency * ANNOUNCED_WINDOWS;
        let mut reading = FuturesUnordered::new();
        let mut next = 0;
        loop {
            while next < packages.len() && reading.len() < concurrency * READ_AHEAD {
                if next % window == 0 {
                    let last = packages.len().min(next + window) - 1;
                    let announced = self.announce(packages[last].name.as_str(), listed);
                    // The reads go on meanwhile: they hold connections to the database, perhaps all of them, and give none back
                    // while nobody polls them.
                    let mut announced = pin!(announced);
                    loop {
                        tokio::select! {
                            biased;
                            announced = &mut announced => break announced?,
                            Some(read) = reading.next() => read?,
                        }
                    }
                }
                reading.push(read_and_send(&reader, packages[next], &send));
                next += 1;
            }
            match reading.next().await {
                None => return Ok(()),
                Some(read) => read?,
            }
        }
    }

    async fn announce(&self, through: &str, listed: usize) -> Result<(), Error> {
        // Never back: whoever had the run before may have read further, and what it recorded is not read again.
        let through = self.row.begun_through.as_deref().unwrap_or("").max(through);
        let listed = i64::try_from(listed).unwrap_or(i64::MAX);
        let store = &self.executor.store;
        store
            .begin_reading(self.lease, &self.row.id, through, listed)
            .await?;
        self.executor.moved();
        Ok(())
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
            .map(|refreshed| Refreshed {
                write: refreshed.write.filter(|_| !self.wish.dry_run),
                ..refreshed
            })
            .filter(|refreshed| *refreshed != Refreshed::default())
            .collect();
        if brought.is_empty() {
            return Ok(());
        }
        match self.save(&brought).await {
            Err(error) if is_of_the_data(&error) => {
                for one in brought {
                    self.record_alone(one).await?;
                }
                Ok(())
            }
            saved => saved,
        }
    }

    /// Commits what one package brought, after the database refused the data of one of several. The package whose data it is fails,
    /// and keeps yesterday's.
    async fn record_alone(&self, brought: Refreshed) -> Result<(), Error> {
        let error = match self.save(std::slice::from_ref(&brought)).await {
            Err(error) if is_of_the_data(&error) => error,
            saved => return saved,
        };
        let Some(first) = brought.items.first() else {
            return Err(error);
        };
        tracing::error!(
            package = first.package,
            error = &error as &dyn std::error::Error,
            "the database refuses what a package brought"
        );
        self.save(&[refused(first, brought.deltas)]).await
    }

    async fn save(&self, brought: &[Refreshed]) -> Result<(), Error> {
        let store = &self.executor.store;
        let mut waits = Backoff::RECONNECT.waits();
        let mut again = false;
        loop {
            let saved = store.save_refreshed(self.lease, &self.row.id, brought, again);
            match saved.await {
                Ok(landed) => {
                    if landed.is_some() || again {
                        self.executor.wakeups.kick();
                    }
                    self.executor.moved();
                    for refreshed in brought.iter().filter(|_| !self.wish.dry_run) {
                        count(&refreshed.items);
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
    async fn finish(&self, members: &[Member<'_>], listings: &Listings) -> Result<(), Error> {
        let executor = self.executor;
        let store = &executor.store;
        let id = &self.row.id;
        let (row, _) = store
            .refresh(id, 0, 0)
            .await?
            .ok_or(Error::Internal("a running refresh is gone"))?;
        let (packages, schemas, icons) = (packages_of(&row), schemas_of(&row), icons_of(&row));
        let verdict = plan::verdict(self.wish.kinds, packages, schemas, icons, &listings.error);
        let mut checked: BTreeMap<&str, bool> = BTreeMap::new();
        let complete = self.wish.kinds.packages
            && row.package.is_none()
            && !row.dry_run
            && verdict.state != RefreshState::Failed;
        if complete {
            let unanswered = store.unanswered_packages(id, ABSENT).await?;
            for member in members {
                let source = member.source.name.as_str();
                let answered = checked.entry(source).or_insert(true);
                *answered &=
                    !unanswered.contains(member.name.as_str()) && !listings.failed.contains(source);
            }
        }
        let checked: Vec<String> = checked
            .into_iter()
            .filter(|(_, answered)| *answered)
            .map(|(source, _)| source.to_owned())
            .collect();
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
        executor.moved();
        report(&ended);
        Ok(())
    }
}

/// Part of the future that reads, so that while the writer is behind the other reads go on.
async fn read_and_send(
    reader: &Reader<'_>,
    member: &Member<'_>,
    send: &mpsc::Sender<Findings>,
) -> Result<(), Error> {
    let findings = reader.read(member).await?;
    send.send(findings)
        .await
        .map_err(|_| Error::Internal("the writer of a refresh has ended"))
}

/// Whether the database would refuse the same again.
const fn is_of_the_data(error: &Error) -> bool {
    matches!(error, Error::Store(steadfast_store::Error::Data { .. }))
}

/// What a refresh is told instead of what cannot be stored of a package.
fn refused(first: &RefreshItemRow, deltas: RefreshDeltas) -> Refreshed {
    let item = RefreshItemRow {
        outcome: "failed".into(),
        reason: NOT_STORABLE.into(),
        message: "the database refuses what it brought; the server's log says more".into(),
        version: String::new(),
        ..first.clone()
    };
    let packages = deltas.packages_changed + deltas.packages_unchanged + deltas.packages_failed;
    Refreshed {
        write: None,
        items: vec![item],
        deltas: RefreshDeltas {
            packages_failed: packages,
            schemas_listed: deltas.schemas_listed,
            schemas_failed: deltas.schemas_listed,
            icons_listed: deltas.icons_listed,
            icons_failed: deltas.icons_listed,
            ..RefreshDeltas::default()
        },
    }
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

pub(crate) fn report(row: &RefreshRow) {
    let took = row
        .end()
        .zip(row.start())
        .map_or(Duration::ZERO, |(end, start)| end.since(start));
    // One that was cancelled a moment ago is counted where that was done.
    if row.state != "cancelled" {
        metrics::counter!(metric::REFRESHES, "state" => row.state.clone()).increment(1);
        metrics::histogram!(metric::REFRESH_SECONDS).record(took);
    }
    tracing::info!(
        refresh = row.id,
        state = row.state,
        dry_run = row.dry_run,
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
