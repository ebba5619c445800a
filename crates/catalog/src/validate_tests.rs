//! Every violation is found, in plain words, and nothing of the document is ever part of the answer.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::Schema;

const SECRET: &str = "hunter2-s3cr3t";

fn compile(schema: &Value) -> Compiled {
    Schema::new("hash".into(), schema.to_string())
        .compiled
        .expect("a usable schema")
}

fn check(schema: &Value, document: &Value) -> Vec<Violation> {
    validate(&compile(schema), &document.to_string(), DOCUMENT_LIMITS).expect("a document")
}

/// Pointer and message of each violation.
fn said(schema: &Value, document: &Value) -> Vec<(String, String)> {
    check(schema, document)
        .into_iter()
        .map(|violation| (violation.pointer, violation.message))
        .collect()
}

fn credential() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "baseUrl": {"title": "Base URL", "type": "string", "format": "uri"},
            "username": {"title": "Username", "type": "string", "minLength": 1},
            "password": {"title": "Password", "type": "string", "writeOnly": true, "minLength": 20},
            "email": {"type": "string", "format": "email"},
            "port": {"type": ["integer", "null"], "maximum": 65535},
            "mode": {"enum": ["a", "b"]},
            "tls": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "a/b~c": {"type": "string"},
        },
        "required": ["baseUrl", "password"],
        "additionalProperties": false,
    })
}

#[test]
fn rule_13_each_violation_has_pointer_words_title_and_secrecy() {
    let document = json!({
        "baseUrl": "not a url",
        "username": "",
        "email": "nobody",
        "port": 70000,
        "mode": "c",
        "tls": "yes",
        "a/b~c": 1,
    });
    let found: Vec<_> = check(&credential(), &document)
        .into_iter()
        .map(|v| (v.pointer, v.keyword, v.message, v.title, v.secret))
        .collect();
    let expected = [
        ("/a~1b~0c", "type", "expected a string", "", false),
        (
            "/baseUrl",
            "format",
            "expected to be a URI",
            "Base URL",
            false,
        ),
        (
            "/email",
            "format",
            "expected to be an email address",
            "",
            false,
        ),
        ("/mode", "enum", "expected one of: \"a\", \"b\"", "", false),
        ("/password", "required", "is required", "Password", true),
        ("/port", "maximum", "expected 65535 or less", "", false),
        (
            "/tls",
            "anyOf",
            "expected true or false, or expected null",
            "",
            false,
        ),
        (
            "/username",
            "minLength",
            "expected at least 1 character",
            "Username",
            false,
        ),
    ]
    .map(|(pointer, keyword, message, title, secret)| {
        (
            pointer.to_owned(),
            keyword.to_owned(),
            message.to_owned(),
            title.to_owned(),
            secret,
        )
    });
    assert_eq!(found, expected);
}

#[test]
fn a_good_document_has_none() {
    let document =
        json!({"baseUrl": "https://example.org/api", "password": "correct horse battery"});
    assert_eq!(check(&credential(), &document), []);
}

#[test]
fn unknown_names_are_told_by_position_and_known_ones_suggested() {
    let document =
        json!({"baseUrl": "http://a.b", "password": "x".repeat(20), "pasword": SECRET, SECRET: 1});
    assert_eq!(
        said(&credential(), &document),
        [
            (
                String::new(),
                "its 3rd property is not one that the schema allows; did you mean `password`?"
                    .to_owned()
            ),
            (
                String::new(),
                "its 4th property is not one that the schema allows".to_owned()
            ),
        ]
    );
    let map = json!({"properties": {"headers": {"additionalProperties": {"type": "string"}}}});
    assert_eq!(
        said(&map, &json!({"headers": {"x": "1", SECRET: {"deep": 1}}})),
        [(
            "/headers".to_owned(),
            "its 2nd property: expected a string".to_owned()
        )]
    );
}

#[test]
fn secrecy_is_found_through_what_is_around() {
    let schema = json!({"properties": {"auth": {"writeOnly": true, "properties": {"key": {"type": "string"}}}}});
    let found = check(&schema, &json!({"auth": {"key": 1}}));
    assert!(found[0].secret);
    assert_eq!(found[0].pointer, "/auth/key");
}

#[test]
fn limits_refuse_before_checking() {
    let schema = compile(&json!(true));
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    assert_eq!(
        validate(&schema, &deep, DOCUMENT_LIMITS),
        Err(Refused::Document(JsonError::TooDeep { limit: 64 }))
    );
    let large = " ".repeat(DOCUMENT_LIMITS.max_bytes + 1);
    assert!(matches!(
        validate(&schema, &large, DOCUMENT_LIMITS),
        Err(Refused::Document(JsonError::TooLarge { .. }))
    ));
    let broken =
        validate(&schema, &format!("{{\"a\": {SECRET}}}"), DOCUMENT_LIMITS).expect_err("not JSON");
    assert!(!broken.to_string().contains(SECRET));
}

#[test]
fn no_more_violations_than_the_limit() {
    let schema = json!({"items": {"type": "string"}, "additionalProperties": false});
    let many: Vec<_> = (0..5_000).collect();
    assert_eq!(check(&schema, &json!(many)).len(), MAX_VIOLATIONS);
    let object: serde_json::Map<_, _> = (0..5_000).map(|n| (format!("k{n}"), json!(n))).collect();
    assert!(check(&schema, &Value::Object(object)).len() <= MAX_VIOLATIONS);
}

#[test]
fn a_costly_pattern_is_given_up() {
    let schema = json!({"pattern": "^(?=(a+)+$)(a|aa)+\\1b$"});
    let found = check(&schema, &json!("a".repeat(2_000)));
    assert_eq!(found.len(), 1);
}

/// Schemas with every keyword that can fail, each at the root and below a property.
fn failing_schemas() -> Vec<Value> {
    let each = [
        json!({"type": "null"}),
        json!({"type": ["null", "boolean"]}),
        json!({"format": "uri", "type": "string"}),
        json!({"format": "email"}),
        json!({"format": "ipv4"}),
        json!({"format": "date-time"}),
        json!({"format": "regex", "minLength": 500}),
        json!({"enum": ["only"]}),
        json!({"const": "this"}),
        json!({"pattern": "^[0-9]$"}),
        json!({"maxLength": 1}),
        json!({"minLength": 900}),
        json!({"maxItems": 0}),
        json!({"minItems": 90}),
        json!({"maxProperties": 0}),
        json!({"minProperties": 90}),
        json!({"maximum": -9e99}),
        json!({"exclusiveMinimum": 9e99}),
        json!({"multipleOf": 0.7}),
        json!({"uniqueItems": true}),
        json!({"contains": {"type": "null"}}),
        json!({"items": {"type": "null"}}),
        json!({"items": [{"type": "null"}], "additionalItems": false}),
        json!({"additionalProperties": false}),
        json!({"additionalProperties": {"type": "null"}}),
        json!({"patternProperties": {".*": {"type": "null"}}}),
        json!({"propertyNames": {"pattern": "^[0-9]$", "maxLength": 1, "enum": ["q"]}}),
        json!({"properties": {"a": false, "b": {"writeOnly": true, "type": "null"}}}),
        json!({"required": ["zzz"]}),
        json!({"dependencies": {"a": ["zzz"], "b": {"type": "null"}}}),
        json!({"anyOf": [{"type": "null"}, {"const": 1}]}),
        json!({"oneOf": [{"type": "null"}, {"required": ["zzz"]}, {"maxLength": 1, "type": "string"}]}),
        json!({"oneOf": [true, true]}),
        json!({"allOf": [{"type": "null"}]}),
        json!({"not": {}}),
        json!({"if": true, "then": {"type": "null"}}),
        json!({"contentEncoding": "base64"}),
        json!({"contentMediaType": "application/json"}),
        json!({"contentEncoding": "base64", "contentMediaType": "application/json"}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "unevaluatedProperties": false}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "unevaluatedItems": false}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "dependentRequired": {"a": ["zzz"]}}),
        json!(false),
    ];
    let nested = each
        .iter()
        .map(|schema| json!({"properties": {"a": schema}, "additionalProperties": schema}));
    each.iter().cloned().chain(nested).collect()
}

fn holding_secrets() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(SECRET)),
        Just(json!(format!("{SECRET} {SECRET}"))),
        Just(json!(77_345_678)),
        Just(json!(-77_345_678.25)),
        Just(json!(true)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("a|b|c|hunter2-s3cr3t[0-9]?", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rule_13_nothing_of_the_document_is_in_the_answer(document in holding_secrets()) {
        for schema in failing_schemas() {
            for violation in check(&schema, &document) {
                let all = format!("{violation:?}");
                prop_assert!(!all.contains("hunter2"), "{schema}: {all}");
                prop_assert!(!all.contains("77345678"), "{schema}: {all}");
                prop_assert!(!violation.message.is_empty());
            }
        }
    }

    #[test]
    fn a_pointer_points_into_the_document(document in holding_secrets()) {
        for schema in failing_schemas() {
            for violation in check(&schema, &document) {
                let missing = matches!(violation.keyword.as_str(), "required" | "dependencies");
                prop_assert!(missing || document.pointer(&violation.pointer).is_some(), "{violation:?}");
            }
        }
    }
}

/// Each took the process down: by its memory, or by the stack of the thread that checked.
#[test]
fn rule_13_a_schema_that_would_take_the_process_down_is_refused_in_time() {
    let document = |of: String| {
        let schema = serde_json::from_str(&of).expect("JSON");
        validate(&compile(&schema), "{}", DOCUMENT_LIMITS)
    };
    let chain = |length: usize, link: &dyn Fn(usize) -> String| {
        let links: Vec<String> = (0..length)
            .map(|at| format!(r#""a{at}":{}"#, link(at + 1)))
            .collect();
        format!(
            r##"{{"definitions":{{{},"a{length}":{{"type":"string"}}}},"$ref":"#/definitions/a0"}}"##,
            links.join(",")
        )
    };
    let one = |next: usize| format!(r##"{{"$ref":"#/definitions/a{next}"}}"##);
    let two = |next: usize| format!(r#"{{"anyOf":[{},{}]}}"#, one(next), one(next));
    assert_eq!(document(chain(3_000, &one)), Err(Refused::TooMuch));
    assert_eq!(document(chain(40, &two)), Err(Refused::TooMuch));
    let few = document(chain(5, &two)).expect("is checked");
    assert_eq!(few.len(), 1, "{few:?}");
}
