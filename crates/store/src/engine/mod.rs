//! Two engines behind one door.
//!
//! There is no store trait and no second implementation to keep in step: a statement is one text that both engines run, with
//! named fragments where their grammars differ ([`sql::statements`]), and [`Db`] and [`Tx`] are enums that send it where it
//! belongs. A [`Statement`] is made by a `Db` or a `Tx` and carries the arguments in that engine's own form, so a statement
//! for one engine can never reach the other.
//!
//! On SQLite there is one writer connection: it is the lock that `FOR UPDATE` is on PostgreSQL. Reads go to a pool of
//! read-only connections beside it (write-ahead logging lets them).

mod open;
pub(crate) mod sql;
mod statement;
#[cfg(test)]
mod tests;

use std::{future::Future, io, time::Duration};

use sqlx::{Executor as _, PgPool, Sqlite, SqlitePool, Transaction};

pub(crate) use open::open;
pub(crate) use sql::{Sql, statements};
use statement::Borrowed;
pub(crate) use statement::Statement;

use crate::{Engine, Error};

/// A pool of connections to one of the engines.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// PostgreSQL.
    Postgres {
        /// Its connections.
        pool: PgPool,
        /// After this long without an answer the connection counts as lost: a server that can be reached ends every statement
        /// earlier.
        silence: Duration,
    },
    /// SQLite: many readers, one writer.
    Sqlite {
        /// Read-only connections.
        readers: SqlitePool,
        /// Exactly one connection.
        writer: SqlitePool,
    },
}

/// An open transaction. Dropping it rolls it back.
pub(crate) enum Tx {
    /// PostgreSQL.
    Postgres {
        /// The connection that is inside it. It goes back to the pool only once the transaction has ended for certain: the
        /// driver's own transaction, given up while it begins, would stay open there and swallow what runs next.
        connection: Borrowed,
        /// See [`Db::Postgres`].
        silence: Duration,
    },
    /// SQLite.
    Sqlite(Transaction<'static, Sqlite>),
}

// === impl Db ===

impl Db {
    /// Which engine it is.
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Postgres { .. } => Engine::Postgres,
            Self::Sqlite { .. } => Engine::Sqlite,
        }
    }

    /// A statement that only reads, outside of a transaction.
    pub(crate) fn read(&self, sql: &'static Sql) -> Statement<'_> {
        match self {
            Self::Postgres { pool, silence } => Statement::postgres_pool(sql, pool, *silence),
            Self::Sqlite { readers, .. } => Statement::sqlite_pool(sql, readers),
        }
    }

    /// A statement that writes, as a transaction of its own.
    pub(crate) fn write(&self, sql: &'static Sql) -> Statement<'_> {
        match self {
            Self::Postgres { pool, silence } => Statement::postgres_pool(sql, pool, *silence),
            Self::Sqlite { writer, .. } => Statement::sqlite_pool(sql, writer),
        }
    }

    /// Begins a transaction that writes: READ COMMITTED on PostgreSQL, the one writer on SQLite.
    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres { pool, silence } => {
                begin(pool, *silence, "BEGIN ISOLATION LEVEL READ COMMITTED").await?
            }
            Self::Sqlite { writer, .. } => Tx::Sqlite(
                writer
                    .begin_with("BEGIN IMMEDIATE")
                    .await
                    .map_err(Error::before_commit)?,
            ),
        })
    }

    /// Begins a transaction whose statements all read one snapshot.
    pub(crate) async fn begin_snapshot(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres { pool, silence } => {
                let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                begin(pool, *silence, snapshot).await?
            }
            Self::Sqlite { readers, .. } => {
                Tx::Sqlite(readers.begin().await.map_err(Error::before_commit)?)
            }
        })
    }

    /// Closes all connections, waiting for those in use.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres { pool, .. } => pool.close().await,
            Self::Sqlite { readers, writer } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

// === impl Tx ===

impl Tx {
    /// A statement inside this transaction.
    pub(crate) fn statement(&mut self, sql: &'static Sql) -> Statement<'_> {
        match self {
            Self::Postgres {
                connection,
                silence,
            } => Statement::postgres(sql, connection, *silence),
            Self::Sqlite(tx) => Statement::sqlite(sql, tx),
        }
    }

    /// Commits. If the connection is lost meanwhile, the error says that the outcome is unknown.
    pub(crate) async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Postgres {
                connection,
                silence,
            } => end(connection, silence, "COMMIT").await,
            Self::Sqlite(tx) => tx.commit().await,
        }
        .map_err(Error::at_commit)
    }

    /// Rolls back. Only needed where the connection should be free again before going on, or is worth keeping.
    pub(crate) async fn rollback(self) -> Result<(), Error> {
        match self {
            Self::Postgres {
                connection,
                silence,
            } => end(connection, silence, "ROLLBACK").await,
            Self::Sqlite(tx) => tx.rollback().await,
        }
        .map_err(Error::before_commit)
    }
}

/// Begins a transaction on PostgreSQL.
async fn begin(pool: &PgPool, silence: Duration, statement: &'static str) -> Result<Tx, Error> {
    let connection = pool.acquire().await.map_err(Error::before_commit)?;
    let mut connection = Borrowed::from(connection);
    answer(silence, connection.execute(statement))
        .await
        .map_err(Error::before_commit)?;
    Ok(Tx::Postgres {
        connection,
        silence,
    })
}

/// Ends a transaction on PostgreSQL and gives its connection back.
async fn end(
    mut connection: Borrowed,
    silence: Duration,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    answer(silence, connection.execute(statement)).await?;
    connection.give_back();
    Ok(())
}

/// Waits for an answer of the server, but not for ever: a host that vanished closes no connection.
pub(crate) async fn answer<T>(
    silence: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(silence, answer)
        .await
        .unwrap_or_else(|_| {
            Err(sqlx::Error::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the server was silent for {} ms", silence.as_millis()),
            )))
        })
}
