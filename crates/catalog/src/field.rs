//! What a schema says about one place of a document: its title, and whether it holds a secret.

use serde_json::Value;

/// How many schemas are considered for one place, over all references and alternatives.
const MAX_CANDIDATES: usize = 256;

/// What a schema says about a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Field {
    /// The schema's title for it; may be empty.
    pub(crate) title: String,
    /// It, or something around it, is `writeOnly`.
    pub(crate) secret: bool,
}

/// Looks a place up. Where the schema offers alternatives all of them are considered: the first title counts, and one
/// `writeOnly` makes it a secret.
pub(crate) fn describe(schema: &Value, path: &[String]) -> Field {
    let mut candidates = expand(schema, vec![schema]);
    let mut secret = is_secret(&candidates);
    for token in path {
        let next = candidates
            .iter()
            .flat_map(|candidate| step(candidate, token))
            .collect();
        candidates = expand(schema, next);
        secret |= is_secret(&candidates);
    }
    let title = candidates
        .iter()
        .find_map(|candidate| candidate.get("title")?.as_str())
        .unwrap_or_default()
        .to_owned();
    Field { title, secret }
}

/// The property names that the schema declares at a place: what a misspelt one may have meant.
pub(crate) fn declared_names<'a>(schema: &'a Value, path: &[String]) -> Vec<&'a str> {
    let mut candidates = expand(schema, vec![schema]);
    for token in path {
        let next = candidates
            .iter()
            .flat_map(|candidate| step(candidate, token))
            .collect();
        candidates = expand(schema, next);
    }
    candidates
        .into_iter()
        .filter_map(|candidate| candidate.get("properties")?.as_object())
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect()
}

fn is_secret(candidates: &[&Value]) -> bool {
    candidates
        .iter()
        .any(|candidate| candidate.get("writeOnly") == Some(&Value::Bool(true)))
}

/// Adds what references and alternatives lead to.
fn expand<'a>(root: &'a Value, mut candidates: Vec<&'a Value>) -> Vec<&'a Value> {
    let mut index = 0;
    while index < candidates.len() && candidates.len() < MAX_CANDIDATES {
        let candidate = candidates[index];
        let mut found = Vec::new();
        if let Some(pointer) = candidate
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| reference.strip_prefix('#'))
        {
            found.extend(root.pointer(pointer));
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            found.extend(
                candidate
                    .get(keyword)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
        }
        found.extend(
            ["then", "else"]
                .iter()
                .filter_map(|keyword| candidate.get(keyword)),
        );
        for schema in found {
            if !candidates.iter().any(|known| std::ptr::eq(*known, schema)) {
                candidates.push(schema);
            }
        }
        index += 1;
    }
    candidates
}

/// The schemas of one property or item.
fn step<'a>(schema: &'a Value, token: &str) -> Vec<&'a Value> {
    if let Some(property) = schema.get("properties").and_then(|found| found.get(token)) {
        return vec![property];
    }
    let mut found: Vec<&Value> = schema
        .get("patternProperties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|patterns| patterns.values())
        .collect();
    found.extend(schema.get("additionalProperties"));
    if let Ok(index) = token.parse::<usize>() {
        for keyword in ["items", "prefixItems"] {
            match schema.get(keyword) {
                Some(Value::Array(items)) => found.extend(items.get(index)),
                Some(items) => found.push(items),
                None => {}
            }
        }
        found.extend(schema.get("additionalItems"));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn titles_and_secrets_are_found_through_references_and_alternatives() {
        let schema = json!({
            "definitions": {"token": {"title": "Token", "writeOnly": true}, "loop": {"$ref": "#/definitions/loop"}},
            "properties": {
                "a": {"title": "A", "type": "object", "properties": {"t": {"$ref": "#/definitions/token"}}},
                "b": {"anyOf": [{"type": "null"}, {"title": "B", "writeOnly": true}]},
                "s": {"writeOnly": true, "properties": {"inner": {"title": "Inner"}}},
                "l": {"items": {"title": "Item"}},
                "r": {"$ref": "#/definitions/loop"},
            },
            "additionalProperties": {"title": "Other"},
        });
        let describe = |path: &[&str]| {
            let path: Vec<_> = path.iter().map(|token| (*token).to_owned()).collect();
            let field = super::describe(&schema, &path);
            (field.title, field.secret)
        };
        assert_eq!(describe(&["a"]), ("A".into(), false));
        assert_eq!(describe(&["a", "t"]), ("Token".into(), true));
        assert_eq!(describe(&["b"]), ("B".into(), true));
        assert_eq!(describe(&["s", "inner"]), ("Inner".into(), true));
        assert_eq!(describe(&["l", "3"]), ("Item".into(), false));
        assert_eq!(describe(&["r"]), (String::new(), false));
        assert_eq!(describe(&["zzz"]), ("Other".into(), false));
        assert_eq!(describe(&["a", "b", "c"]), (String::new(), false));
        assert_eq!(declared_names(&schema, &["a".into()]), ["t"]);
    }
}
