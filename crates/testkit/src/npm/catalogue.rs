//! The packages that the registry has, rendered once and on demand.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::{Map, Value, json};

use super::{
    View,
    render::{Document, Rendered},
    spec::{GeneratedPackages, PackageSpec},
};

/// The most packages that one page of a search holds, as npm has it.
const SEARCH_PAGE_MAX: usize = 250;

#[derive(Debug, Default)]
pub(super) struct Catalogue {
    stated: BTreeMap<String, Entry>,
    generated: Vec<(GeneratedPackages, Vec<OnceLock<Arc<Rendered>>>)>,
    pub(super) view: View,
    /// Plain files by path, as a CDN has them.
    files: BTreeMap<String, Document>,
}

#[derive(Debug)]
struct Entry {
    spec: PackageSpec,
    rendered: OnceLock<Arc<Rendered>>,
}

// === impl Catalogue ===

impl Catalogue {
    pub(super) fn put(&mut self, spec: PackageSpec) {
        let entry = Entry {
            rendered: OnceLock::new(),
            spec,
        };
        self.stated.insert(entry.spec.name.clone(), entry);
    }

    pub(super) fn spec(&self, name: &str) -> Option<PackageSpec> {
        if let Some(entry) = self.stated.get(name) {
            return Some(entry.spec.clone());
        }
        self.generated
            .iter()
            .find_map(|(group, _)| Some(group.spec(group.index_of(name)?)))
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.stated.remove(name).is_some()
    }

    pub(super) fn put_file(&mut self, path: &str, bytes: &[u8]) {
        self.files
            .insert(path.to_owned(), Document::of_bytes(bytes));
    }

    pub(super) fn remove_file(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    pub(super) fn file(&self, path: &str) -> Option<&Document> {
        self.files.get(path)
    }

    pub(super) fn generate(&mut self, group: GeneratedPackages) {
        let cells = (0..group.count).map(|_| OnceLock::new()).collect();
        self.generated.push((group, cells));
    }

    pub(super) fn set_view(&mut self, view: View) {
        self.view = view;
        for entry in self.stated.values_mut() {
            entry.rendered = OnceLock::new();
        }
        for (group, cells) in &mut self.generated {
            *cells = (0..group.count).map(|_| OnceLock::new()).collect();
        }
    }

    pub(super) fn rendered(&self, name: &str, base_url: &str) -> Option<Arc<Rendered>> {
        let render = |spec: &PackageSpec| Arc::new(Rendered::new(spec, base_url, self.view));
        if let Some(entry) = self.stated.get(name) {
            return Some(Arc::clone(
                entry.rendered.get_or_init(|| render(&entry.spec)),
            ));
        }
        self.generated.iter().find_map(|(group, cells)| {
            let index = group.index_of(name)?;
            let cell = cells.get(index)?;
            Some(Arc::clone(cell.get_or_init(|| render(&group.spec(index)))))
        })
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let stated = self
            .stated
            .values()
            .filter(|entry| !entry.spec.unlisted)
            .map(|entry| entry.spec.name.clone());
        let generated = self
            .generated
            .iter()
            .flat_map(|(group, _)| (0..group.count).map(|index| group.name(index)));
        stated.chain(generated)
    }

    /// What `/-/org/{scope}/package` answers; nothing for a scope without packages.
    pub(super) fn listing(&self, scope: &str) -> Option<Value> {
        let prefix = format!("@{scope}/");
        let names: Map<String, Value> = self
            .names()
            .filter(|name| name.starts_with(&prefix))
            .map(|name| (name, json!("write")))
            .collect();
        (!names.is_empty()).then_some(names.into())
    }

    /// What `/-/v1/search` answers. Packages whose newest version is deprecated are left out, as npm does.
    pub(super) fn search(&self, text: &str, from: usize, size: usize) -> Value {
        let found: Vec<String> = self
            .names()
            .filter(|name| {
                text.split_whitespace()
                    .all(|word| match word.split_once(':') {
                        Some(("scope", scope)) => {
                            name.starts_with(&format!("@{}/", scope.trim_start_matches('@')))
                        }
                        _ => name.contains(word),
                    })
            })
            .filter(|name| !self.is_deprecated(name))
            .collect();
        let objects: Vec<Value> = found
            .iter()
            .skip(from)
            .take(size.min(SEARCH_PAGE_MAX))
            .map(|name| {
                let spec = self.spec(name).unwrap_or_default();
                let latest = spec.tags().get("latest").cloned().unwrap_or_default();
                json!({
                    "package": { "name": name, "version": latest, "description": spec.description },
                    "score": { "final": 1.0 },
                    "searchScore": 1.0,
                })
            })
            .collect();
        json!({ "objects": objects, "total": found.len(), "time": "Thu Jan 01 2026 12:00:00 GMT+0000" })
    }

    fn is_deprecated(&self, name: &str) -> bool {
        let Some(Entry { spec, .. }) = self.stated.get(name) else {
            return false;
        };
        let tags = spec.tags();
        spec.versions.iter().any(|version| {
            Some(&version.version) == tags.get("latest") && version.deprecated.is_some()
        })
    }
}
