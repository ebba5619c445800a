//! Carrying a sweep out: one task reads pages, one compares them, one writes what is new.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use steadfast_store::{
    AcceptWrite, Accepted, AppliedPage, Compared, DueResource, Error, Lease, OpenDrift, PastDrift,
    PolicyRow, SweepResource, SweepRow, SweepWrite,
};
use steadfast_types::Timestamp;
use tokio::sync::mpsc;

use super::{
    Inner, SweepTally,
    judge::{self, Circumstances, Finding, FindingKind, ToAccept},
};
use crate::{Policies, Policy, Rules, accept::accept};

/// Drifts written in one transaction, at most, beyond the resource that exceeds it.
const DRIFTS: usize = 2_000;

/// Policies that there may be.
const POLICIES: i64 = 1_000;

/// A page, read.
struct Page {
    due: Vec<DueResource>,
    resources: Vec<SweepResource>,
    open: Vec<OpenDrift>,
    circumstances: Circumstances,
    policies: Arc<Policies>,
    /// Up to this number it goes.
    through: i64,
}

/// Policies as they were read last.
#[derive(Default)]
struct PolicyCache {
    rows: Vec<PolicyRow>,
    policies: Arc<Policies>,
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
        let (ended, tally) = sweep(inner, lease, row).await?;
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

/// Goes through one sweep, as often as it has to.
async fn sweep(
    inner: &Inner,
    lease: &Lease,
    mut row: SweepRow,
) -> Result<(SweepRow, SweepTally), Error> {
    let mut tally = SweepTally::read(&row.tally);
    loop {
        if !row.cancel_requested {
            round(inner, lease, &row, &mut tally).await?;
        }
        let keep = i64::from(inner.options.history);
        row = inner.store.finish_sweep(lease, &row.id, None, keep).await?;
        if row.state != "running" {
            return Ok((row, tally));
        }
    }
}

/// Goes through its scope once.
async fn round(
    inner: &Inner,
    lease: &Lease,
    row: &SweepRow,
    tally: &mut SweepTally,
) -> Result<(), Error> {
    // A stage that ends drops its ends of the channels, and so ends the others.
    let (pages, read) = mpsc::channel(1);
    let (findings, found) = mpsc::channel(1);
    tokio::try_join!(
        read_all(inner, row, pages),
        compare_all(inner, read, findings),
        write_all(inner, lease, row, found, tally),
    )?;
    Ok(())
}

async fn read_all(inner: &Inner, row: &SweepRow, pages: mpsc::Sender<Page>) -> Result<(), Error> {
    let mut cache = PolicyCache::default();
    let mut after = row.cursor_key;
    loop {
        let listed = list(inner, row, after).await?;
        let Some(last) = listed.last() else {
            return Ok(());
        };
        after = last.key;
        for due in by_bytes(&listed, i64::from(inner.options.page_bytes)) {
            let page = read_page(inner, row, due, &mut cache).await?;
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
    inner: &Inner,
    lease: &Lease,
    row: &SweepRow,
    mut found: mpsc::Receiver<(Page, Vec<Finding>)>,
    tally: &mut SweepTally,
) -> Result<(), Error> {
    while let Some((page, findings)) = found.recv().await {
        if write_page(inner, lease, row, page, findings, tally).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The next resources to compare, with the sizes of their documents.
async fn list(inner: &Inner, row: &SweepRow, after: i64) -> Result<Vec<DueResource>, Error> {
    let at_us = row.round_us.unwrap_or(row.asked_us);
    let limit = i64::from(inner.options.page_resources.max(1));
    let scope = (after, row.through_key);
    inner
        .store
        .next_due(row.compares_all(), scope, at_us, limit)
        .await
}

/// Pieces of a list whose documents fit into memory.
fn by_bytes(listed: &[DueResource], most: i64) -> Vec<&[DueResource]> {
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
async fn read_page(
    inner: &Inner,
    row: &SweepRow,
    due: &[DueResource],
    cache: &mut PolicyCache,
) -> Result<Page, Error> {
    let store = &inner.store;
    let keys: Vec<i64> = due.iter().map(|due| due.key).collect();
    let (resources, open, held, failed, policies, now) = tokio::try_join!(
        store.fetch_resources(&keys),
        store.open_drifts(&keys),
        store.held_resources(),
        store.failed_looks(),
        store.drift_policies("", "", POLICIES),
        store.database_time(),
    )?;
    if policies != cache.rows {
        cache.policies = Arc::new(Policies::new(policies.iter().filter_map(policy).collect()));
        cache.rows = policies;
    }
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
        policies: Arc::clone(&cache.policies),
    })
}

fn policy(row: &PolicyRow) -> Option<Policy> {
    let policy: Policy = serde_json::from_str(&row.document).ok()?;
    Some(Policy {
        name: row.name.clone(),
        provider: row.provider.clone(),
        expires: row.expire_us.map(Timestamp),
        ..policy
    })
}

fn compare(rules: &Rules, page: Page) -> (Page, Vec<Finding>) {
    let resources = page.resources.iter().enumerate();
    let findings = resources
        .map(|(at, resource)| judge::find(at, resource, rules, &page.circumstances))
        .collect();
    (page, findings)
}

/// Writes what is new in a page. Returns whether the sweep is to stop.
async fn write_page(
    inner: &Inner,
    lease: &Lease,
    row: &SweepRow,
    page: Page,
    findings: Vec<Finding>,
    tally: &mut SweepTally,
) -> Result<bool, Error> {
    let open = by_key(&page.open);
    let of = |key: i64| open.get(&key).copied().unwrap_or_default();
    let past = past(inner, &page, &findings, of).await?;
    let policies = page.policies.at(page.circumstances.now);
    let scene = (&*inner.rules, &policies, page.circumstances.now);
    let due: HashMap<i64, &DueResource> = page.due.iter().map(|due| (due.key, due)).collect();
    let mut accepts = Vec::new();
    let mut part = Part::default();
    let mut parts = Vec::new();
    for finding in findings {
        let resource = &page.resources[finding.at];
        part.tally.compared += 1;
        part.tally.fields += i64::from(finding.fields);
        if let Some(verdict) = finding.verdict {
            part.tally.count(verdict);
        }
        let Some(due) = due.get(&resource.key) else {
            continue;
        };
        let settled = judge::settle(finding, due, resource, of(resource.key), &past, scene);
        accepts.extend(settled.1);
        if let Some(compared) = settled.0 {
            part.push(compared);
        }
        if part.drifts >= DRIFTS {
            part.through = resource.key;
            parts.push(std::mem::take(&mut part));
        }
    }
    part.through = page.through;
    parts.push(part);
    for part in parts {
        let applied = apply(inner, lease, row, part, tally).await?;
        if applied.cancelled {
            return Ok(true);
        }
    }
    if accepts.is_empty() {
        return Ok(false);
    }
    tally.accepted += accept_all(inner, accepts).await?;
    let counted = Part {
        through: page.through,
        ..Part::default()
    };
    Ok(apply(inner, lease, row, counted, tally).await?.cancelled)
}

/// What one transaction writes.
#[derive(Default)]
struct Part {
    compared: Vec<Compared>,
    drifts: usize,
    through: i64,
    tally: SweepTally,
}

impl Part {
    fn push(&mut self, one: Compared) {
        self.drifts += one.opens.len() + one.updates.len() + one.closes.len();
        self.compared.push(one);
    }
}

async fn apply(
    inner: &Inner,
    lease: &Lease,
    row: &SweepRow,
    part: Part,
    tally: &mut SweepTally,
) -> Result<AppliedPage, Error> {
    let write = SweepWrite {
        sweep_id: row.id.clone(),
        cursor_key: part.through,
        compared: part.compared,
    };
    let before = *tally;
    let after = |applied: &AppliedPage| {
        let mut after = before;
        after.add(&part.tally);
        after.opened += i64::try_from(applied.opened.len()).unwrap_or(i64::MAX);
        after.changed += applied.updated;
        after.closed += applied.closed;
        after
    };
    let applied = inner
        .store
        .apply_sweep(lease, &write, |applied| after(applied).write())
        .await?;
    *tally = after(&applied);
    if applied.announced {
        inner.wakeups.kick();
    }
    Ok(applied)
}

/// Accepts what policies accept, each as a person would: if it is still as it was found. Returns how many.
async fn accept_all(inner: &Inner, accepts: Vec<ToAccept>) -> Result<i64, Error> {
    let mut count = 0;
    let keys: Vec<i64> = accepts.iter().map(|one| one.key).collect();
    let open = inner.store.open_drifts(&keys).await?;
    for one in accepts {
        let drift = open
            .iter()
            .find(|drift| drift.key == one.key && drift.path == one.path);
        let Some(drift) = drift else { continue };
        let etag = drift.version.to_string();
        let rules = Arc::clone(&inner.rules);
        let actor = format!("policy:{}", one.policy);
        let accepted = inner
            .store
            .accept_drift(&drift.id, move |scene| {
                accept(scene, &etag, &rules).map(|spec| AcceptWrite {
                    spec,
                    actor,
                    reason: "a policy accepts it".to_owned(),
                })
            })
            .await?;
        if matches!(accepted, Accepted::Done(_)) {
            count += 1;
            inner.wakeups.kick();
        }
    }
    Ok(count)
}

/// The drifts of each resource; they are in the order of the numbers.
fn by_key(open: &[OpenDrift]) -> HashMap<i64, &[OpenDrift]> {
    let groups = open.chunk_by(|one, next| one.key == next.key);
    groups
        .filter_map(|group| Some((group.first()?.key, group)))
        .collect()
}

/// The past of the differences that are new.
async fn past<'p>(
    inner: &Inner,
    page: &Page,
    findings: &[Finding],
    open: impl Fn(i64) -> &'p [OpenDrift],
) -> Result<HashMap<(i64, String), PastDrift>, Error> {
    let mut places = Vec::new();
    for finding in findings {
        let FindingKind::Differs(differences) = &finding.kind else {
            continue;
        };
        let key = page.resources[finding.at].key;
        let new = differences
            .iter()
            .filter(|one| judge::is_new(one, open(key)));
        places.extend(new.map(|one| (key, one.path.as_str())));
    }
    let past = inner.store.past_drifts(&places).await?;
    let past = past
        .into_iter()
        .map(|past| ((past.key, past.path.clone()), past));
    Ok(past.collect())
}
