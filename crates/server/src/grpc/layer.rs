//! What every call passes: a place among those under way, its deadline, its measurement, and a net for panics.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use metrics::{Counter, Gauge, Histogram};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::status;
use crate::metric;

/// Codes of gRPC run from 0 to 16.
const CODES: usize = 17;

/// The limits that the layer enforces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EdgeLimits {
    /// Unary calls under way.
    pub(crate) in_flight: usize,
    /// For calls that bring none.
    pub(crate) deadline: Duration,
}

/// Wraps the whole router.
#[derive(Clone)]
pub(crate) struct EdgeLayer {
    shared: Arc<Shared>,
}

/// See [`EdgeLayer`].
#[derive(Clone)]
pub(crate) struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    limits: EdgeLimits,
    under_way: AtomicUsize,
    gauge: Gauge,
    rpcs: HashMap<String, Rpc>,
    other: Rpc,
    traced: bool,
}

/// Handles of one RPC's metrics, looked up once.
struct Rpc {
    codes: [Counter; CODES],
    seconds: Histogram,
    streaming: bool,
}

/// Gives the place back when the call ends, however it ends.
struct Place(Arc<Shared>);

// === impl EdgeLayer ===

impl EdgeLayer {
    /// `rpcs` are all paths that are served, each with whether its answer is a stream; others are counted together.
    pub(crate) fn new(
        limits: EdgeLimits,
        rpcs: impl IntoIterator<Item = (String, bool)>,
        traced: bool,
    ) -> Self {
        let rpcs = rpcs
            .into_iter()
            .map(|(path, streaming)| {
                let rpc = Rpc::new(path.trim_start_matches('/'), streaming);
                (path, rpc)
            })
            .collect();
        Self {
            shared: Arc::new(Shared {
                limits,
                under_way: AtomicUsize::new(0),
                gauge: metrics::gauge!(metric::RPC_UNDER_WAY),
                rpcs,
                other: Rpc::new("other", true),
                traced,
            }),
        }
    }
}

impl Rpc {
    fn new(name: &str, streaming: bool) -> Self {
        let name = name.to_owned();
        Self {
            codes: std::array::from_fn(|code| {
                let code = tonic::Code::from(code as i32);
                metrics::counter!(metric::RPC_TOTAL, "rpc" => name.clone(), "code" => format!("{code:?}"))
            }),
            seconds: metrics::histogram!(metric::RPC_SECONDS, "rpc" => name.clone()),
            streaming,
        }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

// === impl Edge ===

impl<S> Service<http::Request<Body>> for Edge<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let started = Instant::now();
        // Counted from here, so that the deadline ends before the transport's own for the same header, whose status says less.
        let arrived = tokio::time::Instant::from_std(started);
        let shared = Arc::clone(&self.shared);
        let path = request.uri().path();
        let streaming = shared.rpc(path).streaming;
        let deadline = (!streaming).then(|| {
            let asked = request.headers().get("grpc-timeout").and_then(timeout_of);
            asked.unwrap_or(shared.limits.deadline)
        });
        let place = match deadline.map(|_| Place::take(&shared)) {
            Some(None) => {
                let refused = status::overloaded(shared.limits.in_flight).into_http();
                shared.measure(path, started, &refused);
                return Box::pin(std::future::ready(Ok(refused)));
            }
            Some(Some(place)) => Some(place),
            None => None,
        };
        let path = path.to_owned();
        let span = shared.span(&path, &request);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let whole = async move {
            let answer = match deadline {
                Some(deadline) => match tokio::time::timeout_at(arrived + deadline, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(Ok(status::deadline_exceeded(deadline).into_http())),
                },
                None => answer.await,
            };
            // The panic hook has logged the panic itself.
            let Ok(response) =
                answer.unwrap_or_else(|_| Ok::<_, Infallible>(status::internal().into_http()));
            shared.measure(&path, started, &response);
            drop(place);
            Ok(response)
        };
        match span {
            Some(span) => Box::pin(whole.instrument(span)),
            None => Box::pin(whole),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn rpc(&self, path: &str) -> &Rpc {
        self.rpcs.get(path).unwrap_or(&self.other)
    }

    fn measure(&self, path: &str, started: Instant, answer: &http::Response<Body>) {
        let rpc = self.rpc(path);
        // A unary call that fails answers with headers only; a status in the trailers of a stream is not a failed opening.
        let code =
            Status::from_header_map(answer.headers()).map_or(0, |status| status.code() as usize);
        rpc.codes[code.min(CODES - 1)].increment(1);
        rpc.seconds.record(started.elapsed());
    }

    /// A span for the call, as a child of the caller's, if traces are exported.
    fn span(&self, path: &str, request: &http::Request<Body>) -> Option<tracing::Span> {
        if !self.traced {
            return None;
        }
        let name = path.trim_start_matches('/');
        let span = tracing::info_span!(
            "rpc",
            otel.name = name,
            otel.kind = "server",
            rpc.system = "grpc"
        );
        let parent = crate::telemetry::context_of(request.headers());
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "the caller's trace context was not taken over");
        }
        Some(span)
    }
}

// === impl Place ===

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let limit = shared.limits.in_flight;
        shared
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |under_way| {
                (under_way < limit).then_some(under_way + 1)
            })
            .ok()?;
        shared.gauge.increment(1);
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.decrement(1);
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit. Anything else counts as absent.
fn timeout_of(value: &http::HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789S", None),
            ("-1S", None),
            ("1X", None),
        ] {
            let value = http::HeaderValue::from_str(text).unwrap();
            assert_eq!(timeout_of(&value), expected, "{text}");
        }
    }
}
