//! Actions, limits, and what cannot be meant together.

use serde_json::{Value, json};

use super::{good, problems, refused, with};
use crate::{
    KnownActions,
    check::{Format, parse},
};

#[test]
fn an_http_request_can_be_sent() {
    let http = |member: &str| format!("/steps/0/action/http/{member}");
    let at = |member: &str| format!("steps[0].action.http.{member}");
    for (member, value, words) in [
        ("method", json!("post"), "similar: `POST`"),
        ("method", json!("TRACE"), "in upper case"),
        ("url", json!("ftp://h/"), "http:// or https://"),
        ("url", json!("/relative"), "http:// or https://"),
        ("url", json!("https:///x"), "no host"),
        ("url", json!("https://u:p@h/"), "no user or password"),
    ] {
        refused(&[(&http(member), value)], &at(member), words);
    }
    for (name, value, words) in [
        ("Idempotency-Key", "x", "by the server itself"),
        ("a b", "x", "no name of a header"),
        ("authorization", "x", "twice"),
        ("x-y", "a\r\nb", "control characters"),
    ] {
        let changed = [(http(&format!("headers/{name}")), json!(value))];
        refused(
            &[(&changed[0].0, changed[0].1.clone())],
            &at(&format!("headers.{name}")),
            words,
        );
    }
    refused(&[(&http("method"), json!("GET"))], &at("body"), "no body");
    assert_eq!(
        problems(&with(&[(&http("url"), json!("{{ inputs.url }}"))])),
        []
    );
    assert_eq!(
        problems(&with(&[(
            &http("url"),
            json!("https://{{ inputs.host }}/")
        )])),
        []
    );
}

#[test]
fn a_post_or_patch_says_what_unknown_leads_to() {
    let path = "steps[0].on_unknown";
    refused(
        &[("-/steps/0/on_unknown", Value::Null)],
        path,
        "Idempotency-Key",
    );
    let patch = [
        ("-/steps/0/on_unknown", Value::Null),
        ("/steps/0/action/http/method", json!("PUT")),
        ("/steps/0/undo/http/method", json!("PATCH")),
    ];
    refused(&patch, path, "a PATCH whose answer is lost");
    assert_eq!(problems(&with(&patch[..2])), [], "a PUT need not");
}

#[test]
fn only_what_can_be_asked_is_reconciled() {
    let reconcile = |step: usize| {
        let pointer = format!("/steps/{step}/on_unknown");
        problems(&with(&[(&pointer, json!("reconcile"))]))
    };
    for step in 0..3 {
        let found = reconcile(step);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, format!("steps[{step}].on_unknown"));
    }
    let asked = [
        ("/steps/2/on_unknown", json!("reconcile")),
        ("/steps/2/action/builtin/name", json!("registry.refresh")),
    ];
    assert_eq!(problems(&with(&asked)), []);
}

#[test]
fn actions_are_known() {
    let name = "/steps/2/action/builtin/name";
    let at = "steps[2].action.builtin.name";
    refused(
        &[(name, json!("registry.refesh"))],
        at,
        "similar: `registry.refresh`",
    );
    let unknown = with(&[(name, json!("elsewhere.only"))]);
    assert!(
        parse(&unknown.to_string(), Format::Json, None).is_ok(),
        "unless nobody knows"
    );
    let none = KnownActions::default();
    let found = parse(&good().to_string(), Format::Json, Some(&none)).expect_err("none");
    let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "steps[0].action.http",
            "steps[0].undo.http",
            "steps[1].action.task",
            at
        ]
    );
    refused(
        &[("/steps/1/action/task/type", json!("a b"))],
        "steps[1].action.task.type",
        "1 to 128",
    );
    refused(
        &[("/steps/1/action", json!({}))],
        "steps[1].action",
        "say one of task",
    );
    refused(
        &[("/steps/1/action", json!("task"))],
        "steps[1].action",
        "an object",
    );
    refused(
        &[("/steps/1/action", json!({ "tsk": {} }))],
        "steps[1].action.tsk",
        "`task`",
    );
}

#[test]
fn limits_hold() {
    for (member, value, words) in [
        ("retry/attempts", json!(0), "1 to 100"),
        ("retry/attempts", json!(101), "1 to 100"),
        ("retry/initial_backoff_ms", json!(0), "1 to 86400000"),
        (
            "retry/max_backoff_ms",
            json!(999),
            "less than initial_backoff_ms",
        ),
        ("retry/max_backoff_ms", json!(86_400_001), "1 to 86400000"),
        ("retry/multiplier", json!(0.5), "1 to 100"),
        ("retry/jitter", json!(1.5), "0 to 1"),
        ("retry/non_retryable_codes", json!([1]), "list of texts"),
        ("timeouts/running_ms", json!(0), "1 to 86400000"),
        ("timeouts/running_ms", json!(86_400_001), "1 to 86400000"),
        ("timeouts/heartbeat_ms", json!(0), "1 to 86400000"),
        (
            "timeouts/waiting_ms",
            json!(31_536_000_001_u64),
            "0 to 31536000000",
        ),
        ("timeouts/waiting_ms", json!(-1), "a whole number"),
    ] {
        let (group, field) = member.split_once('/').expect("two parts");
        let changed = [(format!("/steps/2/{group}"), json!({ field: value }))];
        refused(
            &[(&changed[0].0, changed[0].1.clone())],
            &format!("steps[2].{group}.{field}"),
            words,
        );
    }
    let codes = json!({ "non_retryable_codes": ["HTTP_404", "no"] });
    refused(
        &[("/steps/2/retry", codes)],
        "steps[2].retry.non_retryable_codes[1]",
        "upper-case",
    );
    for duration in [json!(0), json!(31_536_000_001_u64)] {
        let changed = [("/steps/2/undo/wait/duration_ms", duration)];
        refused(&changed, "steps[2].undo.wait.duration_ms", "365 days");
    }
}

#[test]
fn what_cannot_be_meant_together_is_refused() {
    refused(
        &[("/steps/0/irreversible", json!(true))],
        "steps[0].undo",
        "never undone",
    );
    refused(
        &[("/steps/1/undo_blocks_late", json!(true))],
        "steps[1].undo_blocks_late",
        "no undo",
    );
    refused(
        &[("/steps/1/on_failure", json!("stop"))],
        "steps[1].on_failure",
        "stops nothing",
    );
    let pivot = [("/steps/1/irreversible", json!(true))];
    assert_eq!(problems(&with(&pivot)), []);
}
