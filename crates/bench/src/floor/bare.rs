//! A bare tonic service: a few calls, and no generated code around them.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::{abandoned, builder, listen};
use crate::{error::Error, program::Settings};

/// An answer under way.
pub(super) type Answer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// What a service answers.
pub(super) trait Calls: Clone + Send + Sync + 'static {
    /// Its name in paths.
    const NAME: &'static str;

    /// Answers the call at the request's path; `None` if there is none.
    fn answer(self, request: http::Request<Body>) -> Option<Answer>;
}

#[derive(Clone)]
struct Bare<C>(C);

/// Serves until the bench goes away.
pub(super) async fn serve<C: Calls>(calls: C, settings: &Settings) -> Result<(), Error> {
    let incoming = listen()?;
    builder(settings)
        .add_service(Bare(calls))
        .serve_with_incoming_shutdown(incoming, abandoned())
        .await?;
    Ok(())
}

// === impl Bare ===

impl<C: Calls> NamedService for Bare<C> {
    const NAME: &'static str = C::NAME;
}

impl<C: Calls> Service<http::Request<Body>> for Bare<C> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.0.clone().answer(request) {
            Some(answer) => Box::pin(async move { Ok(answer.await) }),
            None => Box::pin(ready(Ok(
                Status::unimplemented("a floor has no such call").into_http()
            ))),
        }
    }
}
