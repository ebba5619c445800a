//! What was asked of the registry.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderMap;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Upper case.
    pub method: String,
    /// Percent-decoded, without the query: `/@scope/name` however it was written.
    pub path: String,
    /// As it was written, with the query.
    pub target: String,
    /// All of its headers.
    pub headers: HeaderMap,
    /// When it came, since the registry started.
    pub since_start: Duration,
}

/// All requests so far, in order of arrival.
#[derive(Debug, Clone, Default)]
pub struct Requests(pub Vec<Request>);

// === impl Request ===

impl Request {
    /// A header's text, if it was sent.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

// === impl Requests ===

impl Requests {
    /// How many there were.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.len()
    }

    /// How many were for paths of a pattern, `*` being any text.
    #[must_use]
    pub fn count(&self, pattern: &str) -> usize {
        self.matching(pattern).count()
    }

    /// Those for paths of a pattern.
    pub fn matching<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = &'a Request> {
        self.0
            .iter()
            .filter(move |request| super::fault::matches(pattern, &request.path))
    }

    /// How many there were for each path.
    #[must_use]
    pub fn per_path(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in &self.0 {
            *counts.entry(request.path.clone()).or_insert(0) += 1;
        }
        counts
    }
}
