//! Bundles out of the catalogue and into it.
//!
//! Both go through a file of their own, which has no name and goes with its process. An export reads its snapshot into it first, so
//! that no transaction waits for a caller; an import is not looked at before the whole of it is there and verified.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    time::Duration,
};

use sha2::{Digest, Sha256};
use steadfast_api::registry::v1 as api;
use steadfast_store::{CatalogImport, Imported, ImportedParts, Landed, Lease};
use tokio::sync::mpsc;

use crate::{
    Catalog,
    bundle::{self, BUNDLE_FORMAT, BundleError, BundleHeader, BundleWriter},
    bundle_line::BundleItem,
    error::Error,
    executor::LEASE,
};

/// The largest part of a transfer.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Removed packages that an answer names.
const NAMED_MAX: usize = 1_000;

/// Packages that are read ahead of what is being written.
const READ_AHEAD: usize = 4;

/// How long an import holds the lease before it begins to write; from then on its transaction keeps others away. One whose caller or
/// whose server goes away is undone, and may be repeated after this.
const IMPORT_LEASE: Duration = Duration::from_secs(2);

/// A bundle that is ready to be sent.
#[derive(Debug)]
pub struct BundleFile {
    /// What it says of itself, with its size.
    pub header: api::BundleHeader,
    file: File,
    left: u64,
    hash: Sha256,
}

/// A bundle that is being received.
#[derive(Debug)]
pub struct BundleSpool {
    file: File,
    hash: Sha256,
    bytes: u64,
    limit_bytes: u64,
}

/// A bundle that was received whole, and verified.
#[derive(Debug)]
pub struct VerifiedBundle {
    file: File,
    header: BundleHeader,
    bytes: u64,
}

// === impl BundleFile ===

impl BundleFile {
    /// The next part of at most 1 MiB; empty after the last. It reads a file, which may take a moment.
    ///
    /// # Errors
    /// [`BundleError::File`].
    pub fn next_chunk(&mut self) -> Result<Vec<u8>, BundleError> {
        let size = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut chunk = vec![0; size.min(CHUNK_BYTES)];
        self.file
            .read_exact(&mut chunk)
            .map_err(BundleError::File)?;
        self.left -= chunk.len() as u64;
        self.hash.update(&chunk);
        Ok(chunk)
    }

    /// What ends the transfer.
    #[must_use]
    pub fn trailer(&self) -> api::BundleTrailer {
        api::BundleTrailer {
            sha256: hex::encode(self.hash.clone().finalize()),
            size: self.header.size,
        }
    }
}

// === impl BundleSpool ===

impl BundleSpool {
    /// An empty one, in the folder for temporary files. More than `limit_bytes` are refused.
    ///
    /// # Errors
    /// [`BundleError::File`].
    pub fn new(limit_bytes: u64) -> Result<Self, BundleError> {
        Ok(Self {
            file: tempfile::tempfile().map_err(BundleError::File)?,
            hash: Sha256::new(),
            bytes: 0,
            limit_bytes,
        })
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`], [`BundleError::File`].
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), BundleError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.limit_bytes {
            return Err(BundleError::TooLarge {
                limit_bytes: self.limit_bytes,
            });
        }
        self.hash.update(chunk);
        self.file.write_all(chunk).map_err(BundleError::File)
    }

    /// Ends the transfer, and verifies all of it: that it arrived as it was sent, and that it is a bundle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(self, trailer: &api::BundleTrailer) -> Result<VerifiedBundle, BundleError> {
        let size = u64::try_from(trailer.size).unwrap_or_default();
        if size != self.bytes {
            return Err(BundleError::Truncated);
        }
        if hex::encode(self.hash.finalize()) != trailer.sha256.to_ascii_lowercase() {
            return Err(BundleError::Altered);
        }
        let mut file = self.file;
        let header = bundle::verify(&mut file)?;
        Ok(VerifiedBundle {
            file,
            header,
            bytes: self.bytes,
        })
    }
}

impl Catalog {
    /// Writes the catalogue, as of one revision, into a file of its own.
    ///
    /// # Errors
    /// [`Error::Bundle`], or if the database does not answer.
    pub async fn export(&self) -> Result<BundleFile, Error> {
        let mut export = self.store().export_catalog().await?;
        let header = BundleHeader {
            format: BUNDLE_FORMAT,
            cursor: export.cursor,
            counts: export.counts,
        };
        let checked = std::mem::take(&mut export.checked);
        let mut writer = off_the_loop(move || {
            let file = BufWriter::new(tempfile::tempfile()?);
            let mut writer = BundleWriter::begin(file, &header)?;
            for (source, checked) in checked {
                writer.write(&BundleItem::Source(source, checked))?;
            }
            Ok(writer)
        })
        .await?;
        let mut after = String::new();
        loop {
            let page = export.packages_after(&after).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.row.name);
            writer = off_the_loop(move || {
                for package in page {
                    writer.write(&BundleItem::Package(Box::new(package)))?;
                }
                Ok(writer)
            })
            .await?;
        }
        export.end().await?;
        let (file, size) = off_the_loop(move || {
            let (file, size) = writer.end()?;
            let mut file = file.into_inner().map_err(|error| error.into_error())?;
            file.seek(SeekFrom::Start(0))?;
            Ok((file, size))
        })
        .await?;
        Ok(BundleFile {
            header: header_message(&header, size),
            file,
            left: size,
            hash: Sha256::new(),
        })
    }

    /// Takes a verified bundle in, in one transaction.
    ///
    /// # Errors
    /// [`Error::CatalogBusy`] if a refresh or another import is running; [`Error::Bundle`]; or if the database does not answer.
    pub async fn import(
        &self,
        bundle: VerifiedBundle,
        mode: api::ImportMode,
        dry_run: bool,
    ) -> Result<api::ImportCatalogResponse, Error> {
        let replica = self.replica();
        let claimed = self.store().claim_lease(LEASE, replica, IMPORT_LEASE);
        let lease = claimed.await?.ok_or(Error::CatalogBusy)?;
        let imported = self.import_under(&lease, bundle, mode, dry_run).await;
        // Also after an error: whoever waits need not wait any longer.
        self.store().release_lease(&lease).await?;
        let (mut answer, landed) = imported?;
        if let Some(landed) = landed {
            self.wakeups().kick();
            let store_id = self.snapshot().stamp.cursor.store_id;
            answer.cursor = Some(steadfast_api::common::v1::Cursor {
                store_id: store_id.to_string(),
                revision: landed.revision.0,
                mark: landed.mark.0,
            });
        }
        Ok(answer)
    }

    async fn import_under(
        &self,
        lease: &Lease,
        bundle: VerifiedBundle,
        mode: api::ImportMode,
        dry_run: bool,
    ) -> Result<(api::ImportCatalogResponse, Option<Landed>), Error> {
        let mut answer = api::ImportCatalogResponse {
            header: Some(header_message(&bundle.header, bundle.bytes)),
            packages: Some(api::ImportCounts::default()),
            schemas: Some(api::ImportCounts::default()),
            icons: Some(api::ImportCounts::default()),
            dry_run,
            ..Default::default()
        };
        let mut import = self.store().import_catalog(lease).await?;
        let (send, mut items) = mpsc::channel(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || read(bundle.file, &send));
        let mut named = BTreeSet::new();
        while let Some(item) = items.recv().await {
            match item {
                BundleItem::Source(source, checked) => {
                    import.put_checked(&source, checked).await?;
                }
                BundleItem::Package(package) => {
                    count(&mut answer, import.put(&package).await?);
                    named.insert(package.row.name);
                }
            }
        }
        // Verified before; read again, it may still fail.
        reading
            .await
            .map_err(|_| Error::Internal("reading a bundle"))?
            .map_err(Error::Bundle)?;
        if mode == api::ImportMode::Replace {
            remove_others(&mut import, &named, &mut answer).await?;
        }
        let landed = if dry_run {
            import.undo().await?;
            None
        } else {
            import.commit().await?
        };
        Ok((answer, landed))
    }
}

/// Hands on what a bundle holds, one after another, as fast as it is taken.
fn read(file: File, send: &mpsc::Sender<BundleItem>) -> Result<(), BundleError> {
    let (_, mut reader) = bundle::open(BufReader::new(file))?;
    while let Some(item) = reader.next()? {
        // Nobody takes it any more: who did has an error of their own.
        if send.blocking_send(item).is_err() {
            break;
        }
    }
    Ok(())
}

async fn remove_others(
    import: &mut CatalogImport,
    named: &BTreeSet<String>,
    answer: &mut api::ImportCatalogResponse,
) -> Result<(), Error> {
    for name in import.names().await? {
        if named.contains(&name) {
            continue;
        }
        let removed = import.remove(&name).await?;
        if let Some(packages) = &mut answer.packages {
            packages.removed += 1;
        }
        count_parts(answer, removed);
        if answer.removed_packages.len() < NAMED_MAX {
            answer.removed_packages.push(name);
        }
    }
    Ok(())
}

fn count(answer: &mut api::ImportCatalogResponse, imported: Imported) {
    if let Some(packages) = &mut answer.packages {
        match (imported.known, imported.changed) {
            (false, _) => packages.added += 1,
            (true, true) => packages.changed += 1,
            (true, false) => packages.unchanged += 1,
        }
    }
    count_parts(answer, imported);
}

fn count_parts(answer: &mut api::ImportCatalogResponse, imported: Imported) {
    let add = |counts: &mut Option<api::ImportCounts>, parts: ImportedParts| {
        if let Some(counts) = counts {
            counts.added += parts.added;
            counts.changed += parts.changed;
            counts.unchanged += parts.unchanged;
            counts.removed += parts.removed;
        }
    };
    add(&mut answer.schemas, imported.schemas);
    add(&mut answer.icons, imported.icons);
}

fn header_message(header: &BundleHeader, size: u64) -> api::BundleHeader {
    api::BundleHeader {
        format_version: i32::try_from(header.format).unwrap_or(i32::MAX),
        cursor: Some(steadfast_api::common::v1::Cursor {
            store_id: header.cursor.store_id.to_string(),
            revision: header.cursor.revision.0,
            mark: header.cursor.mark.0,
        }),
        packages: header.counts.packages,
        schemas: header.counts.schemas,
        icons: header.counts.icons,
        size: i64::try_from(size).unwrap_or(i64::MAX),
    }
}

/// Packing and writing take long enough to be in the way of others.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Internal("writing a bundle"))?
        .map_err(|error| Error::Bundle(BundleError::File(error)))
}
