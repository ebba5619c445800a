//! One configuration schema: what callers get of it, and the validator compiled from it, once per content hash.
//!
//! Schemas come from packages and may be anything: not JSON, of an unknown dialect, with references to other machines. None of
//! that stops them from being served as they are; what stops validation is said in words instead. References are never
//! followed over the network: the compiler is given no way to do so.

use std::collections::HashSet;

use bytes::Bytes;
use jsonschema::{Draft, PatternOptions, Validator, error::ValidationErrorKind};
use prost::Message;
use serde_json::Value;
use steadfast_api::schema::v1::{AuthKind, GetSchemaResponse};

use crate::{
    json::{self, JsonLimits},
    weigh::{TooMuch, weigh_compiling},
};

/// What is read of a schema. Real ones have a few kilobytes and five levels.
pub const SCHEMA_LIMITS: JsonLimits = JsonLimits {
    max_bytes: 1 << 20,
    max_depth: 64,
};

/// How far a pattern may backtrack on one string before the check is given up.
const PATTERN_BACKTRACK_LIMIT: usize = 100_000;

/// How much of a schema's own text a warning quotes.
const MAX_SHOWN_CHARS: usize = 200;

/// How many names of unknown formats a warning lists.
const MAX_LISTED_FORMATS: usize = 8;

/// A schema that packages carry, with all that is known of it.
#[derive(Debug)]
pub struct Schema {
    /// The SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// Exactly as the package carries it.
    pub text: String,
    /// Its own title; may be empty.
    pub title: String,
    /// How a credential of it authenticates.
    pub auth_kind: AuthKind,
    /// What limits or prevents validation, for people.
    pub warnings: Vec<String>,
    /// The validator, or why there is none.
    pub compiled: Result<Compiled, String>,
    /// A `GetSchemaResponse` without package, version and read state.
    body: Bytes,
}

/// A schema that documents can be checked against.
#[derive(Debug)]
pub struct Compiled {
    /// Made for this schema.
    pub(crate) validator: Validator,
    /// The dialect it is read as.
    pub(crate) draft: Draft,
    /// The schema itself.
    pub(crate) document: Value,
    /// Each property name that the schema mentions: the only names of a document that are surely no secrets.
    pub(crate) names: HashSet<String>,
}

// === impl Schema ===

impl Schema {
    /// Reads and compiles a schema; this never fails, but what is wrong is told in `warnings` and `compiled`.
    #[must_use]
    pub fn new(hash: String, text: String) -> Self {
        let mut warnings = Vec::new();
        let parsed = json::parse(&text, SCHEMA_LIMITS)
            .map_err(|error| format!("the schema is not usable JSON: {error}"));
        let at_root = |keyword: &str| {
            let value = parsed.as_ref().ok()?.get(keyword)?.as_str()?;
            Some(value.to_owned())
        };
        let title = at_root("title").unwrap_or_default();
        let auth_kind = match at_root("$comment") {
            Some(comment) if comment.eq_ignore_ascii_case("oauth2") => AuthKind::Oauth2,
            _ => AuthKind::Unspecified,
        };
        let compiled = parsed.and_then(|document| Compiled::new(document, &mut warnings));
        if let Err(reason) = &compiled {
            warnings.push(format!("documents cannot be validated: {reason}"));
        }
        let mut schema = Self {
            hash,
            text,
            title,
            auth_kind,
            warnings,
            compiled,
            body: Bytes::new(),
        };
        schema.body = schema.to_response().encode_to_vec().into();
        schema
    }

    /// The answer to `GetSchema` but for package, version and read state, encoded.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    fn to_response(&self) -> GetSchemaResponse {
        GetSchemaResponse {
            schema_json: self.text.clone(),
            etag: self.hash.clone(),
            auth_kind: self.auth_kind.into(),
            warnings: self.warnings.clone(),
            ..Default::default()
        }
    }
}

// === impl Compiled ===

impl Compiled {
    fn new(mut document: Value, warnings: &mut Vec<String>) -> Result<Self, String> {
        let draft = take_draft(&mut document, warnings);
        weigh_compiling(&document).map_err(|TooMuch| {
            "its references are too many, or lead too deep, to be followed".to_owned()
        })?;
        let options = jsonschema::options()
            .with_draft(draft)
            .should_validate_formats(true)
            .with_pattern_options(
                PatternOptions::fancy_regex().backtrack_limit(PATTERN_BACKTRACK_LIMIT),
            )
            .offline();
        let validator = options.build(&document).map_err(|error| match error.kind() {
            ValidationErrorKind::Referencing(error) => format!(
                "it has a reference that is not inside it, and references to elsewhere are never followed: {}",
                shown(&error.to_string())
            ),
            _ => format!(
                "it breaks the rules of its own dialect at `{}`: {}",
                shown(&error.instance_path().to_string()),
                shown(&error.to_string())
            ),
        })?;
        let mut names = HashSet::new();
        let mut formats = HashSet::new();
        collect(&document, &mut names, &mut formats);
        let mut unknown: Vec<_> = formats
            .into_iter()
            .filter(|format| !options.is_known_format(draft, format))
            .collect();
        if !unknown.is_empty() {
            unknown.sort_unstable();
            unknown.truncate(MAX_LISTED_FORMATS);
            let unknown: Vec<_> = unknown.iter().map(|format| shown(format)).collect();
            warnings.push(format!(
                "values are not checked against these unknown formats: {}",
                unknown.join(", ")
            ));
        }
        Ok(Self {
            validator,
            draft,
            document,
            names,
        })
    }
}

/// Finds the dialect and removes the keyword that states it, so that the many spellings of one dialect's address (http or
/// https, with or without `#`) are the same. A schema that states none is read as draft-07, which is what packages mean.
fn take_draft(document: &mut Value, warnings: &mut Vec<String>) -> Draft {
    const DEFAULT: Draft = Draft::Draft7;
    let Some(stated) = document
        .as_object_mut()
        .and_then(|object| object.shift_remove("$schema"))
    else {
        return DEFAULT;
    };
    let address = stated.as_str().unwrap_or_default().trim();
    match Draft::from_schema_uri(address.trim_end_matches(['#', '/'])) {
        Draft::Unknown => {
            warnings.push(format!(
                "its `$schema` is unknown ({}); it is read as draft-07",
                shown(address)
            ));
            DEFAULT
        }
        draft => draft,
    }
}

/// What a schema says, in words for people: cut, and with control characters in their written form.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (at, char) in text.chars().enumerate() {
        if at == MAX_SHOWN_CHARS {
            shown.push('…');
            break;
        }
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Gathers the property names and the formats that a schema mentions anywhere.
fn collect(schema: &Value, names: &mut HashSet<String>, formats: &mut HashSet<String>) {
    match schema {
        Value::Object(object) => {
            for (keyword, value) in object {
                match (keyword.as_str(), value) {
                    (
                        "properties" | "dependencies" | "dependentRequired" | "dependentSchemas",
                        Value::Object(map),
                    ) => {
                        names.extend(map.keys().cloned());
                    }
                    ("required", Value::Array(list)) => {
                        names.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    ("format", Value::String(format)) => {
                        formats.insert(format.clone());
                    }
                    _ => {}
                }
                collect(value, names, formats);
            }
        }
        Value::Array(list) => {
            for value in list {
                collect(value, names, formats);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        Schema::new("hash".into(), text.into())
    }

    #[test]
    fn each_spelling_of_a_dialect_is_known() {
        for address in [
            "http://json-schema.org/draft-07/schema#",
            "http://json-schema.org/draft-07/schema",
            "https://json-schema.org/draft-07/schema#",
            "https://json-schema.org/draft-07/schema",
            "https://json-schema.org/draft/2020-12/schema",
            "http://json-schema.org/draft/2019-09/schema#",
            "http://json-schema.org/draft-04/schema#",
        ] {
            let found = schema(&format!(r#"{{"$schema":"{address}","type":"object"}}"#));
            assert!(found.compiled.is_ok(), "{address}: {:?}", found.compiled);
            assert_eq!(found.warnings, Vec::<String>::new(), "{address}");
        }
        let odd = schema(r#"{"$schema":"https://example.com/own","type":"object"}"#);
        assert!(odd.compiled.is_ok());
        assert!(odd.warnings[0].contains("https://example.com/own"));
    }

    #[test]
    fn an_unusable_schema_is_served_but_says_why() {
        for (text, word) in [
            ("{", "JSON"),
            ("[1]", "rules"),
            (r#"{"type":"strin"}"#, "rules"),
            (r#"{"$ref":"http://127.0.0.1:1/x.json"}"#, "never followed"),
            (r#"{"$ref":"file:///etc/passwd"}"#, "never followed"),
            (r##"{"$ref":"#/definitions/gone"}"##, "never followed"),
            (
                r#"{"properties":{"a":{"$id":"http://127.0.0.1:1/","$ref":"b.json"},"c":{"$ref":"other.json"}}}"#,
                "never followed",
            ),
            (&"[".repeat(100), "JSON"),
        ] {
            let found = schema(text);
            let reason = found.compiled.as_ref().expect_err(text);
            assert!(reason.contains(word), "{text}: {reason}");
            assert!(found.warnings.iter().any(|warning| warning.contains(word)));
            let body = GetSchemaResponse::decode(found.body()).expect("decodes");
            assert_eq!(body.schema_json, text);
            assert_eq!(body.warnings, found.warnings);
        }
    }

    /// Each took the process down when it arrived: by the stack of the thread that compiles, or by its memory.
    #[test]
    fn rule_2_a_schema_that_would_take_the_process_down_is_served_and_not_compiled() {
        for (length, link) in [
            (
                300,
                r##"{"allOf":[{"$ref":"#/$defs/N"}],"unevaluatedProperties":false}"##,
            ),
            (
                30,
                r##"{"allOf":[{"$ref":"#/$defs/N"},{"$ref":"#/$defs/N"}],"unevaluatedItems":false}"##,
            ),
        ] {
            let links: Vec<String> = (0..length)
                .map(|at| format!(r#""{at}":{}"#, link.replace('N', &(at + 1).to_string())))
                .collect();
            let text = format!(
                r##"{{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{{{},"{length}":{{}}}},"$ref":"#/$defs/0"}}"##,
                links.join(",")
            );
            let found = schema(&text);
            let reason = found.compiled.expect_err("too much");
            assert!(reason.contains("references"), "{reason}");
            assert_eq!(found.text, text);
        }
    }

    #[test]
    fn rule_13_what_a_schema_says_of_its_authentication_is_found() {
        let found = schema(
            r#"{"$comment":"OAuth2","title":"T","properties":{"a":{"format":"made-up"}},"required":["b"]}"#,
        );
        assert_eq!(found.auth_kind, AuthKind::Oauth2);
        assert_eq!(found.title, "T");
        assert!(found.warnings[0].contains("made-up"));
        let compiled = found.compiled.expect("usable");
        assert!(compiled.names.contains("a") && compiled.names.contains("b"));
        let none = schema(r#"{"$comment":"Basic"}"#);
        assert_eq!(none.auth_kind, AuthKind::Unspecified);
    }
}
