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
mod session;
pub(crate) mod sql;
mod statement;
#[cfg(test)]
mod tests;
mod warm;

use std::{future::Future, io, time::Duration};

use sqlx::{Executor as _, Sqlite, SqlitePool, Transaction};

pub(crate) use open::{Listening, open};
use session::Isolation;
pub(crate) use sql::{Sql, statements};
pub(crate) use statement::Statement;
use warm::Borrowed;
pub(crate) use warm::Connections;

use crate::{
    Engine, Error,
    fault::{Faults, Passage},
};

/// A pool of connections to one of the engines.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// PostgreSQL.
    Postgres {
        /// Its connections.
        connections: Connections,
        /// After this long without an answer the connection counts as lost: a server that can be reached ends every statement
        /// earlier.
        silence: Duration,
        /// What tests plan.
        faults: Faults,
    },
    /// SQLite: many readers, one writer.
    Sqlite {
        /// Read-only connections.
        readers: SqlitePool,
        /// Exactly one connection.
        writer: SqlitePool,
        /// What tests plan.
        faults: Faults,
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
        /// What it passed.
        passage: Passage,
    },
    /// SQLite.
    Sqlite(Transaction<'static, Sqlite>, Passage),
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
            Self::Postgres {
                connections,
                silence,
                faults,
            } => Statement::postgres_pool(sql, connections, *silence, faults.clone()),
            Self::Sqlite {
                readers, faults, ..
            } => Statement::sqlite_pool(sql, readers, faults.clone()),
        }
    }

    /// A statement that writes, as a transaction of its own.
    pub(crate) fn write(&self, sql: &'static Sql) -> Statement<'_> {
        match self {
            Self::Postgres {
                connections,
                silence,
                faults,
            } => Statement::postgres_pool(sql, connections, *silence, faults.clone()).alone(),
            Self::Sqlite { writer, faults, .. } => {
                Statement::sqlite_pool(sql, writer, faults.clone()).alone()
            }
        }
    }

    /// Begins a transaction that writes: READ COMMITTED on PostgreSQL, the one writer on SQLite.
    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres {
                connections,
                silence,
                faults,
            } => {
                let passage = Passage::new(faults);
                begin(connections, *silence, Isolation::Statement, passage).await?
            }
            Self::Sqlite { writer, faults, .. } => Tx::Sqlite(
                writer
                    .begin_with("BEGIN IMMEDIATE")
                    .await
                    .map_err(Error::before_commit)?,
                Passage::new(faults),
            ),
        })
    }

    /// Begins a transaction whose statements all read one snapshot.
    pub(crate) async fn begin_snapshot(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres {
                connections,
                silence,
                faults,
            } => {
                let passage = Passage::new(faults);
                begin(connections, *silence, Isolation::Snapshot, passage).await?
            }
            Self::Sqlite {
                readers, faults, ..
            } => Tx::Sqlite(
                readers.begin().await.map_err(Error::before_commit)?,
                Passage::new(faults),
            ),
        })
    }

    /// Closes all connections, waiting for those in use.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres { connections, .. } => connections.close().await,
            Self::Sqlite {
                readers, writer, ..
            } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

// === impl Tx ===

impl Tx {
    /// Which engine it is on.
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Postgres { .. } => Engine::Postgres,
            Self::Sqlite(..) => Engine::Sqlite,
        }
    }

    /// A statement inside this transaction.
    pub(crate) fn statement(&mut self, sql: &'static Sql) -> Statement<'_> {
        match self {
            Self::Postgres {
                connection,
                silence,
                passage,
            } => Statement::postgres(sql, connection, *silence, passage.statement(sql.name)),
            Self::Sqlite(tx, passage) => Statement::sqlite(sql, tx, passage.statement(sql.name)),
        }
    }

    /// Commits. If the connection is lost meanwhile, the error says that the outcome is unknown.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        let (Self::Postgres { passage, .. } | Self::Sqlite(_, passage)) = &mut self;
        let passage = std::mem::take(passage);
        passage.committing().await?;
        match self {
            Self::Postgres {
                connection,
                silence,
                ..
            } => end(connection, silence, "COMMIT").await,
            Self::Sqlite(tx, _) => tx.commit().await,
        }
        .map_err(Error::at_commit)?;
        passage.committed().await
    }

    /// Rolls back. Only needed where the connection should be free again before going on, or is worth keeping.
    pub(crate) async fn rollback(self) -> Result<(), Error> {
        match self {
            Self::Postgres {
                connection,
                silence,
                ..
            } => end(connection, silence, "ROLLBACK").await,
            Self::Sqlite(tx, _) => tx.rollback().await,
        }
        .map_err(Error::before_commit)
    }
}

/// Begins a transaction on PostgreSQL.
async fn begin(
    connections: &Connections,
    silence: Duration,
    isolation: Isolation,
    passage: Passage,
) -> Result<Tx, Error> {
    let mut connection = connections
        .acquire(silence)
        .await
        .map_err(Error::before_commit)?;
    begin_on(&mut connection, silence, isolation)
        .await
        .map_err(Error::before_commit)?;
    Ok(Tx::Postgres {
        connection,
        silence,
        passage,
    })
}

async fn begin_on(
    connection: &mut Borrowed,
    silence: Duration,
    isolation: Isolation,
) -> Result<(), sqlx::Error> {
    let begin = connection.session().begin(isolation);
    let begin = sqlx::raw_sql(sqlx::AssertSqlSafe(begin));
    answer(silence, connection.execute(begin)).await.map(drop)
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
