//! What every session with PostgreSQL is set to, and what becomes of that behind a transaction pooler.
//!
//! A pooler in transaction mode (PgBouncer's `pool_mode = transaction`, for example) gives each transaction whichever of its own
//! sessions is free. What one transaction leaves behind in a session belongs to everybody after it: a setting, a prepared
//! statement, a LISTEN. So nothing may be left: there each statement runs inside a transaction, which begins with the settings as
//! its own, and no statement has a name. That is four round trips in place of one, and correct on any pooler.

use std::{fmt, time::Duration};

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _, postgres::PgConnectOptions};

use crate::{Error, Options};

/// How often two connections are compared. One that is free was used last or longest ago, so a pooler is mostly caught at once.
const COMPARISONS: usize = 4;

/// What a transaction may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Each statement what was committed before it.
    Statement,
    /// All statements the same, and they only read.
    Snapshot,
}

/// Settings, and where they go.
#[derive(Clone)]
pub(super) struct Session {
    settings: Vec<(&'static str, String)>,
    /// Sessions are shared with strangers.
    is_pooled: bool,
}

// === impl Isolation ===

impl Isolation {
    const fn begin(self) -> &'static str {
        match self {
            Self::Statement => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Self::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

// === impl Session ===

impl Session {
    /// Every statement reads a few rows by an index or a whole small table; plans outlive the size of the tables that they were
    /// made for, and compiling one, as the server would for its wrong guess of what a page costs, takes a thousand times longer
    /// than running it.
    pub(super) fn new(options: &Options, is_pooled: bool) -> Self {
        let idle = options.idle_in_transaction_timeout.as_millis();
        let mut settings = vec![
            ("idle_in_transaction_session_timeout", idle.to_string()),
            ("lock_timeout", options.lock_timeout.as_millis().to_string()),
            (
                "statement_timeout",
                options.statement_timeout.as_millis().to_string(),
            ),
            ("plan_cache_mode", "auto".to_owned()),
            ("jit", "off".to_owned()),
            ("enable_seqscan", "off".to_owned()),
        ];
        if !is_pooled {
            // Of the network between the two ends, of which a pooler keeps the farther part.
            settings.extend([
                ("tcp_user_timeout", (idle.max(1_000) * 5).to_string()),
                ("tcp_keepalives_idle", "10".to_owned()),
                ("tcp_keepalives_interval", "5".to_owned()),
                (
                    "default_transaction_isolation",
                    "'read committed'".to_owned(),
                ),
            ]);
        }
        Self {
            settings,
            is_pooled,
        }
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// What a new connection runs first; nothing if it is not its own session. Not start-up parameters, which poolers refuse.
    pub(super) fn opening(&self) -> Option<String> {
        (!self.is_pooled).then(|| self.assignments("SET"))
    }

    /// What begins a transaction, in one message.
    pub(super) fn begin(&self, isolation: Isolation) -> String {
        let begin = isolation.begin();
        if self.is_pooled {
            format!("{begin}; {}", self.assignments("SET LOCAL"))
        } else {
            begin.to_owned()
        }
    }

    fn assignments(&self, verb: &str) -> String {
        let settings = self.settings.iter();
        let each = settings.map(|(name, value)| format!("{verb} {name} = {value}"));
        each.collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("is_pooled", &self.is_pooled)
            .finish_non_exhaustive()
    }
}

/// Whether a transaction pooler is at the other end of these options: two connections that are both open are then seen in one
/// session of PostgreSQL, or one connection in two, which cannot be otherwise.
///
/// # Errors
/// [`Error::StatementPooling`], or that the server does not answer.
pub(super) async fn is_pooled(
    options: &PgConnectOptions,
    mut one: PgConnection,
    patience: Duration,
) -> Result<bool, Error> {
    let compare = async {
        let mut other = PgConnection::connect_with(options).await?;
        let mut seen = Vec::with_capacity(2 * COMPARISONS);
        for _ in 0..COMPARISONS {
            seen.push((backend(&mut one).await?, backend(&mut other).await?));
        }
        let pooled = seen.iter().any(|pair| *pair != seen[0] || pair.0 == pair.1);
        // Where no transaction may be begun, none of the statements of this crate can run.
        let transactions = match one.execute("BEGIN").await {
            Ok(_) => true,
            Err(sqlx::Error::Database(_)) if pooled => false,
            Err(error) => return Err(error),
        };
        if transactions {
            one.execute("ROLLBACK").await?;
            one.close().await?;
            other.close().await?;
        }
        Ok((pooled, transactions))
    };
    let compared = tokio::time::timeout(patience, compare).await;
    let silent = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    match compared.map_err(silent).and_then(|outcome| outcome) {
        Ok((pooled, true)) => Ok(pooled),
        Ok((_, false)) => Err(Error::StatementPooling),
        Err(error) => Err(Error::before_commit(error)),
    }
}

/// The process of PostgreSQL that this connection has at the moment.
async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = connection
        .fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()"))
        .await?;
    row.try_get(0)
}
