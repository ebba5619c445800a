//! The request that a saga's `http` step sends, and what its answer proves.
//!
//! [`HttpClient`](crate::HttpClient) reads upstreams and may repeat itself; this one has effects, and repeats nothing: the saga
//! decides about that. Whoever writes a definition chooses where it goes, so it goes nowhere within this machine or its link
//! unless the operator says so (`target`), and what comes back is sorted by what it proves (`answer`):
//!
//! | what happened | outcome |
//! |---|---|
//! | 2xx; 303 to anything but GET and HEAD (done, described elsewhere); 404 or 410 to DELETE (it is gone) | done |
//! | no connection, no name, no TLS; 408, 425, 429, 503: the server says that it did not act | not done, may pass |
//! | 501, 505, 307, 308 and every 4xx not named here | not done, will not pass |
//! | the time is over, the connection broke off, 500, 502, 504 and other 5xx, 301 and 302 (servers answer so after acting) | unknown |
//! | 409 from the second attempt on: it may be about the first one | unknown |
//!
//! GET, HEAD and OPTIONS change nothing (RFC 9110, 9.2.1), so what would be unknown is "not done, may pass" for them. An answer of
//! 2xx whose body is too large is done, without its body; one whose body breaks off is unknown, because an undo may need the body.
//!
//! Every request carries `Idempotency-Key` and `Steadfast-Attempt`. Redirects are followed for GET and HEAD only, each hop checked
//! like the first, and without the step's own headers once the origin is left.

mod answer;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{Error, ShownUrl, address, error::with_causes};
use target::{Guard, TargetRefused};

/// The same for every attempt of one step in one direction.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Counts attempts.
const ATTEMPT: HeaderName = HeaderName::from_static("steadfast-attempt");

/// How the action behaves.
#[derive(Debug, Clone)]
pub struct HttpActionOptions {
    /// Whether requests may go to this machine and to its link, where cloud machines keep their metadata services. Private
    /// networks beyond the link may always be reached.
    pub allow_local: bool,
    /// The longest a connection may take to open.
    pub connect_timeout: Duration,
    /// Bytes of an answer's body that are kept.
    pub body_max_bytes: usize,
    /// Redirects of one GET or HEAD that are followed.
    pub redirects_max: usize,
    /// Idle connections kept per host.
    pub idle_per_host_max: usize,
}

impl Default for HttpActionOptions {
    fn default() -> Self {
        Self {
            allow_local: false,
            connect_timeout: Duration::from_secs(5),
            body_max_bytes: 1024 * 1024,
            redirects_max: 5,
            idle_per_host_max: 16,
        }
    }
}

/// One request. `Debug` shows no more than where it goes: everything else may hold secrets.
#[derive(Clone)]
pub struct HttpCall {
    /// For example `PUT`.
    pub method: String,
    /// Absolute, http or https.
    pub url: String,
    /// The step's own.
    pub headers: BTreeMap<String, String>,
    /// Sent as JSON; `null` for none.
    pub body: Value,
    /// For all of it: redirects and the answer's last byte included.
    pub timeout: Duration,
    /// The idempotency key.
    pub key: String,
    /// From 1.
    pub attempt: u32,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpOutcome {
    /// It had its effect.
    Done {
        /// The answer's.
        status: u16,
        /// A few of the answer's.
        headers: BTreeMap<&'static str, String>,
        /// JSON if the answer says so, else a text; `null` if there was none, or one that is too large.
        body: Value,
        /// The body was larger than is kept.
        body_left_out: bool,
    },
    /// It certainly had none.
    Failed {
        /// `HTTP_404` and the like, or another code in upper snake case.
        code: String,
        /// For people; it may repeat what was sent.
        message: String,
        /// Whether another attempt may do better.
        retryable: bool,
    },
    /// Nobody knows.
    Unknown {
        /// For people; it may repeat what was sent.
        message: String,
    },
}

/// Sends requests. Clones share connections.
#[derive(Clone)]
pub struct HttpAction {
    client: reqwest::Client,
    guard: Guard,
    options: HttpActionOptions,
}

// === impl HttpAction ===

impl HttpAction {
    /// An action with its own connections.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the system's certificates cannot be read.
    pub fn new(options: HttpActionOptions) -> Result<Self, Error> {
        let guard = Guard {
            allow_local: options.allow_local,
        };
        let client = reqwest::Client::builder()
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.idle_per_host_max)
            .referer(false)
            // Each hop is checked here.
            .redirect(redirect::Policy::none())
            // A proxy would resolve names by itself, past the guard.
            .no_proxy()
            .dns_resolver(guard)
            .build()
            .map_err(|error| {
                Error::configuration(format!(
                    "the HTTP client cannot start: {}",
                    with_causes(&error)
                ))
            })?;
        Ok(Self {
            client,
            guard,
            options,
        })
    }

    /// Sends the request, once.
    pub async fn send(&self, call: HttpCall) -> HttpOutcome {
        let request = match Request::new(&call) {
            Ok(request) => request,
            Err(problem) => return HttpOutcome::failed("INVALID_REQUEST", problem, false),
        };
        let is_safe = request.is_safe();
        let shown = ShownUrl::from(&request.url);
        match timeout(call.timeout, self.exchange(request, call.attempt)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let limit = call.timeout.as_millis();
                let message = format!("{shown}: there was no whole answer within {limit} ms");
                HttpOutcome::no_answer("TIMEOUT", message, is_safe)
            }
        }
    }

    async fn exchange(&self, mut request: Request, attempt: u32) -> HttpOutcome {
        let mut followed = 0;
        loop {
            let shown = ShownUrl::from(&request.url);
            if let Err(refused) = self.guard.check(&request.url) {
                return HttpOutcome::failed("TARGET_REFUSED", format!("{shown}: {refused}"), false);
            }
            let response = match self.client.execute(request.build()).await {
                Ok(response) => response,
                Err(error) => return not_answered(&shown, error, request.is_safe()),
            };
            let next = match redirect_of(&response, &request) {
                None => return answer::read(response, &request, attempt, &self.options).await,
                Some(Ok(next)) => next,
                Some(Err(problem)) => {
                    return HttpOutcome::failed(
                        "REDIRECT_REFUSED",
                        format!("{shown}: {problem}"),
                        false,
                    );
                }
            };
            followed += 1;
            if followed > self.options.redirects_max {
                let most = self.options.redirects_max;
                let message = format!("{shown}: more than {most} redirects");
                return HttpOutcome::failed("REDIRECT_REFUSED", message, false);
            }
            request.go_to(next);
        }
    }
}

impl fmt::Debug for HttpAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAction")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Where a GET or HEAD is sent on to; nothing if that is not what the answer says.
fn redirect_of(response: &Response, request: &Request) -> Option<Result<Url, String>> {
    let follows = matches!(request.method, Method::GET | Method::HEAD);
    if !follows || !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    let next = location
        .to_str()
        .ok()
        .and_then(|location| request.url.join(location).ok());
    Some(match next {
        Some(next) if request.url.scheme() == "https" && next.scheme() != "https" => {
            Err("redirects from https to another scheme are not followed".to_owned())
        }
        Some(next) => Ok(next),
        None => Err("the answer redirects to no address".to_owned()),
    })
}

/// What it means when there is no answer.
fn not_answered(shown: &ShownUrl, error: reqwest::Error, is_safe: bool) -> HttpOutcome {
    if let Some(refused) = cause::<TargetRefused>(&error) {
        return HttpOutcome::failed("TARGET_REFUSED", format!("{shown}: {refused}"), false);
    }
    let (is_dns, is_connect) = (error.is_dns(), error.is_connect());
    let is_builder = error.is_builder();
    let message = format!("{shown}: {}", with_causes(&error.without_url()));
    if is_dns {
        HttpOutcome::failed("NAME_NOT_RESOLVED", message, true)
    } else if is_connect {
        HttpOutcome::failed("NOT_CONNECTED", message, true)
    } else if is_builder {
        HttpOutcome::failed("INVALID_REQUEST", message, false)
    } else {
        HttpOutcome::no_answer("CONNECTION_LOST", message, is_safe)
    }
}

fn cause<T: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

// === impl HttpCall ===

impl fmt::Debug for HttpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCall")
            .field("method", &self.method)
            .field("url", &ShownUrl::of_text(&self.url))
            .field("key", &self.key)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

// === impl HttpOutcome ===

impl HttpOutcome {
    fn failed(code: &str, message: String, retryable: bool) -> Self {
        Self::Failed {
            code: code.to_owned(),
            message,
            retryable,
        }
    }

    /// The request was sent, and what became of it was not told.
    fn no_answer(code: &str, message: String, is_safe: bool) -> Self {
        if is_safe {
            Self::failed(code, message, true)
        } else {
            Self::Unknown { message }
        }
    }
}

/// A request that can be sent.
struct Request {
    method: Method,
    url: Url,
    own_headers: HeaderMap,
    other_headers: HeaderMap,
    body: Option<Vec<u8>>,
}

// === impl Request ===

impl Request {
    fn new(call: &HttpCall) -> Result<Self, String> {
        let shown = ShownUrl::of_text(&call.url);
        let method: Method = call
            .method
            .parse()
            .map_err(|_| format!("`{}` is no method", call.method))?;
        let url: Url = call
            .url
            .parse()
            .map_err(|error| format!("{shown}: {error}"))?;
        if !address::is_web(&url) {
            return Err(format!("{shown}: only http and https can be used"));
        }
        let mut own_headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let wrong = || format!("the header `{name}`, or its value, cannot be sent");
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            own_headers.insert(name, value);
        }
        let mut other_headers = HeaderMap::new();
        let key = HeaderValue::from_str(&call.key)
            .map_err(|_| "the idempotency key cannot be sent".to_owned())?;
        other_headers.insert(IDEMPOTENCY_KEY, key);
        other_headers.insert(ATTEMPT, HeaderValue::from(call.attempt));
        other_headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let body = (!call.body.is_null()).then(|| call.body.to_string().into_bytes());
        if body.is_some() && !own_headers.contains_key(header::CONTENT_TYPE) {
            let json = HeaderValue::from_static("application/json");
            other_headers.insert(header::CONTENT_TYPE, json);
        }
        Ok(Self {
            method,
            url,
            own_headers,
            other_headers,
            body,
        })
    }

    /// Whether it changes nothing at the server, whatever becomes of it.
    fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    fn build(&self) -> reqwest::Request {
        let mut request = reqwest::Request::new(self.method.clone(), self.url.clone());
        let headers = request.headers_mut();
        headers.extend(self.own_headers.clone());
        headers.extend(self.other_headers.clone());
        *request.body_mut() = self.body.clone().map(reqwest::Body::from);
        request
    }

    fn go_to(&mut self, next: Url) {
        if !address::same_origin(&self.url, &next) {
            self.own_headers.clear();
        }
        self.url = next;
    }
}

/// Whether the server says that it did not act, and may later.
const fn is_not_yet(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 503)
}
