//! One attempt: send, read the answer within its limits, and say what it means.

use std::{fmt, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use steadfast_types::Timestamp;
use tokio::time::timeout;

use super::{
    Answer, BodyEncoding, Get, HttpOptions,
    body::{Body, BodyRefused},
    retry,
};
use crate::{Error, ShownUrl, address, error::with_causes};

/// The body of an answer that is only a status is read up to here, so that its connection can be used again.
const DRAIN_BYTES_MAX: usize = 16 * 1024;
/// How long that may take.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// A tag longer than this is dropped: it would be stored and sent with every request.
const ETAG_BYTES_MAX: usize = 1024;

/// A failed attempt.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether the same request may succeed later.
    pub(super) may_pass: bool,
}

// === impl Failure ===

impl Failure {
    fn passing(error: Error) -> Self {
        Self {
            error,
            may_pass: true,
        }
    }

    fn lasting(error: Error) -> Self {
        Self {
            error,
            may_pass: false,
        }
    }
}

/// Runs one attempt, for no longer than an attempt may take and no longer than is `left` of the whole request.
pub(super) async fn run(
    client: &reqwest::Client,
    options: &HttpOptions,
    get: &Get,
    left: Duration,
) -> Result<Answer, Failure> {
    let limit = options.attempt_timeout.min(left);
    match timeout(limit, exchange(client, options, get)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::passing(Error::Timeout {
            url: ShownUrl::from(&get.url),
            phase: "the whole answer",
            limit,
        })),
    }
}

async fn exchange(
    client: &reqwest::Client,
    options: &HttpOptions,
    get: &Get,
) -> Result<Answer, Failure> {
    let url = ShownUrl::from(&get.url);
    let headers = request_headers(get).map_err(|name| {
        Failure::lasting(Error::configuration(format!(
            "{url}: the configured value of the header {name} holds characters that cannot be sent"
        )))
    })?;
    let mut response = client
        .get(get.url.clone())
        .headers(headers)
        .send()
        .await
        .map_err(|error| not_sent(&url, options, error))?;
    match response.status() {
        StatusCode::OK => found(response, options, get, url).await,
        StatusCode::NOT_MODIFIED if get.if_none_match.is_some() => Ok(Answer::NotModified),
        status => {
            let retry_after = retry_after(response.headers());
            drain(&mut response).await;
            Err(refused(url, options, status, retry_after))
        }
    }
}

/// The request's headers, or the name of the one whose value cannot be sent.
fn request_headers(get: &Get) -> Result<HeaderMap, HeaderName> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(get.accept));
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static(match get.encoding {
            BodyEncoding::Gzip => "gzip",
            BodyEncoding::Exact => "identity",
        }),
    );
    if let Some(tag) = &get.if_none_match {
        let value = HeaderValue::from_str(tag).map_err(|_| header::IF_NONE_MATCH)?;
        headers.insert(header::IF_NONE_MATCH, value);
    }
    if let Some(credential) = &get.credential {
        let mut value =
            HeaderValue::from_str(credential.header()).map_err(|_| header::AUTHORIZATION)?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

async fn found(
    mut response: Response,
    options: &HttpOptions,
    get: &Get,
    url: ShownUrl,
) -> Result<Answer, Failure> {
    let text = |name: HeaderName| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let etag = text(header::ETAG).filter(|tag| tag.len() <= ETAG_BYTES_MAX);
    let content_type = text(header::CONTENT_TYPE);
    let coding = match get.encoding {
        BodyEncoding::Gzip => text(header::CONTENT_ENCODING),
        // Some servers label a `.tgz` as gzip-coded. What is wanted are the stored bytes, whatever they are called.
        BodyEncoding::Exact => None,
    };
    let refused = |refused: BodyRefused| match refused {
        BodyRefused::TooLarge => Failure::lasting(Error::BodyTooLarge {
            url: url.clone(),
            limit_bytes: get.body_limit_bytes,
        }),
        BodyRefused::Malformed(problem) => Failure::lasting(Error::Malformed {
            url: url.clone(),
            problem,
        }),
        BodyRefused::Truncated(problem) => Failure::passing(Error::Truncated {
            url: url.clone(),
            problem,
        }),
    };
    let announced = response.content_length();
    let mut body =
        Body::new(coding.as_deref(), announced, get.body_limit_bytes).map_err(refused)?;
    loop {
        let chunk = match timeout(options.idle_timeout, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                let problem = with_causes(&error.without_url());
                return Err(refused(BodyRefused::Truncated(problem)));
            }
            Err(_) => {
                return Err(Failure::passing(Error::Timeout {
                    url: url.clone(),
                    phase: "the next part of the answer",
                    limit: options.idle_timeout,
                }));
            }
        };
        body.push(&chunk).map_err(refused)?;
    }
    let body = body.finish().map_err(refused)?;
    Ok(Answer::Found {
        body,
        etag,
        content_type,
    })
}

/// What a status other than success says.
fn refused(
    url: ShownUrl,
    options: &HttpOptions,
    status: StatusCode,
    retry_after: Option<Duration>,
) -> Failure {
    match status.as_u16() {
        404 | 410 => Failure::lasting(Error::NotFound { url }),
        status @ (401 | 403) => Failure::lasting(Error::Forbidden { url, status }),
        408 => Failure::passing(Error::Timeout {
            url,
            phase: "sending the request",
            limit: options.attempt_timeout,
        }),
        429 => Failure::passing(Error::RateLimited { url, retry_after }),
        500..=599 => Failure::passing(Error::Unavailable {
            url,
            problem: format!("status {}", status.as_u16()),
            retry_after,
        }),
        status @ 400..=499 => Failure::lasting(Error::Rejected { url, status }),
        status => Failure::lasting(Error::Malformed {
            url,
            problem: format!("status {status} is no answer to this request"),
        }),
    }
}

/// What it means when there is no answer at all.
fn not_sent(url: &ShownUrl, options: &HttpOptions, error: reqwest::Error) -> Failure {
    let url = url.clone();
    if error.is_redirect() {
        return Failure::lasting(Error::AddressRefused {
            url,
            problem: cause::<RedirectRefused>(&error)
                .map_or_else(|| "redirected in a circle".to_owned(), ToString::to_string),
        });
    }
    if error.is_timeout() {
        return Failure::passing(Error::Timeout {
            url,
            phase: "connecting",
            limit: options.connect_timeout,
        });
    }
    let may_pass = !error.is_builder();
    let error = Error::Unavailable {
        url,
        problem: with_causes(&error.without_url()),
        retry_after: None,
    };
    Failure { error, may_pass }
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

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    retry::parse_retry_after(text, Timestamp::now())
}

/// Reads the rest of a small body. Its content is not wanted; failing to read it only costs the connection.
async fn drain(response: &mut Response) {
    let read = async {
        let mut bytes = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes += chunk.len();
            if bytes > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    if timeout(DRAIN_MAX, read).await.is_err() {
        tracing::debug!(
            limit_ms = 500,
            "the body of an error answer was left unread: too slow"
        );
    }
}

/// Which redirects are followed. The library itself drops credentials when scheme, host or port change.
pub(super) fn redirect_policy(redirects_max: usize) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let next = attempt.url();
        let previous = attempt.previous();
        let from_local = previous.first().is_some_and(address::is_local);
        let from_https = previous.last().is_some_and(|last| last.scheme() == "https");
        let refused = if previous.len() > redirects_max {
            Some(RedirectRefused::TooMany(redirects_max))
        } else if !address::is_web(next) {
            Some(RedirectRefused::Scheme)
        } else if from_https && next.scheme() == "http" {
            Some(RedirectRefused::Downgrade(ShownUrl::from(next)))
        } else if address::is_local(next) && !from_local {
            Some(RedirectRefused::Inward(ShownUrl::from(next)))
        } else {
            None
        };
        match refused {
            Some(refused) => attempt.error(refused),
            None => attempt.follow(),
        }
    })
}

#[derive(Debug)]
enum RedirectRefused {
    TooMany(usize),
    Scheme,
    Downgrade(ShownUrl),
    Inward(ShownUrl),
}

impl fmt::Display for RedirectRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(limit) => write!(f, "more than {limit} redirects"),
            Self::Scheme => f.write_str("redirected to something other than http or https"),
            Self::Downgrade(to) => write!(f, "redirected from https to http ({to})"),
            Self::Inward(to) => write!(f, "redirected into this machine or its link ({to})"),
        }
    }
}

impl std::error::Error for RedirectRefused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_reason_and_only_some_are_tried_again() {
        let options = HttpOptions::default();
        for (status, reason, may_pass) in [
            (401, "UPSTREAM_FORBIDDEN", false),
            (403, "UPSTREAM_FORBIDDEN", false),
            (404, "UPSTREAM_NOT_FOUND", false),
            (410, "UPSTREAM_NOT_FOUND", false),
            (400, "UPSTREAM_REJECTED", false),
            (408, "UPSTREAM_TIMEOUT", true),
            (429, "RATE_LIMITED", true),
            (500, "UPSTREAM_UNAVAILABLE", true),
            (503, "UPSTREAM_UNAVAILABLE", true),
            (204, "MALFORMED_ANSWER", false),
            (304, "MALFORMED_ANSWER", false),
        ] {
            let url = ShownUrl::of_text("http://h/");
            let status_code = StatusCode::from_u16(status).expect("a status");
            let failure = refused(url, &options, status_code, None);
            assert_eq!(failure.error.reason(), reason, "{status}");
            assert_eq!(failure.may_pass, may_pass, "{status}");
        }
    }
}
