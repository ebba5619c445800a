//! Merges defaults, file, environment and flags into one flat map, and refuses keys that nobody reads.

use std::{collections::BTreeMap, path::Path};

use toml::de::DeTable;

use super::{
    DEFAULTS, ENV_PREFIX,
    error::{ConfigError, Origin},
    value::{Lines, Located, Value},
};

/// What is in force for one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// By `section.key`.
pub(super) type Settings = BTreeMap<String, Setting>;

/// The sources of packages.
pub(super) const SOURCES: &str = "catalog.source";

/// How values are compared.
pub(super) const COMPARATORS: &str = "drift.comparator";

/// What the server itself lists.
pub(super) const INVENTORIES: &str = "drift.inventory";

/// The keys that are lists of tables. The defaults show them in comments only: an empty list there could not be followed by
/// `[[catalog.source]]` blocks.
pub(super) const TABLES: [&str; 3] = [SOURCES, COMPARATORS, INVENTORIES];

/// Names further apart than this are not suggested.
const LEAST_SIMILARITY: f64 = 0.6;

/// A configuration file is a page of text; something larger is another file, named by mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Layers {
    pub(super) settings: Settings,
    /// The defaults alone, which tell the type of each key and what a value goes back to.
    pub(super) defaults: Settings,
    pub(super) errors: Vec<ConfigError>,
}

// === impl Layers ===

impl Layers {
    pub(super) fn defaults() -> Self {
        let lines = Lines(DEFAULTS);
        let document = DeTable::parse(DEFAULTS).expect("the embedded defaults are valid TOML");
        let mut settings = Settings::new();
        for (section, table) in document.get_ref() {
            for (key, value) in table.get_ref().as_table().into_iter().flatten() {
                settings.insert(
                    format!("{}.{}", section.get_ref(), key.get_ref()),
                    Setting {
                        value: Value::of(value.get_ref(), &lines),
                        origin: Origin::Default,
                    },
                );
            }
        }
        for table in TABLES {
            let none = Setting {
                value: Value::List(Vec::new()),
                origin: Origin::Default,
            };
            settings.insert(table.to_owned(), none);
        }
        Self {
            defaults: settings.clone(),
            settings,
            errors: Vec::new(),
        }
    }

    pub(super) fn read_file(&mut self, path: &Path) {
        let text = std::fs::metadata(path).and_then(|metadata| {
            if metadata.len() > MAX_FILE_BYTES {
                return Err(std::io::Error::other(format!(
                    "it has {} bytes, and a configuration file at most {MAX_FILE_BYTES}",
                    metadata.len()
                )));
            }
            std::fs::read_to_string(path)
        });
        match text {
            Ok(text) => self.add_file(path, &text),
            Err(error) => self.errors.push(ConfigError {
                path: path.display().to_string(),
                origin: Origin::Flag,
                found: error.to_string(),
                allowed: "a readable TOML file".to_owned(),
                remedy: "name another file with --config, or write a new one with `steadfast init`"
                    .to_owned(),
            }),
        }
    }

    pub(super) fn add_file(&mut self, path: &Path, text: &str) {
        let lines = Lines(text);
        let origin = |line| Origin::File {
            path: path.to_owned(),
            line,
        };
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        let mut broken_lines = Vec::new();
        for error in &syntax_errors {
            let line = lines.line(error.span().map_or(0, |span| span.start));
            // One slip of the pen makes the parser stumble several times on one line.
            if broken_lines.contains(&line) {
                continue;
            }
            broken_lines.push(line);
            // The message, and not the source line: that may hold a password.
            self.errors.push(ConfigError {
                path: "syntax".to_owned(),
                origin: origin(line),
                found: error.message().to_owned(),
                allowed: "TOML: `key = value` lines under `[section]` headers, texts in quotes"
                    .to_owned(),
                remedy: "correct this line".to_owned(),
            });
        }
        for (section, table) in document.get_ref() {
            let section = section.get_ref().as_ref();
            let section_line = lines.line(table.span().start);
            if !self.has_section(section) {
                if !broken_lines.contains(&section_line) {
                    self.refuse_section(section, origin(section_line));
                }
                continue;
            }
            let Some(entries) = table.get_ref().as_table() else {
                self.errors.push(ConfigError {
                    path: section.to_owned(),
                    origin: origin(section_line),
                    found: Value::of(table.get_ref(), &lines).kind().to_owned(),
                    allowed: format!("a section: `[{section}]` followed by its keys"),
                    remedy: format!("write keys of this section under `[{section}]`"),
                });
                continue;
            };
            for (key, value) in entries {
                let located = Located::of(value, &lines);
                let key_line = lines.line(key.span().start);
                // What a broken line was taken for is not worth a second complaint.
                if broken_lines.contains(&located.line) || broken_lines.contains(&key_line) {
                    continue;
                }
                let path = format!("{section}.{}", key.get_ref());
                self.set(path, located.value, origin(key_line));
            }
        }
    }

    pub(super) fn add_env(&mut self, variables: Vec<(String, String)>) {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let origin = Origin::Env(name.clone());
            if let Some((section, key)) = rest.split_once("__") {
                let path = format!(
                    "{}.{}",
                    section.to_ascii_lowercase(),
                    key.to_ascii_lowercase()
                );
                self.set_text(path, &text, origin);
            } else if let Some(path) = self.path_with_one_underscore(rest) {
                // Other variables with the prefix are not ours to refuse: STEADFAST_ENDPOINT is the client's, and a cluster
                // manager sets STEADFAST_PORT and the like for a service of that name.
                self.errors.push(ConfigError {
                    found: format!("one underscore between section and key of {path}"),
                    allowed: "two underscores".to_owned(),
                    remedy: format!("rename it to {}", variable(&path)),
                    path,
                    origin,
                });
            }
        }
    }

    pub(super) fn add_flags(&mut self, flags: Vec<(String, String)>) {
        for (path, text) in flags {
            self.set_text(path, &text, Origin::Flag);
        }
    }

    fn set_text(&mut self, path: String, text: &str, origin: Origin) {
        let value = match self.defaults.get(&path) {
            Some(default) => Value::of_text(text, &default.value),
            None => Value::Text(text.to_owned()),
        };
        self.set(path, value, origin);
    }

    fn set(&mut self, path: String, value: Value, origin: Origin) {
        if self.defaults.contains_key(&path) {
            self.settings.insert(path, Setting { value, origin });
        } else {
            self.refuse_key(path, origin);
        }
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        let mut last = "";
        self.defaults.keys().filter_map(move |path| {
            let section = path.split('.').next().unwrap_or_default();
            (section != std::mem::replace(&mut last, section)).then_some(section)
        })
    }

    fn has_section(&self, section: &str) -> bool {
        self.sections().any(|known| known == section)
    }

    fn keys<'a>(&'a self, section: &str) -> impl Iterator<Item = &'a str> {
        let prefix = format!("{section}.");
        self.defaults
            .keys()
            .filter_map(move |path| path.strip_prefix(&prefix))
    }

    fn path_with_one_underscore(&self, rest: &str) -> Option<String> {
        let rest = rest.to_ascii_lowercase();
        self.defaults
            .keys()
            .find(|path| path.replace('.', "_") == rest)
            .cloned()
    }

    fn refuse_section(&mut self, section: &str, origin: Origin) {
        let known: Vec<_> = self.sections().collect();
        let remedy = self
            .defaults
            .keys()
            .find(|path| path.ends_with(&format!(".{section}")))
            .map(|path| format!("it is a key: {path}"))
            .or_else(|| {
                nearest(section, known.iter().copied())
                    .map(|name| format!("did you mean [{name}]?"))
            })
            .unwrap_or_else(|| "remove it".to_owned());
        self.errors.push(ConfigError {
            path: section.to_owned(),
            origin,
            found: "an unknown section".to_owned(),
            allowed: known.join(", "),
            remedy,
        });
    }

    fn refuse_key(&mut self, path: String, origin: Origin) {
        let (section, key) = path.split_once('.').unwrap_or((&path, ""));
        if !self.has_section(section) {
            let section = section.to_owned();
            self.refuse_section(&section, origin);
            return;
        }
        let elsewhere = self
            .defaults
            .keys()
            .find(|known| known.split_once('.').is_some_and(|(_, name)| name == key));
        let remedy = match (elsewhere, nearest(key, self.keys(section))) {
            (Some(elsewhere), _) => format!("did you mean {elsewhere}?"),
            (None, Some(near)) => format!("did you mean {section}.{near}?"),
            (None, None) => "remove it".to_owned(),
        };
        self.errors.push(ConfigError {
            found: "an unknown key".to_owned(),
            allowed: format!(
                "{section}: {}",
                self.keys(section).collect::<Vec<_>>().join(", ")
            ),
            remedy,
            path,
            origin,
        });
    }
}

/// The environment variable of a key.
pub(super) fn variable(path: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        path.replace('.', "__").to_ascii_uppercase()
    )
}

/// The most similar of the known names, if any is similar enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    known
        .map(|other| (similarity(other), other))
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}
