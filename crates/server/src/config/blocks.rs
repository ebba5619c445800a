//! Lists of tables, such as `[[catalog.source]]`: each table is a block, and a mistake names the block, its key and the line.

use super::{
    error::{ConfigError, Origin},
    layers::nearest,
    reader::Reader,
    value::{Located, Value},
};

/// The blocks of one list, which all come from one place.
pub(super) struct Blocks<'r> {
    reader: &'r mut Reader,
    origin: Origin,
}

/// One block under inspection.
pub(super) struct Block<'v> {
    /// For example `catalog.source[0]`.
    pub(super) path: String,
    pub(super) line: usize,
    entries: &'v [(String, Located)],
}

// === impl Blocks ===

impl<'r> Blocks<'r> {
    /// Those of a setting, and its value.
    pub(super) fn of(reader: &'r mut Reader, setting: &str) -> (Self, Value) {
        let setting = reader.setting(setting);
        let origin = setting.origin;
        (Self { reader, origin }, setting.value)
    }

    /// Records a mistake; without a line it is about the list as a whole.
    pub(super) fn refuse(
        &mut self,
        path: &str,
        line: Option<usize>,
        found: String,
        allowed: &str,
        remedy: &str,
    ) {
        let origin = match (&self.origin, line) {
            (Origin::File { path, .. }, Some(line)) => Origin::File {
                path: path.clone(),
                line,
            },
            (origin, _) => origin.clone(),
        };
        self.reader.push(ConfigError {
            path: path.to_owned(),
            origin,
            found,
            allowed: allowed.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// A block of a list; complains if the item is none.
    pub(super) fn block<'v>(
        &mut self,
        list: &str,
        index: usize,
        item: &'v Located,
    ) -> Option<Block<'v>> {
        let path = format!("{list}[{index}]");
        match &item.value {
            Value::Table(entries) => Some(Block {
                path,
                line: item.line,
                entries,
            }),
            other => {
                let remedy = format!("begin each with [[{list}]], in double brackets");
                let found = other.kind().to_owned();
                self.refuse(&path, Some(item.line), found, "a table", &remedy);
                None
            }
        }
    }

    /// Complains about every key that a block must not have. Those that a later version will bring are told by what they mean.
    pub(super) fn refuse_unknown(
        &mut self,
        block: &Block<'_>,
        keys: &[&str],
        later: &[(&str, &str)],
        instead: &str,
    ) {
        for (key, value) in block.entries {
            if keys.contains(&key.as_str()) {
                continue;
            }
            let path = format!("{}.{key}", block.path);
            let later = later.iter().find(|(later, _)| later == key);
            let (found, remedy) = match later {
                Some((_, meaning)) => (
                    format!("{meaning}, which this version cannot do yet"),
                    instead.to_owned(),
                ),
                None => (
                    "an unknown key".to_owned(),
                    nearest(key, keys.iter().copied()).map_or_else(
                        || "remove it".to_owned(),
                        |near| format!("did you mean {near}?"),
                    ),
                ),
            };
            self.refuse(&path, Some(value.line), found, &keys.join(", "), &remedy);
        }
    }

    /// A text with its line, if the key is there; complains if it is of another type.
    pub(super) fn text<'v>(
        &mut self,
        block: &Block<'v>,
        key: &str,
        remedy: &str,
    ) -> Option<(&'v str, usize)> {
        match block.get(key)? {
            Located {
                value: Value::Text(text),
                line,
            } => Some((text, *line)),
            other => {
                let path = format!("{}.{key}", block.path);
                let found = other.value.to_string();
                self.refuse(&path, Some(other.line), found, "a text, in quotes", remedy);
                None
            }
        }
    }

    /// The same for one that has to be there.
    pub(super) fn required_text<'v>(
        &mut self,
        block: &Block<'v>,
        key: &str,
        remedy: &str,
    ) -> Option<(&'v str, usize)> {
        if block.get(key).is_none() {
            let path = format!("{}.{key}", block.path);
            let found = "nothing".to_owned();
            self.refuse(&path, Some(block.line), found, "a text, in quotes", remedy);
        }
        self.text(block, key, remedy)
    }
}

// === impl Block ===

impl<'v> Block<'v> {
    pub(super) fn get(&self, key: &str) -> Option<&'v Located> {
        self.entries
            .iter()
            .find_map(|(name, value)| (name == key).then_some(value))
    }
}
