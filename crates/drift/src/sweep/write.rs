//! Writing what was found in a page, and accepting what policies accept.
//!
//! A drift is accepted in a transaction of its own, as a person would accept it. Until that is decided its resource stays due and
//! the sweep stays before it, so that whoever goes on after a crash finds it again.

use std::{collections::HashMap, sync::Arc};

use steadfast_store::{
    AcceptWrite, Accepted, AppliedPage, Compared, DueResource, Error, Lease, OpenDrift, PastDrift,
    SweepRow, SweepWrite,
};
use steadfast_types::Timestamp;

use super::{
    Inner, SweepTally,
    carry::Page,
    judge::{self, Finding, FindingKind, ToAccept},
};
use crate::accept::accept;

/// Drifts written in one transaction, at most, beyond the resource that exceeds it.
const DRIFTS: usize = 2_000;

/// Writes the pages of one way through, in their order.
pub(super) struct Writer<'w> {
    inner: &'w Inner,
    lease: &'w Lease,
    sweep_id: &'w str,
    tally: &'w mut SweepTally,
    /// Up to this number all is written and decided.
    cursor: i64,
}

/// What one transaction writes.
#[derive(Default)]
struct Part {
    compared: Vec<Compared>,
    drifts: usize,
    through: i64,
    tally: SweepTally,
    accepts: Vec<ToAccept>,
    /// What becomes of the resources that are kept due until it is decided whether their drifts are accepted.
    decided: Vec<Compared>,
}

// === impl Part ===

impl Part {
    fn push(&mut self, one: Compared) {
        self.drifts += one.opens.len() + one.updates.len() + one.closes.len();
        self.compared.push(one);
    }

    /// Adds what is to be accepted of a resource, and keeps it due until then. `one` is what would be written of it otherwise.
    fn accept(
        &mut self,
        one: &mut Compared,
        due: &DueResource,
        now: Timestamp,
        accepts: Vec<ToAccept>,
    ) {
        self.accepts.extend(accepts);
        self.decided.push(Compared {
            key: one.key,
            generation: one.generation,
            done: one.done,
            next_us: one.next_us,
            ..Compared::default()
        });
        one.done = false;
        let is_due = due.generation > 0 && due.due_us <= now.0;
        one.next_us = (!is_due).then_some(now.0);
    }
}

// === impl Writer ===

impl<'w> Writer<'w> {
    pub(super) fn new(
        inner: &'w Inner,
        lease: &'w Lease,
        row: &'w SweepRow,
        tally: &'w mut SweepTally,
    ) -> Self {
        Self {
            inner,
            lease,
            sweep_id: &row.id,
            tally,
            cursor: row.cursor_key,
        }
    }

    /// Writes what is new in a page. Returns whether the sweep is to stop.
    pub(super) async fn page(&mut self, page: Page, findings: Vec<Finding>) -> Result<bool, Error> {
        let open = by_key(&page.open);
        let of = |key: i64| open.get(&key).copied().unwrap_or_default();
        let past = past(self.inner, &page, &findings, of).await?;
        let now = page.circumstances.now;
        let policies = page.policies.at(now);
        let scene = (&*self.inner.rules, &policies, now);
        let due: HashMap<i64, &DueResource> = page.due.iter().map(|due| (due.key, due)).collect();
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
            let open = of(resource.key);
            let (compared, accepts) = judge::settle(finding, due, resource, open, &past, scene);
            if let Some(mut compared) = compared {
                if !accepts.is_empty() {
                    part.accept(&mut compared, due, now, accepts);
                }
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
            if self.part(part).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a part of a page, and decides what is to be accepted of it. Returns whether the sweep is to stop.
    async fn part(&mut self, mut part: Part) -> Result<bool, Error> {
        let accepts = std::mem::take(&mut part.accepts);
        if accepts.is_empty() {
            return Ok(self.apply(part).await?.cancelled);
        }
        let mut decided = Part {
            compared: std::mem::take(&mut part.decided),
            through: part.through,
            tally: std::mem::take(&mut part.tally),
            ..Part::default()
        };
        part.through = self.cursor;
        let applied = self.apply(part).await?;
        if applied.cancelled {
            return Ok(true);
        }
        decided.tally.accepted += self.accept_all(accepts, &applied).await?;
        Ok(self.apply(decided).await?.cancelled)
    }

    async fn apply(&mut self, part: Part) -> Result<AppliedPage, Error> {
        let write = SweepWrite {
            sweep_id: self.sweep_id.to_owned(),
            cursor_key: part.through,
            compared: part.compared,
        };
        let before = *self.tally;
        let after = |applied: &AppliedPage| {
            let mut after = before;
            after.add(&part.tally);
            after.opened += i64::try_from(applied.opened.len()).unwrap_or(i64::MAX);
            after.changed += applied.updated;
            after.closed += applied.closed;
            after
        };
        let applied = self
            .inner
            .store
            .apply_sweep(self.lease, &write, |applied| after(applied).write())
            .await?;
        *self.tally = after(&applied);
        self.cursor = part.through;
        if applied.announced {
            self.inner.wakeups.kick();
        }
        Ok(applied)
    }

    /// Accepts what policies accept, each as a person would: if it is still as it was judged. Returns how many.
    async fn accept_all(
        &self,
        accepts: Vec<ToAccept>,
        applied: &AppliedPage,
    ) -> Result<i64, Error> {
        let opened: HashMap<(i64, &str), &str> = applied
            .opened
            .iter()
            .map(|one| ((one.key, one.path.as_str()), one.id.as_str()))
            .collect();
        let mut count = 0;
        for one in accepts {
            if applied.overtaken.contains(&one.key) {
                continue;
            }
            let opened = || {
                let id = opened.get(&(one.key, one.path.as_str()))?;
                Some(((*id).to_owned(), 1))
            };
            let Some((id, version)) = one.seen.clone().or_else(opened) else {
                continue;
            };
            let etag = version.to_string();
            let rules = Arc::clone(&self.inner.rules);
            let actor = format!("policy:{}", one.policy);
            let accepted = self
                .inner
                .store
                .accept_drift(&id, move |scene| {
                    accept(scene, &etag, &rules).map(|spec| AcceptWrite {
                        spec,
                        actor,
                        reason: "a policy accepts it".to_owned(),
                    })
                })
                .await?;
            if matches!(accepted, Accepted::Done(_)) {
                count += 1;
                self.inner.wakeups.kick();
            }
        }
        Ok(count)
    }
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
