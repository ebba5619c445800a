//! What can go wrong upstream, by what the caller can do about it.

use std::time::Duration;

use steadfast_types::Timestamp;

use crate::address::ShownUrl;

/// Why an upstream could not be read. `Display` is for operators: it names host and path, never a credential nor a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such thing (404, 410). The one failure that says something about the world: it is an absence.
    #[error("{url}: not found")]
    NotFound {
        /// What was asked for.
        url: ShownUrl,
    },
    /// The upstream knows us and refuses, or wants a credential (401, 403).
    #[error("{url}: refused with status {status}; check the credential configured for this host")]
    Forbidden {
        /// What was asked for.
        url: ShownUrl,
        /// 401 or 403.
        status: u16,
    },
    /// Too many requests (429), and either the tries are used up or the wait asked for is longer than we wait.
    #[error("{url}: too many requests{}", asked_to_wait(*.retry_after))]
    RateLimited {
        /// What was asked for.
        url: ShownUrl,
        /// How long the upstream asked us to stay away.
        retry_after: Option<Duration>,
    },
    /// No connection, or the upstream is broken (5xx).
    #[error("{url}: unavailable: {problem}{}", asked_to_wait(*.retry_after))]
    Unavailable {
        /// What was asked for.
        url: ShownUrl,
        /// What happened.
        problem: String,
        /// How long the upstream asked us to stay away.
        retry_after: Option<Duration>,
    },
    /// An attempt, or all of them together, took too long.
    #[error("{url}: {phase} took longer than {} ms", .limit.as_millis())]
    Timeout {
        /// What was asked for.
        url: ShownUrl,
        /// Which part of the exchange.
        phase: &'static str,
        /// The limit that was reached.
        limit: Duration,
    },
    /// Any other client error status: asking again would change nothing.
    #[error("{url}: rejected with status {status}")]
    Rejected {
        /// What was asked for.
        url: ShownUrl,
        /// The status.
        status: u16,
    },
    /// The answer is larger than the caller accepts, on the wire or decompressed.
    #[error("{url}: the answer is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// What was asked for.
        url: ShownUrl,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The answer arrived whole and makes no sense.
    #[error("{url}: malformed answer: {problem}")]
    Malformed {
        /// What was asked for.
        url: ShownUrl,
        /// What about it.
        problem: String,
    },
    /// The answer ended early.
    #[error("{url}: the answer ended early: {problem}")]
    Truncated {
        /// What was asked for.
        url: ShownUrl,
        /// How that was noticed.
        problem: String,
    },
    /// The address, or one it redirects to, is not one that may be fetched.
    #[error("{url}: address refused: {problem}")]
    AddressRefused {
        /// What was asked for.
        url: ShownUrl,
        /// Why it is refused.
        problem: String,
    },
    /// The bytes are not those that were published.
    #[error("{url}: the bytes do not match the published {algorithm}")]
    IntegrityMismatch {
        /// The tarball.
        url: ShownUrl,
        /// The algorithm that was compared.
        algorithm: &'static str,
    },
    /// There is no usable hash to verify the bytes with.
    #[error("{url}: cannot be verified: {problem}")]
    IntegrityMissing {
        /// The tarball.
        url: ShownUrl,
        /// What is missing.
        problem: String,
    },
    /// The tarball is authentic and cannot be read, or unpacks beyond a limit.
    #[error("{url}: invalid tarball: {problem}")]
    TarballInvalid {
        /// The tarball.
        url: ShownUrl,
        /// What about it.
        problem: String,
    },
    /// The configuration schema in the tarball is larger than the limit.
    #[error("{url}: the configuration schema is larger than {limit_bytes} bytes")]
    SchemaTooLarge {
        /// The tarball.
        url: ShownUrl,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Nothing was sent: the host failed too often in a row, and is left alone for a while.
    #[error(
        "{url}: not asked: {host} failed {failures} times in a row and is tried again at {} (in {} ms); the last time: {problem}",
        clock(*.retry_time), .retry_after.as_millis()
    )]
    CircuitOpen {
        /// What was to be asked for.
        url: ShownUrl,
        /// `host[:port]`.
        host: String,
        /// How many attempts failed in a row.
        failures: u32,
        /// The last failure.
        problem: String,
        /// How long until it is tried again.
        retry_after: Duration,
        /// When that is, by this machine's clock.
        retry_time: Timestamp,
    },
    /// Nothing was sent: the configuration does not say where to, or how.
    #[error("{problem}")]
    Configuration {
        /// What is wrong, and the remedy.
        problem: String,
    },
}

// === impl Error ===

impl Error {
    /// A stable name for the kind of failure, upper snake case.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "UPSTREAM_NOT_FOUND",
            Self::Forbidden { .. } => "UPSTREAM_FORBIDDEN",
            Self::RateLimited { .. } => "RATE_LIMITED",
            Self::Unavailable { .. } => "UPSTREAM_UNAVAILABLE",
            Self::Timeout { .. } => "UPSTREAM_TIMEOUT",
            Self::Rejected { .. } => "UPSTREAM_REJECTED",
            Self::BodyTooLarge { .. } => "BODY_TOO_LARGE",
            Self::Malformed { .. } => "MALFORMED_ANSWER",
            Self::Truncated { .. } => "TRUNCATED_ANSWER",
            Self::AddressRefused { .. } => "ADDRESS_REFUSED",
            Self::IntegrityMismatch { .. } => "INTEGRITY_MISMATCH",
            Self::IntegrityMissing { .. } => "INTEGRITY_MISSING",
            Self::TarballInvalid { .. } => "TARBALL_INVALID",
            Self::SchemaTooLarge { .. } => "SCHEMA_TOO_LARGE",
            Self::CircuitOpen { .. } => "UPSTREAM_CIRCUIT_OPEN",
            Self::Configuration { .. } => "INVALID_CONFIGURATION",
        }
    }

    /// Whether the upstream said that the thing does not exist. Every other failure leaves that open.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// How long the upstream asked us to stay away, or is left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            Self::CircuitOpen { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether this says of the host that it is away or broken, rather than anything about what was asked for.
    pub(crate) const fn is_of_the_host(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Truncated { .. }
        )
    }

    pub(crate) fn configuration(problem: impl Into<String>) -> Self {
        Self::Configuration {
            problem: problem.into(),
        }
    }
}

/// In UTC, to the second.
fn clock(time: Timestamp) -> String {
    chrono::DateTime::from_timestamp(time.seconds(), 0).map_or_else(
        || time.to_string(),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    )
}

fn asked_to_wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!(", asks to wait {} s", wait.as_secs())
    })
}

/// Words about an answer are cut after so many bytes: parsers quote what they refuse, and that may be all of it.
const PROBLEM_BYTES_MAX: usize = 500;

/// What a parser says, in few words.
pub(crate) fn brief(problem: &impl std::fmt::Display) -> String {
    let mut text = problem.to_string();
    let cut = text.floor_char_boundary(PROBLEM_BYTES_MAX);
    if cut < text.len() {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// An error and everything that caused it, on one line: most libraries put what matters into the last one.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
