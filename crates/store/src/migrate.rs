//! Migrations, applied by one replica at a time, and refused where the database is newer than the program.

use sqlx::{
    Connection as _, Executor as _, PgConnection,
    migrate::{MigrateError, Migrator},
};

use crate::{
    Error,
    engine::{Connections, Db, Sql, statements},
};

static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");

statements! {
    /// Whether any migration was ever applied.
    MIGRATED = "migrated" => [
        postgres { "SELECT count(*) FROM information_schema.tables \
                    WHERE table_schema = current_schema() AND table_name = '_sqlx_migrations'" }
        sqlite { "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'" }
    ];
}

/// The migrator's own table, which exists only after its first run: not among the statements that a test prepares.
static NEWEST: Sql = Sql {
    name: "migrate_newest",
    postgres: Some("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success"),
    sqlite: Some("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success"),
};

/// One replica at a time: until the session ends ...
const LOCK_SESSION: &str = "SELECT pg_advisory_lock(7400001)";
/// ... or the transaction. The number stands for nothing but this.
const LOCK_TRANSACTION: &str = "SELECT pg_advisory_xact_lock(7400001)";

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrateReport {
    /// The schema before; 0 for an empty database.
    pub from: i64,
    /// The schema now.
    pub to: i64,
}

/// The newest schema that this program knows.
#[must_use]
pub fn schema_version() -> i64 {
    newest(&SQLITE)
}

/// The newest schema in the database; 0 if it was never migrated.
pub(crate) async fn found(db: &Db) -> Result<i64, Error> {
    let (tables,): (i64,) = db.write(&MIGRATED).one().await?;
    if tables == 0 {
        return Ok(0);
    }
    let (version,): (i64,) = db.write(&NEWEST).one().await?;
    Ok(version)
}

/// Brings the database to this program's schema. On PostgreSQL an advisory lock lets one replica at a time do it; the others
/// wait and then find nothing to do.
pub(crate) async fn migrate(db: &Db) -> Result<MigrateReport, Error> {
    let from = found(db).await?;
    check_not_newer(from)?;
    match db {
        Db::Postgres { connections, .. } => migrate_postgres(connections).await,
        Db::Sqlite { writer, .. } => SQLITE.run(writer).await,
    }
    .map_err(|error| match error {
        MigrateError::Execute(source) => Error::before_commit(source),
        other => Error::Migration(other),
    })?;
    Ok(MigrateReport {
        from,
        to: found(db).await?,
    })
}

/// On a connection of its own, without the limits of everyday statements: another replica's migration, or a large table, may
/// take longer than they allow.
async fn migrate_postgres(connections: &Connections) -> Result<(), MigrateError> {
    let mut connection = connections.pool().acquire().await?;
    let outcome = if connections.is_pooled() {
        migrate_pooled(&mut connection).await
    } else {
        connection
            .execute("SET lock_timeout = 0; SET statement_timeout = 0")
            .await?;
        connection.execute(LOCK_SESSION).await?;
        // Not `run`, whose future cannot be shown to be `Send` for every lifetime of a borrowed connection.
        POSTGRES.run_direct(None, &mut *connection, false).await
    };
    // Closed, with its locks: its settings are no use to others.
    connection.close().await?;
    outcome
}

/// All in one transaction, outside of which the session is somebody else's. The migrator names its statements, which stay behind
/// in the session: they are forgotten before, as another migration may have left some, and after. Its own lock goes before the
/// transaction is committed, so it takes one more.
async fn migrate_pooled(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut tx = connection.begin().await?;
    tx.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; DEALLOCATE ALL")
        .await?;
    tx.execute(LOCK_TRANSACTION).await?;
    POSTGRES.run_direct(None, &mut *tx, false).await?;
    tx.execute("DEALLOCATE ALL").await?;
    tx.commit().await?;
    Ok(())
}

/// Refuses a database that is not exactly at this program's schema or, as old programs run on the next schema, above it by a
/// migration that says so. None does yet.
pub(crate) async fn check(db: &Db) -> Result<(), Error> {
    let found = found(db).await?;
    check_not_newer(found)?;
    if found < schema_version() {
        return Err(Error::SchemaTooOld {
            found,
            known: schema_version(),
        });
    }
    Ok(())
}

fn check_not_newer(found: i64) -> Result<(), Error> {
    let known = schema_version();
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    Ok(())
}

fn newest(migrator: &Migrator) -> i64 {
    migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            migrator
                .iter()
                .map(|migration| (migration.version, migration.description.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&POSTGRES), names(&SQLITE));
    }
}
