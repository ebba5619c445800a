//! Bundles: the whole catalogue as one file, out of a server and into one, each verified at both ends.

use std::io;

use futures::{StreamExt as _, stream};
use sha2::{Digest, Sha256};
use steadfast_api::registry::v1::{
    BundleHeader, BundleTrailer, ExportCatalogRequest, ExportCatalogResponse, ImportCatalogRequest,
    ImportCatalogResponse, ImportOptions, export_catalog_response::Part as Out,
    import_catalog_request::Part as In,
};
use tonic::{Code, Streaming};

use crate::{Connection, Error};

/// The largest part of a transfer, which the contract tells.
const CHUNK_BYTES: usize = 1 << 20;

/// A bundle on its way here.
#[derive(Debug)]
pub struct CatalogExport {
    header: BundleHeader,
    parts: Streaming<ExportCatalogResponse>,
    hash: Sha256,
    bytes: i64,
    whole: bool,
}

/// Asks for a bundle of the whole catalogue. There is no deadline: a large one takes as long as it takes.
///
/// # Errors
/// What the server answers.
pub async fn export_catalog(connection: &Connection) -> Result<CatalogExport, Error> {
    let mut client = connection.bundle_streams();
    let answer = client.export_catalog(ExportCatalogRequest {}).await?;
    let mut parts = answer.into_inner();
    match parts.message().await?.and_then(|first| first.part) {
        Some(Out::Header(header)) => Ok(CatalogExport {
            header,
            parts,
            hash: Sha256::new(),
            bytes: 0,
            whole: false,
        }),
        _ => Err(broken("the transfer does not begin with a header")),
    }
}

/// Has a server take a bundle in. `read` fills what it is given up to its capacity, and leaves it empty at the end.
///
/// # Errors
/// What the server answers; `BUNDLE_UNREADABLE` if `read` fails.
pub async fn import_catalog(
    connection: &Connection,
    options: ImportOptions,
    mut read: impl FnMut(&mut Vec<u8>) -> io::Result<()> + Send + 'static,
) -> Result<ImportCatalogResponse, Error> {
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let reading = tokio::task::spawn_blocking(move || {
        let part = |part| ImportCatalogRequest { part: Some(part) };
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut sent = send.blocking_send(part(In::Options(options))).is_ok();
        // If nobody takes them any more, the server has answered already.
        while sent {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            read(&mut chunk)?;
            let last = chunk.is_empty();
            hash.update(&chunk);
            size += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            let next = if last {
                In::Trailer(BundleTrailer {
                    sha256: hex::encode(hash.clone().finalize()),
                    size,
                })
            } else {
                In::Chunk(chunk.into())
            };
            sent = send.blocking_send(part(next)).is_ok() && !last;
        }
        Ok::<_, io::Error>(())
    });
    let parts = stream::unfold(receive, |mut receive| async {
        let part = receive.recv().await?;
        Some((part, receive))
    });
    let mut client = connection.bundle_streams();
    let answer = client.import_catalog(parts.boxed()).await;
    // A server that has refused it takes no more, and who reads may wait for it to.
    if answer.is_err()
        && reading.is_finished()
        && let Ok(Err(error)) = reading.await
    {
        let message = format!("the bundle cannot be read: {error}");
        return Err(Error::local(Code::Unknown, "BUNDLE_UNREADABLE", message));
    }
    Ok(answer?.into_inner())
}

// === impl CatalogExport ===

impl CatalogExport {
    /// What the bundle says of itself.
    #[must_use]
    pub fn header(&self) -> &BundleHeader {
        &self.header
    }

    /// The next part of the file; `None` after the last, once the whole has proven to be what was sent.
    ///
    /// # Errors
    /// What the server answers; `BUNDLE_TRUNCATED` or `BUNDLE_ALTERED` if the transfer did not bring what was sent: throw away what
    /// came.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.whole {
            return Ok(None);
        }
        match self.parts.message().await?.and_then(|next| next.part) {
            Some(Out::Chunk(chunk)) => {
                self.hash.update(&chunk);
                self.bytes += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
                Ok(Some(chunk.into()))
            }
            Some(Out::Trailer(trailer)) if trailer.size != self.bytes => {
                Err(broken("the transfer is shorter than it says"))
            }
            Some(Out::Trailer(trailer)) => {
                if hex::encode(self.hash.clone().finalize()) != trailer.sha256 {
                    let message = "the transfer does not have the checksum that it ends with";
                    return Err(Error::local(
                        Code::DataLoss,
                        "BUNDLE_ALTERED",
                        message.to_owned(),
                    ));
                }
                self.whole = true;
                Ok(None)
            }
            Some(Out::Header(_)) | None => Err(broken("the transfer ends without a trailer")),
        }
    }
}

fn broken(message: &str) -> Error {
    Error::local(Code::DataLoss, "BUNDLE_TRUNCATED", message.to_owned())
}
