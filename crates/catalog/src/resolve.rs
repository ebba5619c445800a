//! From a specifier to one version, and from an unknown name to the nearest known ones. Pure.
//!
//! An exact version and a dist-tag name a version; it is taken even if deprecated, because whoever pinned it must go on
//! working. A range leaves the choice to us: the highest version that is not deprecated, else the highest that is.

use nodejs_semver::Version;
use steadfast_api::registry::v1::MatchKind;

use crate::{
    package::VersionDocument,
    range::{LOCAL, parse_version},
    specifier::{LATEST, Selector},
};

/// How many similar names an error carries at most.
pub const MAX_NEAREST: usize = 5;

/// Names less similar than this (0 to 1) are not worth showing.
const MIN_SIMILARITY: f64 = 0.75;

/// Versions of one package, newest first, with their parsed form beside them.
#[derive(Debug, Clone, Copy)]
pub struct Versions<'a> {
    /// As stored, newest first.
    pub documents: &'a [VersionDocument],
    /// The same, parsed.
    pub parsed: &'a [Version],
    /// Dist-tag to version.
    pub dist_tags: &'a std::collections::BTreeMap<String, String>,
}

/// Which version was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its place in the list of versions.
    pub index: usize,
    /// How it was named.
    pub by: MatchKind,
}

// === impl Versions ===

impl Versions<'_> {
    /// Chooses a version; `None` if there is none that fits.
    #[must_use]
    pub fn choose(&self, selector: &Selector) -> Option<Chosen> {
        match selector {
            Selector::Exact(version) => self.exact(version).map(|index| Chosen {
                index,
                by: MatchKind::Exact,
            }),
            Selector::Tag(tag) if tag == LOCAL && self.local().is_some() => {
                self.local().map(|index| Chosen {
                    index,
                    by: MatchKind::Exact,
                })
            }
            Selector::Tag(tag) => self.tagged(tag).map(|index| Chosen {
                index,
                by: MatchKind::Tag,
            }),
            Selector::Range(range) => {
                self.highest(|version| range.contains(version))
                    .map(|index| Chosen {
                        index,
                        by: MatchKind::Range,
                    })
            }
        }
    }

    /// The newest stable version that is not deprecated; without one the newest stable, without one the newest.
    #[must_use]
    pub fn newest(&self) -> Option<&VersionDocument> {
        self.highest(|version| !version.is_prerelease())
            .or((!self.documents.is_empty()).then_some(0))
            .map(|index| &self.documents[index])
    }

    fn exact(&self, version: &Version) -> Option<usize> {
        // Sorted newest first, hence the comparison the other way round.
        self.parsed
            .binary_search_by(|found| version.cmp(found))
            .ok()
            .filter(|index| self.documents[*index].version != LOCAL)
    }

    /// What lies in a folder; it has no number that anyone could ask for.
    fn local(&self) -> Option<usize> {
        self.documents
            .iter()
            .position(|version| version.version == LOCAL)
    }

    /// A package without the tag `latest`, which npm always sets but other registries may not, has its newest version there.
    fn tagged(&self, tag: &str) -> Option<usize> {
        match self.dist_tags.get(tag) {
            Some(version) if version == LOCAL => self.local(),
            Some(version) => self.exact(&parse_version(version)?),
            None if tag == LATEST && !self.dist_tags.contains_key(LATEST) => {
                self.highest(|version| !version.is_prerelease())
            }
            None => None,
        }
    }

    fn highest(&self, fits: impl Fn(&Version) -> bool) -> Option<usize> {
        let mut deprecated = None;
        for (index, version) in self.parsed.iter().enumerate() {
            if fits(version) && self.documents[index].version != LOCAL {
                if self.documents[index].deprecated.is_none() {
                    return Some(index);
                }
                deprecated = deprecated.or(Some(index));
            }
        }
        deprecated
    }
}

/// The known names most similar to an unknown one, best first. Scopes are compared and also left aside, so that
/// `language-htp` finds `@openfn/language-http`.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let unknown = unknown.to_ascii_lowercase();
    let unknown_bare = bare(&unknown);
    let mut scored: Vec<(f64, &str)> = known
        .filter_map(|name| {
            let score = similarity(&unknown, name).max(similarity(unknown_bare, bare(name)));
            (score >= MIN_SIMILARITY).then_some((score, name))
        })
        .collect();
    scored.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.cmp(right)));
    scored.truncate(MAX_NEAREST);
    scored
        .into_iter()
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn bare(name: &str) -> &str {
    match name.strip_prefix('@').and_then(|rest| rest.split_once('/')) {
        Some((_, bare)) if !bare.is_empty() => bare,
        _ => name,
    }
}

fn similarity(a: &str, b: &str) -> f64 {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    // A part of a name, as `http` of `language-http`: all the better the more of it.
    if short.len() >= 3 && long.contains(short) {
        let share = short.len() as f64 / long.len() as f64;
        return MIN_SIMILARITY + (1.0 - MIN_SIMILARITY) * share;
    }
    // The comparison costs the product of the lengths; such different ones are not similar anyway.
    if long.len() > 2 * short.len() {
        return 0.0;
    }
    strsim::normalized_damerau_levenshtein(a, b)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::specifier::Specifier;

    struct Fixture {
        documents: Vec<VersionDocument>,
        parsed: Vec<Version>,
        dist_tags: BTreeMap<String, String>,
    }

    /// Versions newest first; a trailing `!` deprecates one.
    fn fixture(versions: &str, latest: &str) -> Fixture {
        let documents: Vec<_> = versions
            .split_whitespace()
            .map(|text| VersionDocument {
                version: text.trim_end_matches('!').into(),
                deprecated: text.ends_with('!').then(String::new),
                ..Default::default()
            })
            .collect();
        Fixture {
            parsed: documents
                .iter()
                .map(|found| parse_version(&found.version).expect("a version"))
                .collect(),
            documents,
            dist_tags: [("latest".to_owned(), latest.to_owned())]
                .into_iter()
                .filter(|(_, version)| !version.is_empty())
                .collect(),
        }
    }

    fn choose(fixture: &Fixture, selector: &str) -> Option<(String, MatchKind)> {
        let specifier = Specifier::parse(&format!("p{selector}")).expect(selector);
        let chosen = fixture.versions().choose(&specifier.selector)?;
        Some((fixture.documents[chosen.index].version.clone(), chosen.by))
    }

    impl Fixture {
        fn versions(&self) -> Versions<'_> {
            Versions {
                documents: &self.documents,
                parsed: &self.parsed,
                dist_tags: &self.dist_tags,
            }
        }
    }

    #[test]
    fn rule_11_pinned_versions_resolve_though_deprecated_and_ranges_prefer_others() {
        let package = fixture("8.0.0-rc.1 7.3.0! 7.2.0 7.1.0 6.1.0! 6.0.0!", "7.3.0");
        for (selector, expected) in [
            ("", Some(("7.3.0", MatchKind::Tag))),
            ("@latest", Some(("7.3.0", MatchKind::Tag))),
            ("@7.3.0", Some(("7.3.0", MatchKind::Exact))),
            ("@^7", Some(("7.2.0", MatchKind::Range))),
            ("@*", Some(("7.2.0", MatchKind::Range))),
            ("@6.x", Some(("6.1.0", MatchKind::Range))),
            ("@>=7.3", Some(("7.3.0", MatchKind::Range))),
            ("@^8", None),
            ("@^8.0.0-rc.0", Some(("8.0.0-rc.1", MatchKind::Range))),
            ("@8.0.0-rc.1", Some(("8.0.0-rc.1", MatchKind::Exact))),
            ("@7.1.5", None),
            ("@beta", None),
        ] {
            let found = choose(&package, selector);
            let expected = expected.map(|(version, by)| (version.to_owned(), by));
            assert_eq!(found, expected, "{selector}");
        }
        let newest = |fixture: &Fixture| fixture.versions().newest().map(|v| v.version.clone());
        assert_eq!(newest(&package).as_deref(), Some("7.2.0"));
        assert_eq!(
            newest(&fixture("2.0.0! 1.0.0!", "")).as_deref(),
            Some("2.0.0")
        );
        assert_eq!(newest(&fixture("1.0.0-a", "")).as_deref(), Some("1.0.0-a"));
        assert_eq!(newest(&fixture("", "")), None);
    }

    #[test]
    fn rule_11_a_local_version_is_named_and_never_chosen_by_number() {
        let mut only = fixture("", "local");
        let local = VersionDocument {
            version: LOCAL.to_owned(),
            ..Default::default()
        };
        only.documents.push(local);
        only.parsed
            .push(crate::range::place(LOCAL).expect("a place"));
        for selector in ["@*", "@>=0.0.0-0", "@0.0.0-0", "@^0.0.0-0", "@7.2.0"] {
            assert_eq!(choose(&only, selector), None, "{selector}");
        }
        let found = |by| Some((LOCAL.to_owned(), by));
        assert_eq!(choose(&only, "@local"), found(MatchKind::Exact));
        assert_eq!(choose(&only, ""), found(MatchKind::Tag));
        assert_eq!(choose(&only, "@latest"), found(MatchKind::Tag));
        assert_eq!(
            only.versions().newest().map(|v| v.version.as_str()),
            Some(LOCAL)
        );
        // A registry's own tag of that name goes on meaning what it says there.
        let mut tagged = fixture("2.0.0 1.0.0", "2.0.0");
        tagged
            .dist_tags
            .insert(LOCAL.to_owned(), "1.0.0".to_owned());
        assert_eq!(
            choose(&tagged, "@local"),
            Some(("1.0.0".into(), MatchKind::Tag))
        );
    }

    #[test]
    fn a_registry_without_latest_still_has_a_newest() {
        let package = fixture("2.0.0-a 1.1.0 1.0.0", "");
        assert_eq!(choose(&package, ""), Some(("1.1.0".into(), MatchKind::Tag)));
        // A tag that names a version that is gone is not something else.
        assert_eq!(choose(&fixture("1.1.0", "3.0.0"), ""), None);
    }

    #[test]
    fn near_names_are_found_with_and_without_scope() {
        let known = [
            "@openfn/language-http",
            "@openfn/language-fhir",
            "@openfn/language-common",
            "lodash",
        ];
        let nearest = |name: &str| nearest(name, known.into_iter());
        assert_eq!(nearest("@openfn/language-htp")[0], "@openfn/language-http");
        assert_eq!(nearest("language-http")[0], "@openfn/language-http");
        assert_eq!(nearest("HTTP")[0], "@openfn/language-http");
        assert_eq!(
            nearest("@openfnn/language-fhir")[0],
            "@openfn/language-fhir"
        );
        assert_eq!(nearest("lodahs"), ["lodash"]);
        assert_eq!(nearest("zzzzzz"), Vec::<String>::new());
    }

    #[test]
    fn rule_11_of_many_near_names_the_nearest_few_are_told() {
        let known: Vec<String> = (0..20).map(|n| format!("@s/http{n}")).collect();
        let told = nearest("@s/http", known.iter().map(String::as_str));
        assert_eq!(told, [0, 1, 2, 3, 4].map(|n| format!("@s/http{n}")));
    }

    proptest! {
        #[test]
        fn a_range_takes_the_best_that_fits(
            mut versions in proptest::collection::btree_map((0u64..4, 0u64..4), any::<bool>(), 1..12),
            major in 0u64..4,
        ) {
            let text: Vec<_> = versions
                .iter()
                .rev()
                .map(|((a, b), deprecated)| format!("{a}.{b}.0{}", if *deprecated { "!" } else { "" }))
                .collect();
            let package = fixture(&text.join(" "), "");
            versions.retain(|(a, _), _| *a == major);
            let best = versions
                .iter()
                .max_by_key(|((_, minor), deprecated)| (!**deprecated, *minor))
                .map(|((a, b), _)| format!("{a}.{b}.0"));
            let found = choose(&package, &format!("@{major}.x")).map(|(version, _)| version);
            prop_assert_eq!(found, best);
        }

        #[test]
        fn nearest_takes_any_text(unknown in any::<String>(), known in proptest::collection::vec("@?[a-z/]{0,9}", 0..4)) {
            prop_assert!(nearest(&unknown, known.iter().map(String::as_str)).len() <= MAX_NEAREST);
        }
    }
}
