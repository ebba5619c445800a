//! One package in memory: parsed for decisions, encoded for answers.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use nodejs_semver::Version;
use prost::Message;
use steadfast_api::registry::v1::{GetPackageResponse, PackageSummary};

use crate::{
    icon::Icons,
    package::{PackageDocument, VersionDocument},
    range::place,
    resolve::Versions,
    schema::Schema,
};

/// What is known of one version's schema.
#[derive(Debug, Clone)]
pub enum SchemaSlot {
    /// The tarball was read and has none.
    None,
    /// This one.
    Some(Arc<Schema>),
}

/// A package with its schemas, ready to be served.
#[derive(Debug)]
pub struct PackageEntry {
    /// As stored.
    pub document: PackageDocument,
    /// The content hash.
    pub etag: String,
    /// What lists show.
    pub summary: PackageSummary,
    /// By version; a version that is not here has not been read.
    pub schemas: BTreeMap<String, SchemaSlot>,
    /// What its source has of icons.
    pub icons: Icons,
    /// Parallel to `document.versions`.
    parsed: Vec<Version>,
    /// Parallel to `document.versions`: each version's message.
    versions: Vec<Bytes>,
    /// The whole `GetPackageResponse` but for its read state.
    body: Bytes,
    /// Name, label and description in lower case.
    haystack: String,
    /// See [`Versions::newest`].
    newest: String,
}

// === impl PackageEntry ===

impl PackageEntry {
    /// Parses and encodes a package once.
    #[must_use]
    pub fn new(
        document: PackageDocument,
        etag: String,
        schemas: BTreeMap<String, SchemaSlot>,
    ) -> Self {
        // Documents are stored sorted; sorting again costs little and makes binary search safe whatever was stored.
        let document = document.sorted();
        let parsed: Vec<Version> = document
            .versions
            .iter()
            .filter_map(|version| place(&version.version))
            .collect();
        let latest = document.latest().map(|version| version.version.as_str());
        let has_schema = latest
            .and_then(|version| schemas.get(version))
            .is_some_and(|slot| matches!(slot, SchemaSlot::Some(_)));
        let summary = PackageSummary {
            name: document.name.clone(),
            label: document.label.clone(),
            description: document.description.clone(),
            latest_version: latest.unwrap_or_default().to_owned(),
            version_count: i32::try_from(document.versions.len()).unwrap_or(i32::MAX),
            deprecated: document.is_deprecated(),
            has_schema,
            source: document.source.clone(),
            etag: etag.clone(),
            unlisted: document.unlisted,
        };
        let body = GetPackageResponse {
            package: Some(document.to_proto(&etag)),
            ..Default::default()
        };
        let haystack = [&document.name, &document.label, &document.description]
            .map(|text| text.to_lowercase())
            .join("\n");
        let mut entry = Self {
            etag,
            summary,
            schemas,
            icons: Icons::default(),
            parsed,
            versions: document
                .versions
                .iter()
                .map(|version| version.to_proto().encode_to_vec().into())
                .collect(),
            body: body.encode_to_vec().into(),
            haystack,
            newest: String::new(),
            document,
        };
        entry.newest = entry
            .versions()
            .newest()
            .map(|version| version.version.clone())
            .unwrap_or_default();
        entry
    }

    /// The same with icons.
    #[must_use]
    pub fn with_icons(self, icons: Icons) -> Self {
        Self { icons, ..self }
    }

    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.document.name
    }

    /// For choosing one.
    #[must_use]
    pub fn versions(&self) -> Versions<'_> {
        Versions {
            documents: &self.document.versions,
            parsed: &self.parsed,
            dist_tags: &self.document.dist_tags,
        }
    }

    /// The version at a place, with its encoded message.
    #[must_use]
    pub fn version(&self, index: usize) -> Option<(&VersionDocument, &Bytes)> {
        Some((
            self.document.versions.get(index)?,
            self.versions.get(index)?,
        ))
    }

    /// The newest stable version; empty if there is none.
    #[must_use]
    pub fn newest(&self) -> &str {
        &self.newest
    }

    /// The schema of the version that `latest` names.
    #[must_use]
    pub fn latest_schema(&self) -> Option<(&str, &Arc<Schema>)> {
        let version = &self.document.latest()?.version;
        match self.schemas.get(version)? {
            SchemaSlot::Some(schema) => Some((version, schema)),
            SchemaSlot::None => None,
        }
    }

    /// The encoded answer to `GetPackage`, but for its read state.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Whether name, label or description contain the text, which is in lower case.
    #[must_use]
    pub fn mentions(&self, lowercase: &str) -> bool {
        self.haystack.contains(lowercase)
    }
}
