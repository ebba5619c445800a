//! Connecting, with limits on everything.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    str::FromStr,
    time::Duration,
};

use sqlx::{
    Connection as _, Executor as _, PgPool,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};
use steadfast_types::Backoff;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Connections, Db,
    session::{self, Session},
    warm::SUSPICIOUS,
};
use crate::{Error, Options, fault::Faults};

/// How many read-only connections SQLite gets: reads there are rare, as lookups are answered from memory.
const SQLITE_READERS: u32 = 4;

/// How long a SQLite statement waits for another process's lock, for example that of a backup.
const SQLITE_BUSY: Duration = Duration::from_secs(5);

/// How much longer than a statement may run its answer is waited for.
const SILENCE: Duration = Duration::from_secs(5);

/// Opens the database that the options name. The returned file, if any, is the lock that keeps a second server off the same
/// SQLite database: keep it as long as the database is in use.
pub(crate) async fn open(options: &Options) -> Result<(Db, Option<File>), Error> {
    if options.url.is_empty() {
        let path = options.data_dir.join("steadfast.db");
        return sqlite(&path, true, faults(options)).await;
    }
    match options.url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok((postgres(options).await?, None)),
        Some("sqlite") => {
            let path = options
                .url
                .trim_start_matches("sqlite:")
                .trim_start_matches("//");
            sqlite(Path::new(path), true, faults(options)).await
        }
        _ => Err(Error::UnknownScheme),
    }
}

/// Only tests plan any.
#[cfg(feature = "faults")]
fn faults(options: &Options) -> Faults {
    options.faults.clone()
}

#[cfg(not(feature = "faults"))]
fn faults(_: &Options) -> Faults {
    Faults::default()
}

async fn postgres(options: &Options) -> Result<Db, Error> {
    let connect = PgConnectOptions::from_str(&options.url)
        .map_err(|_| Error::InvalidUrl)?
        .application_name("steadfast")
        // A start-up parameter that poolers refuse, and of which binary values take no notice.
        .extra_float_digits(None);
    let first = reach(&connect, options.connect_timeout).await?;
    let is_pooled = session::is_pooled(&connect, first, options.connect_timeout).await?;
    if is_pooled {
        tracing::warn!(
            "the database is reached through a pooler in transaction mode: each statement takes a transaction of its own, which is \
             slower; name PostgreSQL itself in the database URL if it can be reached"
        );
    }
    let session = Session::new(options, is_pooled);
    // One connection is for listening.
    let pool = pool_of(
        &connect,
        &session,
        options,
        options.max_connections.max(2) - 1,
    );
    let listening = Listening {
        connect,
        session: session.clone(),
        options: options.clone(),
    };
    Ok(Db::Postgres {
        connections: Connections::new(pool, session, listening),
        silence: options.statement_timeout + SILENCE,
        faults: faults(options),
    })
}

fn pool_of(
    connect: &PgConnectOptions,
    session: &Session,
    options: &Options,
    connections: u32,
) -> PgPool {
    let opening = session.opening();
    limits::<sqlx::Postgres>(PgPoolOptions::new(), options)
        .max_connections(connections)
        .after_connect(move |connection, _| {
            let opening = opening.clone();
            Box::pin(async move {
                match opening {
                    Some(opening) => {
                        let opening = sqlx::raw_sql(sqlx::AssertSqlSafe(opening));
                        connection.execute(opening).await.map(drop)
                    }
                    None => Ok(()),
                }
            })
        })
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= SUSPICIOUS {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(connect.clone())
}

/// What a connection is opened with that listens. It is none of the pool's: when its other end vanishes, the driver waits for an
/// answer of it before it would give it back.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    connect: PgConnectOptions,
    session: Session,
    options: Options,
}

// === impl Listening ===

impl Listening {
    /// Whether its session would be shared with strangers, and nothing be heard.
    pub(crate) fn is_pooled(&self) -> bool {
        self.session.is_pooled()
    }

    /// A pool of one.
    pub(crate) fn pool(&self) -> PgPool {
        pool_of(&self.connect, &self.session, &self.options, 1)
    }
}

/// Connects once, as patiently as the pool would. The pool would only say that time ran out; this says why.
async fn reach(connect: &PgConnectOptions, patience: Duration) -> Result<PgConnection, Error> {
    let until = Instant::now() + patience;
    let mut waits = Backoff::RECONNECT.waits();
    loop {
        let error = match timeout_at(until, PgConnection::connect_with(connect)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(io::ErrorKind::TimedOut.into()),
        };
        let next = Instant::now() + waits.next().unwrap_or(Backoff::RECONNECT.maximum);
        if next >= until || !may_come_up(&error) {
            return Err(Error::before_commit(error));
        }
        sleep_until(next).await;
    }
}

/// Whether the server may be starting, rather than refuse.
fn may_come_up(error: &sqlx::Error) -> bool {
    match error {
        // The latter of what is between here and the server, and closes connections while the server is away.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // "The database system is starting up."
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "57P03"),
        _ => false,
    }
}

async fn sqlite(path: &Path, write: bool, faults: Faults) -> Result<(Db, Option<File>), Error> {
    let unusable = |source| Error::Folder {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(unusable)?;
    }
    let lock = File::create(path.with_extension("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::InUse {
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(SQLITE_BUSY)
        .create_if_missing(write);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(is_usable(connection)))))
        .connect_with(connect.clone())
        .await
        .map_err(Error::before_commit)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(SQLITE_READERS)
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(is_usable(connection)))))
        .connect_lazy_with(connect.read_only(true).create_if_missing(false));
    let db = Db::Sqlite {
        readers,
        writer,
        faults,
    };
    Ok((db, Some(lock)))
}

/// When a disk is full or fails, SQLite may end a transaction by itself. The driver then still counts it as open, and would
/// refuse every later one.
fn is_usable(connection: &SqliteConnection) -> bool {
    !connection.is_in_transaction()
}

fn limits<D: sqlx::Database>(pool: PoolOptions<D>, options: &Options) -> PoolOptions<D> {
    pool.acquire_timeout(options.connect_timeout)
        .test_before_acquire(false)
        .idle_timeout(Duration::from_secs(300))
}
