//! Drifts and sweeps in tables and lines.

use steadfast_client::api::drift::v1::{
    Drift, DriftKind, DriftState, Suppression, Sweep, SweepState,
};

use super::{detect::Found, diff::diff};
use crate::{commands::resource::name, json, moment, table};

/// Characters of a value in a table.
const VALUE_LENGTH: usize = 40;

fn value(drift: &Drift, json: &str) -> String {
    match (drift.secret, json) {
        (true, _) => "(secret)".to_owned(),
        (false, "") => "(nothing)".to_owned(),
        (false, json) => table::shorten(json, VALUE_LENGTH),
    }
}

fn expected(drift: &Drift) -> String {
    match drift.kind() {
        DriftKind::Gone => "(that it is there)".to_owned(),
        _ => value(drift, &drift.expected_json),
    }
}

fn actual(drift: &Drift) -> String {
    match drift.kind() {
        DriftKind::Gone => "(gone)".to_owned(),
        _ => value(drift, &drift.actual_json),
    }
}

fn path(drift: &Drift) -> String {
    match drift.path.as_str() {
        "" => "the whole resource".to_owned(),
        path => table::clean(path),
    }
}

/// Whether, why and until when it is hidden.
fn hidden(drift: &Drift) -> String {
    let why = match drift.suppressed_by() {
        Suppression::Unspecified => return String::new(),
        Suppression::Snooze => "snoozed".to_owned(),
        Suppression::Policy => format!("ignored by {}", table::clean(&drift.suppressed_by_policy)),
        Suppression::Window => format!("expected by {}", table::clean(&drift.suppressed_by_policy)),
    };
    let until = moment::relative(drift.suppressed_until_time.as_ref());
    format!("{why}, ends {until}")
}

fn state(drift: &Drift) -> String {
    let state = json::drift::state(drift.state);
    match hidden(drift) {
        hidden if hidden.is_empty() => state,
        hidden => format!("{state}, {hidden}"),
    }
}

pub(super) fn list(drifts: &[Drift], more: bool, hidden: i64) -> String {
    let hidden = match hidden {
        0 => String::new(),
        hidden => format!("; {hidden} hidden, which --hidden shows"),
    };
    if drifts.is_empty() {
        return format!("no drifts{hidden}");
    }
    let shown = table::count(drifts.len(), "drift");
    let more = if more { "; --limit shows more" } else { "" };
    format!("{}\n\n{shown}{more}{hidden}", rows(drifts))
}

fn rows(drifts: &[Drift]) -> String {
    let mut rows = table::with_head(&[
        "DRIFT", "RESOURCE", "PATH", "KIND", "SEVERITY", "STATE", "EXPECTED", "ACTUAL", "SEEN",
    ]);
    for drift in drifts {
        rows.add_row([
            format!("{}@{}", drift.id, drift.etag),
            name(drift.key.as_ref()),
            path(drift),
            json::drift::kind(drift.kind),
            json::drift::severity(drift.severity),
            state(drift),
            expected(drift),
            actual(drift),
            moment::relative(drift.first_seen_time.as_ref()),
        ]);
    }
    table::text(&rows)
}

/// The drift, the difference, its history, and what can be done about it.
pub(super) fn one(drift: &Drift, history: &[Drift], colours: bool) -> String {
    let flips = match (drift.times_flipped, drift.flapping) {
        (0, _) => String::new(),
        (flips, false) => flips.to_string(),
        (flips, true) => format!("{flips}, flapping"),
    };
    let closed = match drift.state() {
        DriftState::Open => String::new(),
        _ => moment::relative(drift.resolve_time.as_ref()),
    };
    let fields = table::of_fields([
        ("drift", format!("{}@{}", drift.id, drift.etag)),
        ("resource", name(drift.key.as_ref())),
        ("path", path(drift)),
        ("kind", json::drift::kind(drift.kind)),
        ("severity", json::drift::severity(drift.severity)),
        ("state", state(drift)),
        ("closed", closed),
        ("by", table::clean(&drift.actor)),
        ("reason", table::clean(&drift.reason)),
        (
            "first seen",
            moment::relative(drift.first_seen_time.as_ref()),
        ),
        ("changed", moment::relative(drift.last_change_time.as_ref())),
        ("last seen", moment::relative(drift.last_seen_time.as_ref())),
        ("flipped", flips),
        ("spec version", drift.spec_version.to_string()),
    ]);
    let difference = match (drift.secret, drift.kind()) {
        (true, _) => "the values are secret, and differ".to_owned(),
        (false, DriftKind::Gone) => "it was asked for, and is not there any more".to_owned(),
        (false, _) => format!(
            "--- expected\n+++ actual\n{}",
            diff(&drift.expected_json, &drift.actual_json, colours)
        ),
    };
    let mut parts = vec![fields, difference];
    if !history.is_empty() {
        parts.push(format!("earlier:\n{}", earlier(history)));
    }
    if drift.state() == DriftState::Open {
        let seen = format!("{}@{}", drift.id, drift.etag);
        let mut advice =
            format!("steadfast drift snooze {seen} --for 7d --reason TEXT   hides it for a while");
        if !drift.secret {
            advice = format!(
                "steadfast drift accept {seen} --reason TEXT            takes what is there for what was asked for\n{advice}"
            );
        }
        parts.push(advice);
    }
    parts.join("\n\n")
}

fn earlier(history: &[Drift]) -> String {
    let mut rows = table::with_head(&[
        "FIRST SEEN",
        "CLOSED",
        "STATE",
        "EXPECTED",
        "ACTUAL",
        "BY",
        "REASON",
    ]);
    for drift in history {
        rows.add_row([
            moment::relative(drift.first_seen_time.as_ref()),
            moment::relative(drift.resolve_time.as_ref()),
            json::drift::state(drift.state),
            expected(drift),
            actual(drift),
            table::clean(&drift.actor),
            table::shorten(&drift.reason, VALUE_LENGTH),
        ]);
    }
    table::text(&rows)
}

/// What a sweep did, in one line.
pub(super) fn sweep_line(sweep: &Sweep) -> String {
    // Zero resources would look as if something had gone wrong.
    let mut did = vec![
        match usize::try_from(sweep.compared).unwrap_or(usize::MAX) {
            0 => "nothing was due".to_owned(),
            compared => format!("compared {}", table::count(compared, "resource")),
        },
    ];
    for (count, what) in [
        (sweep.drifts_opened, "opened"),
        (sweep.drifts_changed, "changed"),
        (sweep.drifts_closed, "closed"),
        (sweep.drifts_accepted, "accepted"),
    ] {
        if count > 0 {
            did.push(format!("{count} {what}"));
        }
    }
    let took = moment::between(sweep.start_time.as_ref(), sweep.end_time.as_ref());
    match took.as_str() {
        _ if sweep.compared == 0 => did.join(", "),
        "" => did.join(", "),
        took => format!("{} in {took}", did.join(", ")),
    }
}

/// What the sweep went on without, a line each; nothing if there is none.
fn failed(sweep: &Sweep) -> String {
    if sweep.failed_count == 0 {
        return String::new();
    }
    let count = usize::try_from(sweep.failed_count).unwrap_or(usize::MAX);
    let mut lines = vec![format!(
        "{} could not be compared:",
        table::count(count, "resource")
    )];
    lines.extend(sweep.failed.iter().map(|failed| {
        let reason = table::clean(&failed.reason);
        format!("  {}: {reason}", name(failed.key.as_ref()))
    }));
    if count > sweep.failed.len() {
        lines.push(format!("  and {} more", count - sweep.failed.len()));
    }
    lines.join("\n")
}

/// What was found, the most important first.
pub(super) fn detected(found: &Found) -> String {
    let result = found.result().replace('_', " ");
    let line = format!(
        "{result}; {}{}",
        sweep_line(&found.sweep),
        found.proof.clause()
    );
    let hidden = match found.hidden {
        0 => String::new(),
        hidden => format!("; {hidden} hidden, which `steadfast drift list --hidden` shows"),
    };
    let failed = match failed(&found.sweep) {
        failed if failed.is_empty() => failed,
        failed => format!("\n{failed}"),
    };
    if found.drifts.is_empty() {
        return format!("{line}{hidden}{failed}");
    }
    let shown = table::count(found.drifts.len(), "drift");
    let shown = match found.more {
        true => format!("the first {shown}; `steadfast drift list` shows more"),
        false => shown,
    };
    format!(
        "{line}{failed}\n\n{}\n\n{shown}{hidden}",
        rows(&found.drifts)
    )
}

pub(super) fn sweeps(sweeps: &[Sweep]) -> String {
    if sweeps.is_empty() {
        return "no sweeps".to_owned();
    }
    let mut rows = table::with_head(&["ID", "STATE", "BY", "BEGUN", "WHAT"]);
    for sweep in sweeps {
        rows.add_row([
            sweep.id.clone(),
            json::drift::sweep_state(sweep.state),
            table::clean(&sweep.triggered_by),
            moment::relative(sweep.start_time.as_ref()),
            sweep_line(sweep),
        ]);
    }
    table::text(&rows)
}

pub(super) fn sweep(sweep: &Sweep) -> String {
    let mut labels: Vec<_> = sweep
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    let verdicts: Vec<_> = sweep
        .verdicts
        .iter()
        .map(|count| {
            let verdict = json::drift::verdict(count.verdict).replace('_', " ");
            format!("{} {verdict}", count.count)
        })
        .collect();
    let progress = match sweep.state() {
        SweepState::Running => format!("{} of {}", sweep.compared, sweep.resources),
        _ => String::new(),
    };
    let fields = table::of_fields([
        ("id", sweep.id.clone()),
        ("state", json::drift::sweep_state(sweep.state)),
        ("error", table::clean(&sweep.error)),
        (
            "full",
            if sweep.full {
                "yes".to_owned()
            } else {
                String::new()
            },
        ),
        ("resource", name(sweep.key.as_ref())),
        ("labels", table::clean(&labels.join(", "))),
        ("triggered by", table::clean(&sweep.triggered_by)),
        ("begun", moment::relative(sweep.start_time.as_ref())),
        ("progress", progress),
        ("what", sweep_line(sweep)),
        ("verdicts", verdicts.join(", ")),
        ("owner", sweep.owner.clone()),
    ]);
    match failed(sweep) {
        failed if failed.is_empty() => fields,
        failed => format!("{fields}\n\n{failed}"),
    }
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::drift::v1::{FailedResource, ResourceKey, Severity};

    use super::*;
    use crate::commands::drift::proof::Proof;

    fn drift() -> Drift {
        Drift {
            id: "0190".to_owned(),
            etag: "3".to_owned(),
            key: Some(ResourceKey {
                provider: "do".to_owned(),
                r#type: "droplet".to_owned(),
                id: "7".to_owned(),
            }),
            path: "/size_slug".to_owned(),
            kind: DriftKind::Changed.into(),
            state: DriftState::Open.into(),
            severity: Severity::Warning.into(),
            expected_json: "\"small\"".to_owned(),
            actual_json: "\"large\"".to_owned(),
            ..Drift::default()
        }
    }

    #[test]
    fn a_drift_tells_what_differs_and_what_can_be_done() {
        let text = one(&drift(), &[], false);
        assert!(text.contains("- \"small\"\n+ \"large\""), "{text}");
        assert!(text.contains("drift accept 0190@3 --reason"), "{text}");
        let history = one(
            &drift(),
            &[Drift {
                reason: "planned".to_owned(),
                ..drift()
            }],
            false,
        );
        assert!(
            history.contains("earlier:") && history.contains("planned"),
            "{history}"
        );
        let closed = Drift {
            state: DriftState::Stale.into(),
            ..drift()
        };
        assert!(!one(&closed, &[], false).contains("drift accept"));
    }

    #[test]
    fn secrets_are_neither_shown_nor_accepted() {
        let secret = Drift {
            secret: true,
            expected_json: String::new(),
            actual_json: String::new(),
            ..drift()
        };
        let text = one(&secret, &[], false);
        assert!(
            text.contains("secret") && !text.contains("drift accept"),
            "{text}"
        );
        assert!(list(&[secret], false, 0).contains("(secret)"));
    }

    #[test]
    fn a_drift_about_a_whole_resource_says_so() {
        let gone = Drift {
            path: String::new(),
            kind: DriftKind::Gone.into(),
            expected_json: String::new(),
            actual_json: String::new(),
            ..drift()
        };
        let text = list(&[gone], false, 0);
        assert!(
            text.contains("the whole resource") && text.contains("(gone)"),
            "{text}"
        );
        let unmanaged = Drift {
            path: String::new(),
            kind: DriftKind::Unmanaged.into(),
            expected_json: String::new(),
            actual_json: "{\"a\":1}".to_owned(),
            ..drift()
        };
        let text = list(&[unmanaged], false, 0);
        assert!(
            text.contains("(nothing)") && text.contains("{\"a\":1}"),
            "{text}"
        );
    }

    #[test]
    fn a_sweep_of_nothing_says_so() {
        assert_eq!(sweep_line(&Sweep::default()), "nothing was due");
    }

    #[test]
    fn what_is_hidden_is_counted() {
        assert_eq!(list(&[], false, 0), "no drifts");
        assert!(list(&[], false, 2).contains("2 hidden"));
        let snoozed = Drift {
            suppressed_by: Suppression::Policy.into(),
            suppressed_by_policy: "noise".to_owned(),
            ..drift()
        };
        assert!(list(&[snoozed], false, 0).contains("ignored by noise"));
        let sweep = Sweep {
            compared: 3,
            drifts_opened: 1,
            ..Sweep::default()
        };
        let mut found = Found {
            sweep,
            drifts: Vec::new(),
            more: false,
            hidden: 1,
            proof: Proof {
                any: true,
                ..Proof::default()
            },
        };
        assert!(detected(&found).starts_with("in sync; compared 3 resources, 1 opened; 1 hidden"));
        found.proof.missing = [("not_observed".to_owned(), 2)].into();
        assert!(
            detected(&found)
                .contains("1 opened; 2 resources could not be compared: 2 not observed; 1 hidden")
        );
        found.proof.any = false;
        assert!(detected(&found).starts_with("unproven; compared 3"));
        (found.drifts, found.more) = (vec![drift()], true);
        let told = detected(&found);
        assert!(told.starts_with("drifted; compared 3"), "{told}");
        assert!(
            told.contains("the first 1 drift; `steadfast drift list`"),
            "{told}"
        );
        found.sweep.failed = vec![FailedResource {
            key: drift().key,
            reason: "the database refused the data".to_owned(),
        }];
        found.sweep.failed_count = 3;
        let told = "3 resources could not be compared:\n  do/droplet/7: the database refused the data\n  and 2 more";
        for drifts in [vec![], vec![drift()]] {
            found.drifts = drifts;
            let text = detected(&found);
            assert!(text.contains(told), "{text}");
        }
        let text = super::sweep(&found.sweep);
        assert!(text.contains(told), "{text}");
    }
}
