//! From stored rows to content.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use steadfast_store::{CatalogRows, IconRow, PackageRow, SchemaBlob, SchemaRow};

use crate::{
    compiled::CompiledSchemas,
    entry::{PackageEntry, SchemaSlot},
    icon::Icons,
    package::PackageDocument,
    snapshot::Content,
};

/// Parses and encodes rows: entries by name. Rows that cannot be read are left out and logged; that happens if a newer program
/// wrote them.
pub(crate) fn entries(
    rows: CatalogRows,
    compiled: &CompiledSchemas,
) -> BTreeMap<String, Arc<PackageEntry>> {
    let blobs: HashMap<&str, &str> = rows.blobs.iter().map(text_by_hash).collect();
    let mut slots: HashMap<&str, BTreeMap<String, SchemaSlot>> = HashMap::new();
    for row in &rows.schemas {
        if let Some(slot) = slot(row, &blobs, compiled) {
            let of_package = slots.entry(&row.package).or_default();
            of_package.insert(row.version.clone(), slot);
        }
    }
    let mut icons: HashMap<&str, Vec<&IconRow>> = HashMap::new();
    for row in &rows.icons {
        icons.entry(&row.package).or_default().push(row);
    }
    rows.packages
        .iter()
        .filter_map(|row| {
            let slots = slots.remove(row.name.as_str()).unwrap_or_default();
            let icons = icons.remove(row.name.as_str()).unwrap_or_default();
            Some((row.name.clone(), entry(row, slots, Icons::new(icons))?))
        })
        .collect()
}

/// The whole content.
pub(crate) fn content(rows: CatalogRows, compiled: &CompiledSchemas) -> Content {
    Content::new(entries(rows, compiled).into_values())
}

fn entry(
    row: &PackageRow,
    slots: BTreeMap<String, SchemaSlot>,
    icons: Icons,
) -> Option<Arc<PackageEntry>> {
    let document: PackageDocument = serde_json::from_str(&row.document)
        .inspect_err(|error| {
            tracing::error!(
                package = row.name,
                error = error as &dyn std::error::Error,
                "a stored package cannot be read and is left out; refresh it"
            );
        })
        .ok()?;
    let etag = row.content_hash.clone();
    let entry = PackageEntry::new(document, etag, slots).with_icons(icons);
    Some(Arc::new(entry))
}

fn slot(
    row: &SchemaRow,
    blobs: &HashMap<&str, &str>,
    compiled: &CompiledSchemas,
) -> Option<SchemaSlot> {
    let Some(hash) = row.hash.as_deref() else {
        return Some(SchemaSlot::None);
    };
    let schema = match blobs.get(hash) {
        Some(text) => Some(compiled.get_or_compile(hash, text)),
        None => compiled.get(hash),
    };
    if schema.is_none() {
        tracing::error!(
            package = row.package,
            version = row.version,
            "a stored schema's text is missing"
        );
    }
    schema.map(SchemaSlot::Some)
}

fn text_by_hash(blob: &SchemaBlob) -> (&str, &str) {
    (&blob.hash, &blob.document)
}
