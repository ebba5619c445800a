//! Writing what was found in a page, and accepting what policies accept.
//!
//! What is judged by policies is judged again if one of them is written meanwhile (see the store's `generation`).
//!
//! A drift is accepted in a transaction of its own, as a person would accept it. Until that is decided its resource stays due and
//! the sweep stays before it, so that whoever goes on after a crash finds it again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use steadfast_store::{
    AcceptWrite, Accepted, Applied, AppliedPage, Compared, DueResource, Error, JudgedBy, Lease,
    OpenDrift, Outdated, PastDrift, PolicyRow, SweepFailure, SweepRow, SweepWrite,
};
use steadfast_types::Timestamp;

use super::{
    Inner, SweepTally,
    carry::Page,
    judge::{self, Finding, FindingKind, ToAccept},
};
use crate::{InForce, Policies, Policy, Rules, Verdict, accept::accept};

/// Policies that there may be.
const POLICIES: i64 = 1_000;

/// Resources that are named of those that cannot be compared.
const FAILURES: usize = 100;

/// When what cannot be compared is tried again.
const AGAIN: Duration = Duration::from_secs(3_600);

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
    /// The policies, and their generation; `None` if they are not known.
    policies: (Option<String>, Arc<Policies>),
    /// What could not be compared, as far as it is named.
    failures: Vec<SweepFailure>,
}

/// Why a way through ends before all is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked for that.
    Cancelled,
    /// Rules count that this replica does not have.
    OtherRules,
    /// Nothing can be compared, for this reason.
    Failed(String),
}

/// What became of a part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Became {
    Written,
    /// Other policies count.
    Outdated,
    Stopped(Stop),
}

/// What a page is judged from, besides rules and policies.
struct View<'v> {
    page: &'v Page,
    due: HashMap<i64, &'v DueResource>,
    /// The open drifts of each resource.
    open: HashMap<i64, &'v [OpenDrift]>,
    past: HashMap<(i64, String), PastDrift>,
}

/// What one transaction writes.
#[derive(Default)]
struct Part {
    compared: Vec<Compared>,
    drifts: usize,
    through: i64,
    tally: SweepTally,
    accepts: Vec<ToAccept>,
    /// What cannot be compared.
    failed: Option<SweepFailure>,
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
            policies: (None, Arc::default()),
            failures: row.failures(),
        }
    }

    /// Writes what is new in a page.
    pub(super) async fn page(
        &mut self,
        page: &Page,
        findings: &[Finding],
    ) -> Result<Option<Stop>, Error> {
        // First: what changes after this is noticed when the page is written.
        self.read_policies().await?;
        let open = by_key(&page.open);
        let view = View {
            page,
            due: page.due.iter().map(|due| (due.key, due)).collect(),
            past: past(self.inner, page, findings, &open).await?,
            open,
        };
        self.hide(page, findings).await?;
        let mut rest = findings;
        loop {
            let policies = Arc::clone(&self.policies.1);
            let in_force = policies.at(page.circumstances.now);
            let (part, left) = judge_some(&view, rest, (&self.inner.rules, &in_force));
            match self.part(part).await? {
                Became::Written => rest = left,
                // Judged again, by those that there are now.
                Became::Outdated => {
                    self.policies.0 = None;
                    self.read_policies().await?;
                    continue;
                }
                Became::Stopped(stop) => return Ok(Some(stop)),
            }
            if rest.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Hides what is kept in clear and is secret by now: a replica that has not started again since knows no better. Before the page
    /// is written, so that it stays due if this fails; what was judged has none of it.
    async fn hide(&self, page: &Page, findings: &[Finding]) -> Result<(), Error> {
        let clear = findings.iter().filter(|finding| finding.in_clear);
        let keys: Vec<i64> = clear
            .map(|finding| page.resources[finding.at].key)
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.inner
            .store
            .redact_resources(&keys, &*self.inner.rules)
            .await
    }

    /// Reads the policies, if nothing is known of them or it is no longer so.
    async fn read_policies(&mut self) -> Result<(), Error> {
        if self.policies.0.is_none() {
            let store = &self.inner.store;
            let generation = store.policies_generation().await?;
            let rows = store.drift_policies("", "", POLICIES).await?;
            let policies = Policies::new(rows.iter().filter_map(policy).collect());
            self.policies = (Some(generation), Arc::new(policies));
        }
        Ok(())
    }

    /// Up to this number all is written and decided.
    pub(super) fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Goes on behind a resource that cannot be compared. If `told`, it is called so, and compared again later.
    pub(super) async fn leave_out(
        &mut self,
        due: DueResource,
        failure: &SweepFailure,
        told: bool,
    ) -> Result<Option<Stop>, Error> {
        let mut part = Part {
            through: due.key,
            failed: Some(failure.clone()),
            ..Part::default()
        };
        part.tally.failed = 1;
        if told {
            let now = Timestamp(self.inner.store.database_time().await?);
            part.tally.count(Verdict::Unreadable);
            part.compared.push(Compared {
                key: due.key,
                generation: due.generation,
                verdict: Some(Verdict::Unreadable.as_str()),
                next_us: Some(now.plus(AGAIN).0),
                ..Compared::default()
            });
        }
        match self.apply(part, None).await?.0 {
            Became::Written | Became::Outdated => Ok(None),
            Became::Stopped(stop) => Ok(Some(stop)),
        }
    }

    /// Writes a part of a page, and decides what is to be accepted of it.
    async fn part(&mut self, mut part: Part) -> Result<Became, Error> {
        let accepts = std::mem::take(&mut part.accepts);
        let policies = self.policies.0.clone();
        if accepts.is_empty() {
            let (became, _) = self.apply(part, policies).await?;
            return Ok(became);
        }
        let mut decided = Part {
            compared: std::mem::take(&mut part.decided),
            through: part.through,
            tally: std::mem::take(&mut part.tally),
            ..Part::default()
        };
        part.through = self.cursor;
        let (became, applied) = self.apply(part, policies).await?;
        if became != Became::Written {
            return Ok(became);
        }
        decided.tally.accepted += self.accept_all(accepts, &applied).await?;
        // That is decided, whatever the policies say by now.
        let (became, _) = self.apply(decided, None).await?;
        Ok(became)
    }

    async fn apply(
        &mut self,
        part: Part,
        policies: Option<String>,
    ) -> Result<(Became, AppliedPage), Error> {
        let mut failures = self.failures.clone();
        failures.extend(part.failed);
        failures.truncate(FAILURES);
        let failed = match failures.len() > self.failures.len() {
            true => serde_json::to_string(&failures).unwrap_or_default(),
            false => String::new(),
        };
        let write = SweepWrite {
            sweep_id: self.sweep_id.to_owned(),
            judged_by: JudgedBy {
                rules: self.inner.rules.digest().to_owned(),
                policies,
            },
            cursor_key: part.through,
            compared: part.compared,
            failed,
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
        let applied = match applied {
            Applied::Page(applied) => applied,
            Applied::Outdated(Outdated::Policies) => {
                return Ok((Became::Outdated, AppliedPage::default()));
            }
            Applied::Outdated(Outdated::Rules) => {
                return Ok((Became::Stopped(Stop::OtherRules), AppliedPage::default()));
            }
        };
        *self.tally = after(&applied);
        self.cursor = part.through;
        self.failures = failures;
        if applied.announced {
            self.inner.wakeups.kick();
        }
        let became = match applied.cancelled {
            true => Became::Stopped(Stop::Cancelled),
            false => Became::Written,
        };
        Ok((became, applied))
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

/// Judges findings until a transaction has enough to write, and returns the rest of them.
fn judge_some<'f>(
    view: &View<'_>,
    findings: &'f [Finding],
    (rules, in_force): (&Rules, &InForce<'_>),
) -> (Part, &'f [Finding]) {
    let now = view.page.circumstances.now;
    let mut part = Part::default();
    for (at, finding) in findings.iter().enumerate() {
        let resource = &view.page.resources[finding.at];
        part.tally.compared += 1;
        part.tally.fields += i64::from(finding.fields);
        if let Some(verdict) = finding.verdict {
            part.tally.count(verdict);
        }
        let Some(due) = view.due.get(&resource.key) else {
            continue;
        };
        let open = view.open.get(&resource.key).copied().unwrap_or_default();
        let scene = (rules, in_force, now);
        let (compared, accepts) = judge::settle(finding, due, resource, open, &view.past, scene);
        if let Some(mut compared) = compared {
            if !accepts.is_empty() {
                part.accept(&mut compared, due, now, accepts);
            }
            part.push(compared);
        }
        let rest = &findings[at + 1..];
        if part.drifts >= DRIFTS && !rest.is_empty() {
            part.through = resource.key;
            return (part, rest);
        }
    }
    part.through = view.page.through;
    (part, &[])
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

/// The drifts of each resource; they are in the order of the numbers.
fn by_key(open: &[OpenDrift]) -> HashMap<i64, &[OpenDrift]> {
    let groups = open.chunk_by(|one, next| one.key == next.key);
    groups
        .filter_map(|group| Some((group.first()?.key, group)))
        .collect()
}

/// The past of the differences that are new.
async fn past(
    inner: &Inner,
    page: &Page,
    findings: &[Finding],
    open: &HashMap<i64, &[OpenDrift]>,
) -> Result<HashMap<(i64, String), PastDrift>, Error> {
    let mut places = Vec::new();
    for finding in findings {
        let FindingKind::Differs(differences) = &finding.kind else {
            continue;
        };
        let key = page.resources[finding.at].key;
        let open = open.get(&key).copied().unwrap_or_default();
        let new = differences.iter().filter(|one| judge::is_new(one, open));
        places.extend(new.map(|one| (key, one.path.as_str())));
    }
    let past = inner.store.past_drifts(&places).await?;
    let past = past
        .into_iter()
        .map(|past| ((past.key, past.path.clone()), past));
    Ok(past.collect())
}
