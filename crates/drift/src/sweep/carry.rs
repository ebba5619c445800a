//! Carrying a sweep out: one task reads pages, one compares them, one writes what is new (see `write`).

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use steadfast_store::{DueResource, Error, Lease, OpenDrift, SweepResource, SweepRow};
use steadfast_types::Timestamp;
use tokio::sync::mpsc;

use super::{
    Inner, SweepTally, careful,
    judge::{self, Circumstances, Finding},
    write::{Stop, Writer},
};
use crate::Rules;

/// A page, read.
pub(super) struct Page {
    pub(super) due: Vec<DueResource>,
    pub(super) resources: Vec<SweepResource>,
    pub(super) open: Vec<OpenDrift>,
    pub(super) circumstances: Circumstances,
    /// Up to this number it goes.
    pub(super) through: i64,
}

/// Carries out what is under way, until nothing is.
pub(super) async fn work(inner: &Inner, lease: &Lease) -> Result<(), Error> {
    while let Some(row) = inner.store.take_sweep(lease).await? {
        tracing::debug!(
            sweep = row.id,
            triggered_by = row.triggered_by,
            attempt = row.attempts,
            "sweeping"
        );
        let began = Instant::now();
        let Some((ended, tally)) = sweep(inner, lease, row).await? else {
            inner.tell_of_other_rules();
            return Ok(());
        };
        inner.ended.notify_waiters();
        tracing::info!(
            sweep = ended.id,
            state = ended.state,
            duration_ms = began.elapsed().as_millis() as u64,
            compared = tally.compared,
            drifted = tally.drifted,
            opened = tally.opened,
            closed = tally.closed,
            "swept"
        );
    }
    Ok(())
}

/// Goes through one sweep, as often as it has to; `None` if that is left to a replica with other rules.
async fn sweep(
    inner: &Inner,
    lease: &Lease,
    mut row: SweepRow,
) -> Result<Option<(SweepRow, SweepTally)>, Error> {
    let mut tally = SweepTally::read(&row.tally);
    loop {
        let stopped = match row.cancel_requested {
            true => None,
            false => round(inner, lease, &row, &mut tally).await?,
        };
        let error = match stopped {
            Some(Stop::OtherRules) => return Ok(None),
            Some(Stop::Failed(why)) => Some(why),
            Some(Stop::Cancelled) | None => None,
        };
        let (error, keep) = (error.as_deref(), i64::from(inner.options.history));
        row = inner
            .store
            .finish_sweep(lease, &row.id, error, keep)
            .await?;
        if row.state != "running" {
            return Ok(Some((row, tally)));
        }
    }
}

/// Goes through its scope once, or says why not.
async fn round(
    inner: &Inner,
    lease: &Lease,
    row: &SweepRow,
    tally: &mut SweepTally,
) -> Result<Option<Stop>, Error> {
    let writer = Writer::new(inner, lease, row, tally);
    if row.stalls > careful::STALLS {
        return careful::round(inner, row, writer).await;
    }
    // A stage that ends drops its ends of the channels, and so ends the others.
    let (pages, read) = mpsc::channel(1);
    let (findings, found) = mpsc::channel(1);
    let ((), (), stopped) = tokio::try_join!(
        read_all(inner, row, pages),
        compare_all(inner, read, findings),
        write_all(writer, found),
    )?;
    Ok(stopped)
}

async fn read_all(inner: &Inner, row: &SweepRow, pages: mpsc::Sender<Page>) -> Result<(), Error> {
    let mut after = row.cursor_key;
    loop {
        let listed = list(
            inner,
            row,
            after,
            inner.options.page_resources.max(1) as usize,
        )
        .await?;
        let Some(last) = listed.last() else {
            return Ok(());
        };
        after = last.key;
        for due in by_bytes(&listed, i64::from(inner.options.page_bytes)) {
            let page = read_page(inner, row, due).await?;
            if pages.send(page).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn compare_all(
    inner: &Inner,
    mut read: mpsc::Receiver<Page>,
    findings: mpsc::Sender<(Page, Vec<Finding>)>,
) -> Result<(), Error> {
    while let Some(page) = read.recv().await {
        let rules = Arc::clone(&inner.rules);
        let compared = tokio::task::spawn_blocking(move || compare(&rules, page)).await;
        let compared = compared.map_err(|_| Error::Corrupt("a comparison ended early"))?;
        if findings.send(compared).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn write_all(
    mut writer: Writer<'_>,
    mut found: mpsc::Receiver<(Page, Vec<Finding>)>,
) -> Result<Option<Stop>, Error> {
    while let Some((page, findings)) = found.recv().await {
        let stop = writer.page(&page, &findings).await?;
        if stop.is_some() {
            return Ok(stop);
        }
    }
    Ok(None)
}

/// The next resources to compare, with the sizes of their documents.
pub(super) async fn list(
    inner: &Inner,
    row: &SweepRow,
    after: i64,
    limit: usize,
) -> Result<Vec<DueResource>, Error> {
    let at_us = row.round_us.unwrap_or(row.asked_us);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let scope = (after, row.through_key);
    inner
        .store
        .next_due(row.compares_all(), scope, at_us, limit)
        .await
}

/// Pieces of a list whose documents fit into memory.
pub(super) fn by_bytes(listed: &[DueResource], most: i64) -> Vec<&[DueResource]> {
    let mut pieces = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, due) in listed.iter().enumerate() {
        bytes += due.bytes;
        if bytes > most && at > begin {
            pieces.push(&listed[begin..at]);
            (begin, bytes) = (at, due.bytes);
        }
    }
    pieces.push(&listed[begin..]);
    pieces
}

/// Reads all that is needed to compare some resources. Everything is read after the generations.
pub(super) async fn read_page(
    inner: &Inner,
    row: &SweepRow,
    due: &[DueResource],
) -> Result<Page, Error> {
    let store = &inner.store;
    let keys: Vec<i64> = due.iter().map(|due| due.key).collect();
    let (resources, open, held, failed, now) = tokio::try_join!(
        store.fetch_resources(&keys),
        store.open_drifts(&keys),
        store.held_resources(),
        store.failed_looks(),
        store.database_time(),
    )?;
    let wanted: BTreeMap<String, String> = serde_json::from_str(&row.labels).unwrap_or_default();
    let matches = |resource: &SweepResource| {
        let labels: BTreeMap<String, String> =
            serde_json::from_str(&resource.labels).unwrap_or_default();
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        wanted.iter().all(has)
    };
    let mut resources = resources;
    if !wanted.is_empty() {
        resources.retain(matches);
    }
    Ok(Page {
        through: due.last().map_or(0, |due| due.key),
        due: due.to_vec(),
        resources,
        open,
        circumstances: Circumstances {
            held,
            failed,
            now: Timestamp(now),
        },
    })
}

pub(super) fn compare(rules: &Rules, page: Page) -> (Page, Vec<Finding>) {
    let resources = page.resources.iter().enumerate();
    let findings = resources
        .map(|(at, resource)| judge::find(at, resource, rules, &page.circumstances))
        .collect();
    (page, findings)
}
