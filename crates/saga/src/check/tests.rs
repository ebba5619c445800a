//! Definitions that are wrong in one way, and in all ways at once.

mod rules;

use serde_json::{Value, json};

use super::*;
use crate::{Actions, OnUnknown};

fn known() -> KnownActions {
    let mut known = Actions::new().known();
    known.http = true;
    known.task = true;
    known.builtins.insert("registry.refresh".to_owned(), true);
    known
}

/// Three steps that are right: `droplet`, `dns`, which is optional, and `site`.
fn good() -> Value {
    json!({
        "name": "provision-site",
        "version": 1,
        "steps": [
            {
                "name": "droplet",
                "action": { "http": {
                    "method": "POST",
                    "url": "https://api.example/droplets",
                    "headers": { "Authorization": "Bearer {{ secret.TOKEN }}" },
                    "body": { "region": "{{ inputs.region }}", "tags": ["{{ saga.id }}"] },
                } },
                "undo": { "http": {
                    "method": "DELETE",
                    "url": "https://api.example/droplets/{{ output.id }}",
                } },
                "on_unknown": "retry",
            },
            {
                "name": "dns",
                "action": { "task": { "type": "dns.create", "input": {
                    "ip": "{{ steps.droplet.output.body.ip }}",
                } } },
                "undo": "none",
                "optional": true,
            },
            {
                "name": "site",
                "action": { "builtin": { "name": "noop", "input": [
                    "{{ steps.dns.output.name | default('none') }}", "{{ context.team }}",
                ] } },
                "undo": { "wait": { "duration_ms": 1 } },
            },
        ],
    })
}

/// The good definition with changes, each at a JSON pointer; `Value::Null` with `-` before the pointer takes away.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut document = good();
    for (pointer, value) in changes {
        let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
        let parent = parent.strip_prefix('-').unwrap_or(parent);
        let parent = document.pointer_mut(parent).expect("it is there");
        if pointer.starts_with('-') {
            parent.as_object_mut().expect("an object").remove(member);
        } else {
            match parent {
                Value::Array(items) => {
                    items[member.parse::<usize>().expect("an index")] = value.clone()
                }
                parent => parent[member] = value.clone(),
            }
        }
    }
    document
}

fn problems(document: &Value) -> Vec<Problem> {
    parse(&document.to_string(), Format::Json, Some(&known()))
        .err()
        .unwrap_or_default()
}

/// Asserts that the one problem is at the path, and says the words.
fn refused(changes: &[(&str, Value)], path: &str, words: &str) {
    let found = problems(&with(changes));
    let [problem] = found.as_slice() else {
        panic!("{path}: {found:#?}");
    };
    assert_eq!(problem.path, path, "{problem:?}");
    assert!(
        problem.message.contains(words),
        "{path}: {}",
        problem.message
    );
}

#[test]
fn a_good_definition_has_no_problems_read_or_at_hand() {
    let definition = parse(&good().to_string(), Format::Json, Some(&known())).expect("good");
    assert_eq!(check(&definition, &known()), []);
    assert_eq!(definition.steps[0].on_unknown, OnUnknown::Retry);
    let stored = serde_json::to_string(&definition).expect("JSON");
    let again = parse(&stored, Format::Json, Some(&known()));
    assert_eq!(
        again,
        Ok(definition.clone()),
        "what was stored can be sent again"
    );
    let steps = parse_steps(&good()["steps"].to_string(), Some(&known()));
    assert_eq!(steps, Ok(definition.steps));
}

#[test]
fn toml_says_the_same_as_json() {
    let text = r#"
name = "provision-site"
version = 1

[[steps]]
name = "a"
undo = "none"
on_unknown = "stop"
action.http = { method = "POST", url = "https://h/{{ inputs.x }}", body = { at = 2026-01-02, n = 1, f = 0.5 } }
retry.attempts = 2
"#;
    let definition = parse(text, Format::Toml, None).expect("good");
    assert_eq!(definition.steps[0].retry.attempts, 2);
    let crate::Action::Http(http) = &definition.steps[0].action else {
        panic!("{definition:?}");
    };
    assert_eq!(http.body, json!({ "at": "2026-01-02", "n": 1, "f": 0.5 }));
    let wrong = parse("name = 1\n\nname = 2\n", Format::Toml, None).expect_err("twice");
    assert!(wrong[0].message.contains("line 3"), "{wrong:?}");
}

#[test]
fn every_problem_is_told_at_once() {
    let document = json!({
        "name": "a b",
        "version": 0,
        "stpes": [],
        "steps": [
            { "name": "a", "action": { "builtin": { "name": "nop" } } },
            { "name": "a", "action": { "wait": {} }, "undo": "nothing", "optonal": true },
            {
                "name": "c-d",
                "action": { "http": { "method": "post", "url": "ftp://h/{{ steps.z.output }}" } },
                "undo": { "task": { "type": "" }, "wait": { "duration_ms": "1" } },
                "retry": { "attempts": 1.5, "jitter": "x" },
            },
            { "name": "e", "action": { "builtin": { "name": "noop", "input": "{{ inputs." } }, "undo": "none" },
            7,
        ],
    });
    let found = problems(&document);
    let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
    for path in [
        "name",
        "version",
        "stpes",
        "steps[0].undo",
        "steps[1].name",
        "steps[1].action.wait.duration_ms",
        "steps[1].undo",
        "steps[1].optonal",
        "steps[2].name",
        "steps[2].undo",
        "steps[2].undo.wait.duration_ms",
        "steps[2].retry.attempts",
        "steps[2].retry.jitter",
        "steps[2].on_unknown",
        "steps[3].action.builtin.input",
        "steps[4]",
    ] {
        assert!(paths.contains(&path), "{path} is not among {found:#?}");
    }
    let message = |path: &str| {
        let found = found.iter().find(|problem| problem.path == path);
        found.map_or_else(String::new, |problem| problem.message.clone())
    };
    assert!(message("stpes").contains("similar: `steps`"));
    assert!(message("steps[0].undo").contains("\"none\" if there is nothing to undo"));
    assert!(message("steps[1].optonal").contains("`optional`"));
    assert!(message("steps[2].name").contains("`c_d`"));
}

#[test]
fn documents_that_are_none() {
    let wrong = |text: &str| {
        parse(text, Format::Json, None).expect_err(text)[0]
            .message
            .clone()
    };
    assert!(wrong("{").contains("it is no JSON"));
    assert!(wrong("[]").contains("an object is needed"));
    assert!(wrong(&" ".repeat(DEFINITION_BYTES_MAX + 1)).contains("at most 1048576"));
    let wrong = parse_steps("{}", None).expect_err("no list");
    assert_eq!(wrong[0].path, "steps");
    refused(
        &[("/steps/0/action/http/body", json!("a\0b"))],
        "steps[0].action.http.body",
        "NUL",
    );
}

#[test]
fn names_and_counts() {
    refused(&[("/name", json!("x".repeat(129)))], "name", "1 to 128");
    refused(&[("/version", json!(0))], "version", "from 1");
    refused(
        &[("/version", json!(3_000_000_000_u64))],
        "version",
        "up to 2147483647",
    );
    refused(&[("/steps", json!([]))], "steps", "1 to 100");
    let step = good()["steps"][2].clone();
    let many: Vec<Value> = (0..101)
        .map(|n| json!({ "name": format!("s{n}"), "action": { "wait": { "duration_ms": 1 } }, "undo": "none" }))
        .collect();
    refused(&[("/steps", json!(many))], "steps", "101 steps");
    for name in ["", "9a", "a.b", "a b", "ä"] {
        let changed = [("/steps/2/name", json!(name))];
        refused(&changed, "steps[2].name", "beginning with a letter");
    }
    assert!(step["name"].is_string());
    refused(
        &[("/steps/2/name", json!("dns"))],
        "steps[2].name",
        "steps[1] too",
    );
}

#[test]
fn an_undo_has_to_be_said() {
    refused(
        &[("-/steps/1/undo", Value::Null)],
        "steps[1].undo",
        "say how the step is undone",
    );
    refused(
        &[("/steps/1/undo", Value::Null)],
        "steps[1].undo",
        "\"none\"",
    );
}

#[test]
fn references_are_there_when_they_are_needed() {
    let input = "/steps/1/action/task/input/ip";
    let at = "steps[1].action.task.input.ip";
    for (text, words) in [
        ("{{ steps.dropplet.output }}", "similar: `droplet`"),
        ("{{ steps.site.output }}", "comes later"),
        ("{{ steps.dns.output }}", "not known before it was done"),
        ("{{ steps.droplet.id }}", "`steps.droplet.output`"),
        ("{{ steps['droplet'].output }}", "write `steps.NAME.output`"),
        ("{{ output.id }}", "in its undo only"),
        ("{{ input.id }}", "`inputs`"),
        ("{{ env.HOME }}", "templates begin with inputs"),
        ("{{ saga.name }}", "saga.id, saga.kind"),
        ("{{ saga }}", "saga.id, saga.kind"),
        ("{{ secret.token }}", "upper-case"),
        ("{{ secret }}", "write `secret.NAME`"),
        ("{{ inputs.a | nope }}", "no filter `nope`"),
        ("{{ inputs.a", "without its `}}`"),
    ] {
        refused(&[(input, json!(text))], at, words);
    }
    refused(
        &[(
            "/steps/2/action/builtin/input/0",
            json!("{{ steps.dns.output.name }}"),
        )],
        "steps[2].action.builtin.input[0]",
        "`steps.dns.output.name | default(…)`",
    );
}

#[test]
fn an_undo_sees_its_own_output_and_earlier_ones() {
    let url = "/steps/0/undo/http/url";
    let at = "steps[0].undo.http.url";
    refused(
        &[(url, json!("http://h/{{ steps.droplet.output.id }}"))],
        at,
        "it is `output`",
    );
    refused(
        &[(url, json!("http://h/{{ steps.site.output.id }}"))],
        at,
        "comes later",
    );
    let earlier =
        json!({ "builtin": { "name": "noop", "input": "{{ steps.droplet.output }}{{ output }}" } });
    assert_eq!(problems(&with(&[("/steps/2/undo", earlier)])), []);
}

#[test]
fn a_wrong_member_does_not_hide_what_is_wrong_with_the_others() {
    let changes = [
        ("-/steps/0/undo", Value::Null),
        ("/steps/0/undo_blocks_late", json!(true)),
        ("/steps/0/extra", json!(1)),
        ("/steps/0/action/http/url", json!("{{ steps.site.output }}")),
        ("/steps/1/action", json!({ "tusk": {} })),
        ("/steps/1/on_unknown", json!("reconcile")),
        ("/steps/1/retry", json!({ "attempts": 0 })),
        ("/steps/2/name", json!(7)),
        ("/steps/2/action/builtin/name", json!("nop")),
    ];
    let found = problems(&with(&changes));
    let mut paths: Vec<_> = found.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "steps[0].action.http.url",
            "steps[0].extra",
            "steps[0].undo",
            "steps[1].action.tusk",
            "steps[1].retry.attempts",
            "steps[2].action.builtin.name",
            "steps[2].name",
        ],
        "{found:?}"
    );
}
