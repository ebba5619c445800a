//! Refreshes between the store and the contract.

use steadfast_api::registry::v1::{
    Refresh, RefreshCounts, RefreshItem, RefreshKind, RefreshOutcome, RefreshState, RefreshTrigger,
};
use steadfast_store::{RefreshItemRow, RefreshRow};
use steadfast_types::Timestamp;

use crate::{
    package::to_proto_time,
    plan::{Kinds, Underway, Wish},
};

/// What a run was asked for.
pub(crate) fn wish_of(run: &RefreshRow) -> Wish {
    Wish {
        kinds: Kinds {
            packages: run.packages,
            schemas: run.schemas,
            icons: run.icons,
        },
        package: run.package.clone(),
        dry_run: run.dry_run,
        force: run.forced,
    }
}

/// A run as the plan sees it.
pub(crate) fn underway_from(run: &RefreshRow) -> Underway {
    Underway {
        id: run.id.clone(),
        wish: wish_of(run),
        begun_through: run.begun_through.clone(),
    }
}

/// How a trigger is stored.
pub(crate) const fn cause_text(trigger: RefreshTrigger) -> &'static str {
    match trigger {
        RefreshTrigger::Schedule => "schedule",
        RefreshTrigger::EmptyCatalogue => "empty_catalogue",
        RefreshTrigger::Request | RefreshTrigger::Unspecified => "request",
    }
}

/// How a state is stored.
pub(crate) const fn state_text(state: RefreshState) -> &'static str {
    match state {
        RefreshState::Queued | RefreshState::Unspecified => "queued",
        RefreshState::Running => "running",
        RefreshState::Succeeded => "succeeded",
        RefreshState::Partial => "partial",
        RefreshState::Failed => "failed",
        RefreshState::Cancelled => "cancelled",
    }
}

/// What is stored of a state.
pub(crate) fn state_of(run: &RefreshRow) -> RefreshState {
    match run.state.as_str() {
        "queued" => RefreshState::Queued,
        "running" => RefreshState::Running,
        "succeeded" => RefreshState::Succeeded,
        "partial" => RefreshState::Partial,
        "cancelled" => RefreshState::Cancelled,
        _ => RefreshState::Failed,
    }
}

/// Whether a run goes on no more.
pub(crate) fn has_ended(run: &RefreshRow) -> bool {
    !matches!(
        state_of(run),
        RefreshState::Queued | RefreshState::Running | RefreshState::Unspecified
    )
}

/// What callers are told of a run.
pub(crate) fn to_proto(run: &RefreshRow) -> Refresh {
    let state = state_of(run);
    let trigger = match run.cause.as_str() {
        "schedule" => RefreshTrigger::Schedule,
        "empty_catalogue" => RefreshTrigger::EmptyCatalogue,
        _ => RefreshTrigger::Request,
    };
    let count = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
    let packages = run.packages.then(|| RefreshCounts {
        kind: RefreshKind::Packages.into(),
        listed: count(run.packages_listed),
        changed: count(run.packages_changed),
        unchanged: count(run.packages_unchanged),
        failed: count(run.packages_failed),
    });
    let schemas = run.schemas.then(|| RefreshCounts {
        kind: RefreshKind::Schemas.into(),
        listed: count(run.schemas_listed),
        changed: count(run.schemas_changed),
        unchanged: count(run.schemas_unchanged),
        failed: count(run.schemas_failed),
    });
    let has_icons = run.icons_listed > 0 || !(run.packages || run.schemas);
    let icons = (run.icons && has_icons).then(|| RefreshCounts {
        kind: RefreshKind::Icons.into(),
        listed: count(run.icons_listed),
        changed: count(run.icons_changed),
        unchanged: count(run.icons_unchanged),
        failed: count(run.icons_failed),
    });
    Refresh {
        id: run.id.clone(),
        state: state.into(),
        kinds: wish_of(run).kinds.to_proto(),
        package: run.package.clone().unwrap_or_default(),
        trigger: trigger.into(),
        requested_by: run.requested_by.clone(),
        create_time: Some(to_proto_time(Timestamp(run.create_us))),
        start_time: run.start().map(to_proto_time),
        end_time: run.end().map(to_proto_time),
        counts: packages.into_iter().chain(schemas).chain(icons).collect(),
        owner: run.owner.clone(),
        attempts: count(run.attempts),
        error: run.error.clone(),
        dry_run: run.dry_run,
        force: run.forced,
    }
}

/// What callers are told of an item.
pub(crate) fn item_to_proto(item: RefreshItemRow) -> RefreshItem {
    let kind = match item.kind.as_str() {
        "schemas" => RefreshKind::Schemas,
        "icons" => RefreshKind::Icons,
        _ => RefreshKind::Packages,
    };
    let outcome = match item.outcome.as_str() {
        "changed" => RefreshOutcome::Changed,
        "unchanged" => RefreshOutcome::Unchanged,
        _ => RefreshOutcome::Failed,
    };
    RefreshItem {
        kind: kind.into(),
        package: item.package,
        version: item.version,
        outcome: outcome.into(),
        reason: item.reason,
        message: item.message,
        revision: item.revision.unwrap_or_default(),
        source: item.source,
    }
}
