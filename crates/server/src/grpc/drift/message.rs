//! Rows as messages.

use std::collections::HashMap;

use steadfast_api::drift::v1 as api;
use steadfast_drift::{Rules, SweepTally, TypeRules, Verdict, flap};
use steadfast_store::{
    DriftEventRow, DriftRow, InventoryRow, PolicyRow, ReportOutcome, ResourceRow, SweepFailure,
    SweepRow,
};
use steadfast_types::Timestamp;

use crate::grpc::admin::time_message;

fn time(micros: i64) -> Option<prost_types::Timestamp> {
    Some(time_message(Timestamp(micros)))
}

/// 0 is no time.
fn time_or_none(micros: i64) -> Option<prost_types::Timestamp> {
    (micros > 0).then(|| time_message(Timestamp(micros)))
}

fn labels(text: &str) -> HashMap<String, String> {
    // Nothing else is ever written.
    serde_json::from_str(text).unwrap_or_default()
}

pub(super) fn verdict(verdict: Verdict) -> api::Verdict {
    match verdict {
        Verdict::InSync => api::Verdict::InSync,
        Verdict::Drifted => api::Verdict::Drifted,
        Verdict::Pending => api::Verdict::Pending,
        Verdict::Busy => api::Verdict::Busy,
        Verdict::Unreadable => api::Verdict::Unreadable,
        Verdict::NotObserved => api::Verdict::NotObserved,
    }
}

/// All of them, in the order of the contract.
pub(super) const VERDICTS: [Verdict; 6] = [
    Verdict::InSync,
    Verdict::Drifted,
    Verdict::Pending,
    Verdict::Busy,
    Verdict::Unreadable,
    Verdict::NotObserved,
];

fn verdict_of(text: &str) -> api::Verdict {
    let found = VERDICTS.into_iter().find(|one| one.as_str() == text);
    found.map_or(api::Verdict::Unspecified, verdict)
}

fn presence(row: &ResourceRow) -> api::Presence {
    match (row.misses, row.observed_us) {
        (0, 0) => api::Presence::Unknown,
        (0, _) => api::Presence::Present,
        (1, _) => api::Presence::Missed,
        _ => api::Presence::Gone,
    }
}

/// A resource with its documents, as they may be shown.
pub(super) fn resource(row: &ResourceRow, rules: &Rules) -> api::Resource {
    let rules = rules.of(&row.provider, &row.kind);
    api::Resource {
        spec_json: rules.mask(&row.spec).into_owned(),
        attributes_json: rules.mask(&row.attributes).into_owned(),
        ..summary(row)
    }
}

/// A resource without its documents.
pub(super) fn summary(row: &ResourceRow) -> api::Resource {
    let count = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let recorded = |micros: i64| {
        if row.recorded {
            time_or_none(micros)
        } else {
            None
        }
    };
    api::Resource {
        key: Some(api::ResourceKey {
            provider: row.provider.clone(),
            r#type: row.kind.clone(),
            id: row.id.clone(),
        }),
        spec_json: String::new(),
        spec_version: if row.recorded { row.spec_version } else { 0 },
        recorded_by: row.recorded_by.clone(),
        record_time: recorded(row.recorded_us),
        applied_time: row.applied_us.and_then(recorded),
        saga_id: row.saga_id.clone(),
        labels: labels(&row.labels),
        attributes_json: String::new(),
        presence: presence(row).into(),
        transition: row.transition.clone(),
        inventory_id: row.inventory.clone(),
        observe_time: time_or_none(row.observed_us),
        verdict: verdict_of(&row.verdict).into(),
        verdict_time: time_or_none(row.decided_us).filter(|_| !row.verdict.is_empty()),
        due: row.due,
        open_drifts: count(row.open_drifts),
        suppressed_drifts: count(row.suppressed_drifts),
        etag: row.etag(),
    }
}

pub(super) fn event(row: &DriftEventRow, rules: &TypeRules) -> api::ResourceEvent {
    use api::ResourceEventKind as Kind;
    let kind = match row.kind.as_str() {
        "recorded" => Kind::Recorded,
        "applied" => Kind::Applied,
        "appeared" => Kind::Appeared,
        "gone" => Kind::Gone,
        "deleted" => Kind::Deleted,
        "drift_detected" => Kind::DriftDetected,
        "drift_changed" => Kind::DriftChanged,
        "drift_closed" => Kind::DriftClosed,
        "drift_accepted" => Kind::DriftAccepted,
        "drift_snoozed" => Kind::DriftSnoozed,
        _ => Kind::Unspecified,
    };
    api::ResourceEvent {
        seq: row.seq,
        time: time(row.time_us),
        kind: kind.into(),
        path: row.path.clone(),
        drift_id: row.drift_id.clone(),
        actor: row.actor.clone(),
        reason: row.reason.clone(),
        detail_json: rules.mask_detail(&row.path, &row.detail).into_owned(),
    }
}

pub(super) fn inventory(row: &InventoryRow) -> api::Inventory {
    let state = match row.state.as_str() {
        "running" => api::InventoryState::Running,
        "complete" => api::InventoryState::Complete,
        "failed" => api::InventoryState::Failed,
        _ => api::InventoryState::Unspecified,
    };
    api::Inventory {
        id: row.id.clone(),
        scope: Some(api::InventoryScope {
            provider: row.provider.clone(),
            types: serde_json::from_str(&row.types).unwrap_or_default(),
        }),
        source: row.source.clone(),
        state: state.into(),
        start_time: time(row.start_us),
        end_time: row.end_us.and_then(time),
        reported: row.reported,
        changed: row.changed,
        missed: row.missed,
        error: row.error.clone(),
    }
}

/// `None` if it is refused.
pub(super) fn report_outcome(outcome: ReportOutcome) -> Option<api::ReportOutcome> {
    Some(match outcome {
        ReportOutcome::First => api::ReportOutcome::First,
        ReportOutcome::Changed => api::ReportOutcome::Changed,
        ReportOutcome::Unchanged => api::ReportOutcome::Unchanged,
        ReportOutcome::Outdated => api::ReportOutcome::Outdated,
        ReportOutcome::OutOfScope => return None,
    })
}

/// A drift with its values, as they may be shown: what is secret by now was not always.
pub(super) fn drift(row: &DriftRow, now: Timestamp, rules: &Rules) -> api::Drift {
    let rules = rules.of(&row.provider, &row.resource_kind);
    let secret = row.secret || rules.is_secret(&row.path);
    let kind = match row.kind.as_str() {
        "changed" => api::DriftKind::Changed,
        "missing" => api::DriftKind::Missing,
        "gone" => api::DriftKind::Gone,
        "unmanaged" => api::DriftKind::Unmanaged,
        _ => api::DriftKind::Unspecified,
    };
    let state = match row.state.as_str() {
        "open" => api::DriftState::Open,
        "accepted" => api::DriftState::Accepted,
        "reverted" => api::DriftState::Reverted,
        "stale" => api::DriftState::Stale,
        _ => api::DriftState::Unspecified,
    };
    let suppressed_by = match row.suppressed_by.as_str() {
        "policy" => api::Suppression::Policy,
        "snooze" => api::Suppression::Snooze,
        "window" => api::Suppression::Window,
        _ => api::Suppression::Unspecified,
    };
    // Hashes are for comparing, not for showing.
    let shown = |value: &Option<String>| match value {
        Some(value) if !secret => rules.mask_at(&row.path, value).into_owned(),
        _ => String::new(),
    };
    let flips = u32::try_from(row.flips).unwrap_or(u32::MAX);
    let last = Timestamp(row.changed_us.max(row.resolved_us.unwrap_or(0)));
    api::Drift {
        id: row.id.clone(),
        key: Some(api::ResourceKey {
            provider: row.provider.clone(),
            r#type: row.resource_kind.clone(),
            id: row.resource_id.clone(),
        }),
        path: row.path.clone(),
        kind: kind.into(),
        state: state.into(),
        severity: severity(row.severity).into(),
        expected_json: shown(&row.expected),
        actual_json: shown(&row.actual),
        secret,
        first_seen_time: time(row.first_seen_us),
        last_change_time: time(row.changed_us),
        last_seen_time: time_or_none(row.seen_us),
        times_flipped: flips.try_into().unwrap_or(i32::MAX),
        flapping: flap::flapping_until(flips, last, now).is_some(),
        suppressed_by: suppressed_by.into(),
        suppressed_by_policy: row.suppressed_policy.clone(),
        suppressed_until_time: row.suppressed_until_us.and_then(time),
        spec_version: row.spec_version,
        resolve_time: row.resolved_us.and_then(time),
        actor: row.actor.clone(),
        reason: row.reason.clone(),
        etag: row.etag(),
    }
}

fn severity(severity: i64) -> api::Severity {
    match severity {
        1 => api::Severity::Info,
        2 => api::Severity::Warning,
        3 => api::Severity::Critical,
        _ => api::Severity::Unspecified,
    }
}

pub(super) fn sweep(row: &SweepRow, key: Option<api::ResourceKey>) -> api::Sweep {
    let state = match row.state.as_str() {
        "running" => api::SweepState::Running,
        "completed" => api::SweepState::Completed,
        "cancelled" => api::SweepState::Cancelled,
        "failed" => api::SweepState::Failed,
        _ => api::SweepState::Unspecified,
    };
    let tally = SweepTally::read(&row.tally);
    let verdicts = VERDICTS.into_iter().map(|one| api::VerdictCount {
        verdict: verdict(one).into(),
        count: tally.of(one),
    });
    api::Sweep {
        id: row.id.clone(),
        state: state.into(),
        full: row.forced,
        labels: labels(&row.labels),
        key,
        triggered_by: row.triggered_by.clone(),
        start_time: time(row.start_us.unwrap_or(row.create_us)),
        end_time: row.end_us.and_then(time),
        resources: row.resources,
        compared: tally.compared,
        verdicts: verdicts.filter(|one| one.count > 0).collect(),
        drifts_opened: tally.opened,
        drifts_changed: tally.changed,
        drifts_closed: tally.closed,
        drifts_accepted: tally.accepted,
        owner: row.owner.clone(),
        error: row.error.clone(),
        failed: row.failures().into_iter().map(failed).collect(),
        failed_count: tally.failed,
    }
}

fn failed(failure: SweepFailure) -> api::FailedResource {
    let name = Some(failure.name).filter(|name| !name.id.is_empty());
    api::FailedResource {
        key: name.map(|name| api::ResourceKey {
            provider: name.provider,
            r#type: name.kind,
            id: name.id,
        }),
        reason: failure.reason,
    }
}

pub(super) fn policy(row: &PolicyRow) -> api::Policy {
    use steadfast_drift::{Handling, Severity};
    // Nothing else is ever written.
    let policy: steadfast_drift::Policy = serde_json::from_str(&row.document).unwrap_or_default();
    let handling = match policy.handling {
        None => api::Handling::Unspecified,
        Some(Handling::Ignore) => api::Handling::Ignore,
        Some(Handling::Manual) => api::Handling::Manual,
        Some(Handling::Accept) => api::Handling::Accept,
        Some(Handling::Revert) => api::Handling::Revert,
    };
    let severity = match policy.severity {
        None => api::Severity::Unspecified,
        Some(Severity::Info) => api::Severity::Info,
        Some(Severity::Warning) => api::Severity::Warning,
        Some(Severity::Critical) => api::Severity::Critical,
    };
    let windows = policy
        .windows
        .into_iter()
        .map(|window| api::MaintenanceWindow {
            cron: window.cron,
            time_zone: window.time_zone,
            duration: Some(prost_types::Duration {
                seconds: i64::try_from(window.duration_s).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        });
    api::Policy {
        name: row.name.clone(),
        provider: row.provider.clone(),
        r#type: policy.kind,
        labels: policy.labels.into_iter().collect(),
        path: policy.path,
        handling: handling.into(),
        severity: severity.into(),
        windows: windows.collect(),
        reason: policy.reason,
        expire_time: row.expire_us.and_then(time),
        max_reverts: policy.max_reverts.try_into().unwrap_or(i32::MAX),
        actor: row.actor.clone(),
        create_time: time(row.created_us),
        update_time: time(row.updated_us),
        etag: row.etag(),
    }
}
