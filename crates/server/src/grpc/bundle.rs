//! BundleService: one file out, one file in, each a stream.

use std::pin::Pin;

use futures::{Stream, StreamExt as _, stream};
use steadfast_api::registry::v1::{
    self as api, bundle_service_server::BundleService, export_catalog_response::Part as Out,
    import_catalog_request::Part as In,
};
use steadfast_catalog::{BundleError, BundleFile, BundleSpool, CHUNK_BYTES, Catalog, Error};
use tonic::{Request, Response, Status, Streaming};

use super::{
    registry::status,
    status::{internal, invalid_argument},
};

/// What the service needs.
#[derive(Clone)]
pub(crate) struct BundleEdge {
    pub(crate) catalog: Catalog,
    /// The largest bundle that is taken in.
    pub(crate) max_bytes: u64,
}

type Parts = Pin<Box<dyn Stream<Item = Result<api::ExportCatalogResponse, Status>> + Send>>;

/// How far a bundle was sent.
enum Sending {
    Header(BundleFile),
    Chunks(BundleFile),
    Nothing,
}

#[tonic::async_trait]
impl BundleService for BundleEdge {
    type ExportCatalogStream = Parts;

    async fn export_catalog(
        &self,
        _: Request<api::ExportCatalogRequest>,
    ) -> Result<Response<Parts>, Status> {
        let file = self.catalog.export().await.map_err(status)?;
        let parts = stream::unfold(Sending::Header(file), |sending| async {
            match next_part(sending).await {
                Ok(Some((part, rest))) => Some((Ok(part), rest)),
                Ok(None) => None,
                Err(status) => Some((Err(status), Sending::Nothing)),
            }
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn import_catalog(
        &self,
        request: Request<Streaming<api::ImportCatalogRequest>>,
    ) -> Result<Response<api::ImportCatalogResponse>, Status> {
        let mut parts = request.into_inner();
        let options = match next(&mut parts).await? {
            Some(In::Options(options)) => options,
            _ => return Err(invalid_argument("part", "the first is `options`")),
        };
        let mode = match options.mode() {
            api::ImportMode::Unspecified => {
                let allowed = "IMPORT_MODE_MERGE or IMPORT_MODE_REPLACE";
                return Err(invalid_argument("options.mode", allowed));
            }
            mode => mode,
        };
        let mut spool = BundleSpool::new(self.max_bytes).map_err(refused)?;
        let trailer = loop {
            match next(&mut parts).await? {
                Some(In::Chunk(chunk)) if chunk.len() <= CHUNK_BYTES => {
                    spool = blocking(move || spool.push(&chunk).map(|()| spool)).await?;
                }
                Some(In::Chunk(_)) => {
                    let allowed = format!("at most {CHUNK_BYTES} bytes at a time");
                    return Err(invalid_argument("chunk", allowed));
                }
                Some(In::Trailer(trailer)) => break trailer,
                Some(In::Options(_)) => {
                    return Err(invalid_argument(
                        "part",
                        "`options` comes once, as the first",
                    ));
                }
                // It was sent without its end: the caller's own transfer broke off.
                None => return Err(refused(BundleError::Truncated)),
            }
        };
        let bundle = blocking(move || spool.verify(&trailer)).await?;
        let imported = self.catalog.import(bundle, mode, options.dry_run).await;
        imported.map(Response::new).map_err(status)
    }
}

async fn next_part(
    sending: Sending,
) -> Result<Option<(api::ExportCatalogResponse, Sending)>, Status> {
    let (part, rest) = match sending {
        Sending::Header(file) => (Out::Header(file.header.clone()), Sending::Chunks(file)),
        Sending::Chunks(mut file) => {
            let (chunk, file) = blocking(move || Ok((file.next_chunk()?, file))).await?;
            if chunk.is_empty() {
                (Out::Trailer(file.trailer()), Sending::Nothing)
            } else {
                (Out::Chunk(chunk.into()), Sending::Chunks(file))
            }
        }
        Sending::Nothing => return Ok(None),
    };
    let part = api::ExportCatalogResponse { part: Some(part) };
    Ok(Some((part, rest)))
}

async fn next(parts: &mut Streaming<api::ImportCatalogRequest>) -> Result<Option<In>, Status> {
    match parts.next().await.transpose()? {
        None => Ok(None),
        Some(api::ImportCatalogRequest { part: Some(part) }) => Ok(Some(part)),
        Some(_) => {
            let allowed = "one of `options`, `chunk` and `trailer`";
            Err(invalid_argument("part", allowed))
        }
    }
}

/// Reading and writing files is in the way of others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, Status> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|_| internal())?.map_err(refused)
}

fn refused(error: BundleError) -> Status {
    status(Error::Bundle(error))
}
