//! Writes a configuration out again.

use super::{
    DEFAULTS,
    error::Origin,
    layers::{Settings, TABLES},
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
            print_tables(section, settings, &mut lines);
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
    print_tables(section, settings, &mut lines);
    lines.join("\n") + "\n"
}

/// The blocks of a section.
fn print_tables(section: &str, settings: &Settings, lines: &mut Vec<String>) {
    for table in TABLES {
        if table.split('.').next() == Some(section) {
            print_table(table, settings, lines);
        }
    }
}

fn print_table(table: &str, settings: &Settings, lines: &mut Vec<String>) {
    let Some(setting) = settings.get(table) else {
        return;
    };
    let Value::List(blocks) = &setting.value else {
        return;
    };
    for block in blocks {
        let Value::Table(entries) = &block.value else {
            continue;
        };
        let origin = match &setting.origin {
            Origin::File { path, .. } => Origin::File {
                path: path.clone(),
                line: block.line,
            },
            other => other.clone(),
        };
        lines.push(format!("\n[[{table}]] # {origin}"));
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
