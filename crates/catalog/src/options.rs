//! What the catalogue is made from, and its limits.

use std::time::Duration;

use steadfast_types::ReplicaId;
use steadfast_upstream::{IconUpstream, NpmRegistry, PackageName, TarballLimits};

use crate::{json::JsonLimits, validate::DOCUMENT_LIMITS};

/// Where packages come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// A name for people, unique among the sources.
    pub name: String,
    /// What it is read from.
    pub kind: SourceKind,
}

/// What a source is read from.
#[derive(Debug, Clone)]
pub enum SourceKind {
    /// An npm registry.
    Npm(NpmSource),
}

/// A registry and the packages that are taken from it.
#[derive(Debug, Clone)]
pub struct NpmSource {
    /// What to take. A package that two sources name is taken from the first.
    pub packages: Vec<PackageName>,
    /// From where.
    pub registry: NpmRegistry,
    /// Where their icons are, if anywhere.
    pub icons: Option<IconUpstream>,
}

// === impl Source ===

impl Source {
    /// Where the icons of its packages are asked for, if anywhere.
    pub(crate) const fn icons(&self) -> Option<&IconUpstream> {
        let SourceKind::Npm(npm) = &self.kind;
        npm.icons.as_ref()
    }
}

/// Sources and limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// This process.
    pub replica: ReplicaId,
    /// In the order of their precedence; none means that there is nothing to refresh.
    pub sources: Vec<Source>,
    /// Ask for a refresh at a start with an empty catalogue.
    pub refresh_on_empty: bool,
    /// Requests to upstreams in flight during a refresh.
    pub refresh_concurrency: usize,
    /// Schemas are kept of the versions that dist-tags name and of this many newest stable ones.
    pub schemas_of_newest: usize,
    /// Ended refreshes that are kept.
    pub refresh_history: u32,
    /// How long the lease on refreshing lasts; it is renewed at a third of this.
    pub lease_duration: Duration,
    /// How often to look for a refresh that another replica was asked for, or was killed in.
    pub refresh_poll_interval: Duration,
    /// How often to read when the sources were last asked.
    pub checked_poll_interval: Duration,
    /// How long a lookup with `min_revision` waits for this replica.
    pub min_revision_wait: Duration,
    /// What is read of a tarball.
    pub tarball_limits: TarballLimits,
    /// What is read of a document that is to be validated.
    pub document_limits: JsonLimits,
    /// Bytes of icons that are kept in memory, at most; further ones are read from the database when they are asked for.
    pub icon_memory_bytes: u64,
}

// === impl Options ===

impl Options {
    /// The defaults, without a source.
    #[must_use]
    pub fn new(replica: ReplicaId) -> Self {
        Self {
            replica,
            sources: Vec::new(),
            refresh_on_empty: true,
            refresh_concurrency: 16,
            schemas_of_newest: 5,
            refresh_history: 100,
            lease_duration: Duration::from_secs(10),
            refresh_poll_interval: Duration::from_secs(1),
            checked_poll_interval: Duration::from_secs(2),
            min_revision_wait: Duration::from_secs(2),
            tarball_limits: TarballLimits::default(),
            document_limits: DOCUMENT_LIMITS,
            icon_memory_bytes: 128 << 20,
        }
    }

    /// All configured packages with their sources, in the order of their names.
    #[must_use]
    pub(crate) fn packages(&self) -> Vec<(&PackageName, &Source)> {
        let mut packages: Vec<(&PackageName, &Source)> = Vec::new();
        for source in &self.sources {
            let SourceKind::Npm(npm) = &source.kind;
            packages.extend(npm.packages.iter().map(|name| (name, source)));
        }
        // Stable: of equal names the first source's comes first.
        packages.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        packages.dedup_by(|(later, _), (earlier, _)| later == earlier);
        packages
    }
}
