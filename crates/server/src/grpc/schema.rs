//! SchemaService.

use steadfast_api::schema::v1::{self as api, schema_service_server::SchemaService};
use steadfast_catalog::Catalog;
use tonic::{Request, Response, Status};

use super::{raw::Encoded, registry::status};

/// What the service needs.
#[derive(Clone)]
pub(crate) struct SchemaEdge {
    pub(crate) catalog: Catalog,
}

// === impl SchemaEdge ===

impl SchemaEdge {
    pub(crate) async fn get_schema(
        &self,
        request: api::GetSchemaRequest,
    ) -> Result<Encoded, Status> {
        self.catalog
            .reach(request.min_revision.as_ref())
            .await
            .map_err(status)?;
        let snapshot = self.catalog.snapshot();
        let answer = snapshot
            .lookup_schema(&request.package, &request.version, &request.if_none_match)
            .map_err(status)?;
        Ok(answer.into())
    }
}

#[tonic::async_trait]
impl SchemaService for SchemaEdge {
    /// The route answers before the generated service is asked; this serves whoever calls the trait itself.
    async fn get_schema(
        &self,
        request: Request<api::GetSchemaRequest>,
    ) -> Result<Response<api::GetSchemaResponse>, Status> {
        Self::get_schema(self, request.into_inner()).await?.decode()
    }

    async fn list_schemas(
        &self,
        request: Request<api::ListSchemasRequest>,
    ) -> Result<Response<api::ListSchemasResponse>, Status> {
        let request = request.into_inner();
        self.catalog
            .reach(request.min_revision.as_ref())
            .await
            .map_err(status)?;
        let snapshot = self.catalog.snapshot();
        snapshot
            .list_schemas(&request)
            .map(Response::new)
            .map_err(status)
    }

    async fn validate_document(
        &self,
        request: Request<api::ValidateDocumentRequest>,
    ) -> Result<Response<api::ValidateDocumentResponse>, Status> {
        let request = request.into_inner();
        self.catalog
            .reach(request.min_revision.as_ref())
            .await
            .map_err(status)?;
        self.catalog
            .validate(request)
            .await
            .map(Response::new)
            .map_err(status)
    }
}
