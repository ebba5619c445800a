//! The `[[catalog.source]]` blocks.

use std::collections::BTreeMap;

use steadfast_upstream::{IconTemplate, PackageName};

use super::{
    blocks::{Block, Blocks},
    layers::SOURCES,
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
    /// What it is read from.
    pub kind: SourceKind,
}

/// What a source is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// An npm registry.
    Npm(NpmSource),
}

/// A registry and the packages that are taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpmSource {
    /// The registry's address; `None` to take it from the npm configuration.
    pub registry: Option<String>,
    /// The packages, by their exact names; no package is in two sources.
    pub names: Vec<String>,
    /// Where their icons are, if anywhere.
    pub icons: Option<IconTemplate>,
}

/// Keys of a block.
pub(super) const KEYS: [&str; 6] = [
    "name",
    "type",
    "registry",
    "names",
    "icon_url",
    "short_prefix",
];

/// Keys that a later version will bring; people find them in its documentation.
const LATER_KEYS: [(&str, &str); 4] = [
    ("organization", "taking every package of an organisation"),
    ("search", "taking the packages that a search finds"),
    ("include", "including packages by pattern"),
    ("exclude", "excluding packages by pattern"),
];

const MAX_SOURCES: usize = 64;
const MAX_NAMES: usize = 10_000;
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
        let instead = "remove it, and list the packages in names";
        self.blocks
            .refuse_unknown(&block, &KEYS, &LATER_KEYS, instead);
        self.read_type(&block);
        let name = self.read_name(&block, index);
        let registry = self.read_registry(&block);
        let names = self.read_names(&block, &name);
        let icons = self.read_icons(&block);
        let npm = NpmSource {
            registry,
            names,
            icons,
        };
        Some(Source {
            name,
            kind: SourceKind::Npm(npm),
        })
    }

    fn read_type(&mut self, block: &Block<'_>) {
        let remedy = "write type = \"npm\"";
        if let Some((text, line)) = self.blocks.required_text(block, "type", remedy)
            && text != "npm"
        {
            let path = format!("{}.type", block.path);
            self.blocks
                .refuse(&path, Some(line), format!("\"{text}\""), "npm", remedy);
        }
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
