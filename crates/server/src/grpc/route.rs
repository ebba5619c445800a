//! Services in which some calls are answered with bytes that are encoded already.
//!
//! Each wraps the generated service of the same name, answers the hot paths itself, and passes everything else on.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use prost::Message;
use steadfast_api::{
    registry::v1::{
        self as registry, icon_service_server::IconServiceServer,
        registry_service_server::RegistryServiceServer,
    },
    schema::v1::{self as schema, schema_service_server::SchemaServiceServer},
    watch::v1::{self as watch, watch_service_server::WatchServiceServer},
};
use tokio::sync::oneshot;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tower::Service;

use super::{
    icon::IconEdge,
    raw::{Encoded, RawCodec},
    registry::RegistryEdge,
    schema::SchemaEdge,
    status,
    watch::WatchEdge,
};

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// RegistryService.
#[derive(Clone)]
pub(crate) struct RegistryRoute {
    edge: Arc<RegistryEdge>,
    rest: RegistryServiceServer<RegistryEdge>,
    max_bytes: usize,
}

/// SchemaService.
#[derive(Clone)]
pub(crate) struct SchemaRoute {
    edge: Arc<SchemaEdge>,
    rest: SchemaServiceServer<SchemaEdge>,
    max_bytes: usize,
}

/// IconService.
#[derive(Clone)]
pub(crate) struct IconRoute {
    edge: Arc<IconEdge>,
    rest: IconServiceServer<IconEdge>,
    max_bytes: usize,
}

/// WatchService.
#[derive(Clone)]
pub(crate) struct WatchRoute {
    edge: Arc<WatchEdge>,
    rest: WatchServiceServer<WatchEdge>,
    max_bytes: usize,
}

/// Wraps a service. Calls that are listed are answered here, and all others are passed on.
macro_rules! route {
    ($route:ident, $edge:ident, $server:ident, $name:literal) => {
        impl $route {
            pub(crate) fn new(edge: $edge, max_bytes: usize) -> Self {
                let edge = Arc::new(edge);
                Self {
                    rest: $server::from_arc(Arc::clone(&edge))
                        .max_decoding_message_size(max_bytes)
                        .max_encoding_message_size(max_bytes),
                    edge,
                    max_bytes,
                }
            }
        }

        impl NamedService for $route {
            const NAME: &'static str = $name;
        }
    };
    ($route:ident, $edge:ident, $server:ident, $name:literal, $($method:literal: $answer:expr,)+) => {
        route!($route, $edge, $server, $name);

        impl Service<http::Request<Body>> for $route {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = Answer;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Answer {
                match request.uri().path() {
                    $(concat!("/", $name, "/", $method) => {
                        let edge = Arc::clone(&self.edge);
                        unary(request, self.max_bytes, move |request| $answer(edge, request))
                    })+
                    _ => self.rest.call(request),
                }
            }
        }
    };
}

/// A lookup in memory: at once, unless the caller wants a revision to be waited for.
macro_rules! lookup {
    ($edge:ident, $request:ty, $get:ident) => {
        |edge: Arc<$edge>, request: $request| match request.min_revision {
            None => Reply::now(edge.$get(&request)),
            Some(_) => Reply::later(async move {
                edge.reach(request.min_revision.as_ref()).await?;
                edge.$get(&request)
            }),
        }
    };
}

route!(
    RegistryRoute, RegistryEdge, RegistryServiceServer,
    "steadfast.registry.v1.RegistryService",
    "GetPackage": lookup!(RegistryEdge, registry::GetPackageRequest, get_package),
    "ResolvePackage": lookup!(RegistryEdge, registry::ResolvePackageRequest, resolve_package),
);
route!(
    SchemaRoute, SchemaEdge, SchemaServiceServer,
    "steadfast.schema.v1.SchemaService",
    "GetSchema": lookup!(SchemaEdge, schema::GetSchemaRequest, get_schema),
);
route!(
    IconRoute, IconEdge, IconServiceServer,
    "steadfast.registry.v1.IconService",
    "GetIcon": |edge: Arc<IconEdge>, request: registry::GetIconRequest| {
        Reply::later(async move { edge.get_icon(&request).await })
    },
);
route!(
    WatchRoute,
    WatchEdge,
    WatchServiceServer,
    "steadfast.watch.v1.WatchService"
);

impl Service<http::Request<Body>> for WatchRoute {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path() != "/steadfast.watch.v1.WatchService/Watch" {
            return self.rest.call(request);
        }
        let edge = Arc::clone(&self.edge);
        let max_bytes = self.max_bytes;
        Box::pin(async move {
            // tonic reads the request and answers with the head; what would follow it is an empty message, whose place the stream takes.
            let (send, mut open) = oneshot::channel();
            let request = unary(request, max_bytes, move |request: watch::WatchRequest| {
                Reply::later(async move {
                    let body = edge.watch(request).await?;
                    send.send(body).map_err(|_| status::internal())?;
                    Ok(Encoded::from(Bytes::new()))
                })
            });
            let answer = request.await?;
            Ok(match open.try_recv() {
                Ok(body) => answer.map(|_| body),
                Err(_) => answer,
            })
        })
    }
}

/// A unary call whose answer is encoded already.
struct Unary<F> {
    answer: Option<F>,
    max_bytes: usize,
}

/// An answer that is refused in words where it is too large, before the transport does it without.
struct Bounded {
    reply: Reply,
    max_bytes: usize,
}

/// An answer that is there, or will be. The first kind is what lookups are made of: it costs neither a future nor a place for
/// one, and those that wait for a revision are large.
enum Reply {
    Now(Option<Result<Encoded, Status>>),
    Later(Pin<Box<dyn Future<Output = Result<Encoded, Status>> + Send>>),
}

// === impl Reply ===

impl Reply {
    fn now(answer: Result<Encoded, Status>) -> Self {
        Self::Now(Some(answer))
    }

    fn later(answer: impl Future<Output = Result<Encoded, Status>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

// === impl Bounded ===

impl Future for Bounded {
    type Output = Result<Response<Encoded>, Status>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let bounded = self.get_mut();
        let answer = match &mut bounded.reply {
            Reply::Now(answer) => match answer.take() {
                Some(answer) => answer,
                // It was taken already, and nobody polls twice.
                None => return Poll::Pending,
            },
            Reply::Later(answer) => match answer.as_mut().poll(context) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(answer.and_then(|answer| match answer.size() {
            size if size > bounded.max_bytes => {
                Err(status::answer_too_large(size, bounded.max_bytes))
            }
            _ => Ok(Response::new(answer)),
        }))
    }
}

impl<T, F> UnaryService<T> for Unary<F>
where
    T: Message + Default + Send + 'static,
    F: FnOnce(T) -> Reply,
{
    type Response = Encoded;
    type Future = Bounded;

    fn call(&mut self, request: Request<T>) -> Bounded {
        let reply = match self.answer.take() {
            Some(answer) => answer(request.into_inner()),
            // The transport calls once per request.
            None => Reply::now(Err(status::internal())),
        };
        Bounded {
            reply,
            max_bytes: self.max_bytes,
        }
    }
}

fn unary<T, F>(request: http::Request<Body>, max_bytes: usize, answer: F) -> Answer
where
    T: Message + Default + Send + Sync + 'static,
    F: FnOnce(T) -> Reply + Send + 'static,
{
    let mut grpc = Grpc::new(RawCodec::<T>::default())
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(max_bytes);
    let call = Unary {
        answer: Some(answer),
        max_bytes,
    };
    Box::pin(async move { Ok(grpc.unary(call, request).await) })
}
