//! What a `[[catalog.source]]` block of type `local` says.

use std::{path::Path, time::Duration};

use super::{
    blocks::{Block, Blocks},
    value::{Located, Value},
};

/// Folders of this machine that hold packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSource {
    /// Absolute paths, in the order of their precedence.
    pub roots: Vec<String>,
    /// How often all is read again, whether or not a change was noticed.
    pub rescan: Duration,
}

/// Keys of a block.
pub(super) const KEYS: [&str; 4] = ["name", "type", "roots", "rescan_ms"];

const MAX_ROOTS: usize = 16;
const DEFAULT_RESCAN_MS: i64 = 30_000;
const MIN_RESCAN_MS: i64 = 500;
const MAX_RESCAN_MS: i64 = 3_600_000;

pub(super) fn read(blocks: &mut Blocks<'_>, block: &Block<'_>) -> LocalSource {
    LocalSource {
        roots: read_roots(blocks, block),
        rescan: read_rescan(blocks, block),
    }
}

fn read_roots(blocks: &mut Blocks<'_>, block: &Block<'_>) -> Vec<String> {
    let path = format!("{}.roots", block.path);
    let allowed = format!("a list of 1 to {MAX_ROOTS} folders");
    let remedy = "write for example roots = [\"/srv/adaptors\"]; packages are looked for in its folder `packages`";
    let (found, line) = match block.get("roots") {
        None => ("nothing".to_owned(), block.line),
        Some(value) => match &value.value {
            Value::List(items) if (1..=MAX_ROOTS).contains(&items.len()) => {
                return read_each(blocks, &path, items);
            }
            Value::List(items) => (format!("{} folders", items.len()), value.line),
            other => (other.kind().to_owned(), value.line),
        },
    };
    blocks.refuse(&path, Some(line), found, &allowed, remedy);
    Vec::new()
}

fn read_each(blocks: &mut Blocks<'_>, path: &str, items: &[Located]) -> Vec<String> {
    let mut roots: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let mut refuse = |found: String, allowed: &str, remedy: &str| {
            blocks.refuse(&path, Some(item.line), found, allowed, remedy);
        };
        let Value::Text(root) = &item.value else {
            let found = item.value.to_string();
            refuse(found, "the path of a folder, in quotes", "correct it");
            continue;
        };
        // Its text names it to other replicas, so that each folder has one text.
        let normal: String = Path::new(root)
            .components()
            .collect::<std::path::PathBuf>()
            .to_string_lossy()
            .into_owned();
        let climbs = Path::new(root)
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if !Path::new(root).is_absolute() || climbs || root.chars().any(char::is_control) {
            refuse(
                format!("{root:?}"),
                "an absolute path without `..`",
                "write it out from `/` on, for example /srv/adaptors",
            );
        } else if roots.contains(&normal) {
            refuse(format!("{root:?}"), "each folder once", "remove it");
        } else {
            roots.push(normal);
        }
    }
    roots
}

fn read_rescan(blocks: &mut Blocks<'_>, block: &Block<'_>) -> Duration {
    let milliseconds = match block.get("rescan_ms") {
        None => DEFAULT_RESCAN_MS,
        Some(value) => match value.value {
            Value::Integer(number) if (MIN_RESCAN_MS..=MAX_RESCAN_MS).contains(&number) => number,
            _ => {
                let allowed = format!("a whole number, {MIN_RESCAN_MS} to {MAX_RESCAN_MS}");
                let remedy =
                    format!("correct it, or remove it for the default, {DEFAULT_RESCAN_MS}");
                let path = format!("{}.rescan_ms", block.path);
                let found = value.value.to_string();
                blocks.refuse(&path, Some(value.line), found, &allowed, &remedy);
                DEFAULT_RESCAN_MS
            }
        },
    };
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}
