//! Reading an answer, and what its status proves.

use std::collections::BTreeMap;

use reqwest::{Method, Response, StatusCode, header::HeaderMap};
use serde_json::Value;

use super::{HttpActionOptions, HttpOutcome, Request, is_not_yet};
use crate::{ShownUrl, error::with_causes};

/// The answer's headers that a later step may want.
const KEPT_HEADERS: [&str; 5] = [
    "content-type",
    "etag",
    "location",
    "retry-after",
    "x-request-id",
];

/// A longer value is left out.
const HEADER_BYTES_MAX: usize = 1024;

/// Characters of an error's body that are shown.
const SHOWN_CHARS_MAX: usize = 500;

/// Bytes set aside before the first one is there, whatever length is announced.
const RESERVE_BYTES_MAX: u64 = 64 * 1024;

/// A body as far as it is kept.
enum Body {
    Whole(Vec<u8>),
    TooLarge,
}

/// What the status proves, before the body is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Done,
    NotDone { may_pass: bool },
    Unknown,
}

/// Reads the answer and sorts it.
pub(super) async fn read(
    response: Response,
    request: &Request,
    attempt: u32,
    options: &HttpActionOptions,
) -> HttpOutcome {
    let shown = ShownUrl::from(&request.url);
    let status = response.status();
    let headers = kept_headers(response.headers());
    let is_json = is_json(response.headers());
    let body = body(response, options.body_max_bytes).await;
    match (proof(status, request, attempt), body) {
        (Proof::Done, Ok(Body::Whole(bytes))) => HttpOutcome::Done {
            status: status.as_u16(),
            headers,
            body: value(&bytes, is_json),
            body_left_out: false,
        },
        (Proof::Done, Ok(Body::TooLarge)) => HttpOutcome::Done {
            status: status.as_u16(),
            headers,
            body: Value::Null,
            body_left_out: true,
        },
        (Proof::Done, Err(problem)) => {
            let message = format!("{shown}: {status}, and the body broke off: {problem}");
            HttpOutcome::no_answer("CONNECTION_LOST", message, request.is_safe())
        }
        (Proof::NotDone { may_pass }, body) => HttpOutcome::Failed {
            code: code(status),
            message: message(&shown, status, body),
            retryable: may_pass,
        },
        (Proof::Unknown, body) => HttpOutcome::no_answer(
            &code(status),
            message(&shown, status, body),
            request.is_safe(),
        ),
    }
}

fn proof(status: StatusCode, request: &Request, attempt: u32) -> Proof {
    match status.as_u16() {
        200..=299 => Proof::Done,
        // The server acted, and describes the result elsewhere.
        303 if !request.is_safe() => Proof::Done,
        // What was to be deleted is not there, perhaps because an earlier attempt deleted it.
        404 | 410 if request.method == Method::DELETE => Proof::Done,
        _ if is_not_yet(status) => Proof::NotDone { may_pass: true },
        // An earlier attempt with this key may be what it conflicts with.
        409 if attempt > 1 => Proof::Unknown,
        400..=499 | 501 | 505 | 307 | 308 => Proof::NotDone { may_pass: false },
        _ => Proof::Unknown,
    }
}

fn code(status: StatusCode) -> String {
    format!("HTTP_{}", status.as_u16())
}

fn message(shown: &ShownUrl, status: StatusCode, body: Result<Body, String>) -> String {
    let said = match body {
        Ok(Body::Whole(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(SHOWN_CHARS_MAX)
                .collect()
        }
        Ok(Body::TooLarge) | Err(_) => String::new(),
    };
    if said.is_empty() {
        format!("{shown}: {status}")
    } else {
        format!("{shown}: {status}: {said}")
    }
}

fn kept_headers(headers: &HeaderMap) -> BTreeMap<&'static str, String> {
    KEPT_HEADERS
        .into_iter()
        .filter_map(|name| {
            let value = headers.get(name)?.to_str().ok()?;
            (value.len() <= HEADER_BYTES_MAX).then(|| (name, value.to_owned()))
        })
        .collect()
}

/// Whether the media type is `application/json`, or another one in JSON syntax (RFC 6839).
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(reqwest::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase());
    media_type
        .is_some_and(|media_type| media_type == "application/json" || media_type.ends_with("+json"))
}

/// Reads a body as far as the limit; beyond it nothing is kept, and the connection is given up.
async fn body(mut response: Response, limit_bytes: usize) -> Result<Body, String> {
    let announced = response.content_length().unwrap_or(0);
    if usize::try_from(announced).map_or(true, |announced| announced > limit_bytes) {
        return Ok(Body::TooLarge);
    }
    let reserve = usize::try_from(announced.min(RESERVE_BYTES_MAX)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(reserve);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                if chunk.len() > limit_bytes - bytes.len() {
                    return Ok(Body::TooLarge);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(Body::Whole(bytes)),
            Err(error) => return Err(with_causes(&error.without_url())),
        }
    }
}

fn value(bytes: &[u8], is_json: bool) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    // What calls itself JSON and is not stays a text: the effect is there all the same.
    let parsed = is_json
        .then(|| serde_json::from_slice(bytes).ok())
        .flatten();
    without_nul(parsed.unwrap_or_else(|| Value::from(String::from_utf8_lossy(bytes))))
}

/// Not every database can keep a NUL character.
fn without_nul(value: Value) -> Value {
    let clean = |text: String| {
        if text.contains('\0') {
            text.replace('\0', "\u{fffd}")
        } else {
            text
        }
    };
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (clean(name), without_nul(member)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}
