//! The `[[drift.inventory]]` blocks: what the server itself lists.

use std::collections::BTreeMap;

use steadfast_drift::intake;

use super::{
    blocks::{Block, Blocks},
    catalog::{Schedule, time_zone},
    layers::INVENTORIES,
    reader::Reader,
    sections::is_http,
    url::redact,
    value::{Located, Value},
};

/// Something that lists what a provider runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventorySource {
    /// The operator's name for it, unique.
    pub name: String,
    /// What it speaks, and where.
    pub kind: InventorySourceKind,
    /// Whose resources it lists.
    pub provider: String,
    /// Of which types; none for all.
    pub types: Vec<String>,
    /// When by the clock; `None` for only when asked.
    pub schedule: Option<Schedule>,
}

/// What a source of inventories speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventorySourceKind {
    /// Pages of JSON from an address of the operator's own.
    Http {
        /// Where the first page is.
        url: String,
        /// The name of the secret that is sent as a bearer token.
        token: Option<String>,
    },
}

/// Keys of a block.
pub(super) const KEYS: [&str; 8] = [
    "name",
    "type",
    "provider",
    "types",
    "url",
    "token",
    "schedule",
    "time_zone",
];

const MAX_SOURCES: usize = 64;
const MAX_NAME_BYTES: usize = 64;
const MAX_TYPES: usize = 64;

/// Reads the blocks one after another, and remembers who has which name.
struct Inventories<'r> {
    blocks: Blocks<'r>,
    names: BTreeMap<String, usize>,
}

pub(super) fn read(reader: &mut Reader) -> Vec<InventorySource> {
    let (mut blocks, value) = Blocks::of(reader, INVENTORIES);
    let items = match &value {
        Value::List(items) if items.len() <= MAX_SOURCES => items,
        other => {
            let found = match other {
                Value::List(items) => format!("{} blocks", items.len()),
                other => other.kind().to_owned(),
            };
            let allowed = format!("a list of at most {MAX_SOURCES} tables");
            let remedy = "begin each with [[drift.inventory]], in double brackets";
            blocks.refuse(INVENTORIES, None, found, &allowed, remedy);
            return Vec::new();
        }
    };
    let mut inventories = Inventories {
        blocks,
        names: BTreeMap::new(),
    };
    let items = items.iter().enumerate();
    items
        .filter_map(|(index, item)| inventories.read(index, item))
        .collect()
}

// === impl Inventories ===

impl Inventories<'_> {
    fn read(&mut self, index: usize, item: &Located) -> Option<InventorySource> {
        let block = self.blocks.block(INVENTORIES, index, item)?;
        self.blocks.refuse_unknown(&block, &KEYS, &[], "");
        let name = self.read_name(&block, index);
        self.read_type(&block);
        let provider = self.read_provider(&block);
        let types = self.read_types(&block);
        let (url, token) = (self.read_url(&block), self.read_token(&block));
        let schedule = self.read_schedule(&block);
        Some(InventorySource {
            name: name?,
            kind: InventorySourceKind::Http { url: url?, token },
            provider: provider?,
            types,
            schedule,
        })
    }

    fn refuse(
        &mut self,
        block: &Block<'_>,
        key: &str,
        line: usize,
        found: String,
        told: [&str; 2],
    ) {
        let path = format!("{}.{key}", block.path);
        let [allowed, remedy] = told;
        self.blocks
            .refuse(&path, Some(line), found, allowed, remedy);
    }

    fn read_name(&mut self, block: &Block<'_>, index: usize) -> Option<String> {
        let remedy = "write for example name = \"cloud\"";
        let (name, line) = self.blocks.required_text(block, "name", remedy)?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_word) {
            let allowed = format!("1 to {MAX_NAME_BYTES} letters, digits, `.`, `_` and `-`");
            self.refuse(block, "name", line, format!("{name:?}"), [&allowed, remedy]);
        } else if let Some(first) = self.names.insert(name.to_owned(), index) {
            let allowed = format!("a name of its own: {INVENTORIES}[{first}] has it already");
            let found = format!("\"{name}\"");
            self.refuse(block, "name", line, found, [&allowed, "rename one of them"]);
        }
        Some(name.to_owned())
    }

    fn read_type(&mut self, block: &Block<'_>) {
        let remedy = "write type = \"http\"";
        if let Some((text, line)) = self.blocks.required_text(block, "type", remedy)
            && text != "http"
        {
            self.refuse(block, "type", line, format!("{text:?}"), ["http", remedy]);
        }
    }

    fn read_provider(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write for example provider = \"acme\"";
        let (text, line) = self.blocks.required_text(block, "provider", remedy)?;
        if let Err(wrong) = intake::name(text, "type", "1") {
            let told = ["the name of a provider", wrong.message.as_str()];
            self.refuse(block, "provider", line, format!("{text:?}"), told);
        }
        Some(text.to_owned())
    }

    fn read_types(&mut self, block: &Block<'_>) -> Vec<String> {
        let Some(value) = block.get("types") else {
            return Vec::new();
        };
        let allowed = format!("a list of 1 to {MAX_TYPES} names of types");
        let remedy = "write for example types = [\"server\"], or remove it for all types";
        let name = |item: &Located| match &item.value {
            Value::Text(text) if intake::name("provider", text, "1").is_ok() => Some(text.clone()),
            _ => None,
        };
        let types: Option<Vec<String>> = match &value.value {
            Value::List(items) if (1..=MAX_TYPES).contains(&items.len()) => {
                items.iter().map(name).collect()
            }
            _ => None,
        };
        types.unwrap_or_else(|| {
            let found = value.value.to_string();
            self.refuse(block, "types", value.line, found, [&allowed, remedy]);
            Vec::new()
        })
    }

    fn read_url(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write where the first page is, for example url = \"https://inventory.example/resources\"";
        let (url, line) = self.blocks.required_text(block, "url", remedy)?;
        let allowed = "an http or https address without user and password";
        let found = || format!("\"{}\"", redact(url));
        if url.contains('@') {
            let remedy = "name the secret in `token`; it is sent as a bearer token";
            self.refuse(block, "url", line, found(), [allowed, remedy]);
        } else if !is_http(url) {
            self.refuse(block, "url", line, found(), [allowed, remedy]);
        }
        Some(url.to_owned())
    }

    fn read_token(&mut self, block: &Block<'_>) -> Option<String> {
        let remedy = "write for example token = \"INVENTORY_TOKEN\", and put the secret itself into STEADFAST_SECRET_INVENTORY_TOKEN";
        let (name, line) = self.blocks.text(block, "token", remedy)?;
        if !super::drift::is_secret_name(name) {
            let allowed = "the name of a secret: capital letters, digits and single underscores";
            // Perhaps it is the secret itself.
            self.refuse(
                block,
                "token",
                line,
                "no name".to_owned(),
                [allowed, remedy],
            );
        }
        Some(name.to_owned())
    }

    fn read_schedule(&mut self, block: &Block<'_>) -> Option<Schedule> {
        let remedy = "write for example schedule = \"*/30 * * * *\", or remove it";
        let zone = self.blocks.text(block, "time_zone", "write \"UTC\"");
        let expression = self.blocks.text(block, "schedule", remedy);
        let (name, line) = zone.unwrap_or(("UTC", block.line));
        let zone = match time_zone(name) {
            Ok(zone) => zone,
            Err(near) => {
                let remedy = near.map_or_else(
                    || "correct it".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                let allowed = "the name of an IANA time zone, for example UTC or Europe/Vienna";
                self.refuse(
                    block,
                    "time_zone",
                    line,
                    format!("{name:?}"),
                    [allowed, &remedy],
                );
                return None;
            }
        };
        let (expression, line) = expression?;
        match Schedule::parse(expression, zone) {
            Ok(schedule) => Some(schedule),
            Err((allowed, remedy)) => {
                let found = format!("{expression:?}");
                self.refuse(block, "schedule", line, found, [&allowed, remedy]);
                None
            }
        }
    }
}
