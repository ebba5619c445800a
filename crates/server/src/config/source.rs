//! The `[[catalog.source]]` blocks.

use std::collections::BTreeMap;

use steadfast_catalog::Patterns;
use steadfast_upstream::{IconTemplate, PackageName, UrlTemplate};

use super::{
    blocks::{Block, Blocks},
    layers::SOURCES,
    local::{self, LocalSource},
    reader::Reader,
    sections::is_http,
    url::redact,
    value::{Located, Value},
};

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The operator's name for it, unique.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a process has a few, which are never moved"
)]
pub enum SourceKind {
    /// A registry that speaks npm's protocol.
    Npm(NpmSource),
    /// Folders of this machine.
    Local(LocalSource),
}

/// A registry, and what is taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpmSource {
    /// The registry's address; `None` to take it from the npm configuration.
    pub registry: Option<String>,
    /// Packages by their exact names; no package is named by two sources.
    pub names: Vec<String>,
    /// Every package of this organisation or user.
    pub organization: Option<String>,
    /// What a search for this finds.
    pub search: Option<String>,
    /// Of the last two, only names that one of these fits; all if there is none.
    pub include: Vec<String>,
    /// Of the last two, no name that one of these fits.
    pub exclude: Vec<String>,
    /// Where schemas are read; `None` for tarballs.
    pub schema_url: Option<String>,
    /// Where their icons are, if anywhere.
    pub icons: Option<IconTemplate>,
}

/// Keys of a block.
pub(super) const KEYS: [&str; 11] = [
    "name",
    "type",
    "registry",
    "names",
    "organization",
    "search",
    "include",
    "exclude",
    "schema_url",
    "icon_url",
    "short_prefix",
];

const MAX_SOURCES: usize = 64;
const MAX_NAMES: usize = 10_000;
const MAX_PATTERNS: usize = 100;
const MAX_SEARCH_BYTES: usize = 256;
const MAX_SOURCE_NAME_BYTES: usize = 64;

/// Reads the blocks one after another, and remembers which source took which package.
struct Sources<'r> {
    blocks: Blocks<'r>,
    names: BTreeMap<String, usize>,
    owners: BTreeMap<String, String>,
}

pub(super) fn read(reader: &mut Reader) -> Vec<Source> {
    let (mut blocks, value) = Blocks::of(reader, SOURCES);
    let Value::List(items) = value else {
        let found = value.kind().to_owned();
        blocks.refuse(
            SOURCES,
            None,
            found,
            "a list of tables",
            "begin each source with [[catalog.source]], in double brackets",
        );
        return Vec::new();
    };
    if items.len() > MAX_SOURCES {
        let found = format!("{} sources", items.len());
        blocks.refuse(
            SOURCES,
            None,
            found,
            &format!("at most {MAX_SOURCES}"),
            "put packages of one registry into one source",
        );
        return Vec::new();
    }
    let mut sources = Sources {
        blocks,
        names: BTreeMap::new(),
        owners: BTreeMap::new(),
    };
    let items = items.iter().enumerate();
    items
        .filter_map(|(index, item)| sources.read(index, item))
        .collect()
}

// === impl Sources ===

impl Sources<'_> {
    fn read(&mut self, index: usize, item: &Located) -> Option<Source> {
        let block = self.blocks.block(SOURCES, index, item)?;
        let is_local = self.read_type(&block) == Some("local");
        if is_local {
            let instead = "remove it, and name folders in roots";
            self.blocks
                .refuse_unknown(&block, &local::KEYS, &[], instead);
            let name = self.read_name(&block, index);
            let local = local::read(&mut self.blocks, &block);
            return Some(Source {
                name,
                kind: SourceKind::Local(local),
            });
        }
        self.blocks.refuse_unknown(&block, &KEYS, &[], "remove it");
        let name = self.read_name(&block, index);
        let registry = self.read_registry(&block);
        let organization = self.read_organization(&block);
        let search = self.read_search(&block);
        let names = self.read_names(&block, &name);
        let include = self.read_patterns(&block, "include");
        let exclude = self.read_patterns(&block, "exclude");
        let schema_url = self.read_schema_url(&block);
        let icons = self.read_icons(&block);
        Some(Source {
            name,
            kind: SourceKind::Npm(NpmSource {
                registry,
                names,
                organization,
                search,
                include,
                exclude,
                schema_url,
                icons,
            }),
        })
    }

    fn read_organization(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write for example organization = \"openfn\"";
        let (text, line) = self.blocks.text(block, "organization", remedy)?;
        let name = text.trim_start_matches('@');
        if PackageName::parse(&format!("@{name}/any")).is_err() {
            let path = format!("{}.organization", block.path);
            let allowed = "the name of an organisation or user";
            let found = format!("{text:?}");
            self.blocks
                .refuse(&path, Some(line), found, allowed, remedy);
        }
        Some(name.to_owned())
    }

    fn read_search(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write for example search = \"keywords:openfn\"";
        let (text, line) = self.blocks.text(block, "search", remedy)?;
        if text.trim().is_empty() || text.len() > MAX_SEARCH_BYTES {
            let path = format!("{}.search", block.path);
            let allowed = format!("1 to {MAX_SEARCH_BYTES} bytes");
            let found = format!("{} bytes", text.len());
            self.blocks
                .refuse(&path, Some(line), found, &allowed, remedy);
        }
        Some(text.to_owned())
    }

    fn read_patterns(&mut self, block: &Block<'_>, key: &str) -> Vec<String> {
        let Some(value) = block.get(key) else {
            return Vec::new();
        };
        let path = format!("{}.{key}", block.path);
        let line = Some(value.line);
        let allowed = format!("a list of 1 to {MAX_PATTERNS} patterns");
        let remedy = format!("write for example {key} = [\"language-*\"]");
        if block.get("organization").is_none() && block.get("search").is_none() {
            let found = "patterns for nothing".to_owned();
            let allowed = "with organization or search: what is in names is taken anyway";
            self.blocks.refuse(&path, line, found, allowed, "remove it");
            return Vec::new();
        }
        let items = match &value.value {
            Value::List(items) if (1..=MAX_PATTERNS).contains(&items.len()) => items,
            Value::List(items) => {
                let found = format!("{} patterns", items.len());
                self.blocks.refuse(&path, line, found, &allowed, &remedy);
                return Vec::new();
            }
            other => {
                let found = other.kind().to_owned();
                self.blocks.refuse(&path, line, found, &allowed, &remedy);
                return Vec::new();
            }
        };
        let mut patterns = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Value::Text(pattern) = &item.value else {
                let found = item.value.to_string();
                let allowed = "a pattern, in quotes";
                self.blocks
                    .refuse(&path, Some(item.line), found, allowed, "correct it");
                continue;
            };
            if let Err(error) = Patterns::new(std::slice::from_ref(pattern), &[]) {
                let allowed = format!("a pattern of names: {error}");
                let found = format!("{pattern:?}");
                self.blocks
                    .refuse(&path, Some(item.line), found, &allowed, "correct it");
            }
            patterns.push(pattern.clone());
        }
        patterns
    }

    fn read_schema_url(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write for example schema_url = \"https://cdn.example.com/{name}@{version}/configuration-schema.json\"";
        let (text, line) = self.blocks.text(block, "schema_url", remedy)?;
        if let Err(error) = UrlTemplate::parse(text) {
            let path = format!("{}.schema_url", block.path);
            let allowed =
                format!("an address with {{name}} or {{short}}, and {{version}}: {error}");
            let found = format!("\"{}\"", redact(text));
            self.blocks
                .refuse(&path, Some(line), found, &allowed, remedy);
        }
        Some(text.to_owned())
    }

    fn read_type<'v>(&mut self, block: &Block<'v>) -> Option<&'v str> {
        let remedy =
            "write type = \"npm\" for a registry, or type = \"local\" for folders of this machine";
        let (text, line) = self.blocks.required_text(block, "type", remedy)?;
        if !["npm", "local"].contains(&text) {
            let path = format!("{}.type", block.path);
            let found = format!("\"{text}\"");
            self.blocks
                .refuse(&path, Some(line), found, "npm, local", remedy);
        }
        Some(text)
    }

    fn read_name(&mut self, block: &Block<'_>, index: usize) -> String {
        let remedy = "write for example name = \"openfn\"";
        let Some((name, line)) = self.blocks.required_text(block, "name", remedy) else {
            return String::new();
        };
        let path = format!("{}.name", block.path);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_SOURCE_NAME_BYTES || !name.bytes().all(is_word) {
            let allowed = format!("1 to {MAX_SOURCE_NAME_BYTES} letters, digits, `.`, `_` and `-`");
            self.blocks
                .refuse(&path, Some(line), format!("{name:?}"), &allowed, remedy);
        } else if let Some(first) = self.names.insert(name.to_owned(), index) {
            let allowed = format!("a name of its own: {SOURCES}[{first}] has it already");
            self.blocks.refuse(
                &path,
                Some(line),
                format!("\"{name}\""),
                &allowed,
                "rename one of them",
            );
        }
        name.to_owned()
    }

    fn read_registry(&mut self, block: &Block<'_>) -> Option<String> {
        let value = block.get("registry")?;
        let path = format!("{}.registry", block.path);
        let allowed = "an http or https address without user and password";
        let remedy = "correct it, or remove it to use the npm configuration";
        let Value::Text(url) = &value.value else {
            let found = value.value.kind().to_owned();
            self.blocks
                .refuse(&path, Some(value.line), found, allowed, remedy);
            return None;
        };
        let found = || format!("\"{}\"", redact(url));
        if url.contains('@') {
            let remedy = "write the token or password into .npmrc, which is read for this address";
            self.blocks
                .refuse(&path, Some(value.line), found(), allowed, remedy);
        } else if !is_http(url) {
            self.blocks
                .refuse(&path, Some(value.line), found(), allowed, remedy);
        }
        Some(url.clone())
    }

    fn read_icons(&mut self, block: &Block<'_>) -> Option<IconTemplate> {
        let prefix = self.read_short_prefix(block);
        let value = block.get("icon_url")?;
        let path = format!("{}.icon_url", block.path);
        let allowed = "an http or https address with gaps for names";
        let remedy = "write for example icon_url = \"https://cdn.example/{short}/{shape}.{ext}\", or remove it";
        let Value::Text(text) = &value.value else {
            let found = value.value.kind().to_owned();
            self.blocks
                .refuse(&path, Some(value.line), found, allowed, remedy);
            return None;
        };
        match IconTemplate::parse(text, &prefix) {
            Ok(template) => Some(template),
            Err(problem) => {
                // What is refused may hold a password.
                let found = format!("\"{}\"", redact(text));
                let allowed = format!("{allowed}: {problem}");
                self.blocks
                    .refuse(&path, Some(value.line), found, &allowed, remedy);
                None
            }
        }
    }

    fn read_short_prefix(&mut self, block: &Block<'_>) -> String {
        let Some(value) = block.get("short_prefix") else {
            return String::new();
        };
        if let Value::Text(text) = &value.value
            && text.len() <= PackageName::LENGTH_MAX
        {
            return text.clone();
        }
        let path = format!("{}.short_prefix", block.path);
        let found = value.value.kind().to_owned();
        let remedy = "write for example short_prefix = \"language-\", or remove it";
        let allowed = "the beginning of a package's name, without its scope";
        self.blocks
            .refuse(&path, Some(value.line), found, allowed, remedy);
        String::new()
    }

    fn read_names(&mut self, block: &Block<'_>, source: &str) -> Vec<String> {
        let path = format!("{}.names", block.path);
        let allowed = format!("a list of 1 to {MAX_NAMES} package names");
        let remedy = "write for example names = [\"@openfn/language-http\"]";
        let Some(value) = block.get("names") else {
            if block.get("organization").is_some() || block.get("search").is_some() {
                return Vec::new();
            }
            let allowed = format!("{allowed}, or an organization, or a search");
            self.blocks.refuse(
                &path,
                Some(block.line),
                "nothing".to_owned(),
                &allowed,
                remedy,
            );
            return Vec::new();
        };
        let items = match &value.value {
            Value::List(items) if (1..=MAX_NAMES).contains(&items.len()) => items,
            Value::List(items) => {
                let found = format!("{} names", items.len());
                self.blocks
                    .refuse(&path, Some(value.line), found, &allowed, remedy);
                return Vec::new();
            }
            other => {
                self.blocks.refuse(
                    &path,
                    Some(value.line),
                    other.kind().to_owned(),
                    &allowed,
                    remedy,
                );
                return Vec::new();
            }
        };
        let mut names = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(name) = self.read_package_name(&path, item, source) {
                names.push(name);
            }
        }
        names
    }

    fn read_package_name(&mut self, path: &str, item: &Located, source: &str) -> Option<String> {
        let line = Some(item.line);
        let Value::Text(name) = &item.value else {
            let found = item.value.to_string();
            self.blocks
                .refuse(path, line, found, "a package name, in quotes", "correct it");
            return None;
        };
        if let Err(error) = PackageName::parse(name) {
            let allowed = format!(
                "a package name: {} at position {}",
                error.message, error.position
            );
            self.blocks.refuse(
                path,
                line,
                format!("{name:?}"),
                &allowed,
                "correct it; names carry no version",
            );
            return None;
        }
        if let Some(owner) = self.owners.insert(name.clone(), source.to_owned()) {
            let allowed = format!("each package once: source {owner} names it already");
            self.blocks.refuse(
                path,
                line,
                format!("\"{name}\""),
                &allowed,
                "remove it from one of them",
            );
            return None;
        }
        Some(name.clone())
    }
}
