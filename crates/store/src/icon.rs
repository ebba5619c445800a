//! Icons: what the upstream has for each package, shape and format, and the bytes, stored once per content hash.
//!
//! What a hash names never changes, so that whoever holds bytes by their hash holds the right ones for ever. What can change is
//! which hash an icon has, and that goes by the change log like everything else.

use std::time::Duration;

use sqlx::FromRow;

use crate::{
    Change, Error, Op, Store,
    engine::{Tx, statements},
    icon_fetch::forget_fetches,
    lease::micros,
    package::json_array,
};

/// The topic of changed icons; the key is `name/shape.ext`.
pub const ICON_TOPIC: &str = "icon";

statements! {
    /// What is known of all icons.
    ALL = "icon_all" => [
        "SELECT package, shape, ext, hash, size, upstream_etag, misses, (retry_us <= " now ") AS due \
         FROM icon ORDER BY package, shape, ext"
    ];
    /// What is known of the icons of some packages, by a JSON array of names.
    SOME = "icon_some" => [
        postgres {
            "SELECT package, shape, ext, hash, size, upstream_etag, misses, (retry_us <= " now ") AS due \
             FROM icon WHERE package IN (SELECT json_array_elements_text($1::json)) \
             ORDER BY package, shape, ext"
        }
        sqlite {
            "SELECT package, shape, ext, hash, size, upstream_etag, misses, (retry_us <= " now ") AS due \
             FROM icon WHERE package IN (SELECT value FROM json_each($1)) \
             ORDER BY package, shape, ext"
        }
    ];
    /// One icon; nobody else changes it before the transaction ends.
    ONE = "icon_one" => [
        "SELECT package, shape, ext, hash, size, upstream_etag, misses, (retry_us <= " now ") AS due \
         FROM icon WHERE package = $1 AND shape = $2 AND ext = $3" for_update
    ];
    /// The bytes of some hashes, by a JSON array of them.
    BLOBS = "icon_blobs" => [
        postgres {
            "SELECT hash, bytes FROM icon_blob \
             WHERE hash IN (SELECT json_array_elements_text($1::json)) ORDER BY hash"
        }
        sqlite {
            "SELECT hash, bytes FROM icon_blob \
             WHERE hash IN (SELECT value FROM json_each($1)) ORDER BY hash"
        }
    ];
    /// The bytes of one hash.
    BLOB = "icon_blob" => ["SELECT hash, bytes FROM icon_blob WHERE hash = $1"];
    /// Keeps bytes there until the transaction ends.
    KEEP_BLOB = "icon_keep_blob" => ["SELECT hash FROM icon_blob WHERE hash = $1" for_share];
    /// Stores bytes, if they are not there.
    PUT_BLOB = "icon_put_blob" => [
        "INSERT INTO icon_blob (hash, bytes) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING"
    ];
    /// Records what an upstream has.
    PUT = "icon_put" => [
        "INSERT INTO icon (package, shape, ext, hash, size, upstream_etag, misses, retry_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, " now " + $8) \
         ON CONFLICT (package, shape, ext) DO UPDATE SET hash = excluded.hash, size = excluded.size, \
         upstream_etag = excluded.upstream_etag, misses = excluded.misses, retry_us = excluded.retry_us"
    ];
    /// Records what an upstream has of an icon of which nothing is known.
    PUT_NEW = "icon_put_new" => [
        "INSERT INTO icon (package, shape, ext, hash, size, upstream_etag, misses, retry_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, " now " + $8) ON CONFLICT (package, shape, ext) DO NOTHING"
    ];
    /// Forgets an icon.
    REMOVE = "icon_remove" => [
        "DELETE FROM icon WHERE package = $1 AND shape = $2 AND ext = $3"
    ];
    /// Bytes that no icon refers to.
    LOOSE_BLOBS = "icon_loose_blobs" => [
        "SELECT hash FROM icon_blob WHERE NOT EXISTS (SELECT 1 FROM icon i WHERE i.hash = icon_blob.hash) \
         ORDER BY hash LIMIT $1"
    ];
    /// Keeps writers from referring to some bytes, by a JSON array of their hashes, but for those that one is about to refer to.
    LOCK_BLOBS = "icon_lock_blobs" => [
        postgres {
            "SELECT hash FROM icon_blob WHERE hash IN (SELECT json_array_elements_text($1::json)) \
             ORDER BY hash FOR UPDATE SKIP LOCKED"
        }
        sqlite {
            "SELECT hash FROM icon_blob WHERE hash IN (SELECT value FROM json_each($1)) ORDER BY hash"
        }
    ];
    /// Removes those of some bytes, by a JSON array of their hashes, that no icon refers to.
    PRUNE_BLOBS = "icon_prune_blobs" => [
        postgres {
            "DELETE FROM icon_blob WHERE hash IN (SELECT json_array_elements_text($1::json)) \
             AND NOT EXISTS (SELECT 1 FROM icon i WHERE i.hash = icon_blob.hash)"
        }
        sqlite {
            "DELETE FROM icon_blob WHERE hash IN (SELECT value FROM json_each($1)) \
             AND NOT EXISTS (SELECT 1 FROM icon i WHERE i.hash = icon_blob.hash)"
        }
    ];
}

/// What is known of one icon.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct IconRow {
    /// The package.
    pub package: String,
    /// `square` or `rectangle`.
    pub shape: String,
    /// `png` or `svg`.
    pub ext: String,
    /// The SHA-256 of its bytes, in hexadecimal; `None` if the upstream has none.
    pub hash: Option<String>,
    /// In bytes.
    pub size: i64,
    /// What the next question is asked with; may be empty.
    pub upstream_etag: String,
    /// How often in a row the upstream had none.
    pub misses: i64,
    /// If it has none: it is time to ask again.
    pub due: bool,
}

/// An icon's bytes.
#[derive(Clone, PartialEq, Eq, FromRow)]
pub struct IconBlob {
    /// Their SHA-256, in hexadecimal.
    pub hash: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What an upstream said of one icon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IconWrite {
    /// `square` or `rectangle`.
    pub shape: String,
    /// `png` or `svg`.
    pub ext: String,
    /// What there is.
    pub content: IconContent,
}

/// What there is of an icon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IconContent {
    /// This one.
    Found {
        /// Its bytes.
        blob: IconBlob,
        /// What the next question is asked with.
        upstream_etag: String,
    },
    /// None. It is asked for again after this long.
    Missing {
        /// At the earliest.
        retry_after: Duration,
    },
    /// It is to be forgotten, as if it had never been asked for.
    Gone,
}

#[derive(FromRow)]
struct HashRow {
    hash: String,
}

// === impl IconBlob ===

impl std::fmt::Debug for IconBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IconBlob")
            .field("hash", &self.hash)
            .field("size", &self.bytes.len())
            .finish()
    }
}

// === impl IconRow ===

impl IconRow {
    /// The key of its changes.
    #[must_use]
    pub fn key(&self) -> String {
        icon_key(&self.package, &self.shape, &self.ext)
    }
}

impl Store {
    /// What is known of one package's icons.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn icons_of(&self, package: &str) -> Result<Vec<IconRow>, Error> {
        let names = json_array([package].iter())?;
        self.db().read(&SOME).bind(names).all().await
    }

    /// The bytes of a hash, if any icon has it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn icon_blob(&self, hash: &str) -> Result<Option<IconBlob>, Error> {
        self.db().read(&BLOB).bind(hash).optional().await
    }

    /// The bytes of some hashes; those that no icon has any more are left out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn icon_blobs(&self, hashes: &[String]) -> Result<Vec<IconBlob>, Error> {
        let hashes = json_array(hashes.iter())?;
        self.db().read(&BLOBS).bind(hashes).all().await
    }

    /// Hashes of bytes that no icon refers to, at most `limit` of them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn loose_icon_blobs(&self, limit: i64) -> Result<Vec<String>, Error> {
        let rows: Vec<HashRow> = self.db().read(&LOOSE_BLOBS).bind(limit).all().await?;
        Ok(rows.into_iter().map(|row| row.hash).collect())
    }

    /// Removes those of some bytes that no icon refers to. Returns how many they were.
    ///
    /// Whoever found a hash in the catalogue a moment ago may be about to read its bytes: name only such as have been without an
    /// icon for a while.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prune_icon_blobs(&self, hashes: &[String]) -> Result<u64, Error> {
        let mut tx = self.db().begin().await?;
        let lock = tx.statement(&LOCK_BLOBS).bind(json_array(hashes.iter())?);
        let locked: Vec<HashRow> = lock.all().await?;
        // A statement of its own: it sees what was committed until the rows were locked, and nobody refers to them since.
        let locked = json_array(locked.iter().map(|row| &row.hash))?;
        let pruned = tx.statement(&PRUNE_BLOBS).bind(locked).execute().await?;
        tx.commit().await?;
        Ok(pruned)
    }
}

/// The key of an icon's changes.
#[must_use]
pub fn icon_key(package: &str, shape: &str, ext: &str) -> String {
    format!("{package}/{shape}.{ext}")
}

pub(crate) async fn icons_of_in(tx: &mut Tx, names: Option<&str>) -> Result<Vec<IconRow>, Error> {
    match names {
        None => tx.statement(&ALL).all().await,
        Some(names) => tx.statement(&SOME).bind(names).all().await,
    }
}

pub(crate) async fn icon_blobs_in(tx: &mut Tx, hashes: &[String]) -> Result<Vec<IconBlob>, Error> {
    let hashes = json_array(hashes.iter())?;
    tx.statement(&BLOBS).bind(hashes).all().await
}

/// Stores what an upstream said of a package's icons, and returns what to announce: that there is none is announced where an icon
/// goes, and the first time, because the answer about it changes from "not asked" to "none". What is equal writes nothing.
pub(crate) async fn write_icons(
    tx: &mut Tx,
    package: &str,
    writes: &[IconWrite],
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    if writes
        .iter()
        .any(|write| write.content == IconContent::Gone)
    {
        // A fetch that is under way stores what it finds where nothing is known, as will be here: it was asked before this.
        forget_fetches(tx, package).await?;
    }
    for write in writes {
        let (shape, ext) = (write.shape.as_str(), write.ext.as_str());
        let one = tx.statement(&ONE).bind(package).bind(shape).bind(ext);
        let before: Option<IconRow> = one.optional().await?;
        let key = icon_key(package, shape, ext);
        let hash_before = before.as_ref().and_then(|row| row.hash.as_deref());
        match &write.content {
            IconContent::Found {
                blob,
                upstream_etag,
            } => {
                let hash = blob.hash.as_str();
                let is_same = hash_before == Some(hash);
                let etag_before = before.as_ref().map(|row| row.upstream_etag.as_str());
                if is_same && etag_before == Some(upstream_etag) {
                    continue;
                }
                if !is_same {
                    put_blob(tx, blob).await?;
                    changes.push(Change::new(ICON_TOPIC, key, Op::Upsert, hash));
                }
                let size = i64::try_from(blob.bytes.len()).unwrap_or(i64::MAX);
                let put = tx.statement(&PUT).bind(package).bind(shape).bind(ext);
                let put = put.bind(hash).bind(size).bind(upstream_etag);
                put.bind(0_i64).bind(0_i64).execute().await?;
            }
            IconContent::Missing { retry_after } => {
                let misses = before.as_ref().map_or(0, |row| row.misses) + 1;
                let put = tx.statement(&PUT).bind(package).bind(shape).bind(ext);
                let put = put.bind(None::<String>).bind(0_i64).bind("");
                let put = put.bind(misses).bind(micros(*retry_after));
                put.execute().await?;
                if before.is_none() || hash_before.is_some() {
                    changes.push(Change::new(ICON_TOPIC, key, Op::Delete, ""));
                }
            }
            IconContent::Gone => {
                if before.is_some() {
                    let remove = tx.statement(&REMOVE).bind(package).bind(shape).bind(ext);
                    remove.execute().await?;
                    changes.push(Change::new(ICON_TOPIC, key, Op::Delete, ""));
                }
            }
        }
    }
    Ok(changes)
}

/// Stores what somebody asked an upstream for when nothing was known of it. Where something is known by now, whoever wrote it asked
/// later, and it stays. Returns what to announce, and how many came too late.
pub(crate) async fn fill_icons(
    tx: &mut Tx,
    package: &str,
    writes: &[IconWrite],
) -> Result<(Vec<Change>, usize), Error> {
    let (mut changes, mut late) = (Vec::new(), 0);
    for write in writes {
        let (shape, ext) = (write.shape.as_str(), write.ext.as_str());
        let (put, op, etag) = match &write.content {
            IconContent::Found {
                blob,
                upstream_etag,
            } => {
                put_blob(tx, blob).await?;
                let size = i64::try_from(blob.bytes.len()).unwrap_or(i64::MAX);
                let put = tx.statement(&PUT_NEW).bind(package).bind(shape).bind(ext);
                let put = put.bind(&blob.hash).bind(size).bind(upstream_etag);
                let put = put.bind(0_i64).bind(0_i64);
                (put, Op::Upsert, blob.hash.as_str())
            }
            IconContent::Missing { retry_after } => {
                let put = tx.statement(&PUT_NEW).bind(package).bind(shape).bind(ext);
                let put = put.bind(None::<String>).bind(0_i64).bind("");
                let put = put.bind(1_i64).bind(micros(*retry_after));
                (put, Op::Delete, "")
            }
            // Nothing was known: there is nothing to forget.
            IconContent::Gone => continue,
        };
        if put.execute().await? == 0 {
            late += 1;
        } else {
            let key = icon_key(package, shape, ext);
            changes.push(Change::new(ICON_TOPIC, key, op, etag));
        }
    }
    Ok((changes, late))
}

pub(crate) async fn put_blob(tx: &mut Tx, blob: &IconBlob) -> Result<(), Error> {
    // Those that are there may be about to be pruned: held until the icon that refers to them is committed, they are not.
    let kept: Option<HashRow> = tx.statement(&KEEP_BLOB).bind(&blob.hash).optional().await?;
    if kept.is_none() {
        let put = tx.statement(&PUT_BLOB).bind(&blob.hash).bind(&blob.bytes);
        put.execute().await?;
    }
    Ok(())
}
