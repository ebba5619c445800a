use serde_json::json;

use super::*;
use crate::schema::Schema;

pub(super) fn compiled(schema: &Value) -> Compiled {
    let text = schema.to_string();
    Schema::new(String::new(), text)
        .compiled
        .unwrap_or_else(|why| panic!("{schema}: {why}"))
}

pub(super) fn changes(old: &Value, new: &Value) -> Vec<SchemaChange> {
    diff(&compiled(old), &compiled(new))
}

/// `class pointer: message` of each.
fn told(old: &Value, new: &Value) -> Vec<String> {
    let told = changes(old, new).into_iter().map(|change| {
        let secret = if change.secret { " (secret)" } else { "" };
        let class = format!("{:?}", change.class());
        format!("{class} {}: {}{secret}", change.pointer, change.message)
    });
    told.collect()
}

fn of_property(schema: Value) -> Value {
    json!({ "type": "object", "properties": { "a": schema } })
}

#[test]
fn each_kind_of_change_is_told_with_its_place_and_class() {
    for (old, new, expected) in [
        (json!({}), json!({}), vec![]),
        (
            json!({ "type": "string" }),
            json!({ "type": "integer" }),
            vec!["Breaking /a: has to be a whole number now, and was a string"],
        ),
        (
            json!({ "type": "integer" }),
            json!({ "type": ["number", "null"] }),
            vec!["Compatible /a: may be a number or null now, and was a whole number"],
        ),
        (
            json!({ "enum": ["x", "y"] }),
            json!({ "enum": ["y"] }),
            vec!["Breaking /a: no longer accepts some values: \"x\""],
        ),
        (
            json!({ "enum": ["y"] }),
            json!({ "enum": ["y", "z"] }),
            vec!["Compatible /a: accepts more values: \"z\""],
        ),
        (
            json!({ "enum": ["y"] }),
            json!({ "type": "string", "enum": ["y"] }),
            vec![],
        ),
        (
            json!({ "enum": ["x", "y"], "const": "x" }),
            json!({ "enum": ["x", "y"], "const": "y" }),
            vec!["Breaking /a: no longer accepts some values: \"x\""],
        ),
        (
            json!({ "enum": ["x", "y"], "const": "y" }),
            json!({ "enum": ["x"], "const": "y" }),
            vec!["Breaking /a: no longer accepts some values: \"y\""],
        ),
        (
            json!({ "writeOnly": true, "const": "hunter2" }),
            json!({ "writeOnly": true, "const": "hunter3", "default": "hunter3" }),
            vec![
                "Breaking /a: no longer accepts some values (secret)",
                "Cosmetic /a: has a `default` now (secret)",
            ],
        ),
        (
            json!({ "minLength": 3 }),
            json!({ "minLength": 8 }),
            vec!["Breaking /a: has to have at least 8 characters now, and 3 before"],
        ),
        (
            json!({ "maxLength": 3 }),
            json!({ "maxLength": 8 }),
            vec!["Compatible /a: has to have at most 8 characters now, and 3 before"],
        ),
        (
            json!({ "exclusiveMinimum": 5 }),
            json!({ "minimum": 5 }),
            vec!["Compatible /a: its limits are less strict now"],
        ),
        (
            json!({ "minimum": 5 }),
            json!({ "exclusiveMinimum": 5 }),
            vec!["Breaking /a: has to be more than 5 now"],
        ),
        (
            json!({ "type": "string" }),
            json!({ "type": "string", "format": "uri" }),
            vec!["Breaking /a: has to fit the format `uri` now"],
        ),
        (
            json!({ "pattern": "^a" }),
            json!({ "pattern": "^b" }),
            vec![
                "PossiblyBreaking /a: its pattern is `^b` now, and was `^a`; whether documents still fit cannot be told",
            ],
        ),
        (
            json!({ "oneOf": [{ "type": "string" }] }),
            json!({ "oneOf": [{ "type": "string" }, { "type": "null" }] }),
            vec![
                "PossiblyBreaking /a: `oneOf` changed; whether documents still fit cannot be told",
            ],
        ),
        (
            json!({ "anyOf": [{ "type": "string", "title": "x" }] }),
            json!({ "anyOf": [{ "type": "string", "title": "y" }] }),
            vec!["Cosmetic /a: `anyOf` reads differently, and means the same"],
        ),
        (
            json!({ "items": { "type": "string" } }),
            json!({ "items": { "type": "string", "minLength": 1 } }),
            vec!["Breaking /a/*: has to have at least 1 characters now"],
        ),
        (
            json!({ "title": "A" }),
            json!({ "title": "B" }),
            vec!["Cosmetic /a: its title is \"B\" now, and was \"A\""],
        ),
        (
            json!({ "type": "string" }),
            json!({ "type": "string", "writeOnly": true }),
            vec!["Cosmetic /a: is marked as a secret now (secret)"],
        ),
    ] {
        let (old, new) = (of_property(old), of_property(new));
        assert_eq!(told(&old, &new), expected, "{old} {new}");
    }
}

#[test]
fn properties_come_and_go() {
    let schema = |properties: Value, required: Value, others: Value| json!({ "properties": properties, "required": required, "additionalProperties": others });
    let (none, some) = (
        json!({}),
        json!({ "p": { "type": "string", "title": "P" } }),
    );
    for (old, new, expected) in [
        (
            schema(none.clone(), json!([]), json!(false)),
            schema(some.clone(), json!([]), json!(false)),
            vec!["Compatible /p: was added"],
        ),
        (
            schema(none.clone(), json!([]), json!(true)),
            schema(some.clone(), json!([]), json!(true)),
            vec![
                "PossiblyBreaking /p: was added; a document that has a property of this name already may not fit",
            ],
        ),
        (
            schema(none.clone(), json!([]), json!(true)),
            schema(json!({ "p": { "title": "P" } }), json!([]), json!(true)),
            vec!["Compatible /p: was added"],
        ),
        (
            schema(none.clone(), json!([]), json!(true)),
            schema(some.clone(), json!(["p"]), json!(true)),
            vec!["Breaking /p: was added, and is required"],
        ),
        (
            schema(some.clone(), json!([]), json!(true)),
            schema(some.clone(), json!(["p"]), json!(true)),
            vec!["Breaking /p: is required now"],
        ),
        (
            schema(some.clone(), json!(["p"]), json!(true)),
            schema(some.clone(), json!([]), json!(true)),
            vec!["Compatible /p: is no longer required"],
        ),
        (
            schema(some.clone(), json!([]), json!(false)),
            schema(none.clone(), json!([]), json!(false)),
            vec!["Breaking /p: was removed, and is not allowed any more"],
        ),
        (
            schema(some.clone(), json!([]), json!(true)),
            schema(none.clone(), json!([]), json!(true)),
            vec!["Compatible /p: was removed; a document may go on having it"],
        ),
        (
            schema(some.clone(), json!([]), json!(true)),
            schema(none, json!([]), json!({ "type": "integer" })),
            vec![
                "Breaking /*: has to be a whole number now",
                "PossiblyBreaking /p: was removed, and has to fit what holds for all other properties",
            ],
        ),
        (
            schema(some.clone(), json!([]), json!(true)),
            schema(some, json!([]), json!(false)),
            vec!["Breaking : properties that the schema does not declare are not allowed any more"],
        ),
    ] {
        assert_eq!(told(&old, &new), expected, "{old} {new}");
    }
    let odd = changes(&json!({}), &json!({ "required": ["a/b~c"] }));
    assert_eq!(odd[0].pointer, "/a~1b~0c");
}

#[test]
fn references_are_followed_and_circles_end() {
    let schema = |definition: Value| {
        json!({
            "definitions": { "d": definition },
            "properties": { "a": { "$ref": "#/definitions/d" }, "b": { "type": "string" } },
        })
    };
    let text = schema(json!({ "type": "string" }));
    assert_eq!(told(&text, &text), Vec::<String>::new());
    assert_eq!(
        told(&text, &schema(json!({ "type": "integer" }))),
        ["Breaking /a: has to be a whole number now, and was a string"]
    );
    // Written out in place of a reference.
    let inline = json!({ "properties": { "a": { "type": "string" }, "b": { "type": "string" } } });
    assert_eq!(told(&text, &inline), Vec::<String>::new());
    let circle = |limit: u64| {
        schema(
            json!({ "maxProperties": limit, "additionalProperties": { "$ref": "#/definitions/d" } }),
        )
    };
    assert_eq!(told(&circle(3), &circle(3)), Vec::<String>::new());
    let found = changes(&circle(3), &circle(2));
    assert_eq!(found[0].class(), Class::Breaking, "{found:?}");
    assert_eq!(gravest(&found), Class::Breaking);
    // A reference that is not followed, beside a change elsewhere.
    let by_name = |kind: &str| json!({ "definitions": { "d": { "$id": "#name", "type": kind } }, "properties": { "a": { "$ref": "#name" } } });
    let found = changes(&by_name("string"), &by_name("integer"));
    assert_eq!(gravest(&found), Class::PossiblyBreaking, "{found:?}");
}

#[test]
fn what_depends_on_its_surroundings_is_not_taken_for_compatible() {
    let schema = |properties: Value| {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "properties": properties,
            "unevaluatedProperties": false,
        })
    };
    let (old, new) = (schema(json!({ "a": true })), schema(json!({})));
    assert!(!compiled(&new).validator.is_valid(&json!({ "a": 1 })));
    assert_eq!(gravest(&changes(&old, &new)), Class::PossiblyBreaking);
    let other = json!({ "$schema": "http://json-schema.org/draft-07/schema#" });
    let found = changes(
        &other,
        &json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" }),
    );
    assert_eq!(found[0].keyword, "$schema");
}

#[test]
fn a_schema_of_references_upon_references_ends() {
    let mut definitions = Map::new();
    for level in 0..60 {
        let next = format!("#/definitions/d{}", level + 1);
        let twice = json!({ "properties": { "l": { "$ref": next }, "r": { "$ref": next } } });
        definitions.insert(format!("d{level}"), twice);
    }
    let schema = |last: &str| {
        let mut definitions = definitions.clone();
        definitions.insert("d60".to_owned(), json!({ "type": last }));
        json!({ "definitions": definitions, "$ref": "#/definitions/d0" })
    };
    let found = changes(&schema("string"), &schema("integer"));
    assert!(found.len() <= MAX_CHANGES);
    assert!(is_grave(gravest(&found)), "{:?}", found.first());
}
