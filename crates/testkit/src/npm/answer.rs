//! From a request to an answer, right or wrong.

use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{
    HeaderMap, Method, Request as HttpRequest, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
        ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER, VARY,
    },
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Shared, View,
    fault::Fault,
    render::{self, Document},
    requests::Request,
};

/// The time between two bytes of a dripping body.
const DRIP_INTERVAL: Duration = Duration::from_millis(20);
/// The size of one write of a flood.
const FLOOD_CHUNK_BYTES: usize = 64 * 1024;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Response<Bytes>;

/// Handles one request; an error closes its connection without an answer.
pub(super) async fn handle(
    shared: Arc<Shared>,
    request: HttpRequest<Incoming>,
) -> io::Result<Response<Body>> {
    let arrived = Instant::now();
    let path = percent_decode_str(request.uri().path())
        .decode_utf8_lossy()
        .into_owned();
    if path == "/-/fixture/requests" {
        return Ok(whole(json_answer(&shared.counts())));
    }
    let _in_flight = InFlight::enter(&shared);
    shared.record(Request {
        method: request.method().to_string(),
        path: path.clone(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
        since_start: shared.started.elapsed(),
    });
    let answer = right_answer(&shared, &request, &path);
    let delay = *shared.delay.lock().unwrap_or_else(PoisonError::into_inner);
    if !delay.is_zero() {
        // Counted from the arrival, so that making the answer is not added to it.
        sleep_until(arrived + delay).await;
    }
    let mut rule = 0;
    while let Some(fault) = shared.next_fault(&path, &mut rule) {
        match fault {
            Fault::Delay(delay) => sleep(delay).await,
            Fault::Hold(gate) => gate.pass().await,
            other => return wrong_answer(other, answer),
        }
    }
    Ok(whole(answer))
}

fn right_answer(shared: &Shared, request: &HttpRequest<Incoming>, path: &str) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return error_answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    let token = shared
        .token
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(token) = token
        && request
            .headers()
            .get(AUTHORIZATION)
            .is_none_or(|given| given.as_bytes() != format!("Bearer {token}").as_bytes())
    {
        return error_answer(StatusCode::UNAUTHORIZED, "a token is needed");
    }
    let catalogue = shared
        .catalogue
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let trimmed = catalogue.view == View::Trimmed;
    if let Some(file) = catalogue.file(path) {
        return packument(file, file, request.headers(), trimmed);
    }
    if let Some(api) = path.strip_prefix("/-/") {
        if trimmed {
            return error_answer(StatusCode::NOT_FOUND, "Not Found");
        }
        if api == "ping" {
            return json_answer(&json!({}));
        }
        if api == "v1/search" {
            let query = Query::of(request);
            let number = |name: &str, default| {
                query
                    .get(name)
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(default)
            };
            let text = query.get("text").unwrap_or_default();
            return json_answer(&catalogue.search(&text, number("from", 0), number("size", 20)));
        }
        let scope = api
            .strip_prefix("org/")
            .or_else(|| api.strip_prefix("user/"))
            .and_then(|rest| rest.strip_suffix("/package"));
        return match scope.and_then(|scope| catalogue.listing(scope)) {
            Some(listing) => json_answer(&listing),
            None => error_answer(StatusCode::NOT_FOUND, "Not Found"),
        };
    }
    let path = path.trim_start_matches('/');
    let (name, file) = path
        .split_once("/-/")
        .map_or((path, None), |(name, file)| (name, Some(file)));
    let Some(rendered) = catalogue.rendered(name, &shared.base_url) else {
        return error_answer(StatusCode::NOT_FOUND, "Not found");
    };
    let Some(file) = file else {
        return packument(
            &rendered.full,
            &rendered.abbreviated,
            request.headers(),
            trimmed,
        );
    };
    match rendered.tarballs.get(file) {
        Some(tarball) => answer(StatusCode::OK, "application/octet-stream", tarball.clone()),
        None => error_answer(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn packument(
    full: &Document,
    abbreviated: &Document,
    headers: &HeaderMap,
    trimmed: bool,
) -> Answer {
    const INSTALL: &str = "application/vnd.npm.install-v1+json";
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let short = text(ACCEPT).trim_start().starts_with(INSTALL);
    let document = if short { abbreviated } else { full };
    if !trimmed
        && text(IF_NONE_MATCH)
            .split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == document.etag)
    {
        let mut answer = answer(StatusCode::NOT_MODIFIED, "application/json", Bytes::new());
        answer.headers_mut().remove(CONTENT_TYPE);
        answer.headers_mut().insert(ETAG, header(&document.etag));
        return answer;
    }
    let compressed = text(ACCEPT_ENCODING).contains("gzip");
    let body = if compressed {
        &document.gzip
    } else {
        &document.plain
    };
    let kind = if short { INSTALL } else { "application/json" };
    let mut answer = answer(StatusCode::OK, kind, body.clone());
    let headers = answer.headers_mut();
    headers.insert(VARY, header("accept-encoding, accept"));
    if compressed {
        headers.insert(CONTENT_ENCODING, header("gzip"));
    }
    if !trimmed {
        headers.insert(ETAG, header(&document.etag));
    }
    answer
}

fn wrong_answer(fault: Fault, right: Answer) -> io::Result<Response<Body>> {
    Ok(match fault {
        Fault::Status { code, retry_after } => {
            let status = StatusCode::from_u16(code).expect("a fault's status is an HTTP status");
            let mut answer = error_answer(status, "as the test commands");
            if let Some(retry_after) = retry_after {
                answer
                    .headers_mut()
                    .insert(RETRY_AFTER, header(&retry_after));
            }
            whole(answer)
        }
        Fault::Redirect(to) => {
            let mut answer = answer(StatusCode::FOUND, "text/plain", Bytes::new());
            answer.headers_mut().insert(LOCATION, header(&to));
            whole(answer)
        }
        Fault::Body(text) => whole(answer(StatusCode::OK, "application/json", text.into())),
        Fault::WrongIntegrity => {
            let (mut head, body) = right.into_parts();
            head.headers.remove(CONTENT_ENCODING);
            whole(Response::from_parts(head, render::altered(&body)))
        }
        Fault::Truncated => {
            let (mut head, body) = right.into_parts();
            head.headers
                .insert(CONTENT_LENGTH, body.len().max(2).into());
            let half = body.slice(..body.len() / 2);
            let parts = stream::unfold(Some(half), |half| async {
                let Some(half) = half else {
                    // Pending once, so that what came before is sent rather than dropped with the connection.
                    yield_now().await;
                    return Some((Err(io::Error::other("truncated on command")), None));
                };
                Some((Ok(Frame::data(half)), None))
            });
            Response::from_parts(head, StreamBody::new(parts).boxed_unsync())
        }
        Fault::Dripping => endless(right, |()| async {
            sleep(DRIP_INTERVAL).await;
            Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
        }),
        Fault::Flood => {
            let chunk = Bytes::from(vec![b' '; FLOOD_CHUNK_BYTES]);
            endless(right, move |()| {
                let chunk = chunk.clone();
                async move { Some((Ok(Frame::data(chunk)), ())) }
            })
        }
        Fault::Disconnect => return Err(io::Error::other("disconnected on command")),
        Fault::Delay(_) | Fault::Hold(_) => whole(right),
    })
}

fn endless<F, Fut>(right: Answer, next: F) -> Response<Body>
where
    F: FnMut(()) -> Fut + Send + 'static,
    Fut: Future<Output = Option<(io::Result<Frame<Bytes>>, ())>> + Send + 'static,
{
    let (mut head, _) = right.into_parts();
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_ENCODING);
    Response::from_parts(
        head,
        StreamBody::new(stream::unfold((), next)).boxed_unsync(),
    )
}

fn whole(answer: Answer) -> Response<Body> {
    answer.map(|bytes| {
        Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync()
    })
}

fn answer(status: StatusCode, kind: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, header(kind));
    answer
}

fn json_answer(value: &Value) -> Answer {
    answer(StatusCode::OK, "application/json", value.to_string().into())
}

fn error_answer(status: StatusCode, text: &str) -> Answer {
    answer(
        status,
        "application/json",
        json!({ "error": text }).to_string().into(),
    )
}

fn header(text: &str) -> http::HeaderValue {
    text.parse().expect("a test's header is printable ASCII")
}

/// A decoded query.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &HttpRequest<Incoming>) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = request.uri().query().unwrap_or_default().split('&');
        Self(
            pairs
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(given, _)| given == name)?;
        Some(value.clone())
    }
}

/// Counts a request as under way, and remembers the most there were at once.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn enter(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.in_flight_peak.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
