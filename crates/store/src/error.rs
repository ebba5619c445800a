//! What can go wrong with a database, sorted by what the caller can do about it.

use std::{io, path::PathBuf};

/// Whether a write whose answer was lost may have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly nothing was written.
    NotWritten,
    /// It may have been written: ask again with the same write id.
    Unknown,
}

/// An error of the store. Its `Display` is safe to show to callers; the driver's own words are in `source` and stay in the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer.
    #[error("the database does not answer")]
    Unavailable {
        /// Whether the write may have happened.
        outcome: Outcome,
        /// The statement, or an empty text.
        statement: &'static str,
        /// For the log.
        source: sqlx::Error,
    },
    /// Another transaction was in the way; nothing was written, and the same may work now.
    #[error("another transaction was in the way")]
    Contended {
        /// The statement, or an empty text.
        statement: &'static str,
        /// For the log.
        source: sqlx::Error,
    },
    /// The database refuses to write: it is read-only or its disk is full.
    #[error("the database cannot be written to: {reason}")]
    NotWritable {
        /// What an operator should look at.
        reason: &'static str,
        /// For the log.
        source: sqlx::Error,
    },
    /// The database refused the data, or a statement of ours is wrong.
    #[error("the database refused the data")]
    Data {
        /// The statement, or an empty text.
        statement: &'static str,
        /// For the log.
        source: sqlx::Error,
    },
    /// A lease was taken over: this replica must stop the work that the lease covers.
    #[error("the lease `{lease}` was taken over by another replica")]
    Fenced {
        /// The lease's name.
        lease: String,
    },
    /// The same request id was used with other arguments.
    #[error("the request id was used before with other arguments")]
    RequestIdReused,
    /// The pipeline's queue is full.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The store was closed.
    #[error("the server is shutting down")]
    Closed,
    /// The database was migrated by a newer program.
    #[error(
        "the database has schema {found}, and this program knows schemas up to {known}: run a newer program"
    )]
    SchemaTooNew {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration in this program.
        known: i64,
    },
    /// The database has yet to be migrated.
    #[error(
        "the database has schema {found}, and this program needs {known}: run `steadfast migrate`, or `serve` without `--no-migrate`"
    )]
    SchemaTooOld {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration in this program.
        known: i64,
    },
    /// A migration failed or was changed after it had been applied.
    #[error("the database could not be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// Another process has the SQLite database open.
    #[error(
        "{} is in use by another server: stop it, or choose another folder with `--data-dir`",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The folder of the SQLite database cannot be used.
    #[error(
        "{} cannot be written ({source}): choose another folder with `--data-dir`, or mend its permissions",
        path.display()
    )]
    Folder {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database URL has a scheme that is not supported.
    #[error("the database URL must begin with `postgres://` or `sqlite:`")]
    UnknownScheme,
    /// The database URL cannot be read. It is not shown: it may hold a password.
    #[error("the database URL is malformed: postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    InvalidUrl,
    /// The database URL leads to a pooler that takes no transactions.
    #[error(
        "the database URL leads to a pooler in statement mode, which takes no transactions: set its `pool_mode` to `transaction` \
         or `session`, or name PostgreSQL itself"
    )]
    StatementPooling,
    /// A row holds something that this program cannot read.
    #[error("a stored value is corrupt: {0}")]
    Corrupt(&'static str),
}

// === impl Error ===

impl Error {
    /// Sorts an error that came before a commit was asked for. A lost connection may still have interrupted a statement that
    /// commits by itself, so its outcome is unknown; a connection that was never had is not.
    pub(crate) fn before_commit(source: sqlx::Error) -> Self {
        Self::sort(source)
    }

    /// Rows that were there a moment ago are not any more: nothing was written, and the same may work now.
    pub(crate) fn overtaken(statement: &'static str) -> Self {
        Self::Contended {
            statement,
            source: sqlx::Error::RowNotFound,
        }
    }

    /// Sorts an error of a commit.
    pub(crate) fn at_commit(source: sqlx::Error) -> Self {
        Self::sort(source)
    }

    fn sort(source: sqlx::Error) -> Self {
        let statement = "";
        let unavailable = |outcome, source| Self::Unavailable {
            outcome,
            statement,
            source,
        };
        match &source {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                unavailable(Outcome::NotWritten, source)
            }
            sqlx::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                unavailable(Outcome::NotWritten, source)
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
                unavailable(Outcome::Unknown, source)
            }
            sqlx::Error::WorkerCrashed => unavailable(Outcome::Unknown, source),
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default().into_owned();
                if error
                    .try_downcast_ref::<sqlx::sqlite::SqliteError>()
                    .is_some()
                {
                    return Self::sort_sqlite(code.parse().unwrap_or(0), source);
                }
                Self::sort_postgres(&code, source)
            }
            _ => Self::Data { statement, source },
        }
    }

    /// By SQLSTATE; see appendix A of the PostgreSQL manual.
    fn sort_postgres(code: &str, source: sqlx::Error) -> Self {
        let statement = "";
        match code {
            // Serialization failure, deadlock, lock timeout, statement timeout: rolled back, may be tried again.
            "40001" | "40P01" | "55P03" | "57014" => Self::Contended { statement, source },
            "25006" => Self::NotWritable {
                reason: "it is read-only (a standby, or default_transaction_read_only)",
                source,
            },
            "53100" => Self::NotWritable {
                reason: "its disk is full",
                source,
            },
            // Starting up, no such database (dropped to be restored), not let in: refused before anything ran.
            "57P03" | "3D000" | "28000" | "28P01" => Self::Unavailable {
                outcome: Outcome::NotWritten,
                statement,
                source,
            },
            // Shut down by an administrator or because of a crash, the database dropped, idle in transaction for too long, or
            // the server does not know itself: the answer may have been lost.
            "57P01" | "57P02" | "57P04" | "25P03" | "57P05" | "40003" => Self::Unavailable {
                outcome: Outcome::Unknown,
                statement,
                source,
            },
            _ if code.starts_with("08") => Self::Unavailable {
                outcome: Outcome::Unknown,
                statement,
                source,
            },
            // Out of memory, connections or another resource; the system failed. Rolled back.
            _ if code.starts_with("53") || code.starts_with("58") => Self::Unavailable {
                outcome: Outcome::NotWritten,
                statement,
                source,
            },
            _ => Self::Data { statement, source },
        }
    }

    /// By primary result code; see the SQLite manual.
    fn sort_sqlite(code: i32, source: sqlx::Error) -> Self {
        let statement = "";
        match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED.
            5 | 6 => Self::Contended { statement, source },
            // SQLITE_READONLY.
            8 => Self::NotWritable {
                reason: "the file is read-only",
                source,
            },
            // SQLITE_FULL.
            13 => Self::NotWritable {
                reason: "its disk is full",
                source,
            },
            // SQLITE_IOERR, SQLITE_CANTOPEN.
            10 | 14 => Self::Unavailable {
                outcome: Outcome::Unknown,
                statement,
                source,
            },
            _ => Self::Data { statement, source },
        }
    }

    /// The same, for a write that was sent before without an answer: that one may have been committed, or may yet be.
    pub(crate) fn after_lost_answer(self) -> Self {
        match self {
            Self::Unavailable {
                statement, source, ..
            }
            | Self::Contended { statement, source } => Self::Unavailable {
                outcome: Outcome::Unknown,
                statement,
                source,
            },
            Self::NotWritable { source, .. } => Self::Unavailable {
                outcome: Outcome::Unknown,
                statement: "",
                source,
            },
            other => other,
        }
    }

    /// A write that was given up without an answer.
    pub(crate) fn silent() -> Self {
        Self::Unavailable {
            outcome: Outcome::Unknown,
            statement: "",
            source: sqlx::Error::Io(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The same for a write that was not sent, if this says that the database is away.
    pub(crate) fn before_sending(&self) -> Option<Self> {
        match self.kind_only() {
            Self::Unavailable {
                statement, source, ..
            } => Some(Self::Unavailable {
                outcome: Outcome::NotWritten,
                statement,
                source,
            }),
            _ => None,
        }
    }

    /// Names the statement.
    pub(crate) fn during(mut self, name: &'static str) -> Self {
        if let Self::Unavailable { statement, .. }
        | Self::Contended { statement, .. }
        | Self::Data { statement, .. } = &mut self
        {
            *statement = name;
        }
        self
    }

    /// Whether the database itself is away or unwilling, rather than the request being wrong.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::NotWritable { .. } | Self::Contended { .. }
        )
    }

    /// The same error for one more caller; the driver's words are left out, as they are logged once.
    pub(crate) fn kind_only(&self) -> Self {
        let source = || sqlx::Error::Protocol("see the log".to_owned());
        match self {
            Self::Unavailable {
                outcome, statement, ..
            } => Self::Unavailable {
                outcome: *outcome,
                statement,
                source: source(),
            },
            Self::Contended { statement, .. } => Self::Contended {
                statement,
                source: source(),
            },
            Self::NotWritable { reason, .. } => Self::NotWritable {
                reason,
                source: source(),
            },
            Self::Data { statement, .. } => Self::Data {
                statement,
                source: source(),
            },
            Self::Fenced { lease } => Self::Fenced {
                lease: lease.clone(),
            },
            Self::RequestIdReused => Self::RequestIdReused,
            Self::Overloaded => Self::Overloaded,
            Self::Corrupt(what) => Self::Corrupt(what),
            _ => Self::Closed,
        }
    }
}
