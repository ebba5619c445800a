//! What the registry holds, as a test describes it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

/// A package with its versions.
#[derive(Debug, Clone, Default)]
pub struct PackageSpec {
    /// With its scope, as npm writes it.
    pub name: String,
    /// One sentence about it.
    pub description: Option<String>,
    /// Where to read more.
    pub homepage: Option<String>,
    /// An SPDX expression.
    pub license: Option<String>,
    /// Text or an object: npm has both.
    pub repository: Option<Value>,
    /// In the order of publication.
    pub versions: Vec<VersionSpec>,
    /// `latest` is the version published last, unless it is set here.
    pub dist_tags: BTreeMap<String, String>,
    /// Further fields of the packument, replacing those made from the rest.
    pub extra: BTreeMap<String, Value>,
    /// Answered by its own name, but absent from listing and search.
    pub unlisted: bool,
}

/// One version of a package.
#[derive(Debug, Clone, Default)]
pub struct VersionSpec {
    /// As npm writes it.
    pub version: String,
    /// A name for people, in its `package.json`.
    pub label: Option<String>,
    /// The text of `configuration-schema.json`, which need not be valid; the file is absent without one.
    pub schema: Option<String>,
    /// Why nobody should use it any more.
    pub deprecated: Option<String>,
    /// When it was published, as npm writes it; one day after the version before when not set.
    pub published: Option<String>,
    /// Name to range.
    pub dependencies: BTreeMap<String, String>,
    /// Name to range.
    pub peer_dependencies: BTreeMap<String, String>,
    /// Further files of the tarball: path below `package/`, content.
    pub files: Vec<(String, Bytes)>,
    /// What `dist.integrity` says.
    pub integrity: Integrity,
}

/// What `dist.integrity` says of a tarball.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Integrity {
    /// The truth.
    #[default]
    Sha512,
    /// Nothing, as for packages published long ago.
    Absent,
    /// This text, whatever the tarball is.
    Stated(String),
}

/// Many packages alike, made when they are asked for: `{prefix}00000`, `{prefix}00001` and so on.
#[derive(Debug, Clone)]
pub struct GeneratedPackages {
    /// What their names begin with, for example `@bench/package-`.
    pub prefix: String,
    /// How many, at most 100,000.
    pub count: usize,
    /// How many versions each has.
    pub versions: usize,
}

// === impl PackageSpec ===

impl PackageSpec {
    /// A package without versions.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds a version, given by its number alone or in full.
    #[must_use]
    pub fn version(mut self, version: impl Into<VersionSpec>) -> Self {
        self.versions.push(version.into());
        self
    }

    /// Points a dist-tag at a version.
    #[must_use]
    pub fn tag(mut self, tag: &str, version: &str) -> Self {
        self.dist_tags.insert(tag.to_owned(), version.to_owned());
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.description = Some(text.to_owned());
        self
    }

    /// Sets a field of the packument that has no place of its own here.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// Hides it from listing and search.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.unlisted = true;
        self
    }

    /// All dist-tags, `latest` among them.
    pub(super) fn tags(&self) -> BTreeMap<String, String> {
        let mut tags = self.dist_tags.clone();
        if let Some(last) = self.versions.last() {
            tags.entry("latest".to_owned())
                .or_insert_with(|| last.version.clone());
        }
        tags
    }
}

// === impl VersionSpec ===

impl VersionSpec {
    /// A version whose tarball holds a `package.json` only.
    #[must_use]
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            ..Self::default()
        }
    }

    /// Puts a schema into the tarball.
    #[must_use]
    pub fn schema(self, schema: &Value) -> Self {
        self.schema_text(schema.to_string())
    }

    /// Puts a text in the schema's place, JSON or not.
    #[must_use]
    pub fn schema_text(mut self, text: impl Into<String>) -> Self {
        self.schema = Some(text.into());
        self
    }

    /// Sets the name for people.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }

    /// Deprecates it.
    #[must_use]
    pub fn deprecated(mut self, message: &str) -> Self {
        self.deprecated = Some(message.to_owned());
        self
    }

    /// Sets when it was published.
    #[must_use]
    pub fn published(mut self, time: &str) -> Self {
        self.published = Some(time.to_owned());
        self
    }

    /// Adds a dependency.
    #[must_use]
    pub fn dependency(mut self, name: &str, range: &str) -> Self {
        self.dependencies.insert(name.to_owned(), range.to_owned());
        self
    }

    /// Adds a peer dependency.
    #[must_use]
    pub fn peer_dependency(mut self, name: &str, range: &str) -> Self {
        self.peer_dependencies
            .insert(name.to_owned(), range.to_owned());
        self
    }

    /// Adds a file to the tarball.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Bytes>) -> Self {
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// Sets what the packument says of the tarball's integrity.
    #[must_use]
    pub fn integrity(mut self, integrity: Integrity) -> Self {
        self.integrity = integrity;
        self
    }
}

impl From<&str> for VersionSpec {
    fn from(version: &str) -> Self {
        Self::new(version)
    }
}

// === impl GeneratedPackages ===

impl GeneratedPackages {
    /// The name of one of them.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        format!("{}{index:05}", self.prefix)
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(&self.prefix)?;
        let index = digits.parse().ok()?;
        (index < self.count && self.name(index) == name).then_some(index)
    }

    pub(super) fn spec(&self, index: usize) -> PackageSpec {
        let mut package = PackageSpec::new(self.name(index)).description("Made for a measurement");
        for number in 0..self.versions {
            let schema = serde_json::json!({
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "title": format!("Package {index}"),
                "properties": {
                    "baseUrl": { "title": "Address", "type": "string", "format": "uri" },
                    "apiKey": { "title": "Key", "type": "string", "writeOnly": true },
                    format!("option{}", index % 10): { "type": "boolean" },
                },
                "required": ["baseUrl"],
            });
            package = package.version(
                VersionSpec::new(format!("1.{number}.0"))
                    .label(&format!("Package {index}"))
                    .schema(&schema)
                    .dependency("@bench/shared", "^1.0.0"),
            );
        }
        package
    }
}
