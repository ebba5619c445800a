//! Resources, drifts and policies as programs see them.

use serde_json::{Map, Value, json};
use steadfast_client::api::drift::v1::{
    Drift, DriftKind, DriftState, Handling, Inventory, InventoryState, Policy, Presence,
    ReportOutcome, Resource, ResourceEvent, ResourceEventKind, ResourceKey, Severity, Suppression,
    Sweep, SweepState, Verdict,
};

use super::{document, sorted};
use crate::moment::rfc3339;

pub(crate) fn verdict(value: i32) -> String {
    enum_name!(value, Verdict, "VERDICT_")
}

pub(crate) fn presence(value: i32) -> String {
    enum_name!(value, Presence, "PRESENCE_")
}

pub(crate) fn inventory_state(value: i32) -> String {
    enum_name!(value, InventoryState, "INVENTORY_STATE_")
}

pub(crate) fn report_outcome(value: i32) -> String {
    enum_name!(value, ReportOutcome, "REPORT_OUTCOME_")
}

pub(crate) fn event_kind(value: i32) -> String {
    enum_name!(value, ResourceEventKind, "RESOURCE_EVENT_KIND_")
}

pub(crate) fn kind(value: i32) -> String {
    enum_name!(value, DriftKind, "DRIFT_KIND_")
}

pub(crate) fn state(value: i32) -> String {
    enum_name!(value, DriftState, "DRIFT_STATE_")
}

pub(crate) fn severity(value: i32) -> String {
    enum_name!(value, Severity, "SEVERITY_")
}

pub(crate) fn suppression(value: i32) -> String {
    enum_name!(value, Suppression, "SUPPRESSION_")
}

pub(crate) fn sweep_state(value: i32) -> String {
    enum_name!(value, SweepState, "SWEEP_STATE_")
}

pub(crate) fn handling(value: i32) -> String {
    enum_name!(value, Handling, "HANDLING_")
}

fn key(key: Option<&ResourceKey>) -> Value {
    key.map_or(
        Value::Null,
        |key| json!({ "provider": key.provider, "type": key.r#type, "id": key.id }),
    )
}

pub(crate) fn resource(resource: &Resource) -> Value {
    json!({
        "key": key(resource.key.as_ref()),
        "spec": document(&resource.spec_json),
        "spec_version": resource.spec_version,
        "recorded_by": resource.recorded_by,
        "record_time": rfc3339(resource.record_time.as_ref()),
        "applied_time": rfc3339(resource.applied_time.as_ref()),
        "saga_id": resource.saga_id,
        "labels": sorted(&resource.labels),
        "attributes": document(&resource.attributes_json),
        "presence": presence(resource.presence),
        "transition": resource.transition,
        "inventory_id": resource.inventory_id,
        "observe_time": rfc3339(resource.observe_time.as_ref()),
        "verdict": verdict(resource.verdict),
        "verdict_time": rfc3339(resource.verdict_time.as_ref()),
        "due": resource.due,
        "open_drifts": resource.open_drifts,
        "suppressed_drifts": resource.suppressed_drifts,
        "etag": resource.etag,
    })
}

pub(crate) fn event(event: &ResourceEvent) -> Value {
    json!({
        "seq": event.seq,
        "time": rfc3339(event.time.as_ref()),
        "kind": event_kind(event.kind),
        "path": event.path,
        "drift_id": event.drift_id,
        "actor": event.actor,
        "reason": event.reason,
        "detail": document(&event.detail_json),
    })
}

pub(crate) fn inventory(inventory: &Inventory) -> Value {
    let scope = inventory.scope.as_ref();
    json!({
        "id": inventory.id,
        "provider": scope.map_or("", |scope| &scope.provider),
        "types": scope.map_or(&[][..], |scope| &scope.types),
        "source": inventory.source,
        "state": inventory_state(inventory.state),
        "start_time": rfc3339(inventory.start_time.as_ref()),
        "end_time": rfc3339(inventory.end_time.as_ref()),
        "reported": inventory.reported,
        "changed": inventory.changed,
        "missed": inventory.missed,
        "error": inventory.error,
    })
}

pub(crate) fn drift(drift: &Drift) -> Value {
    json!({
        "id": drift.id,
        "key": key(drift.key.as_ref()),
        "path": drift.path,
        "kind": kind(drift.kind),
        "state": state(drift.state),
        "severity": severity(drift.severity),
        "expected": document(&drift.expected_json),
        "actual": document(&drift.actual_json),
        "secret": drift.secret,
        "first_seen_time": rfc3339(drift.first_seen_time.as_ref()),
        "last_change_time": rfc3339(drift.last_change_time.as_ref()),
        "last_seen_time": rfc3339(drift.last_seen_time.as_ref()),
        "times_flipped": drift.times_flipped,
        "flapping": drift.flapping,
        "suppressed_by": suppression(drift.suppressed_by),
        "suppressed_by_policy": drift.suppressed_by_policy,
        "suppressed_until_time": rfc3339(drift.suppressed_until_time.as_ref()),
        "spec_version": drift.spec_version,
        "resolve_time": rfc3339(drift.resolve_time.as_ref()),
        "actor": drift.actor,
        "reason": drift.reason,
        "etag": drift.etag,
    })
}

pub(crate) fn sweep(sweep: &Sweep) -> Value {
    let verdicts: Map<_, _> = sweep
        .verdicts
        .iter()
        .map(|count| (verdict(count.verdict), count.count.into()))
        .collect();
    let failed: Vec<_> = sweep
        .failed
        .iter()
        .map(|failed| json!({ "key": key(failed.key.as_ref()), "reason": failed.reason }))
        .collect();
    json!({
        "id": sweep.id,
        "state": sweep_state(sweep.state),
        "full": sweep.full,
        "labels": sorted(&sweep.labels),
        "key": key(sweep.key.as_ref()),
        "triggered_by": sweep.triggered_by,
        "start_time": rfc3339(sweep.start_time.as_ref()),
        "end_time": rfc3339(sweep.end_time.as_ref()),
        "resources": sweep.resources,
        "compared": sweep.compared,
        "verdicts": verdicts,
        "drifts_opened": sweep.drifts_opened,
        "drifts_changed": sweep.drifts_changed,
        "drifts_closed": sweep.drifts_closed,
        "drifts_accepted": sweep.drifts_accepted,
        "owner": sweep.owner,
        "error": sweep.error,
        "failed": failed,
        "failed_count": sweep.failed_count,
    })
}

pub(crate) fn policy(policy: &Policy) -> Value {
    let windows: Vec<_> = policy
        .windows
        .iter()
        .map(|window| {
            json!({
                "cron": window.cron,
                "time_zone": window.time_zone,
                "duration_s": window.duration.as_ref().map_or(0, |duration| duration.seconds),
            })
        })
        .collect();
    json!({
        "name": policy.name,
        "provider": policy.provider,
        "type": policy.r#type,
        "labels": sorted(&policy.labels),
        "path": policy.path,
        "handling": handling(policy.handling),
        "severity": severity(policy.severity),
        "windows": windows,
        "reason": policy.reason,
        "expire_time": rfc3339(policy.expire_time.as_ref()),
        "max_reverts": policy.max_reverts,
        "actor": policy.actor,
        "create_time": rfc3339(policy.create_time.as_ref()),
        "update_time": rfc3339(policy.update_time.as_ref()),
        "etag": policy.etag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_documents_and_nothing_as_null() {
        let told = drift(&Drift {
            key: Some(ResourceKey {
                provider: "do".to_owned(),
                r#type: "droplet".to_owned(),
                id: "7".to_owned(),
            }),
            kind: DriftKind::Missing.into(),
            expected_json: "[1,\"a\"]".to_owned(),
            ..Drift::default()
        });
        assert_eq!(told["kind"], "missing");
        assert_eq!(told["expected"], json!([1, "a"]));
        assert_eq!(told["actual"], Value::Null);
        assert_eq!(told["key"]["type"], "droplet");
        assert_eq!(told["suppressed_by"], "");
    }
}
