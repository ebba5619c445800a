//! Listings decide, searches add, and a listing that lost half of its names is not believed.

use proptest::prelude::*;
use steadfast_upstream::{HttpClient, HttpOptions, NpmConfig, NpmRegistry};

use super::*;
use crate::SourceKind;

fn row(source: &str, package: &str, found_by: &str, unlisted: bool) -> SourceNameRow {
    SourceNameRow {
        source: source.into(),
        package: package.into(),
        found_by: found_by.into(),
        unlisted,
        absent_us: None,
    }
}

fn names(names: &[&str]) -> BTreeSet<PackageName> {
    let parsed = names.iter().map(|name| PackageName::parse(name));
    parsed.collect::<Result<_, _>>().expect("names")
}

fn told(listing: &[&str], search: &[&str]) -> Told {
    Told {
        listing: Some(names(listing)),
        search: names(search),
    }
}

fn apply(known: &[SourceNameRow], told: &Told, force: bool) -> Result<Changes, Shrunken> {
    changes("a", known, told, &Patterns::default(), force)
}

#[test]
fn rule_1_a_listing_decides_and_a_search_only_adds() {
    let first = apply(&[], &told(&["p", "q"], &["q", "s"]), false).expect("is believed");
    assert_eq!((first.new, first.unlisted, first.relisted), (3, 0, 0));
    let known = first.applied_to(&[]);
    let expected = [
        row("a", "p", BY_LISTING, false),
        row("a", "q", BY_LISTING, false),
        row("a", "s", BY_SEARCH, false),
    ];
    assert_eq!(known, expected);
    // The search finds nothing any more, and the listing has lost one: only the latter means something.
    let second = apply(&known, &told(&["p"], &[]), false).expect("is believed");
    assert_eq!(second.rows, [row("a", "q", BY_LISTING, true)]);
    assert_eq!(second.words(), "1 no longer listed");
    let known = second.applied_to(&known);
    // Without a listing nothing is missing from it.
    let silent = Told {
        listing: None,
        search: names(&["p"]),
    };
    assert_eq!(apply(&known, &silent, false), Ok(Changes::default()));
    let third = apply(&known, &told(&["p", "q", "s"], &[]), false).expect("is believed");
    assert_eq!((third.new, third.relisted), (0, 1));
    assert_eq!(third.words(), "1 listed again");
    let known = third.applied_to(&known);
    assert_eq!(known[2], row("a", "s", BY_LISTING, false));
    assert_eq!(
        apply(&known, &told(&["p", "q", "s"], &[]), false),
        Ok(Changes::default())
    );
}

#[test]
fn rule_8_a_listing_that_lost_half_of_its_names_is_not_believed() {
    let known: Vec<_> = ["p", "q", "r", "s", "t"]
        .map(|name| row("a", name, BY_LISTING, false))
        .into();
    let shrunken = |listed, known| Err(Shrunken { listed, known });
    assert_eq!(apply(&known, &told(&[], &[]), false), shrunken(0, 5));
    assert_eq!(
        apply(&known, &told(&["p", "q"], &["t"]), false),
        shrunken(2, 5)
    );
    let enough = apply(&known, &told(&["p", "q", "r"], &[]), false).expect("is believed");
    assert_eq!(enough.unlisted, 2);
    let forced = apply(&known, &told(&[], &[]), true).expect("is forced");
    assert_eq!(forced.unlisted, 5);
    // An empty listing is no beginning either.
    assert_eq!(apply(&[], &told(&[], &[]), false), shrunken(0, 0));
    // What was unlisted before, what a search found, and what another source has, is not counted.
    let mixed = [
        row("a", "p", BY_LISTING, false),
        row("a", "q", BY_LISTING, true),
        row("a", "r", BY_LISTING, true),
        row("a", "s", BY_SEARCH, false),
        row("b", "t", BY_LISTING, false),
    ];
    assert!(apply(&mixed, &told(&["p"], &[]), false).is_ok());
}

#[test]
fn rule_8_patterns_that_let_names_go_shrink_no_listing() {
    let known: Vec<_> = ["p1", "p2", "q1", "q2", "q3", "q4"]
        .map(|name| row("a", name, BY_LISTING, false))
        .into();
    let patterns = Patterns::new(&["p*".to_owned()], &[]).expect("a pattern");
    let all = told(&["p1", "p2", "q1", "q2", "q3", "q4"], &[]);
    let changes = changes("a", &known, &all, &patterns, false).expect("is believed");
    assert_eq!((changes.new, changes.unlisted), (0, 4));
}

fn source(name: &str, packages: &[&str], organization: bool) -> Source {
    let client = HttpClient::new(HttpOptions::default()).expect("a client");
    let config = NpmConfig::for_registry("http://127.0.0.1:1/").expect("an address");
    let registry = NpmRegistry::new(client, config);
    Source {
        name: name.into(),
        kind: SourceKind::Npm(NpmSource {
            organization: organization.then(|| "o".to_owned()),
            ..NpmSource::new(registry, names(packages).into_iter().collect())
        }),
    }
}

#[tokio::test]
async fn rule_1_of_two_sources_with_one_name_the_first_wins() {
    let sources = [
        source("a", &["p"], true),
        source("b", &["q", "p"], true),
        source("c", &[], false),
    ];
    let told = [
        row("a", "p", BY_LISTING, true),
        row("a", "x", BY_LISTING, true),
        row("a", "y", BY_LISTING, false),
        row("b", "x", BY_LISTING, false),
        row("b", "y", BY_LISTING, false),
        // Its source takes no listing any more.
        row("c", "z", BY_LISTING, false),
        row("gone", "g", BY_LISTING, false),
    ];
    let found = members(&sources, &told, &BTreeSet::new());
    let shown: Vec<_> = found
        .members
        .iter()
        .map(|member| {
            (
                member.name.as_str(),
                member.source.name.as_str(),
                member.unlisted,
            )
        })
        .collect();
    let expected = [
        ("p", "a", false),
        ("q", "b", false),
        // Unlisted by the first, and listed by the second.
        ("x", "b", false),
        ("y", "a", false),
    ];
    assert_eq!(shown, expected);
    assert_eq!(found.shadowed.len(), 1);
    assert_eq!(found.shadowed["b"].0, 2);

    let without = members(&sources, &told, &BTreeSet::from(["a".to_owned()]));
    let left: Vec<_> = without
        .members
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(left, ["p", "q", "x", "y"]);
    assert!(without.members.iter().all(|one| one.source.name == "b"));
}

proptest! {
    /// Whatever is told, no name is ever lost, and telling the same again changes nothing.
    #[test]
    fn rule_1_no_name_is_lost(
        before in proptest::collection::btree_map("[a-f]", (any::<bool>(), any::<bool>()), 0..6),
        listing in proptest::option::of(proptest::collection::btree_set("[a-f]", 0..6)),
        search in proptest::collection::btree_set("[a-f]", 0..3),
    ) {
        let known: Vec<_> = before
            .iter()
            .map(|(name, (listed, unlisted))| {
                row("a", name, if *listed { BY_LISTING } else { BY_SEARCH }, *unlisted)
            })
            .collect();
        let parse = |set: &BTreeSet<String>| -> BTreeSet<PackageName> {
            set.iter().map(|name| PackageName::parse(name).expect("a name")).collect()
        };
        let told = Told { listing: listing.as_ref().map(parse), search: parse(&search) };
        let changes = apply(&known, &told, true).expect("is forced");
        let after = changes.applied_to(&known);
        for row in &known {
            prop_assert!(after.iter().any(|kept| kept.package == row.package));
        }
        for name in listing.iter().flatten().chain(&search) {
            prop_assert!(after.iter().any(|kept| kept.package == *name && !kept.unlisted));
        }
        prop_assert_eq!(apply(&after, &told, true), Ok(Changes::default()));
    }
}
