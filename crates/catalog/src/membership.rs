//! Which packages the sources have: what is configured, what listings told, and what becomes of a name that is missing from one.
//!
//! Values in, values out. A listing decides who belongs to its source, a search never does: it leaves out what is deprecated. So a
//! name that a listing brought and no longer has is *unlisted*, and stays; a name that a search brought stays as it is. A listing
//! that is empty, or has fewer than half of the names that it had, says more about its registry than about the packages.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_store::SourceNameRow;
use steadfast_upstream::PackageName;

use crate::{
    options::{NpmSource, Source},
    pattern::Patterns,
};

/// How a name is stored that a listing brought.
pub const BY_LISTING: &str = "listing";
/// How a name is stored that a search brought.
pub const BY_SEARCH: &str = "search";

/// What was told of one source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The whole listing; `None` if there is none, or it could not be read.
    pub listing: Option<BTreeSet<PackageName>>,
    /// What a search found.
    pub search: BTreeSet<PackageName>,
}

/// What a listing changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The names to be stored anew.
    pub rows: Vec<SourceNameRow>,
    /// How many are new.
    pub new: usize,
    /// How many are no longer listed.
    pub unlisted: usize,
    /// How many are listed again.
    pub relisted: usize,
}

/// A listing that is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrunken {
    /// How many names it has.
    pub listed: usize,
    /// How many it had.
    pub known: usize,
}

/// A package of a source.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its name.
    pub name: PackageName,
    /// Whose it is.
    pub source: &'a Source,
    /// Where it is read.
    pub npm: &'a NpmSource,
    /// Its source no longer lists it.
    pub unlisted: bool,
    /// Since when its registry does not have it, if so.
    pub absent_us: Option<i64>,
}

/// All packages, and those that a second source has as well.
#[derive(Debug, Default)]
pub struct Members<'a> {
    /// In the order of their names.
    pub members: Vec<Member<'a>>,
    /// The source that lost, with how many names, and one of them.
    pub shadowed: BTreeMap<&'a str, (usize, String)>,
}

/// What a listing and a search change about the names that are known of their source. `force` believes any listing.
///
/// # Errors
/// If the listing is not believed.
pub fn changes(
    source: &str,
    known: &[SourceNameRow],
    told: &Told,
    patterns: &Patterns,
    force: bool,
) -> Result<Changes, Shrunken> {
    let taken = |names: &BTreeSet<PackageName>| -> BTreeSet<String> {
        let names = names.iter().filter(|name| patterns.keeps(name.as_str()));
        names.map(ToString::to_string).collect()
    };
    let search = taken(&told.search);
    let listing = told.listing.as_ref().map(taken);
    let known: BTreeMap<&str, &SourceNameRow> = known
        .iter()
        .filter(|row| row.source == source)
        .map(|row| (row.package.as_str(), row))
        .collect();
    if let Some(listing) = &listing
        && !force
    {
        // Those that the patterns no longer keep were let go by the operator, not by the registry.
        let before = known.values().filter(|row| {
            row.found_by == BY_LISTING && !row.unlisted && patterns.keeps(&row.package)
        });
        let before = before.count();
        if listing.is_empty() || listing.len() * 2 < before {
            return Err(Shrunken {
                listed: listing.len(),
                known: before,
            });
        }
    }
    let mut changes = Changes::default();
    let found = listing
        .iter()
        .flatten()
        .map(|name| (name, BY_LISTING))
        .chain(search.iter().map(|name| (name, BY_SEARCH)));
    let mut seen = BTreeSet::new();
    for (name, found_by) in found {
        // What is in both is the listing's, which comes first.
        if seen.insert(name.as_str()) {
            changes.take(source, name, found_by, known.get(name.as_str()).copied());
        }
    }
    for (name, row) in known {
        let missing = match &listing {
            Some(_) => row.found_by == BY_LISTING && !seen.contains(name),
            None => false,
        };
        if (missing || !patterns.keeps(name)) && !row.unlisted {
            changes.unlisted += 1;
            changes.rows.push(SourceNameRow {
                unlisted: true,
                ..row.clone()
            });
        }
    }
    Ok(changes)
}

/// All packages of the sources but for those in `without`, given the names that listings told. A package that several sources have is
/// the first one's; that of a source which names it, or lists it, comes before one which no longer does.
#[must_use]
pub fn members<'a>(
    sources: &'a [Source],
    told: &[SourceNameRow],
    without: &BTreeSet<String>,
) -> Members<'a> {
    let mut by_name: BTreeMap<PackageName, Member<'a>> = BTreeMap::new();
    let mut members = Members::default();
    let registries = sources
        .iter()
        .filter_map(|source| Some((source, source.npm()?)));
    for (source, npm) in registries.filter(|(one, _)| !without.contains(&one.name)) {
        let named: BTreeMap<&PackageName, (bool, Option<i64>)> = npm
            .packages
            .iter()
            .map(|name| (name, (false, None)))
            .collect();
        let listed: BTreeMap<PackageName, (bool, Option<i64>)> = told
            .iter()
            .filter(|row| row.source == source.name && npm.asks_for_names())
            .filter_map(|row| {
                let name = PackageName::parse(&row.package).ok()?;
                Some((name, (row.unlisted, row.absent_us)))
            })
            .filter(|(name, _)| !named.contains_key(name))
            .collect();
        let named = named.into_iter().map(|(name, state)| (name.clone(), state));
        for (name, (unlisted, absent_us)) in named.chain(listed) {
            let member = Member {
                name: name.clone(),
                source,
                npm,
                unlisted,
                absent_us,
            };
            match by_name.get_mut(&name) {
                None => {
                    by_name.insert(name, member);
                }
                Some(first) if first.unlisted && !unlisted => *first = member,
                Some(_) => {
                    let lost = members.shadowed.entry(&source.name);
                    lost.or_insert_with(|| (0, name.to_string())).0 += 1;
                }
            }
        }
    }
    members.members = by_name.into_values().collect();
    members
}

// === impl Changes ===

impl Changes {
    fn take(&mut self, source: &str, name: &str, found_by: &str, before: Option<&SourceNameRow>) {
        let row = SourceNameRow {
            source: source.to_owned(),
            package: name.to_owned(),
            found_by: match before {
                // A name that a listing brought stays the listing's, so that it is missed when it is gone.
                Some(before) if before.found_by == BY_LISTING => BY_LISTING.to_owned(),
                _ => found_by.to_owned(),
            },
            unlisted: false,
            absent_us: None,
        };
        match before {
            None => self.new += 1,
            Some(before) if before.unlisted => self.relisted += 1,
            Some(before) if *before == row => return,
            Some(_) => {}
        }
        self.rows.push(row);
    }

    /// The names after these changes.
    #[must_use]
    pub fn applied_to(&self, told: &[SourceNameRow]) -> Vec<SourceNameRow> {
        let key = |row: &SourceNameRow| (row.source.clone(), row.package.clone());
        let rows = told.iter().chain(&self.rows);
        let rows: BTreeMap<_, _> = rows.map(|row| (key(row), row.clone())).collect();
        rows.into_values().collect()
    }

    /// For people; empty if nothing changed.
    #[must_use]
    pub fn words(&self) -> String {
        let parts = [
            (self.new, "new"),
            (self.unlisted, "no longer listed"),
            (self.relisted, "listed again"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        parts.join(", ")
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
