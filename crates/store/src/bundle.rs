//! The whole catalogue, out and in: read as of one revision, and written as one transaction.
//!
//! An export holds its snapshot only while it reads: whoever sends it on to a slow caller writes it to a file first, because a
//! transaction that waits for a caller would be ended by the database. An import is covered by the lease on refreshing, whose row
//! stays locked until it commits, so that neither a refresh nor another import writes in between.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::FromRow;
use steadfast_types::{Cursor, Timestamp};

use crate::{
    Change, Error, IconBlob, IconContent, IconRow, IconWrite, Landed, Lease, PackageRow,
    PackageWrite, SchemaBlob, SchemaRow, SchemaWrite, Store,
    engine::{Tx, statements},
    icon::{ICON_TOPIC, icon_blobs_in, icons_of_in},
    log,
    package::{SCHEMA_TOPIC, checked_in, json_array, put_checked},
    refresh_run::apply,
    removal::remove_package,
    schema::{blobs_in, prune_blobs, schemas_of_in},
};

/// Packages read at a time.
const PAGE_PACKAGES: i64 = 32;

statements! {
    /// What there is.
    COUNTS = "bundle_counts" => [
        "SELECT (SELECT count(*) FROM package) AS packages, \
         (SELECT count(*) FROM package_schema s JOIN package p ON p.name = s.package \
          WHERE s.hash IS NOT NULL) AS schemas, \
         (SELECT count(*) FROM icon i JOIN package p ON p.name = i.package \
          WHERE i.hash IS NOT NULL) AS icons"
    ];
    /// Packages after a name.
    PAGE = "bundle_page" => [
        "SELECT name, source, document, content_hash, upstream_etag FROM package WHERE name > $1 \
         ORDER BY name LIMIT $2"
    ];
    /// One package; nobody else changes it before the transaction ends.
    ONE = "bundle_one" => [
        "SELECT name, source, document, content_hash, upstream_etag FROM package WHERE name = $1" for_update
    ];
    /// The names of all packages.
    NAMES = "bundle_names" => ["SELECT name FROM package ORDER BY name"];
}

/// One package with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundlePackage {
    /// The package.
    pub row: PackageRow,
    /// By version.
    pub schemas: Vec<SchemaRow>,
    /// The texts that `schemas` refer to, each once.
    pub texts: Vec<SchemaBlob>,
    /// Those that there are, by shape and format, with their bytes.
    pub icons: Vec<(IconRow, IconBlob)>,
}

/// How many things there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct BundleCounts {
    /// Packages.
    pub packages: i64,
    /// Schemas of all versions.
    pub schemas: i64,
    /// Icons.
    pub icons: i64,
}

/// The catalogue as of one revision. Dropping it ends the snapshot.
pub struct CatalogExport {
    tx: Tx,
    /// What it reflects.
    pub cursor: Cursor,
    /// What there is.
    pub counts: BundleCounts,
    /// When each source was last asked with success about all of its packages.
    pub checked: BTreeMap<String, Timestamp>,
}

/// A catalogue being taken in. Dropping it undoes everything.
pub struct CatalogImport {
    tx: Tx,
    revisions: Vec<Vec<Change>>,
    /// Something refers no more to texts or bytes that may be nobody's by now.
    loosened: bool,
}

/// What became of a package that was taken in, or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// It was there before.
    pub known: bool,
    /// It was not as it is now.
    pub changed: bool,
    /// Of its schemas.
    pub schemas: ImportedParts,
    /// Of its icons.
    pub icons: ImportedParts,
}

/// What became of the parts of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportedParts {
    /// They were not there.
    pub added: i64,
    /// They were others.
    pub changed: i64,
    /// They were there.
    pub unchanged: i64,
    /// They are gone.
    pub removed: i64,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

impl Store {
    /// Begins to read the catalogue as of now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn export_catalog(&self) -> Result<CatalogExport, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let cursor = log::head(&mut tx).await?.cursor;
        let counts = tx.statement(&COUNTS).one().await?;
        let checked = checked_in(&mut tx).await?;
        Ok(CatalogExport {
            tx,
            cursor,
            counts,
            checked,
        })
    }

    /// Begins to take a catalogue in. The lease is the one that refreshes hold.
    ///
    /// # Errors
    /// [`Error::Fenced`], or if the database does not answer.
    pub async fn import_catalog(&self, lease: &Lease) -> Result<CatalogImport, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        Ok(CatalogImport {
            tx,
            revisions: Vec::new(),
            loosened: false,
        })
    }
}

// === impl CatalogExport ===

impl CatalogExport {
    /// The next packages after a name, by name; none after the last.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn packages_after(&mut self, name: &str) -> Result<Vec<BundlePackage>, Error> {
        let tx = &mut self.tx;
        let page = tx.statement(&PAGE).bind(name).bind(PAGE_PACKAGES);
        let rows: Vec<PackageRow> = page.all().await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let names = json_array(rows.iter().map(|row| &row.name))?;
        let mut packages: BTreeMap<String, BundlePackage> = rows
            .into_iter()
            .map(|row| (row.name.clone(), BundlePackage::without_parts(row)))
            .collect();
        for schema in schemas_of_in(tx, Some(&names)).await? {
            if let Some(package) = packages.get_mut(&schema.package) {
                package.schemas.push(schema);
            }
        }
        for icon in icons_of_in(tx, Some(&names)).await? {
            if let (Some(package), Some(hash)) = (packages.get_mut(&icon.package), &icon.hash) {
                let hash = hash.clone();
                let bytes = Vec::new();
                package.icons.push((icon, IconBlob { hash, bytes }));
            }
        }
        // One package's texts and bytes at a time: a page of them could be large.
        for package in packages.values_mut() {
            let hashes: BTreeSet<&String> = package
                .schemas
                .iter()
                .filter_map(|schema| schema.hash.as_ref())
                .collect();
            if !hashes.is_empty() {
                package.texts = blobs_in(tx, Some(&json_array(hashes.iter())?)).await?;
            }
            let wanted: Vec<String> = package
                .icons
                .iter()
                .map(|(_, blob)| blob.hash.clone())
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let found: BTreeMap<String, Vec<u8>> = icon_blobs_in(tx, &wanted)
                .await?
                .into_iter()
                .map(|blob| (blob.hash, blob.bytes))
                .collect();
            for (_, blob) in &mut package.icons {
                let bytes = found.get(&blob.hash);
                blob.bytes = bytes.ok_or(Error::Corrupt("icon_blob"))?.clone();
            }
        }
        Ok(packages.into_values().collect())
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn end(self) -> Result<(), Error> {
        self.tx.rollback().await
    }
}

// === impl BundlePackage ===

impl BundlePackage {
    const fn without_parts(row: PackageRow) -> Self {
        Self {
            row,
            schemas: Vec::new(),
            texts: Vec::new(),
            icons: Vec::new(),
        }
    }

    fn text(&self, hash: &str) -> Result<&SchemaBlob, Error> {
        let found = self.texts.iter().find(|text| text.hash == hash);
        found.ok_or(Error::Corrupt("a schema's text is missing"))
    }
}

// === impl CatalogImport ===

impl CatalogImport {
    /// Takes a package in: it becomes exactly this, with its schemas and icons. What is equal is not written. Packages have to come
    /// in the order of their names, in which everyone locks them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put(&mut self, package: &BundlePackage) -> Result<Imported, Error> {
        let name = package.row.name.as_str();
        let before: Option<PackageRow> = self.tx.statement(&ONE).bind(name).optional().await?;
        let names = json_array([name].iter())?;
        let schemas = schemas_of_in(&mut self.tx, Some(&names)).await?;
        let icons = icons_of_in(&mut self.tx, Some(&names)).await?;
        let mut write = PackageWrite {
            name: name.to_owned(),
            ..Default::default()
        };
        let is_same = before
            .as_ref()
            .is_some_and(|before| before.content_hash == package.row.content_hash);
        if !is_same {
            write.package = Some(package.row.clone());
        }
        let parts = (
            compare_schemas(package, &schemas, &mut write)?,
            compare_icons(package, &icons, &mut write),
        );
        let imported = Imported {
            known: before.is_some(),
            changed: !is_same,
            schemas: parts.0,
            icons: parts.1,
        };
        self.loosened |= !write.schemas.is_empty() || !write.gone.is_empty();
        let changes = apply(&mut self.tx, &write).await?;
        self.revisions.push(changes);
        Ok(imported)
    }

    /// Removes a package.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn remove(&mut self, name: &str) -> Result<Imported, Error> {
        let changes = remove_package(&mut self.tx, name).await?;
        let imported = removed(&changes);
        self.loosened = true;
        self.revisions.push(changes);
        Ok(imported)
    }

    /// The names of all packages.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn names(&mut self) -> Result<Vec<String>, Error> {
        let rows: Vec<NameRow> = self.tx.statement(&NAMES).all().await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// Records when a source was asked; never moves back.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put_checked(&mut self, source: &str, checked: Timestamp) -> Result<(), Error> {
        put_checked(&mut self.tx, source, checked).await
    }

    /// Commits all of it: a revision for each package that changed, all at once. Returns where the last one landed; `None` if
    /// nothing has changed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn commit(mut self) -> Result<Option<Landed>, Error> {
        if self.loosened {
            prune_blobs(&mut self.tx).await?;
        }
        let landed = log::append_each(&mut self.tx, &self.revisions).await?;
        self.tx.commit().await?;
        Ok(landed.into_iter().flatten().last())
    }

    /// Undoes all of it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn undo(self) -> Result<(), Error> {
        self.tx.rollback().await
    }
}

fn compare_schemas(
    package: &BundlePackage,
    stored: &[SchemaRow],
    write: &mut PackageWrite,
) -> Result<ImportedParts, Error> {
    let mut parts = ImportedParts::default();
    for schema in &package.schemas {
        let before = stored.iter().find(|row| row.version == schema.version);
        let counted = match (before.map(|row| &row.hash), &schema.hash) {
            (None | Some(None), Some(_)) => Some(&mut parts.added),
            (Some(Some(before)), Some(after)) if before == after => Some(&mut parts.unchanged),
            (Some(Some(_)), Some(_)) => Some(&mut parts.changed),
            (Some(Some(_)), None) => Some(&mut parts.removed),
            (None | Some(None), None) => None,
        };
        if let Some(count) = counted {
            *count += 1;
        }
        let stated = |row: &SchemaRow| (row.hash.clone(), row.integrity.clone(), row.label.clone());
        if before.is_some_and(|row| stated(row) == stated(schema)) {
            continue;
        }
        let blob = match &schema.hash {
            Some(hash) => Some(package.text(hash)?.clone()),
            None => None,
        };
        write.schemas.push(SchemaWrite {
            version: schema.version.clone(),
            blob,
            integrity: schema.integrity.clone(),
            label: schema.label.clone(),
            // Of the same text, callers see its label in the package, and never its tarball's integrity.
            silent: before.is_some_and(|row| row.hash == schema.hash),
            ..SchemaWrite::default()
        });
    }
    for row in stored {
        let stays = package
            .schemas
            .iter()
            .any(|kept| kept.version == row.version);
        if !stays {
            write.gone.push(row.version.clone());
            parts.removed += i64::from(row.hash.is_some());
        }
    }
    Ok(parts)
}

fn compare_icons(
    package: &BundlePackage,
    stored: &[IconRow],
    write: &mut PackageWrite,
) -> ImportedParts {
    let mut parts = ImportedParts::default();
    let same_place = |a: &IconRow, b: &IconRow| a.shape == b.shape && a.ext == b.ext;
    for (icon, blob) in &package.icons {
        let before = stored.iter().find(|row| same_place(row, icon));
        match before.and_then(|row| row.hash.as_ref()) {
            Some(hash) if *hash == blob.hash => {
                parts.unchanged += 1;
                continue;
            }
            Some(_) => parts.changed += 1,
            None => parts.added += 1,
        }
        write.icons.push(IconWrite {
            shape: icon.shape.clone(),
            ext: icon.ext.clone(),
            content: IconContent::Found {
                blob: blob.clone(),
                upstream_etag: String::new(),
            },
        });
    }
    for row in stored.iter().filter(|row| row.hash.is_some()) {
        if !package.icons.iter().any(|(icon, _)| same_place(icon, row)) {
            parts.removed += 1;
            write.icons.push(IconWrite {
                shape: row.shape.clone(),
                ext: row.ext.clone(),
                content: IconContent::Gone,
            });
        }
    }
    parts
}

/// What became of a package that was removed.
fn removed(changes: &[Change]) -> Imported {
    let mut imported = Imported {
        known: true,
        changed: true,
        ..Default::default()
    };
    for change in changes {
        match change.topic.as_str() {
            SCHEMA_TOPIC => imported.schemas.removed += 1,
            ICON_TOPIC => imported.icons.removed += 1,
            _ => {}
        }
    }
    imported
}
