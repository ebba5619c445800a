//! Reading requests: every argument is checked, and named if it is wrong.

use std::time::Duration;

use steadfast_api::drift::v1 as api;
use steadfast_drift::{Handling, Policy, Severity, Verdict, Window, intake};
use steadfast_store::{DriftFilter, ResourceFilter, ResourceName};

use super::wrong;
use crate::grpc::{
    field,
    status::{self, Problem},
};

/// Types of one scope at most.
const MAX_TYPES: usize = 64;
/// Bytes of a path at most.
const MAX_PATH_BYTES: usize = 1_024;

pub(super) fn key(key: Option<&api::ResourceKey>) -> Result<ResourceName, Problem> {
    let key = key.ok_or_else(|| {
        status::invalid(
            "key",
            "name the resource: its provider, its type and its id",
        )
    })?;
    intake::name(&key.provider, &key.r#type, &key.id).map_err(wrong)
}

pub(super) fn wait_timeout(
    wait: Option<prost_types::Duration>,
    most: Duration,
) -> Result<Duration, Problem> {
    let Some(wait) = wait else {
        return Ok(Duration::ZERO);
    };
    let wait = Duration::try_from(wait).ok().filter(|wait| *wait <= most);
    wait.ok_or_else(|| {
        let allowed = format!("it must be 0 to {} s", most.as_secs());
        status::invalid("wait_timeout", allowed)
    })
}

/// A provider and a type that may each be empty, and in which message they are: its name and a dot.
fn place(within: &str, provider: &str, kind: &str) -> Result<(), Problem> {
    for (field, text) in [("provider", provider), ("type", kind)] {
        if text.len() > intake::MAX_NAME_BYTES || text.contains(['\0', '/']) {
            let allowed = format!("at most {} bytes, without `/`", intake::MAX_NAME_BYTES);
            return Err(status::invalid(&format!("{within}{field}"), allowed));
        }
    }
    Ok(())
}

/// The names of enum values, by which rows are kept.
fn names<T: TryFrom<i32>>(
    field: &str,
    values: &[i32],
    name: impl Fn(T) -> Option<&'static str>,
) -> Result<Vec<String>, Problem> {
    let read = values.iter().enumerate().map(|(index, value)| {
        let found = T::try_from(*value).ok().and_then(&name);
        found.map(str::to_owned).ok_or_else(|| {
            status::invalid(
                &format!("{field}[{index}]"),
                "not one of the values of the contract",
            )
        })
    });
    read.collect()
}

pub(super) fn sweep_states(states: &[i32]) -> Result<Vec<String>, Problem> {
    names("states", states, |state: api::SweepState| match state {
        api::SweepState::Unspecified => None,
        api::SweepState::Running => Some("running"),
        api::SweepState::Completed => Some("completed"),
        api::SweepState::Cancelled => Some("cancelled"),
        api::SweepState::Failed => Some("failed"),
    })
}

pub(super) fn inventory_states(states: &[i32]) -> Result<Vec<String>, Problem> {
    names("states", states, |state: api::InventoryState| match state {
        api::InventoryState::Unspecified => None,
        api::InventoryState::Running => Some("running"),
        api::InventoryState::Complete => Some("complete"),
        api::InventoryState::Failed => Some("failed"),
    })
}

pub(super) fn drift_filter(request: &api::ListDriftsRequest) -> Result<DriftFilter, Problem> {
    place("", &request.provider, &request.r#type)?;
    if !request.id.is_empty() {
        if request.provider.is_empty() || request.r#type.is_empty() {
            let message = "an id is one of a provider and a type: name both";
            return Err(status::invalid("id", message));
        }
        // These are fields of the request itself.
        let named = intake::name(&request.provider, &request.r#type, &request.id);
        named.map_err(|wrong| {
            let field = wrong.field.trim_start_matches("key.");
            status::invalid(field, wrong.message)
        })?;
    }
    path("", &request.path)?;
    let min_severity = match api::Severity::try_from(request.min_severity) {
        Ok(severity) => i64::from(i32::from(severity)),
        Err(_) => return Err(status::invalid("min_severity", "not one of the severities")),
    };
    Ok(DriftFilter {
        states: names(
            "states",
            &request.states,
            |state: api::DriftState| match state {
                api::DriftState::Unspecified => None,
                api::DriftState::Open => Some("open"),
                api::DriftState::Accepted => Some("accepted"),
                api::DriftState::Reverted => Some("reverted"),
                api::DriftState::Stale => Some("stale"),
            },
        )?,
        kinds: names("kinds", &request.kinds, |kind: api::DriftKind| match kind {
            api::DriftKind::Unspecified => None,
            api::DriftKind::Changed => Some("changed"),
            api::DriftKind::Missing => Some("missing"),
            api::DriftKind::Gone => Some("gone"),
            api::DriftKind::Unmanaged => Some("unmanaged"),
        })?,
        min_severity,
        provider: request.provider.clone(),
        resource_kind: request.r#type.clone(),
        resource_id: request.id.clone(),
        labels: field::read_labels(request.labels.clone())?
            .into_iter()
            .collect(),
        path: Some(request.path.clone()).filter(|path| !path.is_empty()),
        include_suppressed: request.include_suppressed,
    })
}

pub(super) fn resource_filter(
    request: &api::ListResourcesRequest,
) -> Result<ResourceFilter, Problem> {
    place("", &request.provider, &request.r#type)?;
    Ok(ResourceFilter {
        provider: request.provider.clone(),
        kind: request.r#type.clone(),
        labels: field::read_labels(request.labels.clone())?
            .into_iter()
            .collect(),
        verdicts: names("verdicts", &request.verdicts, |verdict: api::Verdict| {
            let verdict = match verdict {
                api::Verdict::Unspecified => return None,
                api::Verdict::InSync => Verdict::InSync,
                api::Verdict::Drifted => Verdict::Drifted,
                api::Verdict::Pending => Verdict::Pending,
                api::Verdict::Busy => Verdict::Busy,
                api::Verdict::Unreadable => Verdict::Unreadable,
                api::Verdict::NotObserved => Verdict::NotObserved,
            };
            Some(verdict.as_str())
        })?,
    })
}

/// The provider and the types that an inventory looks at.
pub(super) fn scope(scope: Option<api::InventoryScope>) -> Result<(String, Vec<String>), Problem> {
    let scope = scope.ok_or_else(|| status::invalid("scope", "name a provider"))?;
    if scope.provider.is_empty() {
        return Err(status::invalid("scope.provider", "it is empty"));
    }
    place("scope.", &scope.provider, "")?;
    if scope.types.len() > MAX_TYPES {
        let message = format!("{} types; at most {MAX_TYPES}", scope.types.len());
        return Err(status::invalid("scope.types", message));
    }
    for (index, kind) in scope.types.iter().enumerate() {
        intake::name("p", kind, "1")
            .map_err(|wrong| status::invalid(&format!("scope.types[{index}]"), wrong.message))?;
    }
    let mut types = scope.types;
    types.sort();
    types.dedup();
    Ok((scope.provider, types))
}

fn path(within: &str, path: &str) -> Result<(), Problem> {
    if path.len() > MAX_PATH_BYTES || path.contains('\0') {
        let allowed = format!("at most {MAX_PATH_BYTES} bytes without NUL characters");
        return Err(status::invalid(&format!("{within}path"), allowed));
    }
    Ok(())
}

/// A policy as it is to be.
pub(super) fn policy(policy: api::Policy) -> Result<Policy, Problem> {
    let api::Policy {
        name,
        provider,
        r#type: kind,
        labels,
        path: at,
        handling,
        severity,
        windows,
        reason,
        expire_time,
        max_reverts,
        ..
    } = policy;
    let within = "policy.";
    let named = |field: &str| format!("{within}{field}");
    field::check_text(&named("name"), &name)?;
    place(within, &provider, &kind)?;
    path(within, &at)?;
    if reason.len() > field::MAX_REASON_BYTES || reason.contains('\0') {
        let allowed = format!("at most {} bytes", field::MAX_REASON_BYTES);
        return Err(status::invalid(&named("reason"), allowed));
    }
    let handling = match api::Handling::try_from(handling) {
        Ok(api::Handling::Unspecified) => None,
        Ok(api::Handling::Ignore) => Some(Handling::Ignore),
        Ok(api::Handling::Manual) => Some(Handling::Manual),
        Ok(api::Handling::Accept) => Some(Handling::Accept),
        Ok(api::Handling::Revert) => Some(Handling::Revert),
        Err(_) => {
            return Err(status::invalid(
                &named("handling"),
                "not one of the handlings",
            ));
        }
    };
    let severity = match api::Severity::try_from(severity) {
        Ok(api::Severity::Unspecified) => None,
        Ok(api::Severity::Info) => Some(Severity::Info),
        Ok(api::Severity::Warning) => Some(Severity::Warning),
        Ok(api::Severity::Critical) => Some(Severity::Critical),
        Err(_) => {
            return Err(status::invalid(
                &named("severity"),
                "not one of the severities",
            ));
        }
    };
    let windows = windows.into_iter().map(|window| {
        let duration = window.duration.unwrap_or_default();
        Window {
            cron: window.cron,
            time_zone: window.time_zone,
            // Below 0 is as wrong as 0.
            duration_s: u64::try_from(duration.seconds).unwrap_or(0),
        }
    });
    let expires = expire_time.map(|time| field::time(&named("expire_time"), time));
    let policy = Policy {
        name,
        provider,
        kind,
        labels: field::read_labels_of(&named("labels"), labels)?
            .into_iter()
            .collect(),
        path: at,
        handling,
        severity,
        windows: windows.collect(),
        reason,
        expires: expires.transpose()?,
        max_reverts: u32::try_from(max_reverts)
            .map_err(|_| status::invalid(&named("max_reverts"), "it is below 0"))?,
    };
    match status::of_policy(&policy.problems()) {
        None => Ok(policy),
        Some(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(outcome: Result<impl Sized, Problem>) -> Vec<String> {
        use tonic_types::StatusExt as _;
        let Err(problem) = outcome else {
            return Vec::new();
        };
        let details = problem.into_status().get_error_details();
        let violations = details
            .bad_request()
            .map(|request| &request.field_violations);
        violations
            .into_iter()
            .flatten()
            .map(|violation| violation.field.clone())
            .collect()
    }

    fn good() -> api::Policy {
        api::Policy {
            name: "noise".to_owned(),
            path: "/tags".to_owned(),
            handling: api::Handling::Ignore.into(),
            reason: "a test".to_owned(),
            expire_time: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 0,
            }),
            ..api::Policy::default()
        }
    }

    #[test]
    fn every_problem_of_a_policy_is_named() {
        assert_eq!(fields(policy(good())), [""; 0]);
        let wrong = api::Policy {
            reason: String::new(),
            expire_time: None,
            path: "tags".to_owned(),
            ..good()
        };
        assert_eq!(
            fields(policy(wrong)),
            ["policy.path", "policy.reason", "policy.expire_time"]
        );
        let wrong = |change: fn(&mut api::Policy)| {
            let mut wrong = good();
            change(&mut wrong);
            fields(policy(wrong)).join(",")
        };
        assert_eq!(wrong(|policy| policy.name.clear()), "policy.name");
        assert_eq!(wrong(|policy| policy.handling = 9), "policy.handling");
        assert_eq!(
            wrong(|policy| policy.max_reverts = -1),
            "policy.max_reverts"
        );
        let long = || "x".repeat(2_000);
        assert_eq!(
            wrong(|policy| policy.provider = "a/b".to_owned()),
            "policy.provider"
        );
        assert_eq!(
            wrong(|policy| policy.r#type = "x".repeat(65)),
            "policy.type"
        );
        assert_eq!(
            wrong(|policy| policy.r#type = "x".to_owned()),
            "policy.provider"
        );
        assert_eq!(
            wrong(|policy| policy.path = "/a\0".to_owned()),
            "policy.path"
        );
        let mut labelled = good();
        labelled.labels = [("key".to_owned(), long())].into();
        assert_eq!(fields(policy(labelled)), ["policy.labels[\"key\"]"]);
        let mut labelled = good();
        labelled.labels = [(long(), String::new())].into();
        assert_eq!(fields(policy(labelled)), ["policy.labels"]);
        let mut reasoned = good();
        reasoned.reason = long();
        assert_eq!(fields(policy(reasoned)), ["policy.reason"]);
        let window = api::MaintenanceWindow::default();
        let mut windowed = good();
        windowed.windows.push(window);
        assert_eq!(fields(policy(windowed)), ["policy.windows[0].cron"]);
    }

    #[test]
    fn a_list_of_one_resource_names_all_of_it() {
        let of = |provider: &str, kind: &str, id: &str| {
            let request = api::ListDriftsRequest {
                provider: provider.to_owned(),
                r#type: kind.to_owned(),
                id: id.to_owned(),
                ..api::ListDriftsRequest::default()
            };
            fields(drift_filter(&request)).join(",")
        };
        assert_eq!(of("", "", ""), "");
        assert_eq!(of("p", "t", "1"), "");
        assert_eq!(of("p", "", "1"), "id");
        assert_eq!(of("a/b", "", ""), "provider");
        assert_eq!(of("p", "t", &"x".repeat(257)), "id");
        let states = api::ListDriftsRequest {
            states: vec![1, 0],
            ..api::ListDriftsRequest::default()
        };
        assert_eq!(fields(drift_filter(&states)), ["states[1]"]);
    }

    #[test]
    fn a_scope_names_a_provider_and_each_type_once() {
        let of = |provider: &str, types: &[&str]| {
            scope(Some(api::InventoryScope {
                provider: provider.to_owned(),
                types: types.iter().map(|&kind| kind.to_owned()).collect(),
            }))
        };
        let (provider, types) =
            of("do", &["b", "a", "b"]).unwrap_or_else(|_| panic!("well-formed"));
        assert_eq!(
            (provider.as_str(), types),
            ("do", vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(fields(of("", &[])), ["scope.provider"]);
        assert_eq!(fields(of("p", &["a", "b/c"])), ["scope.types[1]"]);
        assert_eq!(fields(scope(None)), ["scope"]);
    }
}
