//! What the catalogue is made from, and its limits.

use std::time::Duration;

use steadfast_types::ReplicaId;
use steadfast_upstream::{IconUpstream, NpmRegistry, PackageName, TarballLimits, UrlTemplate};

use crate::{json::JsonLimits, pattern::Patterns, validate::DOCUMENT_LIMITS};

/// Where packages come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// A name for people, unique among the sources.
    pub name: String,
    /// What it is, and what is taken from it. A package that two sources have is taken from the first.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a process has a few, which are never moved"
)]
pub enum SourceKind {
    /// A registry that speaks npm's protocol.
    Npm(NpmSource),
    /// Folders of this machine.
    Local(LocalSource),
}

/// A registry and the packages that are taken from it.
#[derive(Debug, Clone)]
pub struct NpmSource {
    /// What to take, whatever else is.
    pub packages: Vec<PackageName>,
    /// Take every package of this organisation, or user.
    pub organization: Option<String>,
    /// Take what a search for this text finds.
    pub search: Option<String>,
    /// What of the last two is taken.
    pub patterns: Patterns,
    /// Where schemas are read; `None` for the versions' tarballs.
    pub schema_url: Option<UrlTemplate>,
    /// From where.
    pub registry: NpmRegistry,
    /// Where their icons are, if anywhere.
    pub icons: Option<IconUpstream>,
}

/// Folders that each hold packages, as a monorepo does, at `packages/*`.
#[derive(Debug, Clone)]
pub struct LocalSource {
    /// Absolute paths, in the order of their precedence: a package that two have is taken from the first. Their text names them to
    /// other replicas.
    pub roots: Vec<String>,
    /// How often all is read again, whether or not the system told of a change.
    pub rescan_interval: Duration,
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
    /// An unlisted package that its registry has not had for this long is removed; `None` for never.
    pub remove_absent_after: Option<Duration>,
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

// === impl NpmSource ===

impl NpmSource {
    /// Some packages of a registry.
    #[must_use]
    pub fn new(registry: NpmRegistry, packages: Vec<PackageName>) -> Self {
        Self {
            packages,
            organization: None,
            search: None,
            patterns: Patterns::default(),
            schema_url: None,
            registry,
            icons: None,
        }
    }

    /// Whether the registry is asked which packages there are.
    #[must_use]
    pub const fn asks_for_names(&self) -> bool {
        self.organization.is_some() || self.search.is_some()
    }

    /// What is stored of where a schema was read: the template of its address; empty for a tarball.
    pub(crate) fn schema_origin(&self) -> &str {
        self.schema_url.as_ref().map_or("", UrlTemplate::as_str)
    }
}

// === impl Source ===

impl Source {
    /// If it is a registry, which, and what is taken from it.
    #[must_use]
    pub const fn npm(&self) -> Option<&NpmSource> {
        match &self.kind {
            SourceKind::Npm(npm) => Some(npm),
            SourceKind::Local(_) => None,
        }
    }

    /// Where the icons of its packages are asked for, if anywhere.
    pub(crate) fn icons(&self) -> Option<&IconUpstream> {
        self.npm()?.icons.as_ref()
    }
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
            remove_absent_after: None,
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

    /// Whether anything is read from a registry. Local sources are read without being asked.
    #[must_use]
    pub(crate) fn has_registry(&self) -> bool {
        self.sources.iter().any(|source| source.npm().is_some())
    }

    /// Whether a source is a local one that comes before another.
    #[must_use]
    pub(crate) fn is_local_before(&self, source: &str, other: &str) -> bool {
        let before = self.sources.iter().take_while(|found| found.name != other);
        before
            .into_iter()
            .any(|found| found.name == source && matches!(found.kind, SourceKind::Local(_)))
    }
}
