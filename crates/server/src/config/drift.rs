//! The section `[drift]`, and its `[[drift.comparator]]` blocks.

use std::{collections::BTreeSet, time::Duration};

use steadfast_drift::{Comparator, Declaration, HashKey, Rules, intake};

use super::{
    blocks::Blocks,
    catalog::Schedule,
    inventory::{self, InventorySource},
    layers::{COMPARATORS, nearest},
    reader::Reader,
    value::{Located, Value},
};

/// What was asked for against what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// How values are compared where the default is not right.
    pub comparators: Vec<Declaration>,
    /// Types (`PROVIDER/TYPE`) whose resources are drifts if nobody recorded them.
    pub unmanaged: BTreeSet<String>,
    /// The name of the secret that values at secret paths are hashed with.
    pub hash_key: Option<String>,
    /// When to sweep by the clock; `None` for never.
    pub sweep_schedule: Option<Schedule>,
    /// What the server itself lists.
    pub inventories: Vec<InventorySource>,
    /// How long closed drifts and events are kept.
    pub history: Duration,
    /// Ended inventories that are kept.
    pub inventory_history: i64,
}

/// Keys of a block.
pub(super) const KEYS: [&str; 5] = ["provider", "type", "path", "kind", "key"];

const UNMANAGED: &str = "drift.unmanaged";
const HASH_KEY: &str = "drift.hash_key";
const MAX_COMPARATORS: usize = 10_000;
const MAX_UNMANAGED: usize = 1_000;
const DAY: Duration = Duration::from_secs(86_400);

/// What stands for the secret while declarations are checked: whether there is one is all that matters.
const ANY_KEY: &str = "any key of sixteen bytes or more";

// === impl Drift ===

impl Drift {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let drift = Self {
            unmanaged: read_unmanaged(reader),
            hash_key: read_hash_key(reader),
            sweep_schedule: Schedule::read(reader, "drift.sweep_schedule", "drift.sweep_time_zone"),
            history: DAY * reader.integer::<u32>("drift.history_days", 1..=3_650),
            inventory_history: reader.integer("drift.inventory_history", 1..=100_000),
            inventories: inventory::read(reader),
            comparators: Vec::new(),
        };
        let comparators = read_comparators(reader, &drift);
        Self {
            comparators,
            ..drift
        }
    }

    /// What is declared, with the key that the secret's value makes.
    ///
    /// # Errors
    /// Never, for what was read: it is checked already.
    pub fn rules(
        &self,
        key: Option<HashKey>,
    ) -> Result<Rules, Vec<steadfast_drift::DeclarationProblem>> {
        Rules::new(&self.comparators, &self.unmanaged, key)
    }
}

fn read_hash_key(reader: &mut Reader) -> Option<String> {
    let name = reader.optional_text(HASH_KEY)?;
    if !is_secret_name(&name) {
        reader.refuse(
            HASH_KEY,
            "the name of a secret: capital letters, digits and single underscores",
            "write for example \"DRIFT_KEY\", and put the secret itself into STEADFAST_SECRET_DRIFT_KEY",
        );
    }
    Some(name)
}

/// Whether a text is the name of a secret; the secret itself is never in the configuration.
pub(super) fn is_secret_name(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_uppercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && !name.contains("__")
}

fn read_unmanaged(reader: &mut Reader) -> BTreeSet<String> {
    let allowed = format!("a list of at most {MAX_UNMANAGED} texts PROVIDER/TYPE");
    let remedy = "write for example [\"digitalocean/droplet\"]";
    let is_type = |text: &str| {
        text.split_once('/')
            .is_some_and(|(provider, kind)| intake::name(provider, kind, "1").is_ok())
    };
    let Value::List(items) = reader.setting(UNMANAGED).value else {
        reader.refuse(UNMANAGED, allowed, remedy);
        return BTreeSet::new();
    };
    let texts: Option<BTreeSet<String>> = items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) if is_type(text) => Some(text.clone()),
            _ => None,
        })
        .collect();
    match texts {
        Some(texts) if texts.len() <= MAX_UNMANAGED => texts,
        _ => {
            reader.refuse(UNMANAGED, allowed, remedy);
            BTreeSet::new()
        }
    }
}

fn read_comparators(reader: &mut Reader, drift: &Drift) -> Vec<Declaration> {
    let (mut blocks, value) = Blocks::of(reader, COMPARATORS);
    let items = match &value {
        Value::List(items) if items.len() <= MAX_COMPARATORS => items,
        other => {
            let found = match other {
                Value::List(items) => format!("{} comparators", items.len()),
                other => other.kind().to_owned(),
            };
            blocks.refuse(
                COMPARATORS,
                None,
                found,
                &format!("a list of at most {MAX_COMPARATORS} tables"),
                "begin each comparator with [[drift.comparator]], in double brackets",
            );
            return Vec::new();
        }
    };
    let mut places = Vec::new();
    let mut declarations = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(declaration) = read_comparator(&mut blocks, index, item) {
            places.push((format!("{COMPARATORS}[{index}]"), item.line));
            declarations.push(declaration);
        }
    }
    let key = drift.hash_key.as_ref().and_then(|_| HashKey::new(ANY_KEY));
    if let Err(problems) = Rules::new(&declarations, &drift.unmanaged, key) {
        for problem in problems {
            let (path, line) = &places[problem.index];
            let declared = &declarations[problem.index];
            let found = match problem.field {
                "path" => format!("{:?}", declared.path),
                _ => "\"secret\"".to_owned(),
            };
            let path = format!("{path}.{}", problem.field);
            let remedy = match problem.field {
                "kind" => "name a secret in drift.hash_key",
                _ => "correct it, or remove one of the two",
            };
            blocks.refuse(&path, Some(*line), found, &problem.message, remedy);
        }
    }
    declarations
}

fn read_comparator(blocks: &mut Blocks<'_>, index: usize, item: &Located) -> Option<Declaration> {
    let block = blocks.block(COMPARATORS, index, item)?;
    blocks.refuse_unknown(&block, &KEYS, &[], "");
    let needs = "a comparator needs provider, type, path and kind";
    let mut text = |key: &str| match block.get(key) {
        Some(_) => blocks.text(&block, key, "correct it"),
        None => blocks.required_text(&block, key, needs),
    };
    let (provider, kind, at) = (text("provider"), text("type"), text("path"));
    let (named, key) = (text("kind"), blocks.text(&block, "key", "correct it"));
    let (provider, kind, at) = (provider?, kind?, at?.0);
    if let Err(wrong) = intake::name(provider.0, kind.0, "1") {
        let (field, (text, line)) = match wrong.field {
            "key.provider" => ("provider", provider),
            _ => ("type", kind),
        };
        let path = format!("{}.{field}", block.path);
        let found = format!("{text:?}");
        blocks.refuse(&path, Some(line), found, "a name", &wrong.message);
        return None;
    }
    let (named, line) = named?;
    let key = key.map(|(key, _)| key);
    let Some(comparator) = Comparator::named(named, key) else {
        let known = Comparator::NAMES.contains(&named);
        let (field, allowed, remedy) = match (known, named) {
            (true, "keyed_list") => (
                "key",
                "the member that names an element".to_owned(),
                "write for example key = \"name\"".to_owned(),
            ),
            (true, _) => (
                "key",
                "only with keyed_list".to_owned(),
                "remove it".to_owned(),
            ),
            (false, _) => (
                "kind",
                Comparator::NAMES.join(", "),
                nearest(named, Comparator::NAMES.iter().copied()).map_or_else(
                    || "correct it".to_owned(),
                    |near| format!("did you mean {near}?"),
                ),
            ),
        };
        let path = format!("{}.{field}", block.path);
        blocks.refuse(&path, Some(line), format!("{named:?}"), &allowed, &remedy);
        return None;
    };
    Some(Declaration {
        provider: provider.0.to_owned(),
        kind: kind.0.to_owned(),
        path: at.to_owned(),
        comparator,
    })
}
