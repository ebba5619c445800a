//! What a refresh should do, decided from values alone: which request joins which run, what changed, whose schemas to read,
//! and how a run ended. Nothing here reads or writes anything.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_api::registry::v1::{RefreshKind, RefreshState};

use crate::{
    package::{PackageDocument, VersionDocument},
    range::parse_version,
};

/// More requests than this that no queued run covers become one run over everything.
pub const MAX_QUEUED_RUNS: usize = 16;

/// What a refresh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// Package metadata and versions.
    pub packages: bool,
    /// Schemas and labels, from tarballs.
    pub schemas: bool,
    /// Icons, from where the sources say they are.
    pub icons: bool,
}

/// What somebody asks to be refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What to read.
    pub kinds: Kinds,
    /// Of this package only; `None` means all.
    pub package: Option<String>,
    /// Only to see what would change.
    pub dry_run: bool,
    /// Everything anew, whatever is known, and whatever a listing lacks.
    pub force: bool,
}

/// A refresh that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underway {
    /// Its id.
    pub id: String,
    /// What it reads.
    pub wish: Wish,
    /// Packages are read in the order of their names; those up to and including this one may have been read. `None`: none yet.
    pub begun_through: Option<String>,
}

/// Where a wish goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The run with this id covers it.
    Join(String),
    /// A new run.
    Queue(Wish),
    /// So many wait that it has to be asked again later.
    Refuse,
}

/// What became of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The same, and the upstream's etag too.
    None,
    /// The same under a new upstream etag: remember that, and nothing else.
    EtagOnly,
    /// New or changed.
    Content,
}

/// What is stored about a version's schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownSchema {
    /// The integrity of the version's tarball as it was then.
    pub integrity: String,
    /// The schema's hash; `None` if there is none.
    pub hash: Option<String>,
    /// The label in the tarball; may be empty.
    pub label: String,
    /// The template of the address that was asked; empty for the tarball.
    pub origin: String,
    /// How often in a row there was none at the address.
    pub misses: i64,
    /// When to ask at the address again.
    pub retry_us: Option<i64>,
}

/// How schemas are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaReading<'a> {
    /// The template of their addresses; empty for tarballs.
    pub origin: &'a str,
    /// Of how many stable versions, besides those that tags name.
    pub newest_stable: usize,
    /// When the run began, by the database's clock.
    pub now_us: i64,
    /// Whatever is known.
    pub force: bool,
}

/// What the registry says of the latest version's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatedLabel {
    /// The registry was not asked, or said that nothing changed.
    AsBefore,
    /// It has none.
    None,
    /// This one.
    Some(String),
}

/// What to do about the schemas of one package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaPlan {
    /// Versions whose schemas are to be read, newest first.
    pub fetch: Vec<String>,
    /// How many wanted versions need not be read again.
    pub settled: usize,
    /// Stored versions that the package no longer has.
    pub gone: Vec<String>,
}

/// How items of one kind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// What there was to read.
    pub listed: i64,
    /// Stored anew.
    pub changed: i64,
    /// As it was.
    pub unchanged: i64,
    /// Not read.
    pub failed: i64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Succeeded, partial or failed.
    pub state: RefreshState,
    /// Why it is not a success as a whole; empty if the items say it.
    pub error: String,
}

// === impl Kinds ===

impl Kinds {
    /// Everything.
    pub const ALL: Self = Self {
        packages: true,
        schemas: true,
        icons: true,
    };

    /// From a request: none means all. `None` for a kind that is unknown or unspecified.
    #[must_use]
    pub fn from_proto(kinds: &[i32]) -> Option<Self> {
        if kinds.is_empty() {
            return Some(Self::ALL);
        }
        let mut found = Self {
            packages: false,
            schemas: false,
            icons: false,
        };
        for kind in kinds {
            match RefreshKind::try_from(*kind) {
                Ok(RefreshKind::Packages) => found.packages = true,
                Ok(RefreshKind::Schemas) => found.schemas = true,
                Ok(RefreshKind::Icons) => found.icons = true,
                Ok(RefreshKind::Unspecified) | Err(_) => return None,
            }
        }
        Some(found)
    }

    /// As answers list them.
    #[must_use]
    pub fn to_proto(self) -> Vec<i32> {
        let packages = self.packages.then_some(RefreshKind::Packages.into());
        let schemas = self.schemas.then_some(RefreshKind::Schemas.into());
        let icons = self.icons.then_some(RefreshKind::Icons.into());
        packages.into_iter().chain(schemas).chain(icons).collect()
    }

    fn covers(self, other: Self) -> bool {
        (self.packages || !other.packages)
            && (self.schemas || !other.schemas)
            && (self.icons || !other.icons)
    }
}

// === impl Wish ===

impl Wish {
    /// Everything that may be new.
    pub const ALL: Self = Self {
        kinds: Kinds::ALL,
        package: None,
        dry_run: false,
        force: false,
    };
}

// === impl Underway ===

impl Underway {
    /// Whether this run answers the wish: it reads at least that, and has not yet read any of it. A wish for all packages
    /// names each of them, so it is covered only while none has been read; otherwise its caller could miss what was
    /// published a moment ago. A dry run covers nothing and is covered by nothing.
    #[must_use]
    pub fn covers(&self, wish: &Wish) -> bool {
        let subsumed = !self.wish.dry_run
            && !wish.dry_run
            && (self.wish.force || !wish.force)
            && self.wish.kinds.covers(wish.kinds)
            && (self.wish.package.is_none() || self.wish.package == wish.package);
        let unread = match (&self.begun_through, &wish.package) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(through), Some(package)) => package > through,
        };
        subsumed && unread
    }
}

/// Where a wish goes, given the runs that have not ended, oldest first.
#[must_use]
pub fn place(wish: &Wish, underway: &[Underway]) -> Placement {
    if let Some(run) = underway.iter().find(|run| run.covers(wish)) {
        return Placement::Join(run.id.clone());
    }
    if underway.len() > MAX_QUEUED_RUNS {
        if wish.dry_run {
            return Placement::Refuse;
        }
        let all = Wish {
            force: wish.force,
            ..Wish::ALL
        };
        return match underway.iter().find(|run| run.covers(&all)) {
            Some(run) => Placement::Join(run.id.clone()),
            None => Placement::Queue(all),
        };
    }
    Placement::Queue(wish.clone())
}

/// Compares what was fetched with what is stored: by content hash, then by the upstream's own etag.
#[must_use]
pub fn difference(
    stored_hash: Option<&str>,
    stored_etag: &str,
    hash: &str,
    etag: &str,
) -> Difference {
    match stored_hash {
        Some(stored) if stored == hash && stored_etag == etag => Difference::None,
        Some(stored) if stored == hash => Difference::EtagOnly,
        _ => Difference::Content,
    }
}

/// The versions whose schemas are kept: each that a dist-tag names, and the newest stable ones. Newest first.
#[must_use]
pub fn wanted_versions(document: &PackageDocument, newest_stable: usize) -> Vec<&VersionDocument> {
    let tagged: BTreeSet<&str> = document.dist_tags.values().map(String::as_str).collect();
    let mut stable = 0;
    document
        .versions
        .iter()
        .filter(|version| {
            let is_stable =
                parse_version(&version.version).is_some_and(|parsed| !parsed.is_prerelease());
            stable += usize::from(is_stable);
            tagged.contains(version.version.as_str()) || (is_stable && stable <= newest_stable)
        })
        .collect()
}

/// Which schemas to read. What was read from a tarball is final, the absence of a schema too, as long as the package names the same
/// integrity for it: bytes with a fixed hash cannot change. At an address, an absence is asked about again after a while. Besides, only
/// what failed, or was never asked, is asked again, and what was read elsewhere than now.
#[must_use]
pub fn schema_plan(
    document: &PackageDocument,
    known: &BTreeMap<String, KnownSchema>,
    reading: SchemaReading<'_>,
) -> SchemaPlan {
    let mut plan = SchemaPlan::default();
    let is_settled = |schema: &KnownSchema, version: &VersionDocument| {
        let is_due = schema.retry_us.is_some_and(|due| due <= reading.now_us);
        schema.integrity == version.integrity && schema.origin == reading.origin && !is_due
    };
    for version in wanted_versions(document, reading.newest_stable) {
        match known.get(&version.version) {
            Some(schema) if !reading.force && is_settled(schema, version) => plan.settled += 1,
            _ => plan.fetch.push(version.version.clone()),
        }
    }
    let present: BTreeSet<&str> = document
        .versions
        .iter()
        .map(|version| version.version.as_str())
        .collect();
    plan.gone = known
        .keys()
        .filter(|version| !present.contains(version.as_str()))
        .cloned()
        .collect();
    plan
}

/// How long after so many misses in a row, from 1, to ask at an address again, in microseconds: an hour, which doubles up to a week.
#[must_use]
pub const fn retry_in_us(misses: i64) -> i64 {
    const HOUR_US: i64 = 3_600 * 1_000_000;
    const WEEK_US: i64 = 7 * 24 * HOUR_US;
    if misses > 8 {
        return WEEK_US;
    }
    let doubled = HOUR_US << (if misses > 1 { misses - 1 } else { 0 });
    if doubled < WEEK_US { doubled } else { WEEK_US }
}

/// The package's label: what the tarball of its latest version says, else what its registry says now, else what it was. What it was
/// does not count once registry and tarball were both read and had none.
#[must_use]
pub fn label(
    document: &PackageDocument,
    known: &BTreeMap<String, KnownSchema>,
    stated: &StatedLabel,
    before: &str,
) -> String {
    let in_tarball = document
        .latest()
        .and_then(|latest| known.get(&latest.version))
        .map(|schema| schema.label.as_str());
    match (in_tarball, stated) {
        (Some(label), _) if !label.is_empty() => label.to_owned(),
        (_, StatedLabel::Some(label)) => label.clone(),
        (Some(_), StatedLabel::None) => String::new(),
        (None, StatedLabel::None) | (_, StatedLabel::AsBefore) => before.to_owned(),
    }
}

/// How a run over these items ended. `listing` says why a source's listing was of no use; empty if none was.
#[must_use]
pub fn verdict(
    kinds: Kinds,
    packages: Tally,
    schemas: Tally,
    icons: Tally,
    listing: &str,
) -> Verdict {
    let read = packages.read() + schemas.read() + icons.read();
    let failed = packages.failed + schemas.failed + icons.failed;
    let only_icons = kinds.icons && !kinds.packages && !kinds.schemas;
    let (state, error) = if !listing.is_empty() && read == 0 {
        (RefreshState::Failed, listing)
    } else if !listing.is_empty() {
        (RefreshState::Partial, listing)
    } else if packages.listed + schemas.listed + icons.listed == 0 {
        let error = if only_icons {
            "there was nothing to read: no package is known yet, or no source has an icon of any"
        } else {
            "there was nothing to read: no package is known yet"
        };
        (RefreshState::Failed, error)
    } else if read == 0 {
        (RefreshState::Failed, "nothing could be read")
    } else if kinds.schemas && schemas.failed > 0 && schemas.read() == 0 {
        (RefreshState::Partial, "no schema could be read")
    } else if kinds.icons && icons.failed > 0 && icons.read() == 0 {
        (RefreshState::Partial, "no icon could be read")
    } else if kinds.schemas && schemas.listed == 0 && packages.failed == 0 {
        let error = "no package has a version whose schema could be read";
        (RefreshState::Partial, error)
    } else if failed > 0 {
        (RefreshState::Partial, "")
    } else {
        (RefreshState::Succeeded, "")
    };
    Verdict {
        state,
        error: error.to_owned(),
    }
}

// === impl Tally ===

impl Tally {
    /// How many were read, whatever came of it.
    #[must_use]
    pub const fn read(&self) -> i64 {
        self.changed + self.unchanged
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
