//! What to do about a root, decided from values alone: what lies in it, what is stored, and who comes before it.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_store::{
    IconContent, IconRow, IconWrite, LocalView, PackageOrigin, PackageRow, PackageWrite,
    SchemaBlob, SchemaRow, SchemaWrite,
};

use super::{
    Origin, RootKey,
    folder::{Found, FoundIcon, Listing, RootError},
};
use crate::{
    options::{Options, SourceKind},
    package::CanonicalText,
    plan::{self, Difference},
    range::LOCAL,
};

/// What to do about a root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// What is to be stored, by name.
    pub(crate) writes: Vec<PackageWrite>,
    /// What is to be removed.
    pub(crate) removals: Vec<String>,
    /// The root's packages that are as they were.
    pub(crate) unchanged: Vec<String>,
    /// What another root or source has, too.
    pub(crate) shadowed: Vec<Shadowed>,
    /// Whether a schema or an icon is gone.
    pub(crate) takes_away: bool,
    /// What was stored of the packages that are written or removed.
    pub(crate) compared: BTreeMap<String, PackageOrigin>,
}

/// A package that is taken from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shadowed {
    pub(crate) name: String,
    /// Below `packages`.
    pub(crate) folder: String,
    /// From where it is taken, for people.
    pub(crate) by: String,
}

/// Who comes before whom, as this replica is configured.
#[derive(Debug)]
pub(crate) struct Precedence<'a> {
    options: &'a Options,
    own: &'a RootKey,
}

// === impl Precedence ===

impl<'a> Precedence<'a> {
    pub(crate) const fn new(options: &'a Options, own: &'a RootKey) -> Self {
        Self { options, own }
    }

    /// The place of a source; `None` if it is not configured.
    fn of_source(&self, name: &str) -> Option<usize> {
        let sources = self.options.sources.iter();
        sources.map(|source| &source.name).position(|n| n == name)
    }

    /// The place of a root in the own source.
    fn of_root(&self, path: &str) -> Option<usize> {
        let own = self.of_source(&self.own.source)?;
        match &self.options.sources[own].kind {
            SourceKind::Local(local) => local.roots.iter().position(|root| root == path),
            SourceKind::Npm(_) => None,
        }
    }

    /// The source before this one whose list names the package.
    fn listed_before(&self, name: &str) -> Option<&'a str> {
        let own = self.of_source(&self.own.source)?;
        let mut before = self.options.sources[..own].iter();
        let source = before.find(|source| match &source.kind {
            SourceKind::Npm(npm) => npm.packages.iter().any(|listed| listed.as_str() == name),
            SourceKind::Local(_) => false,
        })?;
        Some(&source.name)
    }

    /// Who keeps a package that is stored; `None` if this root may take it.
    fn keeper(&self, stored: &PackageOrigin, held: &BTreeSet<String>) -> Option<String> {
        if stored.source != self.own.source {
            // One that is no longer configured keeps nothing.
            let theirs = self.of_source(&stored.source)?;
            let is_before = Some(theirs) < self.of_source(&self.own.source);
            return is_before.then(|| format!("source {}", stored.source));
        }
        let origin = Origin::decode(&stored.upstream_etag)?;
        let is_before = match self.of_root(&origin.root) {
            Some(theirs) => Some(theirs) < self.of_root(&self.own.root),
            // A root that only other replicas have, as long as one of them serves it; else one that was renamed.
            None => {
                let other = RootKey {
                    source: stored.source.clone(),
                    root: origin.root.clone(),
                };
                held.contains(&other.lease())
            }
        };
        is_before.then(|| format!("{}/packages/{}", origin.root, origin.folder))
    }
}

/// The names of all packages that were found.
pub(crate) fn names(listing: &Listing) -> BTreeSet<String> {
    let found = listing.packages.iter();
    found.map(|found| found.document.name.clone()).collect()
}

/// The stored packages that this root brought, by name, with their folders.
pub(crate) fn brought<'v>(
    view: &'v LocalView,
    own: &RootKey,
) -> BTreeMap<&'v str, (&'v PackageOrigin, Origin)> {
    let of_source = view.origins.iter().filter(|row| row.source == own.source);
    of_source
        .filter_map(|row| {
            let origin = Origin::decode(&row.upstream_etag)?;
            (origin.root == own.root).then_some((row.name.as_str(), (row, origin)))
        })
        .collect()
}

/// Compares a root with what is stored.
///
/// # Errors
/// [`RootError::Emptied`] if nothing is left of it.
pub(crate) fn compare(
    listing: &Listing,
    view: &LocalView,
    precedence: &Precedence<'_>,
) -> Result<Comparison, RootError> {
    let own = precedence.own;
    let brought = brought(view, own);
    if listing.packages.is_empty() && listing.broken.is_empty() && !brought.is_empty() {
        return Err(RootError::Emptied {
            path: own.root.clone(),
            had: brought.len(),
        });
    }
    let stored: BTreeMap<&str, &PackageOrigin> = view
        .origins
        .iter()
        .map(|row| (row.name.as_str(), row))
        .collect();
    let mut schemas: BTreeMap<&str, Vec<&SchemaRow>> = BTreeMap::new();
    for schema in &view.schemas {
        schemas.entry(&schema.package).or_default().push(schema);
    }
    let schemas_of = |name: &str| schemas.get(name).map_or(&[][..], Vec::as_slice);
    let mut icons: BTreeMap<&str, Vec<&IconRow>> = BTreeMap::new();
    for icon in &view.icons {
        icons.entry(&icon.package).or_default().push(icon);
    }
    let mut taken: BTreeMap<&str, &Found> = BTreeMap::new();
    let mut comparison = Comparison::default();
    for found in &listing.packages {
        let name = found.document.name.as_str();
        let keeper = match (taken.get(name), precedence.listed_before(name)) {
            (Some(first), _) => Some(format!("{}/packages/{}", own.root, first.folder)),
            (None, Some(source)) => Some(format!("source {source}")),
            (None, None) => stored
                .get(name)
                .and_then(|row| precedence.keeper(row, &view.held)),
        };
        match keeper {
            Some(by) => comparison.shadowed.push(Shadowed {
                name: name.to_owned(),
                folder: found.folder.clone(),
                by,
            }),
            None => {
                taken.insert(name, found);
            }
        }
    }
    for (name, found) in &taken {
        let row = stored.get(name).copied();
        let mut write = write(found, row, schemas_of(name), own)?;
        write.icons = icon_writes(found, icons.get(name).map_or(&[][..], Vec::as_slice));
        let is_there = |hash: &Option<String>| hash.is_some();
        let had_schema = schemas_of(name)
            .iter()
            .any(|row| row.version == LOCAL && is_there(&row.hash));
        comparison.takes_away |= had_schema && found.schema.is_none();
        comparison.takes_away |= write
            .icons
            .iter()
            .any(|icon| icon.content == IconContent::Gone);
        let anything = write.takes_revision() || write.etag.is_some();
        if !write.takes_revision() {
            comparison.unchanged.push((*name).to_owned());
        }
        if anything {
            comparison.remember(row);
            comparison.writes.push(write);
        }
    }
    let present: BTreeSet<&str> = listing
        .packages
        .iter()
        .map(|found| found.document.name.as_str())
        .collect();
    // What is broken cannot be told to be gone.
    let broken_folders: BTreeSet<&str> = listing.broken.iter().map(|one| &*one.folder).collect();
    let broken_names = listing.broken.iter().filter_map(|one| one.name.as_deref());
    let broken_names: BTreeSet<&str> = broken_names.collect();
    for (name, (row, origin)) in &brought {
        let is_broken =
            broken_names.contains(name) || broken_folders.contains(origin.folder.as_str());
        if !present.contains(name) && !is_broken {
            comparison.remember(Some(row));
            comparison.removals.push((*name).to_owned());
        }
    }
    Ok(comparison)
}

/// What is to be written of one package, perhaps nothing.
fn write(
    found: &Found,
    stored: Option<&PackageOrigin>,
    known: &[&SchemaRow],
    own: &RootKey,
) -> Result<PackageWrite, RootError> {
    let document = &found.document;
    let CanonicalText { text, hash } =
        document
            .canonical()
            .map_err(|error| RootError::Unreadable {
                path: format!("{}/packages/{}", own.root, found.folder),
                problem: error.to_string(),
            })?;
    let etag = Origin {
        root: own.root.clone(),
        folder: found.folder.clone(),
    }
    .encode();
    let mut write = PackageWrite {
        name: document.name.clone(),
        ..PackageWrite::default()
    };
    let difference = plan::difference(
        stored.map(|row| row.content_hash.as_str()),
        stored.map_or("", |row| row.upstream_etag.as_str()),
        &hash,
        &etag,
    );
    match difference {
        Difference::None => {}
        Difference::EtagOnly => write.etag = Some(etag),
        Difference::Content => {
            write.package = Some(PackageRow {
                name: document.name.clone(),
                source: document.source.clone(),
                document: text,
                content_hash: hash,
                upstream_etag: etag,
            });
        }
    }
    let before = known.iter().find(|schema| schema.version == LOCAL);
    let hash = found.schema.as_ref().map(|schema| &schema.hash);
    if before.is_none_or(|before| before.hash.as_ref() != hash) {
        write.schemas.push(SchemaWrite {
            version: LOCAL.to_owned(),
            blob: found.schema.as_ref().map(|schema| SchemaBlob {
                hash: schema.hash.clone(),
                document: schema.text.clone(),
            }),
            ..SchemaWrite::default()
        });
    }
    // What a registry had of it before.
    let others = known.iter().filter(|schema| schema.version != LOCAL);
    write.gone = others.map(|schema| schema.version.clone()).collect();
    Ok(write)
}

/// What is to be written of a package's icons. The folder is the truth: whatever else is known of them is forgotten.
fn icon_writes(found: &Found, known: &[&IconRow]) -> Vec<IconWrite> {
    let is_place = |icon: &FoundIcon, row: &IconRow| {
        icon.shape.as_str() == row.shape && icon.format.ext() == row.ext
    };
    let new = found.icons.iter().filter(|icon| {
        let before = known.iter().find(|row| is_place(icon, row));
        before.is_none_or(|row| row.hash.as_ref() != Some(&icon.blob.hash))
    });
    let new = new.map(|icon| IconWrite {
        shape: icon.shape.as_str().to_owned(),
        ext: icon.format.ext().to_owned(),
        content: IconContent::Found {
            blob: icon.blob.clone(),
            upstream_etag: String::new(),
        },
    });
    let gone = known
        .iter()
        .filter(|row| !found.icons.iter().any(|icon| is_place(icon, row)));
    let gone = gone.map(|row| IconWrite {
        shape: row.shape.clone(),
        ext: row.ext.clone(),
        content: IconContent::Gone,
    });
    new.chain(gone).collect()
}

// === impl Comparison ===

impl Comparison {
    fn remember(&mut self, row: Option<&PackageOrigin>) {
        if let Some(row) = row {
            self.compared.insert(row.name.clone(), row.clone());
        }
    }

    /// Whether something is gone that may be back in a moment.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.takes_away || !self.removals.is_empty()
    }

    /// Whether there is nothing to store.
    pub(crate) fn is_settled(&self) -> bool {
        self.writes.is_empty() && self.removals.is_empty()
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
