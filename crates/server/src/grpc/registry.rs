//! RegistryService: every answer comes from one snapshot in memory.

use steadfast_api::{
    common::v1::Cursor,
    registry::v1::{
        self as api, batch_resolve_packages_response as batch,
        registry_service_server::RegistryService,
    },
};
use steadfast_catalog::{Catalog, Error};
use tonic::{Request, Response, Status};

use super::{raw::Encoded, status::of_catalog};

/// What the service needs.
#[derive(Clone)]
pub(crate) struct RegistryEdge {
    pub(crate) catalog: Catalog,
}

// === impl RegistryEdge ===

impl RegistryEdge {
    /// Waits until memory reflects what the caller has seen.
    pub(crate) async fn reach(&self, min_revision: Option<&Cursor>) -> Result<(), Status> {
        self.catalog.reach(min_revision).await.map_err(status)
    }

    /// Answers at once, whatever `min_revision` says.
    pub(crate) fn get_package(&self, request: &api::GetPackageRequest) -> Result<Encoded, Status> {
        let snapshot = self.catalog.snapshot();
        let answer = snapshot
            .lookup_package(&request.name, &request.if_none_match)
            .map_err(status)?;
        Ok(answer.into())
    }

    /// Answers at once, whatever `min_revision` says.
    pub(crate) fn resolve_package(
        &self,
        request: &api::ResolvePackageRequest,
    ) -> Result<Encoded, Status> {
        let snapshot = self.catalog.snapshot();
        let answer = snapshot
            .lookup_resolution(&request.specifier)
            .map_err(status)?;
        Ok(answer.into())
    }
}

#[tonic::async_trait]
impl RegistryService for RegistryEdge {
    /// The route answers before the generated service is asked; this serves whoever calls the trait itself.
    async fn get_package(
        &self,
        request: Request<api::GetPackageRequest>,
    ) -> Result<Response<api::GetPackageResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        Self::get_package(self, &request)?.decode()
    }

    async fn list_packages(
        &self,
        request: Request<api::ListPackagesRequest>,
    ) -> Result<Response<api::ListPackagesResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        let snapshot = self.catalog.snapshot();
        snapshot
            .list_packages(&request)
            .map(Response::new)
            .map_err(status)
    }

    async fn remove_package(
        &self,
        request: Request<api::RemovePackageRequest>,
    ) -> Result<Response<api::RemovePackageResponse>, Status> {
        let removed = self.catalog.remove_package(&request.into_inner()).await;
        removed.map(Response::new).map_err(status)
    }

    async fn resolve_package(
        &self,
        request: Request<api::ResolvePackageRequest>,
    ) -> Result<Response<api::ResolvePackageResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        Self::resolve_package(self, &request)?.decode()
    }

    async fn batch_resolve_packages(
        &self,
        request: Request<api::BatchResolvePackagesRequest>,
    ) -> Result<Response<api::BatchResolvePackagesResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_revision.as_ref()).await?;
        let resolved = self
            .catalog
            .batch_resolve(&request.specifiers)
            .map_err(status)?;
        let results = resolved
            .results
            .into_iter()
            .map(|result| batch::Result {
                result: Some(match result {
                    Ok(resolution) => batch::result::Result::Resolution(resolution),
                    Err(error) => batch::result::Result::Error(of_catalog(&error).into_item()),
                }),
            })
            .collect();
        Ok(Response::new(api::BatchResolvePackagesResponse {
            results,
            read_state: Some(resolved.read_state),
        }))
    }
}

pub(crate) fn status(error: Error) -> Status {
    of_catalog(&error).into_status()
}
