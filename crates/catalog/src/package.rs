//! What is kept of a package: one document, the same text for the same facts.
//!
//! The text is canonical (fields in a fixed order, maps sorted, versions newest first), so its hash is both the etag that
//! callers see and the proof that a refresh brought nothing new. It holds only what its registry says; when it was read is kept
//! elsewhere, because that changes without the package changing.

use std::collections::BTreeMap;

use nodejs_semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steadfast_api::registry::v1 as proto;
use steadfast_types::Timestamp;

use crate::{range::place, specifier::LATEST};

/// A package, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PackageDocument {
    /// Its name, with its scope.
    pub name: String,
    /// The configured source it came from.
    pub source: String,
    /// Its source listed it once and does so no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlisted: bool,
    /// A short name for people, from its tarball.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// One sentence, by its authors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// Usually an SPDX expression.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// Where its code is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryDocument>,
    /// Tag to version.
    #[serde(default)]
    pub dist_tags: BTreeMap<String, String>,
    /// Newest first.
    #[serde(default)]
    pub versions: Vec<VersionDocument>,
}

/// Where a package's code is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepositoryDocument {
    /// For example `git`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// As the package states it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The folder inside the repository.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
}

/// One version of a package, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionDocument {
    /// A semantic version, or [`LOCAL`](crate::range::LOCAL).
    pub version: String,
    /// When it was published, if the registry says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_us: Option<Timestamp>,
    /// Set if it is deprecated, with the publisher's words, which may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
    /// Subresource Integrity of the tarball.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub integrity: String,
    /// Where the tarball is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tarball: String,
    /// In bytes; 0 if unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpacked_size: i64,
    /// Name to version range.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, String>,
    /// Name to version range.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peer_dependencies: BTreeMap<String, String>,
}

/// The canonical text of a document, with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalText {
    /// JSON.
    pub text: String,
    /// The SHA-256 of the text, in hexadecimal.
    pub hash: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference to what it asks about"
)]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// The SHA-256 of some bytes, in hexadecimal: etags of packages and of schemas.
#[must_use]
pub(crate) fn content_hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

// === impl PackageDocument ===

impl PackageDocument {
    /// Sorts the versions, newest first, and drops what no rule of semantic versioning can place.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        let mut parsed: Vec<(Version, VersionDocument)> = self
            .versions
            .into_iter()
            .filter_map(|version| Some((place(&version.version)?, version)))
            .collect();
        // Versions that differ only in build metadata are equal to npm; their text decides, so that the order is fixed.
        parsed.sort_by(|(a, left), (b, right)| {
            b.cmp(a).then_with(|| right.version.cmp(&left.version))
        });
        self.versions = parsed.into_iter().map(|(_, version)| version).collect();
        self
    }

    /// The document as text, with its hash.
    ///
    /// # Errors
    /// Never for a document of this type; the text's encoder can fail in general.
    pub fn canonical(&self) -> Result<CanonicalText, serde_json::Error> {
        let text = serde_json::to_string(self)?;
        Ok(CanonicalText {
            hash: content_hash(text.as_bytes()),
            text,
        })
    }

    /// What the dist-tag `latest` names.
    #[must_use]
    pub fn latest(&self) -> Option<&VersionDocument> {
        self.version(self.dist_tags.get(LATEST)?)
    }

    /// The version with this text.
    #[must_use]
    pub fn version(&self, version: &str) -> Option<&VersionDocument> {
        self.versions.iter().find(|found| found.version == version)
    }

    /// Whether every version is deprecated; a package without versions is not.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        !self.versions.is_empty()
            && self
                .versions
                .iter()
                .all(|version| version.deprecated.is_some())
    }

    /// The message that callers get.
    #[must_use]
    pub fn to_proto(&self, etag: &str) -> proto::Package {
        proto::Package {
            name: self.name.clone(),
            label: self.label.clone(),
            description: self.description.clone(),
            homepage: self.homepage.clone(),
            license: self.license.clone(),
            repository: self.repository.as_ref().map(|found| proto::Repository {
                r#type: found.kind.clone(),
                url: found.url.clone(),
                directory: found.directory.clone(),
            }),
            dist_tags: self.dist_tags.clone().into_iter().collect(),
            versions: self
                .versions
                .iter()
                .map(VersionDocument::to_proto)
                .collect(),
            source: self.source.clone(),
            deprecated: self.is_deprecated(),
            etag: etag.to_owned(),
            unlisted: self.unlisted,
        }
    }
}

// === impl VersionDocument ===

impl VersionDocument {
    /// The message that callers get.
    #[must_use]
    pub fn to_proto(&self) -> proto::PackageVersion {
        proto::PackageVersion {
            version: self.version.clone(),
            publish_time: self.publish_us.map(to_proto_time),
            deprecated: self.deprecated.is_some(),
            deprecation_message: self.deprecated.clone().unwrap_or_default(),
            integrity: self.integrity.clone(),
            tarball_url: self.tarball.clone(),
            unpacked_size: self.unpacked_size,
            dependencies: self.dependencies.clone().into_iter().collect(),
            peer_dependencies: self.peer_dependencies.clone().into_iter().collect(),
        }
    }
}

/// A time as protocol buffers write it.
#[must_use]
pub(crate) fn to_proto_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds(),
        nanos: time.nanos(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(versions: &[&str]) -> PackageDocument {
        PackageDocument {
            name: "@s/p".into(),
            source: "npm".into(),
            versions: versions
                .iter()
                .map(|version| VersionDocument {
                    version: (*version).into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn rule_12_versions_are_sorted_as_versions_not_as_text() {
        let sorted = document(&["1.9.0", "1.10.0", "2.0.0-rc.1", "garbage", "2.0.0"]).sorted();
        let versions: Vec<_> = sorted.versions.iter().map(|v| v.version.as_str()).collect();
        assert_eq!(versions, ["2.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]);
    }

    #[test]
    fn only_a_package_with_versions_can_be_deprecated() {
        assert!(!document(&[]).is_deprecated());
        let mut one = document(&["1.0.0"]);
        assert!(!one.is_deprecated());
        one.versions[0].deprecated = Some(String::new());
        assert!(one.is_deprecated());
        assert!(one.to_proto("e").versions[0].deprecated);
    }

    proptest! {
        #[test]
        fn the_same_facts_in_another_order_are_the_same_text(
            mut versions in proptest::collection::vec((0u8..5, 0u8..5, 0u8..5), 0..12),
            tags in proptest::collection::btree_map("[a-z]{1,4}", "[0-9]{1,3}", 0..4),
        ) {
            versions.sort_unstable();
            versions.dedup();
            let build = |versions: &[(u8, u8, u8)]| {
                let texts: Vec<_> = versions.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
                let texts: Vec<_> = texts.iter().map(String::as_str).collect();
                let mut document = document(&texts).sorted();
                document.dist_tags = tags.clone();
                document
            };
            let there = build(&versions).canonical().expect("encodes");
            versions.reverse();
            let back = build(&versions).canonical().expect("encodes");
            prop_assert_eq!(&there, &back);
            let read: PackageDocument = serde_json::from_str(&there.text).expect("reads");
            prop_assert_eq!(read, build(&versions));
        }
    }
}
