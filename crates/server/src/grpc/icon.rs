//! IconService.

use steadfast_api::{
    common::v1::Cursor,
    registry::v1::{self as api, icon_service_server::IconService},
};
use steadfast_catalog::Catalog;
use tonic::{Request, Response, Status};

use super::{raw::Encoded, registry::status};

/// What the service needs.
#[derive(Clone)]
pub(crate) struct IconEdge {
    pub(crate) catalog: Catalog,
}

// === impl IconEdge ===

impl IconEdge {
    /// Waits until memory reflects what the caller has seen, and answers: the icon's bytes are handed on as they are kept.
    pub(crate) async fn get_icon(&self, request: &api::GetIconRequest) -> Result<Encoded, Status> {
        self.reach(request.min_revision.as_ref()).await?;
        let answer = self.catalog.lookup_icon(request).await.map_err(status)?;
        Ok(answer.into())
    }

    async fn reach(&self, min_revision: Option<&Cursor>) -> Result<(), Status> {
        self.catalog.reach(min_revision).await.map_err(status)
    }
}

#[tonic::async_trait]
impl IconService for IconEdge {
    /// The route answers before the generated service is asked; this serves whoever calls the trait itself.
    async fn get_icon(
        &self,
        request: Request<api::GetIconRequest>,
    ) -> Result<Response<api::GetIconResponse>, Status> {
        Self::get_icon(self, &request.into_inner()).await?.decode()
    }

    async fn list_icons(
        &self,
        request: Request<api::ListIconsRequest>,
    ) -> Result<Response<api::ListIconsResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        self.catalog
            .list_icons(&request)
            .map(Response::new)
            .map_err(status)
    }
}
