//! SchemaService.

use steadfast_api::{
    common::v1::Cursor,
    schema::v1::{self as api, schema_service_server::SchemaService},
};
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
    /// Waits until memory reflects what the caller has seen.
    pub(crate) async fn reach(&self, min_revision: Option<&Cursor>) -> Result<(), Status> {
        self.catalog.reach(min_revision).await.map_err(status)
    }

    /// Answers at once, whatever `min_revision` says.
    pub(crate) fn get_schema(&self, request: &api::GetSchemaRequest) -> Result<Encoded, Status> {
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
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        Self::get_schema(self, &request)?.decode()
    }

    async fn list_schemas(
        &self,
        request: Request<api::ListSchemasRequest>,
    ) -> Result<Response<api::ListSchemasResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
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
        self.reach(request.min_revision.as_ref()).await?;
        self.catalog
            .validate(request)
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn diff_schemas(
        &self,
        request: Request<api::DiffSchemasRequest>,
    ) -> Result<Response<api::DiffSchemasResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        self.catalog
            .diff_schemas(&request)
            .await
            .map(Response::new)
            .map_err(status)
    }
}
