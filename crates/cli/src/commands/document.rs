//! Documents in files: JSON as it is, TOML as the JSON that says the same.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    commands::publish::read_file,
    failure::{Exit, Failure},
    table::clean,
};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Toml,
}

/// The file's document; `-` reads standard input.
pub(crate) fn read(path: &Path) -> Result<Value, Failure> {
    document_in(path, read_file(path)?)
}

/// The file's document, which has to be an object, as JSON: JSON as it was written, so that no digit of it is lost.
pub(crate) fn read_object_text(path: &Path) -> Result<String, Failure> {
    let bytes = read_file(path)?;
    if let Ok(text) = std::str::from_utf8(&bytes)
        && let Ok(Value::Object(_)) = serde_json::from_str(text)
    {
        return Ok(text.to_owned());
    }
    Ok(Value::Object(object_in(path, bytes)?).to_string())
}

/// The file's document, which has to be an object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, Failure> {
    object_in(path, read_file(path)?)
}

fn object_in(path: &Path, bytes: Vec<u8>) -> Result<Map<String, Value>, Failure> {
    match document_in(path, bytes)? {
        Value::Object(object) => Ok(object),
        _ => Err(Failure::new(
            Exit::Usage,
            format!("{}: it must hold an object", path.display()),
        )),
    }
}

fn document_in(path: &Path, bytes: Vec<u8>) -> Result<Value, Failure> {
    let wrong = |message: String| {
        Failure::new(
            Exit::Usage,
            format!("{}: {}", path.display(), clean(&message)),
        )
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    parse(&text, form(path, &text)).map_err(wrong)
}

/// By the file's name; without a telling one, by the first character.
fn form(path: &Path, text: &str) -> Form {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Form::Json,
        Some("toml") => Form::Toml,
        // A TOML file can begin with `[`, but then it names a table, and no value follows that bracket.
        _ => match serde_json::from_str::<Value>(text) {
            Ok(_) => Form::Json,
            Err(_) if text.trim_start().starts_with('{') => Form::Json,
            Err(_) => Form::Toml,
        },
    }
}

fn parse(text: &str, form: Form) -> Result<Value, String> {
    match form {
        Form::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
        Form::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|error| {
                let line = error
                    .span()
                    .map(|span| text[..span.start].lines().count().max(1));
                match line {
                    Some(line) => format!("line {line}: {}", error.message()),
                    None => error.message().to_owned(),
                }
            })?;
            of_toml(toml::Value::Table(table))
        }
    }
}

fn of_toml(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| format!("{number} has no form in JSON"))?,
        toml::Value::Boolean(value) => value.into(),
        // JSON has no times: RFC 3339 text, as everywhere in the API.
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(of_toml).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(key, value)| Ok((key, of_toml(value)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "\
name = \"provision\"
version = 3

[[steps]]
name = \"z\"
undo = \"none\"
timeouts.running_ms = 500
retry = { multiplier = 1.5 }
[steps.action.builtin]
name = \"noop\"
input.z = \"{{ inputs.z }}\"
input.a = [1, 2020-01-01T00:00:00Z]
";

    #[test]
    fn toml_becomes_json_with_its_keys_in_order() {
        let value = parse(TOML, Form::Toml).expect("it is TOML");
        assert_eq!(
            value.to_string(),
            r#"{"name":"provision","version":3,"steps":[{"name":"z","undo":"none","timeouts":{"running_ms":500},"retry":{"multiplier":1.5},"action":{"builtin":{"name":"noop","input":{"z":"{{ inputs.z }}","a":[1,"2020-01-01T00:00:00Z"]}}}}]}"#
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let error = parse("a = 1\nb = \n", Form::Toml).expect_err("no value");
        assert!(error.contains("line 2"), "{error}");
        let error = parse("{\n \"a\": }", Form::Json).expect_err("no value");
        assert!(error.contains("line 2"), "{error}");
        let error = parse("a = nan", Form::Toml).expect_err("no number");
        assert!(error.contains("JSON"), "{error}");
    }

    #[test]
    fn the_form_is_told_by_the_name_or_the_text() {
        for (name, text, expected) in [
            ("a.json", "", Form::Json),
            ("a.toml", "{", Form::Toml),
            ("-", " {\"a\": 1}", Form::Json),
            ("-", "{ broken", Form::Json),
            ("-", "[1]", Form::Json),
            ("-", "[[steps]]\nname = \"a\"", Form::Toml),
            ("a", "name = \"a\"", Form::Toml),
        ] {
            assert_eq!(form(Path::new(name), text), expected, "{name} {text}");
        }
    }
}
