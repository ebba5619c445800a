//! What a refresh did, in tables.

use steadfast_client::api::registry::v1::{
    Refresh, RefreshItem, RefreshKind, RefreshOutcome, RefreshState,
};

use crate::{json, moment, table};

/// The counts by kind, every failure by name, and how it ended.
pub(super) fn text(refresh: &Refresh, items: &[RefreshItem]) -> String {
    let mut parts = Vec::new();
    if !refresh.counts.is_empty() {
        let mut rows = table::with_head(&["KIND", "LISTED", "CHANGED", "UNCHANGED", "FAILED"]);
        for counts in &refresh.counts {
            rows.add_row([
                json::refresh_kind(counts.kind),
                counts.listed.to_string(),
                counts.changed.to_string(),
                counts.unchanged.to_string(),
                counts.failed.to_string(),
            ]);
        }
        parts.push(table::text(&rows));
    }
    let failures: Vec<_> = items
        .iter()
        .filter(|item| item.outcome() == RefreshOutcome::Failed)
        .collect();
    if !failures.is_empty() {
        let mut rows = table::with_head(&["FAILED", "KIND", "REASON", "MESSAGE"]);
        for item in failures {
            rows.add_row([
                name(item),
                json::refresh_kind(item.kind),
                item.reason.clone(),
                table::clean(&item.message),
            ]);
        }
        parts.push(table::text(&rows));
    }
    if refresh.dry_run {
        let would = |item: &&RefreshItem| item.outcome() == RefreshOutcome::Changed;
        let changes: Vec<_> = items.iter().filter(would).collect();
        if !changes.is_empty() {
            let mut rows = table::with_head(&["WOULD CHANGE", "KIND", "HOW"]);
            for item in changes {
                let how = table::clean(&item.message);
                rows.add_row([name(item), json::refresh_kind(item.kind), how]);
            }
            parts.push(table::text(&rows));
        }
    }
    parts.push(summary(refresh));
    parts.join("\n\n")
}

/// `PACKAGE`, `PACKAGE@VERSION` for a schema, `PACKAGE/SHAPE.FORMAT` for an icon, or the source of a listing.
pub(super) fn name(item: &RefreshItem) -> String {
    if !item.source.is_empty() {
        table::clean(&format!("listing of {}", item.source))
    } else if item.kind() == RefreshKind::Icons && !item.version.is_empty() {
        table::clean(&format!("{}/{}", item.package, item.version))
    } else if item.version.is_empty() {
        table::clean(&item.package)
    } else {
        table::clean(&format!("{}@{}", item.package, item.version))
    }
}

/// How it ended, or how it goes, in a line.
pub(super) fn summary(refresh: &Refresh) -> String {
    let id = &refresh.id;
    let lasted = moment::between(refresh.start_time.as_ref(), refresh.end_time.as_ref());
    let lasted = if lasted.is_empty() {
        String::new()
    } else {
        format!(" after {lasted}")
    };
    let changed: i32 = refresh.counts.iter().map(|counts| counts.changed).sum();
    let failed: i32 = refresh.counts.iter().map(|counts| counts.failed).sum();
    let listing = match refresh.error.as_str() {
        "" => String::new(),
        error => format!("; {}", table::clean(error)),
    };
    match refresh.state() {
        RefreshState::Succeeded if refresh.dry_run => {
            format!("dry run {id} succeeded{lasted}: {changed} would change; nothing is stored")
        }
        RefreshState::Partial if refresh.dry_run => format!(
            "dry run {id} ended partially{lasted}: {changed} would change, {failed} failed; nothing is stored{listing}"
        ),
        RefreshState::Succeeded if changed == 0 => {
            format!("refresh {id} succeeded{lasted}: nothing has changed")
        }
        RefreshState::Succeeded => format!("refresh {id} succeeded{lasted}: {changed} changed"),
        RefreshState::Partial => format!(
            "refresh {id} ended partially{lasted}: {changed} changed; {failed} failed and keep their data from before{listing}"
        ),
        RefreshState::Cancelled => {
            format!("refresh {id} was cancelled{lasted}{listing}: {changed} changed until then")
        }
        RefreshState::Failed => {
            let error = match refresh.error.as_str() {
                "" => "nothing could be read".to_owned(),
                error => table::clean(error),
            };
            format!("refresh {id} failed{lasted}: {error}; all data is as it was before")
        }
        RefreshState::Queued => format!("refresh {id} is waiting for the one before it to end"),
        RefreshState::Running | RefreshState::Unspecified => format!("refresh {id} is running"),
    }
}

/// Refreshes, newest first.
pub(super) fn list_text(refreshes: &[Refresh]) -> String {
    if refreshes.is_empty() {
        return "no refreshes yet: run `steadfast refresh`".to_owned();
    }
    let mut rows = table::with_head(&[
        "ID", "STATE", "WHAT", "TRIGGER", "BY", "BEGUN", "TOOK", "CHANGED", "FAILED",
    ]);
    for refresh in refreshes {
        let kinds: Vec<_> = refresh
            .kinds
            .iter()
            .map(|kind| json::refresh_kind(*kind))
            .collect();
        let changed: i32 = refresh.counts.iter().map(|counts| counts.changed).sum();
        let failed: i32 = refresh.counts.iter().map(|counts| counts.failed).sum();
        let how = match (refresh.dry_run, refresh.force) {
            (true, true) => ", dry run, forced",
            (true, false) => ", dry run",
            (false, true) => ", forced",
            (false, false) => "",
        };
        let what = format!("{} {}{how}", refresh.package, kinds.join(", "));
        let begun = refresh.start_time.as_ref().or(refresh.create_time.as_ref());
        rows.add_row([
            refresh.id.clone(),
            json::refresh_state(refresh.state),
            what.trim().to_owned(),
            json::refresh_trigger(refresh.trigger),
            table::clean(&refresh.requested_by),
            moment::relative(begun),
            moment::between(refresh.start_time.as_ref(), refresh.end_time.as_ref()),
            changed.to_string(),
            failed.to_string(),
        ]);
    }
    table::text(&rows)
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::registry::v1::RefreshCounts;

    use super::*;

    fn refresh(state: RefreshState, changed: i32, failed: i32) -> Refresh {
        Refresh {
            id: "0190".to_owned(),
            state: state.into(),
            counts: vec![RefreshCounts {
                kind: RefreshKind::Packages.into(),
                listed: changed + failed,
                changed,
                unchanged: 0,
                failed,
            }],
            ..Refresh::default()
        }
    }

    #[test]
    fn each_failure_is_named_with_its_reason() {
        let items = [
            RefreshItem {
                package: "@a/b".to_owned(),
                outcome: RefreshOutcome::Failed.into(),
                reason: "UPSTREAM_NOT_FOUND".to_owned(),
                message: "the registry has no such package".to_owned(),
                ..RefreshItem::default()
            },
            RefreshItem {
                package: "@a/c".to_owned(),
                version: "1.0.0".to_owned(),
                outcome: RefreshOutcome::Failed.into(),
                reason: "INTEGRITY_MISMATCH".to_owned(),
                ..RefreshItem::default()
            },
            RefreshItem {
                package: "@a/fine".to_owned(),
                outcome: RefreshOutcome::Changed.into(),
                ..RefreshItem::default()
            },
        ];
        let text = text(&refresh(RefreshState::Partial, 1, 2), &items);
        for part in [
            "@a/b",
            "UPSTREAM_NOT_FOUND",
            "@a/c@1.0.0",
            "INTEGRITY_MISMATCH",
            "packages",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("@a/fine"), "{text}");
        assert!(
            text.ends_with("1 changed; 2 failed and keep their data from before"),
            "{text}"
        );
    }

    #[test]
    fn every_end_is_told() {
        let text = |state| summary(&refresh(state, 0, 0));
        assert!(text(RefreshState::Succeeded).ends_with("nothing has changed"));
        assert!(text(RefreshState::Failed).contains("all data is as it was before"));
        assert!(text(RefreshState::Queued).contains("waiting"));
        assert!(text(RefreshState::Running).contains("running"));
    }

    #[test]
    fn no_refreshes_say_what_to_do() {
        assert!(list_text(&[]).contains("steadfast refresh"));
        let text = list_text(&[refresh(RefreshState::Partial, 3, 2)]);
        assert!(text.contains("0190") && text.contains("partial"), "{text}");
    }
}
