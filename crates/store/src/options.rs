//! What the store needs to know before it opens a database.

use std::{fmt, num::NonZero, path::PathBuf, time::Duration};

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// One process, one file.
    Sqlite,
    /// Many replicas, one server.
    Postgres,
}

/// Where the database is, and the limits on using it. `Default` is the embedded database in `./.steadfast`.
#[derive(Clone)]
pub struct Options {
    /// `postgres://…` or `sqlite:PATH`; empty for the embedded database in [`Options::data_dir`]. May hold a password.
    pub url: String,
    /// The folder of the embedded database; made if it is missing.
    pub data_dir: PathBuf,
    /// PostgreSQL connections held at most, with the one that listens.
    pub max_connections: u32,
    /// How long to wait for a connection before the database counts as unavailable.
    pub connect_timeout: Duration,
    /// After this long idle inside a transaction PostgreSQL ends the session: a paused client must not hold the log.
    pub idle_in_transaction_timeout: Duration,
    /// How long a statement waits for a lock.
    pub lock_timeout: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// How long a batched write is tried again before its callers are told that the database is unavailable.
    pub write_deadline: Duration,
    /// How long the committer of sagas stays awake for the answer to a commit that came alone, if such answers come within that: a
    /// sleeping thread is woken late, and a saga's next step waits for it. Zero sleeps at once, and so does a program that has less
    /// than two processors.
    pub busy_wait: Duration,
    /// Whether Linux is asked to keep processors from sleeping while commits of sagas come alone, one soon after another. Where this
    /// user may not ask for it, nothing is done.
    pub cpu_latency_qos: bool,
    /// How often the connection that listens for other replicas is tested: one whose other end vanished would never tell.
    pub listen_test_interval: Duration,
    /// What goes wrong.
    #[cfg(feature = "faults")]
    pub faults: crate::fault::Faults,
}

// === impl Engine ===

impl Engine {
    /// `sqlite` or `postgres`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Options ===

impl Options {
    /// [`Options::busy_wait`], unless that would take the one processor from whoever is waited for. A limit that a container has
    /// counts.
    pub(crate) fn busy_wait_here(&self) -> Duration {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        if processors < 2 {
            Duration::ZERO
        } else {
            self.busy_wait
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: String::new(),
            data_dir: PathBuf::from(".steadfast"),
            max_connections: 16,
            connect_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            write_deadline: Duration::from_secs(5),
            busy_wait: Duration::from_micros(500),
            cpu_latency_qos: true,
            listen_test_interval: Duration::from_secs(30),
            #[cfg(feature = "faults")]
            faults: crate::fault::Faults::default(),
        }
    }
}

impl fmt::Debug for Options {
    /// Leaves the URL out: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("data_dir", &self.data_dir)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}
