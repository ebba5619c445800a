//! `.npmrc` as npm reads it: lines of `key = value`, comments, quotes, escapes and `${VARIABLE}`.

use std::collections::BTreeMap;

/// Reads the settings of one file; a later line wins over an earlier one. `variable` looks up the environment.
pub(super) fn parse(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for line in text.split(['\r', '\n']) {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            // What follows belongs to a section, and nothing that npm reads for a registry lives in one.
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, "true"));
        let key = expand(&plain(key), &variable);
        if !key.is_empty() {
            settings.insert(key, expand(&plain(value), &variable));
        }
    }
    settings
}

/// Undoes quotes, or else escapes and a comment at the end.
fn plain(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        let inner = text
            .strip_prefix(quote)
            .and_then(|text| text.strip_suffix(quote));
        if let Some(inner) = inner {
            // As npm has it: text in double quotes is a JSON string if it is one, and otherwise stands as it is.
            return match quote {
                '"' => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
                _ => inner.to_owned(),
            };
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ';' | '#' => break,
            '\\' => out.push(
                chars
                    .next_if(|next| matches!(next, '\\' | ';' | '#'))
                    .unwrap_or('\\'),
            ),
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

/// Replaces `${NAME}` by the variable, or leaves it if there is none; `${NAME?}` is empty then. A backslash before it keeps it.
fn expand(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        let Some(end) = from.find('}') else { break };
        let (reference, after) = from.split_at(end + 1);
        let name = &reference[2..end];
        let (name, optional) = match name.strip_suffix('?') {
            Some(name) => (name, true),
            None => (name, false),
        };
        if let Some(before) = before.strip_suffix('\\') {
            out.push_str(before);
            out.push_str(reference);
        } else {
            out.push_str(before);
            match variable(name) {
                Some(value) => out.push_str(&value),
                None if optional => {}
                None => out.push_str(reference),
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> BTreeMap<String, String> {
        parse(text, |name| (name == "TOKEN").then(|| "s3cret".to_owned()))
    }

    #[test]
    fn lines_are_read_as_npm_reads_them() {
        let settings = read(concat!(
            "; a comment\n# another\n\n",
            "registry = https://npm.example/ ; not this\r\n",
            "@acme:registry=\"https://acme.example/npm/\"\n",
            "quoted='a b'\n",
            "escaped=a\\;b\\#c\\\\d\\e\n",
            "flag\n",
            "twice=1\ntwice=2\n",
            "=nothing\n",
            "[section]\nregistry=https://wrong.example/\n",
        ));
        for (key, value) in [
            ("registry", "https://npm.example/"),
            ("@acme:registry", "https://acme.example/npm/"),
            ("quoted", "a b"),
            ("escaped", "a;b#c\\d\\e"),
            ("flag", "true"),
            ("twice", "2"),
        ] {
            assert_eq!(settings.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(settings.len(), 6);
    }

    #[test]
    fn variables_are_expanded_in_keys_and_values() {
        let settings = read(concat!(
            "//npm.example/:_authToken=${TOKEN}\n",
            "both=a${TOKEN}b${TOKEN}c\n",
            "missing=${ABSENT}\n",
            "optional=x${ABSENT?}y\n",
            "kept=\\${TOKEN}\n",
            "open=${TOKEN\n",
            "key-${TOKEN}=1\n",
        ));
        for (key, value) in [
            ("//npm.example/:_authToken", "s3cret"),
            ("both", "as3cretbs3cretc"),
            ("missing", "${ABSENT}"),
            ("optional", "xy"),
            ("kept", "${TOKEN}"),
            ("open", "${TOKEN"),
            ("key-s3cret", "1"),
        ] {
            assert_eq!(settings.get(key).map(String::as_str), Some(value), "{key}");
        }
    }
}
