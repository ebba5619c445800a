//! What is to be written about one resource: pure, in two halves, between which the past of what is new is looked up.

use std::collections::{BTreeMap, HashMap, HashSet};

use steadfast_store::{
    Compared, DriftClose, DriftOpen, DriftUpdate, DueResource, FailedLook, OpenDrift, PastDrift,
    SweepResource,
};
use steadfast_types::Timestamp;

use crate::{
    Comparison, DocumentError, Facts, Handling, HiddenBy, InForce, Look, Presence, Readiness,
    Rules, Severity, Subject, TypeRules, Verdict, flap,
    policy::DriftKind,
    secret::{self, Sameness},
    verdict::readiness,
};

/// What everything in a page is judged by.
pub(super) struct Circumstances {
    /// The resources that sagas hold.
    pub(super) held: HashSet<String>,
    /// Inventories that failed.
    pub(super) failed: Vec<FailedLook>,
    /// The time.
    pub(super) now: Timestamp,
}

/// A difference that there is.
pub(super) struct Difference {
    pub(super) path: String,
    kind: DriftKind,
    expected: Option<String>,
    actual: Option<String>,
    secret: bool,
}

impl Difference {
    /// One that is open already.
    fn of(drift: &OpenDrift) -> Option<Self> {
        let kind = match drift.kind.as_str() {
            "changed" => DriftKind::Changed,
            "missing" => DriftKind::Missing,
            "gone" => DriftKind::Gone,
            "unmanaged" => DriftKind::Unmanaged,
            _ => return None,
        };
        Some(Self {
            path: drift.path.clone(),
            kind,
            expected: drift.expected.clone(),
            actual: drift.actual.clone(),
            secret: drift.secret,
        })
    }
}

/// What was found of one resource.
pub(super) struct Finding {
    /// Its place in the page.
    pub(super) at: usize,
    /// What it is called; `None` if nothing is said.
    pub(super) verdict: Option<Verdict>,
    /// Leaves compared.
    pub(super) fields: u32,
    pub(super) kind: FindingKind,
    /// Paths of which nothing can be said: what is open there stays as it is.
    unknown: Vec<String>,
    /// What is kept of it holds what is secret by now.
    pub(super) in_clear: bool,
}

/// What that means.
pub(super) enum FindingKind {
    /// All of these differ, and nothing else.
    Differs(Vec<Difference>),
    /// Leave what is open as it is. It is compared again when something happens, unless that is already due.
    Hold {
        /// Nothing will say that it may be compared.
        still_due: bool,
    },
    /// Nobody asks for it: what is open about its fields is stale, what is open about all of it stays, and it is still due.
    Unsure,
    /// Leave everything as it is.
    Wait,
}

/// A drift that a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToAccept {
    pub(super) key: i64,
    pub(super) path: String,
    pub(super) policy: String,
    /// Its id, and the version that it has once all is written that was judged; `None` if it opens with that.
    pub(super) seen: Option<(String, i64)>,
}

/// The first half: whether a resource may be compared, and where it differs.
pub(super) fn find(
    at: usize,
    resource: &SweepResource,
    rules: &Rules,
    circumstances: &Circumstances,
) -> Finding {
    let rules = rules.of(&resource.provider, &resource.kind);
    let facts = facts(resource, rules, circumstances);
    let mut finding = Finding {
        at,
        verdict: None,
        fields: 0,
        kind: FindingKind::Wait,
        unknown: Vec::new(),
        in_clear: false,
    };
    let readiness = readiness(&facts);
    let compared = match readiness {
        Readiness::Compare => Some(compare(rules, resource)),
        _ => {
            let clear = |text: &str| rules.hide("", text).is_some();
            finding.in_clear = clear(&resource.spec) || clear(&resource.attributes);
            None
        }
    };
    let whole = |kind, actual: Option<String>| {
        FindingKind::Differs(vec![Difference {
            path: String::new(),
            kind,
            expected: None,
            actual,
            secret: false,
        }])
    };
    (finding.verdict, finding.kind) = match (readiness, compared) {
        (_, Some(Ok((comparison, in_clear)))) => {
            finding.in_clear = in_clear;
            finding.fields = comparison.fields;
            let verdict = match comparison.divergences.len() {
                0 if !comparison.unknown.is_empty() => Verdict::Unreadable,
                divergences => Verdict::of_comparison(divergences),
            };
            finding.unknown = comparison.unknown;
            let differences = comparison.divergences.into_iter().map(|one| Difference {
                path: one.path,
                kind: one.kind.into(),
                expected: Some(one.expected),
                actual: one.actual,
                secret: one.secret,
            });
            (Some(verdict), FindingKind::Differs(differences.collect()))
        }
        (Readiness::Wait, _) => (None, FindingKind::Wait),
        (Readiness::Unsure, _) => (None, FindingKind::Unsure),
        (Readiness::Hold(verdict), _) => {
            let still_due = facts.held;
            (Some(verdict), FindingKind::Hold { still_due })
        }
        (Readiness::Nothing, _) => (None, FindingKind::Differs(Vec::new())),
        (Readiness::Gone, _) => (Some(Verdict::Drifted), whole(DriftKind::Gone, None)),
        (Readiness::Unmanaged, _) => {
            let hidden = rules.hide("", &resource.attributes);
            let actual = hidden.unwrap_or_else(|| resource.attributes.clone());
            (
                Some(Verdict::Drifted),
                whole(DriftKind::Unmanaged, Some(actual)),
            )
        }
        (Readiness::Compare, _) => (
            Some(Verdict::Unreadable),
            FindingKind::Hold { still_due: false },
        ),
    };
    finding
}

/// Compares the documents of a resource, without what is secret by now; says whether there was anything of that.
fn compare(
    rules: &TypeRules,
    resource: &SweepResource,
) -> Result<(Comparison, bool), DocumentError> {
    let (spec, live) = (&resource.spec, &resource.attributes);
    let compared = rules.compare(spec, live).and_then(|found| {
        if !found.in_clear {
            return Ok((found, false));
        }
        let (hidden_spec, hidden_live) = (rules.hide("", spec), rules.hide("", live));
        let found = rules.compare(
            hidden_spec.as_ref().unwrap_or(spec),
            hidden_live.as_ref().unwrap_or(live),
        )?;
        Ok((found, true))
    });
    compared.inspect_err(|error| {
        // Nothing that is no document is ever stored.
        tracing::error!(
            provider = resource.provider,
            kind = resource.kind,
            id = resource.id,
            error = error as &dyn std::error::Error,
            "a stored document cannot be read"
        );
    })
}

fn facts(resource: &SweepResource, rules: &TypeRules, circumstances: &Circumstances) -> Facts {
    let held = !circumstances.held.is_empty() && {
        let name = format!("{}/{}/{}", resource.provider, resource.kind, resource.id);
        circumstances.held.contains(&name)
    };
    let look = match resource.inventory_state.as_str() {
        "running" => Look::Running,
        "failed" => Look::Failed,
        "complete" => Look::Complete,
        // An inventory that is no longer kept was complete.
        _ if resource.inventory > 0 => Look::Complete,
        _ => Look::Direct,
    };
    let covers = |failed: &&FailedLook| {
        failed.provider == resource.provider
            && serde_json::from_str::<Vec<String>>(&failed.types)
                .is_ok_and(|types| types.is_empty() || types.contains(&resource.kind))
    };
    // Only what was not observed since it was applied needs to know.
    let unseen = resource
        .applied_us
        .is_some_and(|applied| resource.observed_us <= applied);
    let failed = circumstances.failed.iter().filter(|_| unseen);
    let failed = failed.filter(covers).map(|failed| failed.start_us).max();
    Facts {
        recorded: resource.recorded,
        applied: resource.applied_us.map(Timestamp),
        held,
        in_transition: !resource.transition.is_empty(),
        presence: match (resource.misses, resource.attributes.is_empty()) {
            (0, true) => Presence::Unknown,
            (0, false) => Presence::Present,
            (1, _) => Presence::Missed,
            _ => Presence::Gone,
        },
        observed: (resource.observed_us > 0).then_some((Timestamp(resource.observed_us), look)),
        failed: failed.map(Timestamp),
        reports_unmanaged: rules.reports_unmanaged(),
    }
}

/// Which of the differences are new: the paths of which the past matters.
pub(super) fn is_new(difference: &Difference, open: &[OpenDrift]) -> bool {
    !open.iter().any(|drift| drift.path == difference.path)
}

/// The second half: what is written, `None` if all is as it was; and what is to be accepted then.
pub(super) fn settle(
    finding: &Finding,
    due: &DueResource,
    resource: &SweepResource,
    open: &[OpenDrift],
    past: &HashMap<(i64, String), PastDrift>,
    scene: (&Rules, &InForce<'_>, Timestamp),
) -> (Option<Compared>, Vec<ToAccept>) {
    let (rules, policies, now) = scene;
    let is_due = due.generation > 0 && due.due_us <= now.0;
    let unsure = matches!(finding.kind, FindingKind::Unsure);
    let stays_due = unsure || matches!(finding.kind, FindingKind::Hold { still_due: true });
    let said = finding.verdict.map_or("", Verdict::as_str);
    let mut write = Compared {
        key: resource.key,
        generation: due.generation,
        writes: resource.writes,
        live_version: resource.live_version,
        spec_version: resource.spec_version,
        verdict: (said != resource.verdict).then_some(said),
        done: is_due && !stays_due,
        ..Compared::default()
    };
    let mut accept = Vec::new();
    let held: Vec<Difference>;
    let (differences, holds) = match &finding.kind {
        FindingKind::Wait => return (None, accept),
        FindingKind::Differs(differences) => (differences, false),
        // What is open stays as it is; but what hides it may have ended.
        FindingKind::Hold { .. } => {
            held = open.iter().filter_map(Difference::of).collect();
            (&held, true)
        }
        FindingKind::Unsure => {
            let whole = open.iter().filter(|drift| drift.kind == "unmanaged");
            held = whole.filter_map(Difference::of).collect();
            let said = held.first().map_or("", |_| Verdict::Drifted.as_str());
            write.verdict = (said != resource.verdict).then_some(said);
            (&held, true)
        }
    };
    let unknown = open
        .iter()
        .filter(|drift| finding.unknown.contains(&drift.path));
    let unknown: Vec<Difference> = unknown.filter_map(Difference::of).collect();
    let unknown = unknown.iter().map(|difference| (difference, true));
    let rules = rules.of(&resource.provider, &resource.kind);
    let mut labels = None;
    // Nothing else says that the saga has let go of it.
    let mut next = (stays_due && !is_due).then_some(now);
    let differences_or_not = differences.iter().map(|difference| (difference, holds));
    for (difference, holds) in differences_or_not.chain(unknown) {
        let labels: &BTreeMap<String, String> = labels
            .get_or_insert_with(|| serde_json::from_str(&resource.labels).unwrap_or_default());
        let before = open.iter().find(|drift| drift.path == difference.path);
        let spec_version = match before {
            Some(before) if holds => before.spec_version,
            _ => resource.spec_version,
        };
        let subject = (resource, labels, spec_version);
        let judged = judge(subject, difference, before, past, (rules, policies, now));
        next = sooner(next, judged.next);
        if let Some(policy) = judged.accepted_by.filter(|_| !holds) {
            accept.push(ToAccept {
                key: resource.key,
                path: difference.path.clone(),
                policy,
                seen: before.map(|before| {
                    let changes = judged.drift.is_some() && !judged.silent;
                    (before.id.clone(), before.version + i64::from(changes))
                }),
            });
        }
        match (before, judged.drift) {
            (None, Some(drift)) => write.opens.push(drift),
            (Some(before), Some(drift)) => write.updates.push(DriftUpdate {
                id: before.id.clone(),
                version: before.version,
                spec_version,
                silent: judged.silent,
                value_changed: judged.value_changed,
                now: drift,
            }),
            (_, None) => {}
        }
    }
    if !holds || unsure {
        let closing = open.iter();
        let closing = closing.filter(|drift| {
            let differs = differences.iter().any(|one| one.path == drift.path);
            !differs && !finding.unknown.contains(&drift.path)
        });
        write.closes = closing
            .map(|drift| close(drift, resource, differences))
            .collect();
    }
    let scheduled = due.generation > 0 && !is_due;
    match next {
        Some(next) if scheduled && next.0 == due.due_us => write.done = false,
        // What is left due is not put off.
        Some(_) if is_due && !write.done => {}
        Some(next) => write.next_us = Some(next.0),
        None if holds => {}
        None => write.done = due.generation > 0,
    }
    let writes = write.verdict.is_some()
        || write.done
        || write.next_us.is_some()
        || !(write.opens.is_empty() && write.updates.is_empty() && write.closes.is_empty());
    ((writes || !accept.is_empty()).then_some(write), accept)
}

fn close(drift: &OpenDrift, resource: &SweepResource, differences: &[Difference]) -> DriftClose {
    let gone = differences.iter().any(|one| one.kind == DriftKind::Gone);
    let reason = if gone {
        "the resource is gone"
    } else if !resource.recorded {
        "nobody asks for the resource any more"
    } else if drift.path.is_empty() {
        "the resource is there, and somebody asked for it"
    } else if resource.spec_version != drift.spec_version {
        "it is as the new spec says, or that does not name it"
    } else {
        "it is as it was asked for again"
    };
    DriftClose {
        id: drift.id.clone(),
        version: drift.version,
        path: drift.path.clone(),
        state: "stale",
        reason,
    }
}

/// How a difference is to be kept.
struct Judged {
    /// `None` if it is kept so already.
    drift: Option<DriftOpen>,
    value_changed: bool,
    silent: bool,
    next: Option<Timestamp>,
    accepted_by: Option<String>,
}

fn judge(
    (resource, labels, spec_version): (&SweepResource, &BTreeMap<String, String>, i64),
    difference: &Difference,
    before: Option<&OpenDrift>,
    past: &HashMap<(i64, String), PastDrift>,
    (rules, policies, now): (&TypeRules, &InForce<'_>, Timestamp),
) -> Judged {
    let sameness = |one: &Option<String>, other: &Option<String>| match (one, other) {
        (Some(one), Some(other)) => rules.sameness(&difference.path, one, other),
        (one, other) => secret::of_equal(one == other),
    };
    let kind = difference.kind.as_str();
    let actual = before.map(|before| sameness(&before.actual, &difference.actual));
    let expected = before.map(|before| sameness(&before.expected, &difference.expected));
    // Of another key, it may be the same.
    let value_changed =
        actual == Some(Sameness::Different) || before.is_some_and(|before| before.kind != kind);
    let (flips, last) = match before {
        None => {
            let past = past.get(&(resource.key, difference.path.clone()));
            let past = past.map(|past| {
                let last = past.resolved_us.max(past.changed_us);
                (
                    u32::try_from(past.flips).unwrap_or(u32::MAX),
                    Timestamp(last),
                )
            });
            (flap::opened(past, now), now)
        }
        Some(before) => {
            let flips = u32::try_from(before.flips).unwrap_or(u32::MAX);
            let last = Timestamp(before.changed_us);
            if value_changed {
                (flap::changed(flips, last, now), now)
            } else {
                (flips, last)
            }
        }
    };
    let flapping_until = flap::flapping_until(flips, last, now);
    let decision = policies.decide(&Subject {
        provider: &resource.provider,
        kind: &resource.kind,
        labels,
        path: &difference.path,
        drift: difference.kind,
        secret: difference.secret,
        flapping: flapping_until.is_some(),
    });
    // A snooze is for the value that was seen.
    let snoozed = before.filter(|before| before.suppressed_by == "snooze" && !value_changed);
    let snoozed = snoozed.and_then(|before| before.suppressed_until_us.map(Timestamp));
    let hidden = decision.hidden_with(snoozed, now);
    let (by, policy) = match hidden.as_ref().map(|hidden| &hidden.by) {
        None => ("", ""),
        Some(HiddenBy::Policy(name)) => ("policy", name.as_str()),
        Some(HiddenBy::Window(name)) => ("window", name.as_str()),
        Some(HiddenBy::Snooze) => ("snooze", ""),
    };
    let until = hidden.as_ref().map(|hidden| hidden.until);
    // Once it is calm, a policy may act on it.
    let calm = flapping_until.filter(|_| !decision.policy.is_empty());
    let next = sooner(sooner(until, decision.next), calm);
    let accepted = decision.handling == Handling::Accept && hidden.is_none();
    // A value that means the same is shown as it was first seen.
    let kept_actual = before.filter(|_| actual == Some(Sameness::Same) && !value_changed);
    let kept_expected = before.filter(|_| expected == Some(Sameness::Same));
    let drift = DriftOpen {
        path: difference.path.clone(),
        kind,
        severity: severity(decision.severity),
        expected: kept_expected.map_or_else(
            || difference.expected.clone(),
            |before| before.expected.clone(),
        ),
        actual: kept_actual
            .map_or_else(|| difference.actual.clone(), |before| before.actual.clone()),
        secret: difference.secret,
        flips: i64::from(flips),
        suppressed_by: by,
        suppressed_policy: policy.to_owned(),
        suppressed_until_us: until.map(|until| until.0),
    };
    let shown = before.is_some_and(|before| {
        let same = (&before.expected, &before.actual) == (&drift.expected, &drift.actual);
        let rekeyed = expected != Some(Sameness::Different) && actual != Some(Sameness::Different);
        is_shown_so(before, &drift) && (same || rekeyed)
    });
    let silent = shown && !value_changed;
    let kept = silent
        && before.is_some_and(|before| {
            before.spec_version == spec_version
                && before.expected == drift.expected
                && before.actual == drift.actual
        });
    Judged {
        drift: (!kept).then_some(drift),
        value_changed,
        silent,
        next,
        accepted_by: accepted.then_some(decision.policy),
    }
}

/// Whether everything about a drift that anyone sees is as it was, but for its values.
fn is_shown_so(before: &OpenDrift, now: &DriftOpen) -> bool {
    before.kind == now.kind
        && before.severity == now.severity
        && before.secret == now.secret
        && before.flips == now.flips
        && before.suppressed_by == now.suppressed_by
        && before.suppressed_policy == now.suppressed_policy
        && before.suppressed_until_us == now.suppressed_until_us
}

/// As it is kept: higher is worse.
pub(crate) fn severity(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 1,
        Severity::Warning => 2,
        Severity::Critical => 3,
    }
}

fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
