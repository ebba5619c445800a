//! What a registry says of a package: its packument, reduced to what the catalogue keeps.
//!
//! Packuments are written by every version of every publishing tool since 2010 and rewritten by every mirror. So any field may be
//! missing, and one of an unknown shape counts as missing and is named in a [`PackumentWarning`]. Only three things are insisted on:
//! that the document is JSON, that it is about the package that was asked for, and that it has versions.

mod field;
mod manifest;

use std::{collections::BTreeMap, fmt};

use nodejs_semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use steadfast_types::Timestamp;

use self::field::Fields;
pub use self::manifest::{InvalidManifest, Manifest};
use super::name::PackageName;
use crate::error::brief;

/// Warnings kept per packument; a broken mirror would repeat one for every field of every version.
const WARNINGS_MAX: usize = 100;

/// A package. Its JSON form is stable: equal packuments are equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packument {
    /// Its name.
    pub name: PackageName,
    /// What it is; mirrors that leave it out at the top have it in each version.
    pub description: Option<String>,
    /// Its web page.
    pub homepage: Option<String>,
    /// As the package states it, usually an SPDX expression.
    pub license: Option<String>,
    /// Where its source is.
    pub repository: Option<Repository>,
    /// Tag to version. A mirror may name a version here that it does not list.
    pub dist_tags: BTreeMap<String, String>,
    /// Newest first, by semantic versioning.
    pub versions: Vec<VersionEntry>,
}

/// Where a package's source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// For example `git`.
    pub kind: Option<String>,
    /// As the package states it: not always a URL.
    pub url: String,
    /// The folder inside the repository.
    pub directory: Option<String>,
}

/// One published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    /// A semantic version in its canonical spelling.
    pub version: String,
    /// When it was published.
    pub publish_time: Option<Timestamp>,
    /// `Some` if it is deprecated: the publisher's words, which may be empty.
    pub deprecated: Option<String>,
    /// Subresource Integrity of the tarball. Versions that have only a SHA-1 `shasum` have it here as `sha1-…`.
    pub integrity: Option<String>,
    /// Where the tarball is, as the registry says.
    pub tarball_url: Option<String>,
    /// In bytes, as the registry says.
    pub unpacked_size: Option<u64>,
    /// Name to version range.
    pub dependencies: BTreeMap<String, String>,
    /// Name to version range.
    pub peer_dependencies: BTreeMap<String, String>,
    /// A short name for people, if the package's metadata has one.
    pub label: Option<String>,
}

/// Something that was left out of a packument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackumentWarning {
    /// A version whose number is no canonical semantic version.
    VersionDropped {
        /// The number, cut if it is long.
        version: String,
    },
    /// A version that is not a JSON object.
    VersionUnreadable {
        /// Its number.
        version: String,
    },
    /// A field of an unknown shape.
    FieldSkipped {
        /// The version it belongs to; `None` for the package.
        version: Option<String>,
        /// Its name.
        field: &'static str,
    },
    /// There were more warnings than are kept.
    More {
        /// How many more.
        count: usize,
    },
}

/// Why an answer is no packument.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PackumentRefused {
    /// Every version was unpublished; only the name is left.
    Unpublished,
    Truncated(String),
    Malformed(String),
}

/// Reads a packument about `name`.
pub(super) fn read(
    json: &[u8],
    name: &PackageName,
) -> Result<(Packument, Vec<PackumentWarning>), PackumentRefused> {
    let mut warnings = Warnings::default();
    // The top is read field by field and left as text where it is not wanted: a readme can be most of a packument.
    let top: BTreeMap<String, &RawValue> = serde_json::from_slice(json).map_err(|error| {
        let problem = format!("not a packument: {}", brief(&error));
        if error.is_eof() {
            PackumentRefused::Truncated(problem)
        } else {
            PackumentRefused::Malformed(problem)
        }
    })?;
    let mut fields = Fields::of_package(&top, &mut warnings);
    check_name(fields.text("name").as_deref(), name)?;
    let times: BTreeMap<String, Value> = fields.object("time").unwrap_or_default();
    let Some(versions) = fields.object::<&RawValue>("versions") else {
        return Err(if times.contains_key("unpublished") {
            PackumentRefused::Unpublished
        } else {
            PackumentRefused::Malformed("it has no versions".to_owned())
        });
    };
    let mut packument = Packument {
        name: name.clone(),
        description: fields.text("description"),
        homepage: fields.text("homepage"),
        license: fields.license(),
        repository: fields.repository(),
        dist_tags: fields.texts("dist-tags"),
        versions: Vec::with_capacity(versions.len()),
    };
    packument.read_versions(&versions, &times, &mut warnings);
    Ok((packument, warnings.into_list()))
}

/// Mirrors that confuse two packages exist; taking one for the other would be worse than any outage.
fn check_name(own: Option<&str>, name: &PackageName) -> Result<(), PackumentRefused> {
    let problem = match own {
        Some(own) if own == name.as_str() => return Ok(()),
        Some(own) => {
            let own: String = own.chars().take(PackageName::LENGTH_MAX).collect();
            format!("it is about {own:?}, not {:?}", name.as_str())
        }
        None => "it does not name its package".to_owned(),
    };
    Err(PackumentRefused::Malformed(problem))
}

/// The versions with a canonical number, newest first.
fn sorted<'v, 'json>(
    versions: &'v BTreeMap<String, &'json RawValue>,
    warnings: &mut Warnings,
) -> Vec<(Version, &'v str, &'json RawValue)> {
    let mut sorted = Vec::with_capacity(versions.len());
    for (number, raw) in versions {
        match canonical(number) {
            Some(version) => sorted.push((version, number.as_str(), *raw)),
            None => warnings.push(PackumentWarning::VersionDropped {
                version: number.chars().take(64).collect(),
            }),
        }
    }
    // Build metadata has no order of its own; the text decides, so that the order never depends on the registry's.
    sorted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.cmp(a.1)));
    sorted
}

fn version_entry(
    number: &str,
    publish_time: Option<Timestamp>,
    fields: &mut Fields<'_, '_>,
) -> VersionEntry {
    let dist = fields.dist();
    VersionEntry {
        version: number.to_owned(),
        publish_time,
        deprecated: fields.deprecated(),
        integrity: dist.integrity,
        tarball_url: dist.tarball_url,
        unpacked_size: dist.unpacked_size,
        dependencies: fields.texts("dependencies"),
        peer_dependencies: fields.texts("peerDependencies"),
        label: fields.text("label").filter(|label| !label.is_empty()),
    }
}

/// The version, if the text is its canonical spelling: `v1.2.3` and `1.2.3 ` are other names for what would be the same version.
fn canonical(number: &str) -> Option<Version> {
    Version::parse(number)
        .ok()
        .filter(|version| version.to_string() == number)
}

// === impl Packument ===

impl Packument {
    fn read_versions(
        &mut self,
        versions: &BTreeMap<String, &RawValue>,
        times: &BTreeMap<String, Value>,
        warnings: &mut Warnings,
    ) {
        let latest = self.dist_tags.get("latest").cloned();
        let mut example = None;
        for (_, number, raw) in sorted(versions, warnings) {
            let Ok(object) = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get()) else {
                warnings.push(PackumentWarning::VersionUnreadable {
                    version: number.to_owned(),
                });
                continue;
            };
            let mut fields = Fields::of_version(&object, number, warnings);
            let publish_time = times.get(number).and_then(|time| fields.time("time", time));
            self.versions
                .push(version_entry(number, publish_time, &mut fields));
            if example.is_none() || latest.as_deref() == Some(number) {
                example = Some(object);
            }
        }
        if let Some(example) = example {
            self.fill_from(&mut Fields::of_package(&example, &mut Warnings::default()));
        }
    }

    /// Fills what the top lacks from one version: registries copy these fields up from `latest`, some mirrors do not.
    fn fill_from(&mut self, fields: &mut Fields<'_, '_>) {
        if self.description.is_none() {
            self.description = fields.text("description");
        }
        if self.homepage.is_none() {
            self.homepage = fields.text("homepage");
        }
        if self.license.is_none() {
            self.license = fields.license();
        }
        if self.repository.is_none() {
            self.repository = fields.repository();
        }
    }
}

// === impl PackumentWarning ===

impl fmt::Display for PackumentWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VersionDropped { version } => {
                write!(f, "version {version:?} dropped: not a semantic version")
            }
            Self::VersionUnreadable { version } => {
                write!(f, "version {version} dropped: not a JSON object")
            }
            Self::FieldSkipped {
                version: Some(version),
                field,
            } => write!(f, "{field} of version {version} skipped: unknown shape"),
            Self::FieldSkipped {
                version: None,
                field,
            } => write!(f, "{field} skipped: unknown shape"),
            Self::More { count } => write!(f, "and {count} more"),
        }
    }
}

#[derive(Default)]
struct Warnings {
    kept: Vec<PackumentWarning>,
    more: usize,
}

impl Warnings {
    fn push(&mut self, warning: PackumentWarning) {
        if self.kept.len() < WARNINGS_MAX {
            self.kept.push(warning);
        } else {
            self.more += 1;
        }
    }

    fn into_list(mut self) -> Vec<PackumentWarning> {
        if self.more > 0 {
            self.kept.push(PackumentWarning::More { count: self.more });
        }
        self.kept
    }
}

#[cfg(test)]
mod tests;
