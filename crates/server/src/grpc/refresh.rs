//! RefreshService.

use steadfast_api::registry::v1::{
    self as api, RefreshTrigger, refresh_service_server::RefreshService,
};
use steadfast_catalog::Catalog;
use tonic::{Request, Response, Status};

use super::registry::status;

/// Callers have no identity yet.
const ANONYMOUS: &str = "anonymous";

/// What the service needs.
#[derive(Clone)]
pub(crate) struct RefreshEdge {
    pub(crate) catalog: Catalog,
}

#[tonic::async_trait]
impl RefreshService for RefreshEdge {
    async fn start_refresh(
        &self,
        request: Request<api::StartRefreshRequest>,
    ) -> Result<Response<api::StartRefreshResponse>, Status> {
        self.catalog
            .refreshes()
            .start(&request.into_inner(), ANONYMOUS, RefreshTrigger::Request)
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn get_refresh(
        &self,
        request: Request<api::GetRefreshRequest>,
    ) -> Result<Response<api::GetRefreshResponse>, Status> {
        self.catalog
            .refreshes()
            .get(&request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn list_refreshes(
        &self,
        request: Request<api::ListRefreshesRequest>,
    ) -> Result<Response<api::ListRefreshesResponse>, Status> {
        self.catalog
            .refreshes()
            .list(&request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }
}
