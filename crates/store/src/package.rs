//! Packages with their schemas and icons: loaded whole at start, and piece by piece as the log moves, each time in one snapshot with the
//! cursor that it reflects.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::FromRow;
use steadfast_types::{Cursor, Timestamp};

use crate::{
    Error, Op, Read, Store,
    engine::{Tx, statements},
    icon::{ICON_TOPIC, IconRow, icons_of_in},
    log,
    schema::{SchemaBlob, SchemaRow, blobs_in, schemas_of_in},
};

/// The topic of changed packages; the key is the package's name.
pub const PACKAGE_TOPIC: &str = "registry";

/// The topic of changed schemas; the key is `name@version`.
pub const SCHEMA_TOPIC: &str = "schema";

/// Log rows read at a time while following.
const PAGE_ROWS: u32 = 1_000;

/// A follower that is further behind than this loads everything anew instead of reading so much of the log.
const FOLLOW_ROWS_MAX: i64 = 50_000;

statements! {
    /// All packages.
    ALL = "package_all" => [
        "SELECT name, source, document, content_hash, upstream_etag FROM package ORDER BY name"
    ];
    /// Some packages, by a JSON array of names.
    SOME = "package_some" => [
        postgres {
            "SELECT name, source, document, content_hash, upstream_etag FROM package \
             WHERE name IN (SELECT json_array_elements_text($1::json)) ORDER BY name"
        }
        sqlite {
            "SELECT name, source, document, content_hash, upstream_etag FROM package \
             WHERE name IN (SELECT value FROM json_each($1)) ORDER BY name"
        }
    ];
    /// One package.
    ONE = "package_one" => [
        "SELECT name, source, document, content_hash, upstream_etag FROM package WHERE name = $1"
    ];
    /// The names of all packages.
    NAMES = "package_names" => ["SELECT name FROM package ORDER BY name"];
    /// Stores a package.
    PUT = "package_put" => [
        "INSERT INTO package (name, source, document, content_hash, upstream_etag) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET source = excluded.source, \
         document = excluded.document, content_hash = excluded.content_hash, \
         upstream_etag = excluded.upstream_etag"
    ];
    /// Remembers the upstream's etag of a package that did not change.
    PUT_ETAG = "package_put_etag" => ["UPDATE package SET upstream_etag = $2 WHERE name = $1"];
    /// When the sources were last asked.
    CHECKED = "source_checked" => ["SELECT source, checked_us FROM source_state ORDER BY source"];
    /// Records when a source was asked; never moves back.
    PUT_CHECKED = "source_put_checked" => [
        "INSERT INTO source_state (source, checked_us) VALUES ($1, $2) \
         ON CONFLICT (source) DO UPDATE SET checked_us = excluded.checked_us \
         WHERE source_state.checked_us < excluded.checked_us"
    ];
}

/// A package as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PackageRow {
    /// Its name.
    pub name: String,
    /// The configured source it came from.
    pub source: String,
    /// Canonical JSON.
    pub document: String,
    /// The SHA-256 of the document, in hexadecimal.
    pub content_hash: String,
    /// What the upstream called the answer it was made from; may be empty.
    pub upstream_etag: String,
}

/// Packages with their schemas and icons as of one cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogRows {
    /// What the rows reflect.
    pub cursor: Cursor,
    /// By name.
    pub packages: Vec<PackageRow>,
    /// Those of `packages`.
    pub schemas: Vec<SchemaRow>,
    /// The texts that `schemas` refer to, but for those the reader has.
    pub blobs: Vec<SchemaBlob>,
    /// Those of `packages`, without their bytes.
    pub icons: Vec<IconRow>,
    /// When each source was last asked with success about all of its packages.
    pub checked: BTreeMap<String, Timestamp>,
}

/// What following the log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Everything that changed after the reader's cursor: of each name in `touched` either its row is in `rows`, or it is gone.
    Changes {
        /// The names of changed packages, or of packages whose schemas or icons changed.
        touched: BTreeSet<String>,
        /// As of the head of the log.
        rows: CatalogRows,
    },
    /// The reader's cursor is of another history, or too far behind: load everything.
    Reload,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
}

#[derive(FromRow)]
struct CheckedRow {
    source: String,
    checked_us: i64,
}

impl Store {
    /// The whole catalogue, in one snapshot.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn load_catalog(&self) -> Result<CatalogRows, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let cursor = log::head(&mut tx).await?.cursor;
        let packages = tx.statement(&ALL).all().await?;
        let schemas = schemas_of_in(&mut tx, None).await?;
        let blobs = blobs_in(&mut tx, None).await?;
        let icons = icons_of_in(&mut tx, None).await?;
        let checked = checked_in(&mut tx).await?;
        tx.rollback().await?;
        Ok(CatalogRows {
            cursor,
            packages,
            schemas,
            blobs,
            icons,
            checked,
        })
    }

    /// What changed after a cursor, up to the head, with the changed rows: log, head and rows in one snapshot. Texts for which
    /// `has_blob` is true are left out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn follow_catalog(
        &self,
        cursor: Cursor,
        has_blob: impl Fn(&str) -> bool + Send,
    ) -> Result<Followed, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let mut at = cursor;
        let mut touched = BTreeSet::new();
        loop {
            let Read::Page(page) = log::page_in(&mut tx, at, PAGE_ROWS).await? else {
                tx.rollback().await?;
                return Ok(Followed::Reload);
            };
            if page.head.0 - at.revision.0 > FOLLOW_ROWS_MAX {
                tx.rollback().await?;
                return Ok(Followed::Reload);
            }
            for entry in page.entries {
                at.revision = entry.revision;
                at.mark = entry.mark;
                touched.extend(entry.changes.into_iter().filter_map(touched_package));
            }
            if at.revision >= page.head {
                break;
            }
        }
        let mut rows = CatalogRows {
            cursor: at,
            packages: Vec::new(),
            schemas: Vec::new(),
            blobs: Vec::new(),
            icons: Vec::new(),
            checked: checked_in(&mut tx).await?,
        };
        if !touched.is_empty() {
            let names = json_array(touched.iter())?;
            rows.packages = tx.statement(&SOME).bind(&names).all().await?;
            rows.schemas = schemas_of_in(&mut tx, Some(&names)).await?;
            rows.icons = icons_of_in(&mut tx, Some(&names)).await?;
            let missing: BTreeSet<&str> = rows
                .schemas
                .iter()
                .filter_map(|row| row.hash.as_deref())
                .filter(|hash| !has_blob(hash))
                .collect();
            if !missing.is_empty() {
                let hashes = json_array(missing.iter())?;
                rows.blobs = blobs_in(&mut tx, Some(&hashes)).await?;
            }
        }
        tx.rollback().await?;
        Ok(Followed::Changes { touched, rows })
    }

    /// When each source was last asked with success about all of its packages.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sources_checked(&self) -> Result<BTreeMap<String, Timestamp>, Error> {
        let rows: Vec<CheckedRow> = self.db().read(&CHECKED).all().await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// One package with what is known of its versions' schemas.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn stored_package(
        &self,
        name: &str,
    ) -> Result<(Option<PackageRow>, Vec<SchemaRow>), Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let package = tx.statement(&ONE).bind(name).optional().await?;
        let schemas = schemas_of_in(&mut tx, Some(&json_array([name].iter())?)).await?;
        tx.rollback().await?;
        Ok((package, schemas))
    }

    /// The names of all stored packages, sorted by their bytes.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn package_names(&self) -> Result<Vec<String>, Error> {
        let rows: Vec<NameRow> = self.db().read(&NAMES).all().await?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }
}

pub(crate) async fn put_package(tx: &mut Tx, row: &PackageRow) -> Result<(), Error> {
    tx.statement(&PUT)
        .bind(&row.name)
        .bind(&row.source)
        .bind(&row.document)
        .bind(&row.content_hash)
        .bind(&row.upstream_etag)
        .execute()
        .await?;
    Ok(())
}

pub(crate) async fn put_etag(tx: &mut Tx, name: &str, etag: &str) -> Result<(), Error> {
    tx.statement(&PUT_ETAG)
        .bind(name)
        .bind(etag)
        .execute()
        .await?;
    Ok(())
}

pub(crate) async fn put_checked(
    tx: &mut Tx,
    source: &str,
    checked: Timestamp,
) -> Result<(), Error> {
    tx.statement(&PUT_CHECKED)
        .bind(source)
        .bind(checked.0)
        .execute()
        .await?;
    Ok(())
}

/// The key of a schema's change.
pub(crate) fn schema_key(package: &str, version: &str) -> String {
    format!("{package}@{version}")
}

fn touched_package(change: crate::Change) -> Option<String> {
    debug_assert!(matches!(change.op, Op::Upsert | Op::Delete));
    match change.topic.as_str() {
        PACKAGE_TOPIC => Some(change.key),
        // A scope begins with `@` too; versions never hold one.
        SCHEMA_TOPIC => change.key.rsplit_once('@').map(|(name, _)| name.to_owned()),
        ICON_TOPIC => change.key.rsplit_once('/').map(|(name, _)| name.to_owned()),
        _ => None,
    }
}

pub(crate) async fn checked_in(tx: &mut Tx) -> Result<BTreeMap<String, Timestamp>, Error> {
    let rows: Vec<CheckedRow> = tx.statement(&CHECKED).all().await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

pub(crate) fn json_array<T: serde::Serialize>(
    items: impl Iterator<Item = T>,
) -> Result<String, Error> {
    serde_json::to_string(&items.collect::<Vec<_>>()).map_err(|_| Error::Corrupt("argument"))
}

impl From<CheckedRow> for (String, Timestamp) {
    fn from(row: CheckedRow) -> Self {
        (row.source, Timestamp(row.checked_us))
    }
}
