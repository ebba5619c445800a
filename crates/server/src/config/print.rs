//! Writes a configuration out again.

use super::{
    DEFAULTS,
    error::Origin,
    layers::{SOURCES, Settings},
    reader::DATABASE_URL,
    url::redact,
    value::Value,
};

/// The sections and keys in the order of the defaults, each with where its value came from.
pub(super) fn print(settings: &Settings) -> String {
    let mut lines = Vec::new();
    let mut section = "";
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            if section == "catalog" {
                print_sources(settings, &mut lines);
            }
            section = name.trim_end_matches(']');
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("[{section}]"));
        } else if let Some(key) = key_of(line) {
            let path = format!("{section}.{key}");
            let Some(setting) = settings.get(&path) else {
                continue;
            };
            let value = match &setting.value {
                Value::Text(url) if path == DATABASE_URL => Value::Text(redact(url)),
                other => other.clone(),
            };
            lines.push(match &setting.origin {
                Origin::Default => format!("{key} = {value}"),
                origin => format!("{key} = {value} # {origin}"),
            });
        }
    }
    lines.join("\n") + "\n"
}

fn print_sources(settings: &Settings, lines: &mut Vec<String>) {
    let Some(setting) = settings.get(SOURCES) else {
        return;
    };
    let Value::List(sources) = &setting.value else {
        return;
    };
    for source in sources {
        let Value::Table(entries) = &source.value else {
            continue;
        };
        let origin = match &setting.origin {
            Origin::File { path, .. } => Origin::File {
                path: path.clone(),
                line: source.line,
            },
            other => other.clone(),
        };
        lines.push(format!("\n[[{SOURCES}]] # {origin}"));
        lines.extend(
            entries
                .iter()
                .map(|(key, value)| format!("{key} = {}", value.value)),
        );
    }
}

/// The file that `steadfast init` writes: the defaults with their explanations, each key commented out, so that what is not
/// changed follows the defaults of later versions too.
#[must_use]
pub fn init_file() -> String {
    let mut out = String::with_capacity(DEFAULTS.len() + 256);
    for line in DEFAULTS.lines() {
        if key_of(line).is_some() {
            out.push_str("# ");
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The key that a line of the defaults sets.
pub(super) fn key_of(line: &str) -> Option<&str> {
    if line.starts_with('#') {
        return None;
    }
    line.split_once(" = ").map(|(key, _)| key)
}
