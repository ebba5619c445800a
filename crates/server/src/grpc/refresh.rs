//! RefreshService.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use steadfast_api::registry::v1::{
    self as api, RefreshTrigger, refresh_service_server::RefreshService,
};
use steadfast_catalog::{Catalog, RefreshWatch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{registry::status, status::draining};

/// Callers have no identity yet.
const ANONYMOUS: &str = "anonymous";

/// What the service needs.
#[derive(Clone)]
pub(crate) struct RefreshEdge {
    pub(crate) catalog: Catalog,
    /// Streams end with it.
    pub(crate) drain: CancellationToken,
    pub(crate) drain_jitter: Duration,
}

// === impl RefreshEdge ===

impl RefreshEdge {
    /// What a stream says next; `None` at its end.
    async fn next(
        &self,
        watch: &mut RefreshWatch,
    ) -> Option<Result<api::WatchRefreshResponse, Status>> {
        tokio::select! {
            next = watch.next() => next.map_err(status).transpose(),
            () = self.drain.cancelled() => {
                // Somewhere within the configured time, so that not all clients come back at once.
                let retry = self.drain_jitter.mul_f64(rand::random());
                Some(Err(draining(retry).into_status()))
            }
        }
    }
}

#[tonic::async_trait]
impl RefreshService for RefreshEdge {
    type WatchRefreshStream =
        Pin<Box<dyn Stream<Item = Result<api::WatchRefreshResponse, Status>> + Send>>;

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

    async fn cancel_refresh(
        &self,
        request: Request<api::CancelRefreshRequest>,
    ) -> Result<Response<api::CancelRefreshResponse>, Status> {
        self.catalog
            .refreshes()
            .cancel(&request.into_inner(), ANONYMOUS)
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn watch_refresh(
        &self,
        request: Request<api::WatchRefreshRequest>,
    ) -> Result<Response<Self::WatchRefreshStream>, Status> {
        let watch = self.catalog.progress().watch(&request.into_inner()).await;
        let watch = watch.map_err(status)?;
        let edge = self.clone();
        let stream = stream::unfold(Some(watch), move |watch| {
            let edge = edge.clone();
            async move {
                let mut watch = watch?;
                let next = edge.next(&mut watch).await?;
                let goes_on = next.is_ok();
                Some((next, goes_on.then_some(watch)))
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
