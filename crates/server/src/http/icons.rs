//! Icons for browsers, at addresses that change with what is there.
//!
//! `/icons/{package}/{shape}-{sha8}.{ext}` may be kept for ever; any other hash, or none, leads to the present address. No part of a
//! path becomes a path of anything else: the package is looked up by its name in memory, and what is no name is not found.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use steadfast_catalog::{Catalog, Error, IconFile, PATH_HASH_LENGTH};
use steadfast_upstream::{IconFormat, IconShape, PackageName};

/// What is at an address stays there: its hash is part of it.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// How long a list of what there is may be out of date.
const FOR_A_MINUTE: &str = "public, max-age=60";
/// Seconds after which an icon that is being fetched may be there.
const RETRY_SECONDS: u64 = 1;
/// An SVG is a document: it may not run anything, load anything, or be of the server's origin.
const SVG_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    package: String,
    shape: IconShape,
    format: IconFormat,
    /// The beginning of the hash; `None` to be led to what there is.
    hash: Option<String>,
}

/// `/icons/manifest.json`.
pub(super) async fn manifest(State(catalog): State<Catalog>, headers: HeaderMap) -> Response {
    let snapshot = catalog.snapshot();
    let manifest = snapshot.content.manifest();
    let tag = tag_of(&manifest.etag);
    let mut answer = if names(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (kind, manifest.json.clone()).into_response()
    };
    set(&mut answer, header::CACHE_CONTROL, FOR_A_MINUTE);
    set(&mut answer, header::ETAG, &tag);
    not_sniffed(answer)
}

/// `/icons/{package}/{shape}-{sha8}.{ext}`.
pub(super) async fn icon(
    State(catalog): State<Catalog>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(wanted) = Wanted::parse(uri.path()) else {
        return refused(StatusCode::NOT_FOUND, "there is no such icon\n");
    };
    let hash = wanted.hash.as_deref().unwrap_or_default();
    let is_present = |found: &str| hash.len() == PATH_HASH_LENGTH && found.starts_with(hash);
    let has = |found: &str| {
        method == Method::HEAD || !is_present(found) || names(&headers, &tag_of(found))
    };
    let (package, shape) = (wanted.package.as_str(), wanted.shape);
    let found = catalog.icon(package, shape, Some(wanted.format), |icon| has(&icon.hash));
    match found.await {
        Ok(file) if is_present(&file.icon.hash) => present(&file, &method, &headers),
        Ok(file) => moved(file.icon.path()),
        // It was of this format once, perhaps.
        Err(Error::IconNotFound { .. }) => match catalog.icon(package, shape, None, |_| true).await
        {
            Ok(file) => moved(file.icon.path()),
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

// === impl Wanted ===

impl Wanted {
    /// Reads a path, in which a scope's slash may be encoded. It is decoded once: what is still encoded then is part of no name.
    fn parse(path: &str) -> Option<Self> {
        let encoded = path.strip_prefix("/icons/")?;
        let text = percent_decode_str(encoded).decode_utf8().ok()?;
        let (package, file) = text.rsplit_once('/')?;
        PackageName::parse(package).ok()?;
        let (stem, ext) = file.rsplit_once('.')?;
        let (shape, hash) = match stem.split_once('-') {
            None => (stem, None),
            Some((shape, hash)) => {
                let is_hash = hash.len() == PATH_HASH_LENGTH
                    && hash
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                (shape, Some(is_hash.then(|| hash.to_owned())?))
            }
        };
        Some(Self {
            package: package.to_owned(),
            shape: IconShape::parse(shape)?,
            format: IconFormat::parse(ext)?,
            hash,
        })
    }
}

fn present(file: &IconFile, method: &Method, headers: &HeaderMap) -> Response {
    let tag = tag_of(&file.icon.hash);
    let mut answer = match &file.bytes {
        Some(bytes) => bytes.clone().into_response(),
        None if names(headers, &tag) => StatusCode::NOT_MODIFIED.into_response(),
        None => {
            let mut head = Response::default();
            if *method == Method::HEAD {
                set(
                    &mut head,
                    header::CONTENT_LENGTH,
                    &file.icon.message.size.to_string(),
                );
            }
            head
        }
    };
    let format = file.icon.format;
    set(&mut answer, header::CONTENT_TYPE, format.media_type());
    set(&mut answer, header::CACHE_CONTROL, FOR_EVER);
    set(&mut answer, header::ETAG, &tag);
    if format == IconFormat::Svg {
        set(&mut answer, header::CONTENT_SECURITY_POLICY, SVG_POLICY);
    }
    not_sniffed(answer)
}

fn moved(path: &str) -> Response {
    let mut answer = StatusCode::FOUND.into_response();
    set(&mut answer, header::LOCATION, path);
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    not_sniffed(answer)
}

fn failed(error: &Error) -> Response {
    match error {
        Error::PackageNotFound { .. } | Error::InvalidSpecifier { .. } => {
            refused(StatusCode::NOT_FOUND, "there is no such package\n")
        }
        Error::IconNotFound { .. } => refused(StatusCode::NOT_FOUND, "there is no such icon\n"),
        Error::IconNotFetched { .. } => later("the icon is being fetched; ask again\n"),
        error => {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "an icon cannot be served"
            );
            later("the icon cannot be read now; ask again\n")
        }
    }
}

fn later(text: &'static str) -> Response {
    let mut answer = refused(StatusCode::SERVICE_UNAVAILABLE, text);
    set(&mut answer, header::RETRY_AFTER, &RETRY_SECONDS.to_string());
    answer
}

fn refused(status: StatusCode, text: &'static str) -> Response {
    let mut answer = (status, text).into_response();
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    not_sniffed(answer)
}

fn not_sniffed(mut answer: Response) -> Response {
    set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer
}

/// Sets a header; what cannot be one is left out, which nothing here is.
fn set(answer: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn tag_of(hash: &str) -> String {
    format!("\"{hash}\"")
}

/// Whether the caller has what this tag names.
fn names(headers: &HeaderMap, tag: &str) -> bool {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter();
    tags.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_14_a_path_is_a_name_a_shape_and_a_hash_or_nothing() {
        let wanted = |path: &str| Wanted::parse(path);
        let http = |hash: Option<&str>| Wanted {
            package: "@a/http".into(),
            shape: IconShape::Square,
            format: IconFormat::Png,
            hash: hash.map(str::to_owned),
        };
        for path in [
            "/icons/@a/http/square-0123abcd.png",
            "/icons/@a%2Fhttp/square-0123abcd.png",
            "/icons/%40a%2fhttp/square%2D0123abcd.png",
        ] {
            assert_eq!(wanted(path), Some(http(Some("0123abcd"))), "{path}");
        }
        assert_eq!(wanted("/icons/@a/http/square.png"), Some(http(None)));
        for path in [
            "/icons/",
            "/icons/square-0123abcd.png",
            "/icons/@a/http/",
            "/icons/@a/http/square-0123abcd",
            "/icons/@a/http/square-0123abcd.gif",
            "/icons/@a/http/round-0123abcd.png",
            "/icons/@a/http/square-0123ABCD.png",
            "/icons/@a/http/square-0123abc.png",
            "/icons/@a/http/square-0123abcd.png.svg",
            "/icons/@a/http/../../etc/square-0123abcd.png",
            "/icons/../square-0123abcd.png",
            "/icons/..%2f..%2fetc/square-0123abcd.png",
            "/icons/@a%252Fhttp/square-0123abcd.png",
            "/icons/@a/%2e%2e/square-0123abcd.png",
            "/icons/@a/http%00/square-0123abcd.png",
            "/icons/@a/http%ff/square-0123abcd.png",
            "/icons/@a/htt%C3%A9/square-0123abcd.png",
            "/icons/@a/ht tp/square-0123abcd.png",
            "/icons/@a\\http/square-0123abcd.png",
            "/icons//http/square-0123abcd.png",
            "/icons/https://h/a/square-0123abcd.png",
            "/icons/@a/http/square-0123abcd.png/",
        ] {
            assert_eq!(wanted(path), None, "{path}");
        }
    }
}
