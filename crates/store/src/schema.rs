//! Schemas: what each version's tarball held, and the texts, stored once per content hash.

use sqlx::FromRow;

use crate::{
    Change, Error, Op,
    engine::{Tx, statements},
    package::{SCHEMA_TOPIC, schema_key},
};

statements! {
    /// What is known of all versions.
    ALL = "schema_all" => [
        "SELECT package, version, hash, integrity, label, origin, misses, retry_us FROM package_schema ORDER BY package, version"
    ];
    /// What is known of the versions of some packages, by a JSON array of names.
    SOME = "schema_some" => [
        postgres {
            "SELECT package, version, hash, integrity, label, origin, misses, retry_us FROM package_schema \
             WHERE package IN (SELECT json_array_elements_text($1::json)) ORDER BY package, version"
        }
        sqlite {
            "SELECT package, version, hash, integrity, label, origin, misses, retry_us FROM package_schema \
             WHERE package IN (SELECT value FROM json_each($1)) ORDER BY package, version"
        }
    ];
    /// All texts.
    ALL_BLOBS = "schema_all_blobs" => ["SELECT hash, document FROM schema_blob ORDER BY hash"];
    /// Some texts, by a JSON array of hashes.
    SOME_BLOBS = "schema_some_blobs" => [
        postgres {
            "SELECT hash, document FROM schema_blob \
             WHERE hash IN (SELECT json_array_elements_text($1::json)) ORDER BY hash"
        }
        sqlite {
            "SELECT hash, document FROM schema_blob \
             WHERE hash IN (SELECT value FROM json_each($1)) ORDER BY hash"
        }
    ];
    /// Stores a text, if it is not there.
    PUT_BLOB = "schema_put_blob" => [
        "INSERT INTO schema_blob (hash, document) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING"
    ];
    /// Records what a version's tarball held.
    PUT = "schema_put" => [
        "INSERT INTO package_schema (package, version, hash, integrity, label, origin, misses, retry_us, read_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, " now " + $8, " now ") ON CONFLICT (package, version) DO UPDATE SET \
         hash = excluded.hash, integrity = excluded.integrity, label = excluded.label, origin = excluded.origin, \
         misses = excluded.misses, retry_us = excluded.retry_us, read_us = excluded.read_us"
    ];
    /// Forgets a version.
    REMOVE = "schema_remove" => ["DELETE FROM package_schema WHERE package = $1 AND version = $2"];
    /// Removes texts that no version refers to any more.
    PRUNE_BLOBS = "schema_prune_blobs" => [
        "DELETE FROM schema_blob WHERE NOT EXISTS \
         (SELECT 1 FROM package_schema s WHERE s.hash = schema_blob.hash)"
    ];
}

/// What a version's tarball held.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SchemaRow {
    /// The package.
    pub package: String,
    /// The version.
    pub version: String,
    /// The schema's SHA-256, in hexadecimal; `None` if there is none.
    pub hash: Option<String>,
    /// Of the tarball that was read.
    pub integrity: String,
    /// In the tarball; may be empty.
    pub label: String,
    /// The template of the address that it was read from; empty for the tarball.
    pub origin: String,
    /// How often in a row there was none at an address.
    pub misses: i64,
    /// When to ask for it again, if there was none at an address.
    pub retry_us: Option<i64>,
}

/// A schema's text.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SchemaBlob {
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
    /// As the package carries it.
    pub document: String,
}

/// What reading a tarball, or asking at an address, brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaWrite {
    /// The version.
    pub version: String,
    /// The schema; `None` if there is none.
    pub blob: Option<SchemaBlob>,
    /// Of the tarball.
    pub integrity: String,
    /// In the tarball; may be empty.
    pub label: String,
    /// The template of the address that it was read from; empty for the tarball.
    pub origin: String,
    /// How often in a row there was none at an address.
    pub misses: i64,
    /// In how many microseconds to ask for it again, if there was none at an address.
    pub retry_in_us: Option<i64>,
    /// Callers see no difference: it takes no revision.
    pub silent: bool,
}

pub(crate) async fn schemas_of_in(
    tx: &mut Tx,
    names: Option<&str>,
) -> Result<Vec<SchemaRow>, Error> {
    match names {
        None => tx.statement(&ALL).all().await,
        Some(names) => tx.statement(&SOME).bind(names).all().await,
    }
}

pub(crate) async fn blobs_in(tx: &mut Tx, hashes: Option<&str>) -> Result<Vec<SchemaBlob>, Error> {
    match hashes {
        None => tx.statement(&ALL_BLOBS).all().await,
        Some(hashes) => tx.statement(&SOME_BLOBS).bind(hashes).all().await,
    }
}

/// Stores what tarballs brought and forgets versions that are gone. Returns what to announce: a version found to have no schema
/// is announced too, because the answer about it changes from "not read" to "none".
pub(crate) async fn write_schemas(
    tx: &mut Tx,
    package: &str,
    writes: &[SchemaWrite],
    gone: &[String],
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::with_capacity(writes.len() + gone.len());
    for write in writes {
        if let Some(blob) = &write.blob {
            tx.statement(&PUT_BLOB)
                .bind(&blob.hash)
                .bind(&blob.document)
                .execute()
                .await?;
        }
        let hash = write.blob.as_ref().map(|blob| blob.hash.as_str());
        tx.statement(&PUT)
            .bind(package)
            .bind(&write.version)
            .bind(hash)
            .bind(&write.integrity)
            .bind(&write.label)
            .bind(&write.origin)
            .bind(write.misses)
            .bind(write.retry_in_us)
            .execute()
            .await?;
        if write.silent {
            continue;
        }
        let op = if hash.is_some() {
            Op::Upsert
        } else {
            Op::Delete
        };
        let key = schema_key(package, &write.version);
        changes.push(Change::new(SCHEMA_TOPIC, key, op, hash.unwrap_or_default()));
    }
    for version in gone {
        tx.statement(&REMOVE)
            .bind(package)
            .bind(version)
            .execute()
            .await?;
        let key = schema_key(package, version);
        changes.push(Change::new(SCHEMA_TOPIC, key, Op::Delete, ""));
    }
    Ok(changes)
}

/// Removes texts that no version refers to any more.
pub(crate) async fn prune_blobs(tx: &mut Tx) -> Result<u64, Error> {
    tx.statement(&PRUNE_BLOBS).execute().await
}
