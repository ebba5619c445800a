//! Secrets: where `{{ secret.NAME }}` comes from, and how its value stays out of everything that is kept.
//!
//! A definition names secrets; it never holds one. The value is looked up when an attempt is about to be sent, goes into the
//! rendered input, and is dropped with it. What comes back from the action (output, error, message) is searched for every value
//! that went in, because servers like to repeat what they were sent.

use std::{borrow::Cow, env, ffi::OsString, fmt, fs, io, path::PathBuf};

use serde_json::Value;

/// What stands where a secret stood.
pub const MASK: &str = "***";

/// The environment variable of secret `NAME` is this followed by `NAME`.
pub const SECRET_VARIABLE_PREFIX: &str = "STEADFAST_SECRET_";

/// Bytes of a secret's value at most.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a secret's value at least: masking a shorter one would destroy what is around it, and tell it by that.
const SECRET_BYTES_MIN: usize = 4;

/// Bytes of a secret's name at most.
const SECRET_NAME_BYTES_MAX: usize = 64;

/// Where secrets come from. An implementation never logs what it returns.
pub trait SecretSource: Send + Sync {
    /// The value of a secret whose name is well-formed.
    ///
    /// # Errors
    /// If there is none, or none that can be used.
    fn secret(&self, name: &str) -> Result<String, SecretError>;
}

/// A secret cannot be had. Nothing of its value is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The name is not a name.
    #[error(
        "`{name}` is no name of a secret: upper-case letters, digits and single `_`, beginning with a letter, at most 64 bytes"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// It is nowhere.
    #[error(
        "secret `{name}` is not set: set the environment variable {SECRET_VARIABLE_PREFIX}{name}{folder}"
    )]
    Missing {
        /// What was asked for.
        name: String,
        /// The other place, if there is one.
        folder: String,
    },
    /// It is there and cannot be used.
    #[error("secret `{name}` cannot be used: {problem}")]
    Unusable {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Secrets from the environment, then from a folder of files named like them, as container platforms mount them.
#[derive(Debug, Clone)]
pub struct SecretPlaces {
    environment: fn(&str) -> Option<OsString>,
    folder: Option<PathBuf>,
}

/// There are none: for replicas, and tests, that have no use for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

/// Values that must not be kept, with the spellings in which a server may repeat them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The longest first, so that one that contains another is masked whole.
    spellings: Vec<String>,
}

/// Whether it can name a secret. Two underscores in a variable's name divide a section of the configuration from a key.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    name.len() <= SECRET_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && !name.contains("__")
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

// === impl SecretPlaces ===

impl SecretPlaces {
    /// The process's environment, then the folder if there is one.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            environment: |name| env::var_os(name),
            folder,
        }
    }

    fn read(&self, name: &str) -> Result<String, SecretError> {
        let unusable = |problem: &str| SecretError::Unusable {
            name: name.to_owned(),
            problem: problem.to_owned(),
        };
        if let Some(value) = (self.environment)(&format!("{SECRET_VARIABLE_PREFIX}{name}")) {
            return value
                .into_string()
                .map_err(|_| unusable("the environment variable is not UTF-8"));
        }
        let missing = |folder: String| SecretError::Missing {
            name: name.to_owned(),
            folder,
        };
        let Some(folder) = &self.folder else {
            return Err(missing(String::new()));
        };
        let path = folder.join(name);
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(missing(format!(", or write the file {}", path.display())));
            }
            Err(error) => return Err(unusable(&format!("{}: {error}", path.display()))),
        };
        if size > SECRET_BYTES_MAX {
            return Err(unusable(&format!(
                "its file has {size} bytes, at most {SECRET_BYTES_MAX}"
            )));
        }
        let text = fs::read_to_string(&path)
            .map_err(|error| unusable(&format!("{}: {error}", path.display())))?;
        // Editors and `echo` end a file with a line break that is not meant.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }
}

impl SecretSource for SecretPlaces {
    fn secret(&self, name: &str) -> Result<String, SecretError> {
        if !is_secret_name(name) {
            return Err(SecretError::Name {
                name: name.chars().take(SECRET_NAME_BYTES_MAX).collect(),
            });
        }
        let value = self.read(name)?;
        if value.len() < SECRET_BYTES_MIN {
            return Err(SecretError::Unusable {
                name: name.to_owned(),
                problem: format!(
                    "it is shorter than {SECRET_BYTES_MIN} bytes, and could not be masked where it is repeated"
                ),
            });
        }
        Ok(value)
    }
}

// === impl NoSecrets ===

impl SecretSource for NoSecrets {
    fn secret(&self, name: &str) -> Result<String, SecretError> {
        Err(SecretError::Missing {
            name: name.to_owned(),
            folder: String::new(),
        })
    }
}

// === impl Secrets ===

impl Secrets {
    /// Adds a value, as it is and as it looks within JSON and within a URL.
    pub fn add(&mut self, value: &str) {
        if value.is_empty() {
            return;
        }
        let json = Value::from(value).to_string();
        let json = json.get(1..json.len() - 1).unwrap_or_default().to_owned();
        for spelling in [value.to_owned(), json, url_encoded(value)] {
            if !spelling.is_empty() && !self.spellings.contains(&spelling) {
                self.spellings.push(spelling);
            }
        }
        self.spellings
            .sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
    }

    /// Whether there is anything to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spellings.is_empty()
    }

    /// The text with every known value masked, also within longer words.
    #[must_use]
    pub fn mask_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut masked = Cow::Borrowed(text);
        for spelling in &self.spellings {
            if masked.contains(spelling.as_str()) {
                masked = Cow::Owned(masked.replace(spelling.as_str(), MASK));
            }
        }
        masked
    }

    /// The value with every known value masked: in texts, in names of members, and in numbers whose digits contain one.
    #[must_use]
    pub fn mask(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::Null | Value::Bool(_) => value,
            Value::Number(number) => {
                let text = number.to_string();
                match self.mask_text(&text) {
                    Cow::Borrowed(_) => Value::Number(number),
                    Cow::Owned(masked) => Value::String(masked),
                }
            }
            Value::String(text) => match self.mask_text(&text) {
                Cow::Borrowed(_) => Value::String(text),
                Cow::Owned(masked) => Value::String(masked),
            },
            Value::Array(items) => items.into_iter().map(|item| self.mask(item)).collect(),
            Value::Object(members) => members
                .into_iter()
                .map(|(name, value)| (self.mask_text(&name).into_owned(), self.mask(value)))
                .collect(),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} redacted)", self.spellings.len())
    }
}

/// As a part of a URL: everything but the unreserved characters of RFC 3986 becomes `%` and two digits.
pub(crate) fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn places(folder: Option<PathBuf>) -> SecretPlaces {
        SecretPlaces {
            environment: |name| match name {
                "STEADFAST_SECRET_TOKEN" => Some("from-environment".into()),
                "STEADFAST_SECRET_SHORT" => Some("abc".into()),
                _ => None,
            },
            folder,
        }
    }

    #[test]
    fn a_secret_comes_from_the_environment_then_from_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("TOKEN"), "from-folder").expect("written");
        fs::write(folder.path().join("OTHER"), "from-folder\r\n").expect("written");
        let places = places(Some(folder.path().to_owned()));
        assert_eq!(places.secret("TOKEN"), Ok("from-environment".to_owned()));
        assert_eq!(places.secret("OTHER"), Ok("from-folder".to_owned()));
    }

    #[test]
    fn what_cannot_be_had_names_the_secret_and_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("BIG"), vec![b'a'; 65_537]).expect("written");
        let with = places(Some(folder.path().to_owned()));
        let told = |places: &SecretPlaces, name: &str| {
            places.secret(name).expect_err("refused").to_string()
        };
        let missing = told(&with, "GONE");
        assert!(missing.contains("STEADFAST_SECRET_GONE") && missing.contains("write the file"));
        assert!(!told(&places(None), "GONE").contains("write the file"));
        assert!(told(&with, "BIG").contains("65537 bytes"));
        let short = told(&with, "SHORT");
        assert!(short.contains("4 bytes") && !short.contains("abc"));
        for name in ["../TOKEN", "token", "A__B", "", "9A"] {
            assert!(told(&with, name).contains("no name of a secret"), "{name}");
        }
    }

    #[test]
    fn values_are_masked_wherever_they_are_repeated() {
        let mut secrets = Secrets::default();
        secrets.add("s3cr3t");
        secrets.add("a \"b\"/c");
        secrets.add("s3cr3t-longer");
        secrets.add("12345");
        let masked = secrets.mask(json!({
            "exact": "s3cr3t",
            "within": "Bearer s3cr3t, again s3cr3t",
            "longer": "s3cr3t-longer!",
            "json": "{\"k\":\"a \\\"b\\\"/c\"}",
            "url": "http://h/?q=a%20%22b%22%2Fc",
            "name s3cr3t": [1, 9_123_459, null, true],
        }));
        assert_eq!(
            masked,
            json!({
                "exact": "***",
                "within": "Bearer ***, again ***",
                "longer": "***!",
                "json": "{\"k\":\"***\"}",
                "url": "http://h/?q=***",
                "name ***": [1, "9***9", null, true],
            })
        );
        assert_eq!(secrets.mask_text("nothing"), Cow::Borrowed("nothing"));
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let mut secrets = Secrets::default();
        secrets.add("s3cr3t");
        assert!(!format!("{secrets:?}").contains("s3cr3t"));
    }
}
