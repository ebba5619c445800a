//! From what a registry says to what is stored.

use steadfast_upstream::Packument;

use crate::{
    package::{PackageDocument, RepositoryDocument, VersionDocument},
    plan::StatedLabel,
    specifier::LATEST,
};

/// Raised when documents get new fields: packages are then read in full once, though their registry says "not modified".
const DOCUMENT_FORMAT: &str = "1";

/// What the registry says, or what is stored if nothing new is known.
pub(crate) struct Current {
    pub(crate) document: PackageDocument,
    pub(crate) etag: String,
    pub(crate) label: StatedLabel,
}

/// The registry's own etag in a stored one, if the document would be made from it in the same way today.
pub(crate) fn upstream_etag(stored: &str) -> Option<&str> {
    let (format, etag) = stored.split_once(' ')?;
    (format == DOCUMENT_FORMAT).then_some(etag)
}

// === impl Current ===

impl Current {
    /// What a packument says; the label is settled later.
    pub(crate) fn new(packument: Packument, etag: Option<String>, source: &str) -> Self {
        let label_of_latest = packument.dist_tags.get(LATEST).and_then(|latest| {
            let version = packument
                .versions
                .iter()
                .find(|found| found.version == *latest);
            version?.label.clone()
        });
        let document = PackageDocument {
            name: packument.name.to_string(),
            source: source.to_owned(),
            unlisted: false,
            label: String::new(),
            description: packument.description.unwrap_or_default(),
            homepage: packument.homepage.unwrap_or_default(),
            license: packument.license.unwrap_or_default(),
            repository: packument.repository.map(|found| RepositoryDocument {
                kind: found.kind.unwrap_or_default(),
                url: found.url,
                directory: found.directory.unwrap_or_default(),
            }),
            dist_tags: packument.dist_tags,
            versions: packument
                .versions
                .into_iter()
                .map(|version| VersionDocument {
                    version: version.version,
                    publish_us: version.publish_time,
                    deprecated: version.deprecated,
                    integrity: version.integrity.unwrap_or_default(),
                    tarball: version.tarball_url.unwrap_or_default(),
                    unpacked_size: version
                        .unpacked_size
                        .and_then(|size| i64::try_from(size).ok())
                        .unwrap_or_default(),
                    dependencies: version.dependencies,
                    peer_dependencies: version.peer_dependencies,
                })
                .collect(),
        };
        Self {
            document: document.sorted(),
            etag: etag.map_or_else(String::new, |etag| format!("{DOCUMENT_FORMAT} {etag}")),
            label: label_of_latest.map_or(StatedLabel::None, StatedLabel::Some),
        }
    }
}
