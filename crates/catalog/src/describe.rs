//! What is different about a package, in words.

use std::collections::BTreeSet;

use crate::{
    package::{PackageDocument, VersionDocument},
    specifier::LATEST,
};

/// So many versions or fields are named; the rest are counted.
const NAMED_MAX: usize = 3;

/// What became of a package between two readings; `None` if it was not there.
#[must_use]
pub fn difference(before: Option<&PackageDocument>, after: &PackageDocument) -> String {
    let latest = |document: &PackageDocument| document.dist_tags.get(LATEST).cloned();
    let Some(before) = before else {
        return match latest(after) {
            Some(latest) => format!("new, at {latest}"),
            None => "new".to_owned(),
        };
    };
    let mut parts = Vec::new();
    let versions = |document: &PackageDocument| -> BTreeSet<String> {
        let versions = document.versions.iter();
        versions.map(|version| version.version.clone()).collect()
    };
    let (had, has) = (versions(before), versions(after));
    let named = |versions: &[VersionDocument], without: &BTreeSet<String>| {
        let versions = versions.iter().map(|version| version.version.as_str());
        list(versions.filter(|version| !without.contains(*version)))
    };
    parts.extend(named(&after.versions, &had).map(|versions| format!("{versions} published")));
    parts.extend(named(&before.versions, &has).map(|versions| format!("{versions} gone")));
    let (was, is) = (latest(before), latest(after));
    if was != is {
        let text = |tag: Option<String>| tag.unwrap_or_else(|| "nothing".to_owned());
        parts.push(format!("latest from {} to {}", text(was), text(is)));
    }
    let newly_deprecated = after.versions.iter().filter(|version| {
        let old = before.version(&version.version);
        version.deprecated.is_some() && old.is_some_and(|old| old.deprecated.is_none())
    });
    let newly_deprecated = list(newly_deprecated.map(|version| version.version.as_str()));
    parts.extend(newly_deprecated.map(|versions| format!("{versions} deprecated")));
    match (before.unlisted, after.unlisted) {
        (false, true) => parts.push("no longer listed".to_owned()),
        (true, false) => parts.push("listed again".to_owned()),
        _ => {}
    }
    if before.source != after.source {
        parts.push(format!("now from source {}", after.source));
    }
    let fields = [
        ("label", before.label != after.label),
        ("description", before.description != after.description),
        ("homepage", before.homepage != after.homepage),
        ("license", before.license != after.license),
        ("repository", before.repository != after.repository),
    ];
    let fields = fields.iter().filter(|(_, differs)| *differs);
    parts.extend(list(fields.map(|(field, _)| *field)).map(|fields| format!("another {fields}")));
    if parts.is_empty() {
        parts.push("details of a version or a tag".to_owned());
    }
    parts.join("; ")
}

/// The first few, and how many more there are.
fn list<'a>(items: impl Iterator<Item = &'a str>) -> Option<String> {
    let items: Vec<&str> = items.collect();
    let named = items.get(..NAMED_MAX).unwrap_or(&items).join(", ");
    match items.len() {
        0 => None,
        count if count > NAMED_MAX => Some(format!("{named} and {} more", count - NAMED_MAX)),
        _ => Some(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(versions: &[&str], latest: &str) -> PackageDocument {
        PackageDocument {
            versions: versions
                .iter()
                .map(|version| VersionDocument {
                    version: (*version).into(),
                    ..Default::default()
                })
                .collect(),
            dist_tags: [(LATEST.to_owned(), latest.to_owned())].into(),
            ..Default::default()
        }
        .sorted()
    }

    #[test]
    fn what_changed_is_said_in_a_line() {
        let before = document(&["1.0.0", "1.1.0"], "1.1.0");
        assert_eq!(difference(None, &before), "new, at 1.1.0");
        let mut after = document(&["1.1.0", "1.2.0", "2.0.0", "2.1.0", "2.2.0"], "2.2.0");
        after.versions.last_mut().expect("one").deprecated = Some(String::new());
        after.label = "L".into();
        after.license = "MIT".into();
        after.unlisted = true;
        assert_eq!(
            difference(Some(&before), &after),
            "2.2.0, 2.1.0, 2.0.0 and 1 more published; 1.0.0 gone; latest from 1.1.0 to 2.2.0; \
             1.1.0 deprecated; no longer listed; another label, license"
        );
        let mut again = before.clone();
        again.versions[0].integrity = "sha512-x".into();
        let told = difference(Some(&before), &again);
        assert_eq!(told, "details of a version or a tag");
    }
}
