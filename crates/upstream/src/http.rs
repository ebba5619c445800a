//! The shared client: every request to an upstream passes here, and the manners are kept here and nowhere else.
//!
//! [`HttpClient::get`] is a loop over attempts. One attempt (`attempt`) sends, reads and classifies; the loop decides whether there
//! is another, waits, and keeps the accounts. Around the loop is the single flight (`flight`); under each attempt are the host's
//! permits (`host`) and its circuit breaker (`breaker`): every attempt asks the host first.

mod attempt;
mod body;
mod breaker;
mod flight;
mod host;
mod retry;

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::Url;
use steadfast_types::Timestamp;
use tokio::time::Instant;

use crate::{Error, ShownUrl, address};

/// Counts attempts by `host` and `outcome` (`OK`, `NOT_MODIFIED`, or the error's reason).
const REQUESTS: &str = "steadfast_upstream_requests_total";
/// Seconds per attempt, body included, by `host`.
const DURATION: &str = "steadfast_upstream_request_duration_seconds";

/// 1 while a `host` is left alone because it failed too often in a row, else 0.
const CIRCUIT_OPEN: &str = "steadfast_upstream_circuit_open";
/// Counts how often that began, by `host`.
const CIRCUIT_OPENED: &str = "steadfast_upstream_circuit_opened_total";

/// The names of the metrics this crate emits.
pub const METRIC_NAMES: [&str; 4] = [REQUESTS, DURATION, CIRCUIT_OPEN, CIRCUIT_OPENED];

/// How the client behaves. The defaults suit public registries.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Attempts in flight to one host; more wait in line.
    pub host_concurrency: usize,
    /// The longest a connection may take to open.
    pub connect_timeout: Duration,
    /// The longest silence while an answer arrives.
    pub idle_timeout: Duration,
    /// The longest one attempt may take, the answer's last byte included.
    pub attempt_timeout: Duration,
    /// The longest all attempts and the waits between them may take together; queueing for a permit is not counted.
    pub total_timeout: Duration,
    /// How many more times a request is tried after a failure that may pass.
    pub retries_max: u32,
    /// The upper bound of the first wait; each wait is random between zero and its bound, which doubles.
    pub backoff_initial: Duration,
    /// No bound grows beyond this.
    pub backoff_max: Duration,
    /// A `Retry-After` up to this is honoured; a longer one ends the request with an error that carries it.
    pub retry_after_max: Duration,
    /// After so many attempts in a row that a host did not answer, or answered as broken, it is left alone; 0 means never.
    pub breaker_failures: u32,
    /// For how long, until one attempt is let through and decides.
    pub breaker_pause: Duration,
    /// How many redirects are followed.
    pub redirects_max: usize,
    /// Whether `HTTPS_PROXY` and its kin are honoured.
    pub system_proxy: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            host_concurrency: 16,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(150),
            retries_max: 3,
            backoff_initial: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
            // Above the concurrency: one blip that fails everything under way is not yet a row.
            breaker_failures: 20,
            breaker_pause: Duration::from_secs(10),
            redirects_max: 5,
            system_proxy: true,
        }
    }
}

/// What is sent as `Authorization`. It never shows itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential(String);

/// Whether an answer may be compressed for the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyEncoding {
    /// Gzip is asked for and undone: for text.
    Gzip,
    /// Exactly the bytes that were stored upstream: for files whose hash is known.
    Exact,
}

/// One GET. Two that are equal and overlap in time are one request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Get {
    url: Url,
    accept: &'static str,
    if_none_match: Option<String>,
    credential: Option<Credential>,
    encoding: BodyEncoding,
    body_limit_bytes: usize,
}

/// What came back when nothing went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The caller's copy, named by `if_none_match`, is still good.
    NotModified,
    /// The thing itself.
    Found {
        /// The whole body, decompressed.
        body: Bytes,
        /// The tag for the next `if_none_match`, if the upstream has one.
        etag: Option<String>,
        /// The media type the upstream claims.
        content_type: Option<String>,
    },
}

/// The one way out. Cloning shares connections, permits and flights.
#[derive(Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    options: HttpOptions,
    hosts: host::Hosts,
    flights: flight::Flights<Get, Result<Answer, Error>>,
}

// === impl Credential ===

impl Credential {
    /// `Bearer <token>`.
    #[must_use]
    pub fn bearer(token: &str) -> Self {
        Self(format!("Bearer {token}"))
    }

    /// `Basic <pair>`, the pair already in base64.
    #[must_use]
    pub fn basic(pair: &str) -> Self {
        Self(format!("Basic {pair}"))
    }

    fn header(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

// === impl Get ===

impl Get {
    /// Asks for `url`. More than `body_limit_bytes` of body, compressed or not, is an error.
    #[must_use]
    pub fn new(url: Url, accept: &'static str, body_limit_bytes: usize) -> Self {
        Self {
            url,
            accept,
            if_none_match: None,
            credential: None,
            encoding: BodyEncoding::Gzip,
            body_limit_bytes,
        }
    }

    /// Asks for the body only if its tag differs.
    #[must_use]
    pub fn if_none_match(mut self, etag: Option<&str>) -> Self {
        self.if_none_match = etag.map(str::to_owned);
        self
    }

    /// Sends a credential, to this URL's origin only.
    #[must_use]
    pub fn credential(mut self, credential: Option<Credential>) -> Self {
        self.credential = credential;
        self
    }

    /// Says whether the body may be compressed for the way.
    #[must_use]
    pub fn encoding(mut self, encoding: BodyEncoding) -> Self {
        self.encoding = encoding;
        self
    }
}

// === impl HttpClient ===

impl HttpClient {
    /// Builds the client; it opens no connection yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] if an option makes no sense or the system's certificates cannot be read.
    pub fn new(options: HttpOptions) -> Result<Self, Error> {
        if options.host_concurrency == 0 {
            return Err(Error::configuration(
                "host_concurrency is 0: nothing could ever be fetched; set it to 1 or more",
            ));
        }
        for (name, value) in [
            ("connect_timeout", options.connect_timeout),
            ("idle_timeout", options.idle_timeout),
            ("attempt_timeout", options.attempt_timeout),
            ("total_timeout", options.total_timeout),
        ] {
            if value.is_zero() {
                return Err(Error::configuration(format!(
                    "{name} is 0: every request would fail; set it to more than 0"
                )));
            }
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.host_concurrency)
            .referer(false)
            .redirect(attempt::redirect_policy(options.redirects_max));
        if !options.system_proxy {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            Error::configuration(format!(
                "the HTTP client cannot start: {}",
                crate::error::with_causes(&error)
            ))
        })?;
        let hosts = host::Hosts::new(&options);
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                options,
                hosts,
                flights: flight::Flights::new(),
            }),
        })
    }

    /// Fetches, with every manner of this crate. Dropping the future cancels the request unless another caller shares it.
    ///
    /// # Errors
    /// Anything but [`Error::Configuration`] and the errors about tarballs.
    pub async fn get(&self, get: Get) -> Result<Answer, Error> {
        if !address::is_web(&get.url) {
            return Err(Error::AddressRefused {
                url: ShownUrl::from(&get.url),
                problem: "only http and https are fetched".to_owned(),
            });
        }
        let shared = Arc::clone(&self.shared);
        self.shared
            .flights
            .join(get.clone(), move || async move { shared.fly(&get).await })
            .await
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    async fn fly(&self, get: &Get) -> Result<Answer, Error> {
        let options = &self.options;
        let host = self.hosts.get(&get.url);
        let mut spent = Duration::ZERO;
        let mut retries = 0;
        let mut last = None;
        loop {
            let left = options.total_timeout.saturating_sub(spent);
            let failure = {
                let _permit = host.permit().await;
                let pass = match pass(get, host.breaker()).await {
                    Ok(pass) => pass,
                    // What this request met itself says more.
                    Err(error) => return Err(last.unwrap_or(error)),
                };
                let started = Instant::now();
                let outcome = attempt::run(&self.client, options, get, left).await;
                let took = started.elapsed();
                spent += took;
                record(host.label(), &outcome, took);
                turn(host.label(), pass, &outcome, options.breaker_pause);
                match outcome {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                }
            };
            if !failure.may_pass || retries >= options.retries_max {
                return Err(failure.error);
            }
            let wait = match failure.error.retry_after() {
                Some(asked) if asked > options.retry_after_max => return Err(failure.error),
                Some(asked) => asked,
                None => retry::full_jitter(options, retries, rand::random()),
            };
            if spent.saturating_add(wait) >= options.total_timeout {
                return Err(failure.error);
            }
            retries += 1;
            tracing::info!(
                host = host.label(),
                reason = failure.error.reason(),
                retry = retries,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "upstream attempt failed, trying again: {}",
                failure.error
            );
            tokio::time::sleep(wait).await;
            spent += wait;
            last = Some(failure.error);
        }
    }
}

/// Tells the host's breaker what came of an attempt.
fn turn(
    host: &str,
    pass: breaker::Pass<'_>,
    outcome: &Result<Answer, attempt::Failure>,
    pause: Duration,
) {
    let turned = match outcome {
        Err(failure) if failure.error.is_of_the_host() => {
            pass.failed(failure.error.to_string(), Instant::now())
        }
        Ok(_) | Err(_) => pass.answered(),
    };
    let open = metrics::gauge!(CIRCUIT_OPEN, "host" => host.to_owned());
    match turned {
        breaker::Turn::None => {}
        breaker::Turn::Opened => {
            open.set(1);
            metrics::counter!(CIRCUIT_OPENED, "host" => host.to_owned()).increment(1);
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                host,
                pause_ms,
                "the upstream fails again and again and is left alone"
            );
        }
        breaker::Turn::Closed => {
            open.set(0);
            tracing::info!(host, "the upstream answers again");
        }
    }
}

/// Leave of the host's breaker for one attempt. While another one is under way that decides, this waits for it.
async fn pass<'b>(get: &Get, breaker: &'b breaker::Breaker) -> Result<breaker::Pass<'b>, Error> {
    loop {
        let mut decided = pin!(breaker.decided());
        // Listened for from here on, so that what is decided between the question and the waiting is heard.
        decided.as_mut().enable();
        match breaker.admit(Instant::now()) {
            Ok(pass) => return Ok(pass),
            Err(breaker::Refused::Undecided) => decided.await,
            Err(breaker::Refused::Open {
                failures,
                problem,
                retry_after,
            }) => {
                return Err(Error::CircuitOpen {
                    url: ShownUrl::from(&get.url),
                    host: address::authority(&get.url),
                    failures,
                    problem,
                    retry_after,
                    retry_time: Timestamp::now().plus(retry_after),
                });
            }
        }
    }
}

fn record(host: &str, outcome: &Result<Answer, attempt::Failure>, took: Duration) {
    let name = match outcome {
        Ok(Answer::Found { .. }) => "OK",
        Ok(Answer::NotModified) => "NOT_MODIFIED",
        Err(failure) => failure.error.reason(),
    };
    metrics::counter!(REQUESTS, "host" => host.to_owned(), "outcome" => name).increment(1);
    metrics::histogram!(DURATION, "host" => host.to_owned()).record(took);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_never_shows_itself() {
        let url: Url = "http://h/".parse().expect("a URL");
        let get = Get::new(url, "*/*", 1).credential(Some(Credential::bearer("s3cret")));
        assert!(!format!("{get:?}").contains("s3cret"));
    }

    #[test]
    fn options_that_could_never_work_are_refused_by_name() {
        let error = HttpClient::new(HttpOptions {
            host_concurrency: 0,
            ..HttpOptions::default()
        })
        .expect_err("refused");
        assert_eq!(error.reason(), "INVALID_CONFIGURATION");
        assert!(error.to_string().contains("host_concurrency"), "{error}");
        let error = HttpClient::new(HttpOptions {
            idle_timeout: Duration::ZERO,
            ..HttpOptions::default()
        })
        .expect_err("refused");
        assert!(error.to_string().contains("idle_timeout"), "{error}");
    }
}
