//! What every call passes: a place among those under way, its deadline, its measurement, and a net for panics.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge, Histogram};
use tokio::time::Sleep;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Span;
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
    /// Path to place in `rpcs`.
    places: HashMap<String, usize>,
    rpcs: Vec<Rpc>,
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

/// A call on its way. A future of its own rather than an async block: most calls are answered at the first poll, and for those
/// neither a timer is set nor anything large moved.
pub(crate) struct Call<F> {
    state: State<F>,
    shared: Arc<Shared>,
    /// Which one in `rpcs`.
    rpc: Option<usize>,
    started: Instant,
    deadline: Option<Duration>,
    /// Set when the call first has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    place: Option<Place>,
    span: Option<Span>,
}

enum State<F> {
    Refused,
    Running(Pin<Box<F>>),
}

// === impl EdgeLayer ===

impl EdgeLayer {
    /// `rpcs` are all paths that are served, each with whether it streams either way; others are counted together.
    pub(crate) fn new(
        limits: EdgeLimits,
        rpcs: impl IntoIterator<Item = (String, bool)>,
        traced: bool,
    ) -> Self {
        let (mut places, mut handles) = (HashMap::new(), Vec::new());
        for (path, streaming) in rpcs {
            handles.push(Rpc::new(path.trim_start_matches('/'), streaming));
            places.insert(path, handles.len() - 1);
        }
        Self {
            shared: Arc::new(Shared {
                limits,
                under_way: AtomicUsize::new(0),
                gauge: metrics::gauge!(metric::RPC_UNDER_WAY),
                places,
                rpcs: handles,
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
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Deadlines count from here, so that they end before the transport's own for the same header, whose status says less.
        let started = Instant::now();
        let shared = Arc::clone(&self.shared);
        let rpc = shared.places.get(request.uri().path()).copied();
        let deadline = (!shared.rpc(rpc).streaming).then(|| {
            let asked = request.headers().get("grpc-timeout").and_then(timeout_of);
            asked.unwrap_or(shared.limits.deadline)
        });
        let place = deadline.and_then(|_| Place::take(&shared));
        let refused = deadline.is_some() && place.is_none();
        let span = shared.span(&request);
        Call {
            state: if refused {
                State::Refused
            } else {
                State::Running(Box::pin(self.inner.call(request)))
            },
            shared,
            rpc,
            started,
            deadline,
            timer: None,
            place,
            span,
        }
    }
}

// === impl Call ===

impl<F> Future for Call<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let _entered = this.span.as_ref().map(Span::enter);
        let answer = match &mut this.state {
            State::Refused => status::overloaded(this.shared.limits.in_flight).into_http(),
            State::Running(answer) => {
                match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
                    Ok(Poll::Ready(Ok(answer))) => answer,
                    // The panic hook has logged the panic itself.
                    Err(_) => status::internal().into_http(),
                    Ok(Poll::Pending) => {
                        let Some(deadline) = this.deadline else {
                            return Poll::Pending;
                        };
                        let timer = this.timer.get_or_insert_with(|| {
                            let end = tokio::time::Instant::from_std(this.started) + deadline;
                            Box::pin(tokio::time::sleep_until(end))
                        });
                        if timer.as_mut().poll(context).is_pending() {
                            return Poll::Pending;
                        }
                        status::deadline_exceeded(deadline).into_http()
                    }
                }
            }
        };
        this.shared.measure(this.rpc, this.started, &answer);
        this.place = None;
        Poll::Ready(Ok(answer))
    }
}

// === impl Shared ===

impl Shared {
    fn rpc(&self, place: Option<usize>) -> &Rpc {
        place
            .and_then(|place| self.rpcs.get(place))
            .unwrap_or(&self.other)
    }

    fn measure(&self, rpc: Option<usize>, started: Instant, answer: &http::Response<Body>) {
        let rpc = self.rpc(rpc);
        // A unary call that fails answers with headers only; a status in the trailers of a stream is not a failed opening.
        let code =
            Status::from_header_map(answer.headers()).map_or(0, |status| status.code() as usize);
        rpc.codes[code.min(CODES - 1)].increment(1);
        rpc.seconds.record(started.elapsed());
    }

    /// A span for the call, as a child of the caller's, if traces are exported.
    fn span(&self, request: &http::Request<Body>) -> Option<Span> {
        if !self.traced {
            return None;
        }
        let name = request.uri().path().trim_start_matches('/');
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

/// How long the caller waits for its answer, if it says so.
pub(crate) fn timeout_in(metadata: &tonic::metadata::MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?;
    timeout_of(&http::HeaderValue::from_bytes(value.as_encoded_bytes()).ok()?)
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
    use std::future::{pending, poll_fn, ready};

    use tonic::Code;
    use tower::service_fn;

    use super::*;

    const PATH: &str = "/a.B/C";

    /// What an edge with one place answers around a service.
    fn edge<F>(answer: impl Fn() -> F + Clone) -> Edge<impl Inner<Future = F>>
    where
        F: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
    {
        let limits = EdgeLimits {
            in_flight: 1,
            deadline: Duration::from_millis(1),
        };
        let layer = EdgeLayer::new(limits, [(PATH.to_owned(), false)], false);
        layer.layer(service_fn(move |_| answer()))
    }

    trait Inner:
        Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
    {
    }
    impl<S> Inner for S where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
    {
    }

    fn request() -> http::Request<Body> {
        let request = http::Request::builder().uri(PATH);
        request.body(Body::default()).unwrap()
    }

    fn code(answer: Result<http::Response<Body>, Infallible>) -> Code {
        let answer = answer.unwrap();
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn a_call_that_waits_for_ever_ends_at_its_deadline() {
        let mut edge = edge(pending);
        assert_eq!(code(edge.call(request()).await), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let mut edge = edge(|| poll_fn(|_| panic!("on purpose")));
        assert_eq!(code(edge.call(request()).await), Code::Internal);
    }

    #[tokio::test]
    async fn places_are_limited_and_given_back() {
        let mut edge = edge(|| ready(Ok(http::Response::new(Body::default()))));
        let first = edge.call(request());
        assert_eq!(code(edge.call(request()).await), Code::ResourceExhausted);
        drop(first);
        let second = edge.call(request());
        assert_eq!(code(second.await), Code::Ok);
        assert_eq!(code(edge.call(request()).await), Code::Ok);
    }

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
