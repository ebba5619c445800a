//! Turns settings into typed values, collecting whatever is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    error::{ConfigError, Origin},
    layers::{Layers, Setting, Settings, variable},
    url::redact,
    value::Value,
};

/// The key whose value is never shown as it is.
pub(super) const DATABASE_URL: &str = "database.url";

/// Reads settings by their path. A value that is wrong is replaced by a stand-in, so that reading goes on; the stand-in never
/// gets out, because an error was recorded with it.
#[derive(Debug)]
pub(super) struct Reader {
    layers: Layers,
    /// The keys that were read, with the ranges of numbers: what the test compares with the defaults and their comments.
    read: BTreeMap<String, Option<RangeInclusive<i64>>>,
    /// Keys whose value is of the wrong type: one complaint about each is enough.
    mistyped: BTreeSet<String>,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(layers: Layers) -> Self {
        Self {
            layers,
            read: BTreeMap::new(),
            mistyped: BTreeSet::new(),
        }
    }

    pub(super) fn finish(self) -> (Settings, Vec<ConfigError>) {
        (self.layers.settings, self.layers.errors)
    }

    #[cfg(test)]
    pub(super) fn keys_read(&self) -> &BTreeMap<String, Option<RangeInclusive<i64>>> {
        &self.read
    }

    /// A setting as it is.
    pub(super) fn setting(&mut self, path: &str) -> Setting {
        self.read.entry(path.to_owned()).or_default();
        self.layers
            .settings
            .get(path)
            .expect("every key that is read has a default, which a test ensures")
            .clone()
    }

    /// Records a mistake that a section found itself.
    pub(super) fn push(&mut self, error: ConfigError) {
        self.layers.errors.push(error);
    }

    /// Records that the value of `path` is not allowed. Without a better remedy, `remedy` may be empty.
    pub(super) fn refuse(&mut self, path: &str, allowed: impl Into<String>, remedy: &str) {
        if self.mistyped.contains(path) {
            return;
        }
        let setting = self.setting(path);
        let found = if path == DATABASE_URL {
            match &setting.value {
                Value::Text(url) => format!("\"{}\"", redact(url)),
                other => other.kind().to_owned(),
            }
        } else {
            setting.value.to_string()
        };
        let remedy = if remedy.is_empty() {
            self.usual_remedy(path, &setting.origin)
        } else {
            remedy.to_owned()
        };
        self.push(ConfigError {
            path: path.to_owned(),
            origin: setting.origin,
            found,
            allowed: allowed.into(),
            remedy,
        });
    }

    fn refuse_type(&mut self, path: &str, allowed: &str) {
        self.refuse(path, allowed, "");
        self.mistyped.insert(path.to_owned());
    }

    fn usual_remedy(&self, path: &str, origin: &Origin) -> String {
        let default = self
            .layers
            .defaults
            .get(path)
            .map(|setting| setting.value.to_string())
            .unwrap_or_default();
        match origin {
            Origin::Default | Origin::File { .. } => {
                format!("correct it, or remove it for the default, {default}")
            }
            Origin::Env(_) => format!(
                "correct it, or unset {} for the default, {default}",
                variable(path)
            ),
            Origin::Flag => format!("correct it, or leave it out for the default, {default}"),
        }
    }

    pub(super) fn text(&mut self, path: &str) -> String {
        if let Value::Text(text) = self.setting(path).value {
            return text;
        }
        self.refuse_type(path, "a text, in quotes");
        String::new()
    }

    /// A text, or `None` if it is empty.
    pub(super) fn optional_text(&mut self, path: &str) -> Option<String> {
        Some(self.text(path)).filter(|text| !text.is_empty())
    }

    pub(super) fn boolean(&mut self, path: &str) -> bool {
        if let Value::Boolean(boolean) = self.setting(path).value {
            return boolean;
        }
        self.refuse_type(path, "true or false, without quotes");
        false
    }

    /// A whole number in a range that the type can hold.
    pub(super) fn integer<T>(&mut self, path: &str, range: RangeInclusive<i64>) -> T
    where
        T: TryFrom<i64> + Default,
    {
        self.read.insert(path.to_owned(), Some(range.clone()));
        let value = match self.setting(path).value {
            Value::Integer(value) if range.contains(&value) => T::try_from(value).ok(),
            _ => None,
        };
        value.unwrap_or_else(|| {
            let allowed = format!("a whole number, {} to {}", range.start(), range.end());
            self.refuse(path, allowed, "");
            T::default()
        })
    }

    pub(super) fn milliseconds(&mut self, path: &str, range: RangeInclusive<i64>) -> Duration {
        Duration::from_millis(self.integer(path, range))
    }

    pub(super) fn hours(&mut self, path: &str, range: RangeInclusive<i64>) -> Duration {
        Duration::from_secs(self.integer::<u64>(path, range) * 3_600)
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self, path: &str) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "only 0 and 1 are accepted")]
        let value = match self.setting(path).value {
            Value::Float(value) => value,
            Value::Integer(value) => value as f64,
            _ => f64::NAN,
        };
        if (0.0..=1.0).contains(&value) {
            return value;
        }
        self.refuse(path, "a number, 0.0 to 1.0", "");
        0.0
    }

    pub(super) fn folder(&mut self, path: &str) -> PathBuf {
        let text = self.text(path);
        if text.is_empty() {
            self.refuse(path, "the path of a folder", "");
        }
        PathBuf::from(text)
    }

    pub(super) fn address(&mut self, path: &str) -> SocketAddr {
        let text = self.text(path);
        text.parse().unwrap_or_else(|_| {
            let remedy = if text.starts_with("localhost") {
                "write 127.0.0.1 for localhost"
            } else {
                ""
            };
            let allowed = "an IP address and a port, for example 127.0.0.1:7400 or [::1]:7400";
            self.refuse(path, allowed, remedy);
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }
}
