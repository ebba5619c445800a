//! Templates as their authors write them.

use serde_json::json;

use super::*;
use crate::SecretError;

/// One secret, `TOKEN`.
struct Source;

impl SecretSource for Source {
    fn secret(&self, name: &str) -> Result<String, SecretError> {
        match name {
            "TOKEN" => Ok("s3cr3t".to_owned()),
            _ => Err(SecretError::Missing {
                name: name.to_owned(),
                folder: String::new(),
            }),
        }
    }
}

/// What the templates of these tests see.
struct World {
    inputs: Value,
    context: Value,
    output: Option<Value>,
    droplet: Value,
}

fn world() -> World {
    World {
        inputs: json!({
            "region": "fra1",
            "size": { "gb": 4, "ratio": 0.5 },
            "tags": ["a", "b"],
            "nothing": null,
            "big": 18_446_744_073_709_551_615_u64,
            "z": 1, "y": { "zz": 1, "aa": 2 },
        }),
        context: json!({ "team": "core" }),
        output: None,
        droplet: json!({ "id": 42, "net": { "ip": "192.0.2.1" } }),
    }
}

impl World {
    fn scope(&self) -> Scope<'_> {
        Scope {
            inputs: &self.inputs,
            context: &self.context,
            steps: BTreeMap::from([("droplet", Some(&self.droplet)), ("dns", None)]),
            saga_id: "0193",
            saga_kind: "provision",
            deployment_id: "d-1",
            output: self.output.as_ref(),
        }
    }

    fn render(&self, template: Value) -> Result<Value, TemplateError> {
        render(&template, &self.scope(), &Source).map(|rendered| rendered.value)
    }

    fn fails(&self, text: &str) -> String {
        self.render(json!(text)).expect_err(text).to_string()
    }
}

#[test]
fn a_text_that_is_one_expression_keeps_the_json_type() {
    let rendered = world().render(json!({
        "number": "{{ inputs.size.gb }}",
        "float": "{{inputs.size.ratio}}",
        "list": "{{ inputs.tags }}",
        "object": "{{ inputs.y }}",
        "null": "{{ inputs.nothing }}",
        "text": "{{ inputs.region }}",
        "bool": "{{ inputs.size.gb > 3 }}",
        "big": "{{ inputs.big }}",
        "made": "{{ {\"a\": [inputs.z, {\"b\": \"}}\"}]} }}",
        "kept": [1, true, null, "plain }} { text"],
    }));
    assert_eq!(
        rendered,
        Ok(json!({
            "number": 4, "float": 0.5, "list": ["a", "b"], "object": { "zz": 1, "aa": 2 },
            "null": null, "text": "fra1", "bool": true, "big": 18_446_744_073_709_551_615_u64,
            "made": { "a": [1, { "b": "}}" }] },
            "kept": [1, true, null, "plain }} { text"],
        }))
    );
    let object = world().render(json!("{{ inputs.y }}")).expect("rendered");
    assert_eq!(
        object.to_string(),
        r#"{"zz":1,"aa":2}"#,
        "members keep their order"
    );
}

#[test]
fn other_texts_are_texts() {
    let world = world();
    let rendered = |text: &str| world.render(json!(text)).expect(text);
    assert_eq!(
        rendered("https://h/{{ inputs.region }}/{{ steps.droplet.output.id }}?t={{ inputs.tags }}"),
        json!("https://h/fra1/42?t=[\"a\",\"b\"]")
    );
    assert_eq!(rendered(" {{ inputs.z }}"), json!(" 1"));
    assert_eq!(rendered("{{ \"{{\" }}{{ '}}' }}"), json!("{{}}"));
    assert_eq!(
        rendered("{{ saga.id }} {{ saga.kind }} {{ saga.deployment_id }} {{ context.team }}"),
        json!("0193 provision d-1 core")
    );
    assert_eq!(rendered("{% if x %} {# y #}"), json!("{% if x %} {# y #}"));
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    let world = world();
    for (text, named) in [
        ("{{ inputs.regin }}", "`inputs.regin` is not there"),
        ("x{{ inputs.size.mb }}", "`inputs.size.mb` is not there"),
        ("{{ inputs.a.b }}", "`inputs.a` is not there"),
        ("{{ 'a' ~ inputs.a }}", "`inputs.a` is not there"),
        ("{{ inputs.a | upper }}", "`inputs.a` is not there"),
        ("{{ [inputs.a] }}", "a part of it is not there"),
        ("{{ steps.dns.output.id }}", "was not done"),
        ("{{ 'a' ~ steps.dns.output }}", "a part of it is not there"),
        (
            "{{ steps.dns.output.id | length }}",
            "`steps.dns.output` is not there",
        ),
        ("{{ steps.gone.output }}", "no earlier step `gone`"),
        ("{{ output.id }}", "in its undo only"),
        ("{{ env.HOME }}", "`env` is not known"),
        ("{{ range(3) }}", "`range` is not known"),
        ("a{{ inputs.nothing }}", "it is null"),
    ] {
        let error = world.fails(text);
        assert!(error.contains(named), "{text}: {error}");
    }
    let nested = world.render(json!({ "a": [1, { "b": "{{ inputs.c }}" }] }));
    assert_eq!(nested.expect_err("missing").path, ".a[1].b");
}

#[test]
fn a_default_stands_in_for_what_is_missing() {
    let world = world();
    for (text, expected) in [
        ("{{ inputs.a | default(7) }}", json!(7)),
        ("{{ inputs.z | default(7) }}", json!(1)),
        ("{{ inputs.nothing | d('x', true) }}", json!("x")),
        (
            "{{ steps.dns.output.a.b[0] | default('none') }}",
            json!("none"),
        ),
        ("{{ steps.dns.output | default({}) }}", json!({})),
        ("{{ 1 if steps.dns.output is defined else 2 }}", json!(2)),
        ("{{ steps.droplet.output.id | default(0) }}", json!(42)),
    ] {
        assert_eq!(world.render(json!(text)), Ok(expected), "{text}");
    }
}

#[test]
fn an_undo_sees_its_steps_output_or_null() {
    let mut world = world();
    world.output = Some(json!({ "id": 7 }));
    assert_eq!(world.render(json!("{{ output.id }}")), Ok(json!(7)));
    world.output = Some(Value::Null);
    assert_eq!(world.render(json!("{{ output }}")), Ok(Value::Null));
    assert_eq!(
        world.render(json!("{{ output.a.b | default('by-key') }}")),
        Ok(json!("by-key"))
    );
    assert_eq!(world.render(json!("{{ output is none }}")), Ok(json!(true)));
    for text in [
        "{{ output.id }}",
        "http://h/{{ output.id }}",
        "{{ 'http://h/' ~ output.id }}",
        "{{ output.id | urlencode }}",
        "{{ output.id + 1 }}",
    ] {
        world.fails(text);
    }
}

#[test]
fn filters_do_what_their_names_say() {
    let world = world();
    for (text, expected) in [
        ("{{ 'aB' | lower }}{{ 'aB' | upper }}", json!("abAB")),
        ("{{ ' a/b ' | trim | urlencode }}", json!("a%2Fb")),
        ("{{ inputs.tags | join('-') }}", json!("a-b")),
        ("{{ 'a,b' | split(',') }}", json!(["a", "b"])),
        ("{{ inputs.y | tojson }}", json!("{\"zz\":1,\"aa\":2}")),
        ("{{ inputs.size.gb | times(1024) }}", json!(4096)),
        ("{{ inputs.size.ratio | times(3) }}", json!(1.5)),
        ("{{ '12' | int + 1 }}", json!(13)),
        ("{{ 3.9 | int }}", json!(3)),
        ("{{ '1.5' | float }}", json!(1.5)),
        ("{{ 2.345 | round(1) }}", json!(2.3)),
        ("{{ (0 - 3) | abs }}", json!(3)),
        (
            "{{ inputs.tags | first }}{{ inputs.tags | last }}",
            json!("ab"),
        ),
        ("{{ inputs.tags | length }}", json!(2)),
        ("{{ 'a.b' | replace('.', '-') }}", json!("a-b")),
        ("{{ 5 | string }}", json!("5")),
        ("{{ '' | bool }}", json!(false)),
        (
            "{{ 'abc' is startingwith 'a' and 'abc' is endingwith('c') }}",
            json!(true),
        ),
        (
            "{{ 'a' in inputs.tags and 'c' not in inputs.tags }}",
            json!(true),
        ),
        (
            "{{ inputs.tags is sequence and inputs.y is mapping }}",
            json!(true),
        ),
        (
            "{{ 1 is number and 'a' is string and true is boolean }}",
            json!(true),
        ),
        ("{{ true is true and false is false }}", json!(true)),
    ] {
        assert_eq!(world.render(json!(text)), Ok(expected), "{text}");
    }
    for text in [
        "{{ 'x' | int }}",
        "{{ 9223372036854775807 | times(2) }}",
        "{{ 'a' | split('') }}",
        "{{ 'a' | float }}",
        "{{ 1 / 0 }}",
    ] {
        world.fails(text);
    }
}

#[test]
fn nothing_costs_more_than_a_fixed_amount() {
    let mut world = world();
    world.inputs = json!({ "long": "a".repeat(60_000) });
    let many = format!("{{{{ {} }}}}", vec!["inputs.long"; 400].join(" ~ "));
    assert!(world.fails(&many).contains("fuel"), "instructions");
    let large = "{{ inputs.long }}".repeat(20);
    assert!(
        world.fails(&large).contains("larger than 1048576 bytes"),
        "output"
    );
    let grown = "{{ inputs.long | replace('a', inputs.long) }}";
    assert!(world.fails(grown).contains("1048576"), "replaced");
    assert!(world.fails("{{ 'a' * 100 }}").contains("filter `times`"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(2_000), ")".repeat(2_000));
    world.fails(&deep);
    let text = format!("{{{{ 1 }}}}{}", "x".repeat(65_536));
    assert!(world.fails(&text).contains("at most 65536"));
}

#[test]
fn secrets_go_to_the_action_and_not_into_the_record() {
    let world = world();
    let template = json!({
        "authorization": "Bearer {{ secret.TOKEN }}",
        "typed": "{{ secret.TOKEN }}",
        "region": "{{ inputs.region }}",
    });
    let rendered = render(&template, &world.scope(), &Source).expect("rendered");
    assert_eq!(rendered.value["authorization"], "Bearer s3cr3t");
    assert_eq!(rendered.secrets.mask_text("got s3cr3t"), "got ***");
    let record = render_for_record(&template, &world.scope()).expect("rendered");
    assert_eq!(
        record,
        json!({ "authorization": "Bearer ***", "typed": "***", "region": "fra1" })
    );
    assert!(
        world
            .fails("{{ secret.GONE }}")
            .contains("STEADFAST_SECRET_GONE")
    );
    let error = world.fails("{{ secret.TOKEN | int }}{{ secret.TOKEN | nope }}");
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[test]
fn what_cannot_be_read_is_refused_with_what_is_wrong() {
    for (text, problem) in [
        ("{{ a", "`{{` without its `}}`"),
        ("{{ 'a }}", "`{{` without its `}}`"),
        ("{{ }}", "nothing between"),
        ("{{- inputs.a }}", "whitespace control"),
        ("{{ inputs. }}", "syntax error"),
        (
            "{{ inputs.a | nope }}",
            "there is no filter `nope`; there are abs",
        ),
        ("{{ inputs.a is nope }}", "there is no test `nope`"),
        ("{{ inputs.a is not nope }}", "there is no test `nope`"),
        ("{{ inputs.a.upper() }}", "no methods such as `upper`"),
        ("{{ inputs.a * 2 }}", "no `*`"),
    ] {
        let errors = references(&json!({ "a": [text] })).expect_err(text);
        assert_eq!(errors[0].path, ".a[0]");
        assert!(errors[0].message.contains(problem), "{text}: {errors:?}");
    }
}

#[test]
fn references_are_found_without_rendering() {
    let found = |text: &str| -> Vec<(String, bool)> {
        references(&json!(text))
            .expect(text)
            .into_iter()
            .map(|(_, reference)| (reference.path.join("."), reference.may_be_missing))
            .collect()
    };
    let one = |path: &str, may| vec![(path.to_owned(), may)];
    assert_eq!(found("no braces"), []);
    assert_eq!(found("{{ inputs.a.b }}"), one("inputs.a.b", false));
    assert_eq!(found("{{ steps['a'].output }}"), one("steps", false));
    assert_eq!(
        found("{{ steps.a.output.x }}"),
        one("steps.a.output.x", false)
    );
    for text in [
        "{{ steps.a.output.x | default(1) }}",
        "{{ steps.a.output.x[0]['y'].z|d }}",
        "{{ steps.a.output.x if steps.a.output is defined else 0 }}",
        "{{ 0 if steps.a.output is not defined else steps.a.output.x }}",
    ] {
        assert!(found(text).iter().all(|(_, may)| *may), "{text}");
    }
    for text in [
        "{{ steps.a.output.x ~ (steps.a.output.y | default(1)) }}",
        "{{ steps.a.output.x | upper | default(1) }}",
        "{{ 'steps.a.output.x | default' ~ steps.a.output.x }}",
    ] {
        assert!(found(text).iter().any(|(_, may)| !may), "{text}");
    }
    assert_eq!(
        found("{{ {'k': inputs.a}[steps.b.output] }} {{ secret.T }}")
            .into_iter()
            .map(|(path, _)| path)
            .collect::<Vec<_>>(),
        ["inputs.a", "steps.b.output", "secret.T"]
    );
}
