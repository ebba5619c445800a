//! A package's own `package.json`, as it lies in a folder: read as tolerantly as what a registry says of it, because it is the same
//! document before it was published.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Repository, Warnings, field::Fields};
use crate::npm::name::PackageName;

/// What is wanted of a `package.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub name: PackageName,
    /// A short name for people.
    pub label: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// Its web page.
    pub homepage: Option<String>,
    /// As the package states it, usually an SPDX expression.
    pub license: Option<String>,
    /// Where its source is.
    pub repository: Option<Repository>,
    /// Name to version range.
    pub dependencies: BTreeMap<String, String>,
    /// Name to version range.
    pub peer_dependencies: BTreeMap<String, String>,
}

/// Why a `package.json` is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// It is no JSON object.
    #[error("it is no JSON object (line {line}, column {column})")]
    Json {
        /// From 1; 0 if it is JSON of another kind.
        line: usize,
        /// From 1, in bytes.
        column: usize,
    },
    /// It has no `name`, or one that is no text.
    #[error("it has no `name`")]
    NoName,
    /// Its name is none that npm would take.
    #[error("its `name` is {0}")]
    Name(#[from] crate::npm::name::InvalidName),
}

// === impl Manifest ===

impl Manifest {
    /// Reads the bytes of a `package.json`. Fields of an unknown shape count as absent.
    ///
    /// # Errors
    /// If it is no JSON object, or does not name its package.
    pub fn read(json: &[u8]) -> Result<Self, InvalidManifest> {
        let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
        let object: BTreeMap<String, &RawValue> =
            serde_json::from_slice(json).map_err(|error| InvalidManifest::Json {
                line: error.line(),
                column: error.column(),
            })?;
        let mut warnings = Warnings::default();
        let mut fields = Fields::of_package(&object, &mut warnings);
        let name = fields.text("name").ok_or(InvalidManifest::NoName)?;
        Ok(Self {
            name: PackageName::parse(&name)?,
            label: fields.text("label").filter(|label| !label.is_empty()),
            description: fields.text("description"),
            homepage: fields.text("homepage"),
            license: fields.license(),
            repository: fields.repository(),
            dependencies: fields.texts("dependencies"),
            peer_dependencies: fields.texts("peerDependencies"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_a_registry_would_tell_it() {
        let text = r#"{"name":"@openfn/language-http","label":"HTTP","license":{"type":"LGPL"},
            "repository":"https://example.com/a.git","dependencies":{"a":"workspace:*","b":1},"version":7}"#;
        let read = Manifest::read(text.as_bytes()).expect("usable");
        assert_eq!(read.name.as_str(), "@openfn/language-http");
        assert_eq!(read.label.as_deref(), Some("HTTP"));
        assert_eq!(read.license.as_deref(), Some("LGPL"));
        assert_eq!(
            read.repository.expect("one").url,
            "https://example.com/a.git"
        );
        assert_eq!(read.dependencies.len(), 1);
        let marked = format!("\u{feff}{text}");
        assert!(Manifest::read(marked.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_file() {
        for (text, told) in [
            ("{\n \"name\": secret }", "line 2"),
            ("[1]", "no JSON object"),
            ("{}", "no `name`"),
            (r#"{"name":7}"#, "no `name`"),
            (r#"{"name":"../up"}"#, "at byte"),
            ("", "no JSON object"),
        ] {
            let refused = Manifest::read(text.as_bytes()).expect_err(text).to_string();
            assert!(refused.contains(told), "{text}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
