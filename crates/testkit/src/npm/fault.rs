//! What the registry does wrong, on command.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

/// How long a test waits for something that must happen.
pub(super) const WAIT_DEADLINE: Duration = Duration::from_secs(30);

/// One way to answer wrongly.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status with a short JSON body, and `Retry-After` where given, in seconds or as a date.
    Status {
        /// The HTTP status.
        code: u16,
        /// The header's text.
        retry_after: Option<String>,
    },
    /// A redirect to this address.
    Redirect(String),
    /// The right answer, later. Later rules still apply.
    Delay(Duration),
    /// The first half of the right body under the length of the whole, then a closed connection.
    Truncated,
    /// A head, then a byte now and then, for ever.
    Dripping,
    /// A head, then bytes as fast as they are taken, for ever.
    Flood,
    /// The right length and a readable archive, but not the bytes that the integrity speaks of.
    WrongIntegrity,
    /// This body under status 200.
    Body(String),
    /// A closed connection instead of an answer.
    Disconnect,
    /// Nothing until the gate is released; then the right answer. See [`super::NpmServer::hold`].
    Hold(Gate),
}

/// How many requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// The next ones only.
    N(usize),
    /// All until [`super::NpmServer::clear_faults`].
    Forever,
}

/// Holds requests back until a test has seen them arrive and lets them go.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) pattern: String,
    pub(super) fault: Fault,
    pub(super) times: Times,
}

// === impl Fault ===

impl Fault {
    /// A bare status.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            retry_after: None,
        }
    }

    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::Status {
            code: 429,
            retry_after: Some(retry_after_seconds.to_string()),
        }
    }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            arrived: Arc::new(watch::Sender::new(0)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Returns once so many requests have arrived at the gate.
    ///
    /// # Panics
    ///
    /// When they do not come within half a minute.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let waited = timeout(WAIT_DEADLINE, arrived.wait_for(|seen| *seen >= count)).await;
        assert!(
            waited.is_ok(),
            "{count} requests were expected at the gate within {WAIT_DEADLINE:?}"
        );
    }

    /// Lets all requests through, those held and those to come.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|seen| *seen += 1);
        let mut open = self.open.subscribe();
        // The sender is in `self`, so waiting cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }
}

/// Whether a pattern with `*` for any text, slashes included, is all of a path.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, path) in [
            ("/a", "/a"),
            ("*", "/a/b"),
            ("/@o/*", "/@o/b/-/b.tgz"),
            ("*.tgz", "/a/-/b.tgz"),
            ("/*/-/*.tgz", "/@o/a/-/a-1.tgz"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/a", "/ab"),
            ("/@o/*", "/@p/b"),
            ("*.tgz", "/a"),
            ("/ab*ba", "/aba"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
