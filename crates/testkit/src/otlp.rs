//! A collector of traces on loopback: it takes whatever is exported to it over gRPC, and keeps it.
//!
//! It knows nothing of the messages. Names and trace ids stand in them as they are, so a test can look for their bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinHandle};

/// What precedes a message in a gRPC body: whether it is compressed, and its length. The answer has no fields.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// A collector that takes exports as long as this value lives.
#[derive(Debug)]
pub struct Collector {
    url: String,
    received: Arc<Mutex<Vec<Bytes>>>,
    accepting: JoinHandle<()>,
}

// === impl Collector ===

impl Collector {
    /// Listens on a port of the system's choice.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let received = Arc::new(Mutex::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&received)));
        Self {
            url: format!("http://{address}"),
            received,
            accepting,
        }
    }

    /// The address to configure.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bodies of all exports so far.
    #[must_use]
    pub fn received(&self) -> Vec<Bytes> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Answer = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>;

async fn accept(listener: TcpListener, received: Arc<Mutex<Vec<Bytes>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        let service = service_fn(move |request| take(request, Arc::clone(&received)));
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        // An error here is the exporter's leaving.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn take(
    request: http::Request<Incoming>,
    received: Arc<Mutex<Vec<Bytes>>>,
) -> Result<Response<Answer>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    received
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(body);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(EMPTY_MESSAGE))
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(body);
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert("content-type", kind);
    Ok(answer)
}
