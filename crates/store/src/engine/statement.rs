//! A statement with its arguments and the place where it runs.

use std::time::{Duration, Instant};

use sqlx::{
    Arguments, Encode, FromRow, Postgres, Sqlite, SqliteConnection, SqlitePool, Type,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{Connections, Isolation, Sql, answer, begin_on, end, warm::Borrowed};
use crate::{
    Error,
    fault::{Faults, Point},
};

/// A value that both engines take as an argument.
pub(crate) trait Bind<'t>:
    Encode<'t, Postgres> + Type<Postgres> + Encode<'t, Sqlite> + Type<Sqlite> + Send
{
}

impl<'t, T> Bind<'t> for T where
    T: Encode<'t, Postgres> + Type<Postgres> + Encode<'t, Sqlite> + Type<Sqlite> + Send
{
}

/// A row that both engines can give: derive [`FromRow`].
pub(crate) trait Record:
    for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}

impl<T> Record for T where
    T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}

/// A statement, ready for arguments and for running once.
#[must_use = "a statement does nothing until it is run"]
pub(crate) struct Statement<'c> {
    sql: &'static Sql,
    target: Target<'c>,
    refused: Option<BoxDynError>,
    faults: Faults,
    /// It is a transaction of its own.
    alone: bool,
}

enum Target<'c> {
    PostgresPool(&'c Connections, Duration, PgArguments),
    Postgres(&'c mut Borrowed, Duration, PgArguments),
    SqlitePool(&'c SqlitePool, SqliteArguments),
    Sqlite(&'c mut SqliteConnection, SqliteArguments),
}

/// Runs one of sqlx's methods on whichever target the statement has.
macro_rules! on_target {
    ($statement:expr, $query:ident, $method:ident) => {{
        let Statement {
            sql,
            target,
            refused,
            faults,
            alone,
        } = $statement;
        if let Some(source) = refused {
            return Err(Error::before_commit(sqlx::Error::Encode(source)));
        }
        faults.pass(Point::Sending(sql.name)).await?;
        if alone {
            faults.pass(Point::Committing(&[sql.name])).await?;
        }
        let started = Instant::now();
        let outcome = match target {
            Target::PostgresPool(pool, silence, arguments) => match pool.acquire(silence).await {
                Ok(mut connection) => {
                    let is_pooled = connection.session().is_pooled();
                    let query = $query!(Postgres, sql.for_postgres(), arguments);
                    let query = query.persistent(!is_pooled);
                    if is_pooled {
                        // Rare, and large: every statement would carry it along.
                        let in_transaction = Box::pin(async {
                            begin_on(&mut connection, silence, Isolation::Statement).await?;
                            let outcome = answer(silence, query.$method(&mut *connection)).await;
                            end_alone(connection, silence, outcome).await
                        });
                        in_transaction.await.map(Into::into)
                    } else {
                        let outcome = answer(silence, query.$method(&mut *connection)).await;
                        if !matches!(outcome, Err(sqlx::Error::Io(_))) {
                            connection.give_back();
                        }
                        outcome.map(Into::into)
                    }
                }
                Err(error) => Err(error),
            },
            Target::Postgres(connection, silence, arguments) => {
                let query = $query!(Postgres, sql.for_postgres(), arguments);
                let query = query.persistent(!connection.session().is_pooled());
                answer(silence, query.$method(&mut **connection))
                    .await
                    .map(Into::into)
            }
            Target::SqlitePool(pool, arguments) => $query!(Sqlite, sql.for_sqlite(), arguments)
                .$method(pool)
                .await
                .map(Into::into),
            Target::Sqlite(connection, arguments) => $query!(Sqlite, sql.for_sqlite(), arguments)
                .$method(connection)
                .await
                .map(Into::into),
        };
        let outcome = measure(sql, started, outcome);
        if alone && outcome.is_ok() {
            faults.pass(Point::Committed(&[sql.name])).await?;
        }
        outcome
    }};
}

macro_rules! rows {
    ($engine:ty, $text:expr, $arguments:expr) => {
        sqlx::query_as_with::<$engine, T, _>($text, $arguments)
    };
}

macro_rules! effect {
    ($engine:ty, $text:expr, $arguments:expr) => {
        sqlx::query_with::<$engine, _>($text, $arguments)
    };
}

/// How many rows a statement wrote.
struct Written(u64);

// === impl Statement ===

impl<'c> Statement<'c> {
    pub(super) fn postgres_pool(
        sql: &'static Sql,
        pool: &'c Connections,
        silence: Duration,
        faults: Faults,
    ) -> Self {
        let target = Target::PostgresPool(pool, silence, PgArguments::default());
        Self::new(sql, target, faults)
    }

    pub(super) fn postgres(
        sql: &'static Sql,
        connection: &'c mut Borrowed,
        silence: Duration,
        faults: Faults,
    ) -> Self {
        let target = Target::Postgres(connection, silence, PgArguments::default());
        Self::new(sql, target, faults)
    }

    pub(super) fn sqlite_pool(sql: &'static Sql, pool: &'c SqlitePool, faults: Faults) -> Self {
        let target = Target::SqlitePool(pool, SqliteArguments::default());
        Self::new(sql, target, faults)
    }

    pub(super) fn sqlite(
        sql: &'static Sql,
        connection: &'c mut SqliteConnection,
        faults: Faults,
    ) -> Self {
        let target = Target::Sqlite(connection, SqliteArguments::default());
        Self::new(sql, target, faults)
    }

    fn new(sql: &'static Sql, target: Target<'c>, faults: Faults) -> Self {
        Self {
            sql,
            target,
            refused: None,
            faults,
            alone: false,
        }
    }

    /// Says that it commits by itself.
    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Adds the next argument.
    pub(crate) fn bind<'t, T: Bind<'t>>(mut self, value: T) -> Self {
        let added = match &mut self.target {
            Target::PostgresPool(_, _, arguments) | Target::Postgres(_, _, arguments) => {
                arguments.add(value)
            }
            Target::SqlitePool(_, arguments) | Target::Sqlite(_, arguments) => arguments.add(value),
        };
        if let Err(error) = added {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Adds a column of values as the next argument of a statement that is for PostgreSQL only. Columns are read several times faster there than
    /// the same values as JSON.
    pub(crate) fn bind_column<'t, T>(mut self, values: Vec<T>) -> Self
    where
        Vec<T>: Encode<'t, Postgres> + Type<Postgres>,
    {
        let added = match &mut self.target {
            Target::PostgresPool(_, _, arguments) | Target::Postgres(_, _, arguments) => {
                arguments.add(values)
            }
            Target::SqlitePool(..) | Target::Sqlite(..) => {
                Err("SQLite has no arrays: such a statement is for PostgreSQL only".into())
            }
        };
        if let Err(error) = added {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Runs it and returns how many rows it wrote.
    pub(crate) async fn execute(self) -> Result<u64, Error> {
        let written: Written = on_target!(self, effect, execute)?;
        Ok(written.0)
    }

    /// Runs it and returns all rows.
    pub(crate) async fn all<T: Record>(self) -> Result<Vec<T>, Error> {
        on_target!(self, rows, fetch_all)
    }

    /// Runs it and returns the first row, if there is one.
    pub(crate) async fn optional<T: Record>(self) -> Result<Option<T>, Error> {
        on_target!(self, rows, fetch_optional)
    }

    /// Runs it and returns its one row.
    pub(crate) async fn one<T: Record>(self) -> Result<T, Error> {
        on_target!(self, rows, fetch_one)
    }
}

// === impl Written ===

impl From<sqlx::postgres::PgQueryResult> for Written {
    fn from(result: sqlx::postgres::PgQueryResult) -> Self {
        Self(result.rows_affected())
    }
}

impl From<sqlx::sqlite::SqliteQueryResult> for Written {
    fn from(result: sqlx::sqlite::SqliteQueryResult) -> Self {
        Self(result.rows_affected())
    }
}

/// Ends the transaction of a statement that is alone in it. If its commit is not answered, nobody knows what became of it.
async fn end_alone<T>(
    connection: Borrowed,
    silence: Duration,
    outcome: Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    match outcome {
        Ok(value) => end(connection, silence, "COMMIT").await.map(|()| value),
        // Nobody waits for a server that is silent already; the connection is closed.
        Err(error @ sqlx::Error::Io(_)) => Err(error),
        Err(error) => {
            // If this fails as well the connection is closed, which is as good.
            drop(end(connection, silence, "ROLLBACK").await);
            Err(error)
        }
    }
}

/// The one measured door: every database call ends here.
fn measure<T>(sql: &Sql, started: Instant, outcome: Result<T, sqlx::Error>) -> Result<T, Error> {
    let elapsed = started.elapsed();
    metrics::histogram!(crate::metric::STATEMENT_SECONDS, "statement" => sql.name).record(elapsed);
    tracing::trace!(
        statement = sql.name,
        duration_us = elapsed.as_micros() as u64,
        ok = outcome.is_ok()
    );
    outcome.map_err(|source| {
        metrics::counter!(crate::metric::STATEMENT_ERRORS, "statement" => sql.name).increment(1);
        Error::before_commit(source).during(sql.name)
    })
}
