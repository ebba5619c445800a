//! Real PostgreSQL databases, one per test.
//!
//! `tests/run` starts one private cluster and migrates one template in it; [`TestDatabase`] clones the template, which
//! takes a tenth of a second and leaves no test able to disturb another. What a test must stop, restart or restore is a
//! [`PrivateCluster`] of its own. Everything goes through PostgreSQL's own client programs: this crate links no driver, so
//! that a defect in the one under test cannot hide itself here.

mod pooler;
mod private;
mod psql;
mod session;
#[cfg(test)]
mod tests;

use std::{env, path::PathBuf, process::Stdio};

use uuid::Uuid;

pub use pooler::{PgBouncer, PoolMode};
pub use private::{ClusterOptions, DataCopy, PrivateCluster, StopMode};
pub use session::{PsqlError, PsqlSession};

use crate::{
    process::CommandOutput,
    proxy::{Proxy, Target},
};

/// The first part of every URL of the shared cluster, up to and without the slash before the database's name.
pub const CLUSTER_VARIABLE: &str = "STEADFAST_TEST_PG";
/// The name of the migrated database that [`TestDatabase::create`] clones.
pub const TEMPLATE_VARIABLE: &str = "STEADFAST_TEST_PG_TEMPLATE";

/// A database that exists as long as this value does.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    cluster: String,
}

// === impl TestDatabase ===

impl TestDatabase {
    /// A clone of the migrated template.
    ///
    /// # Panics
    ///
    /// When the environment names no cluster or no template, or PostgreSQL refuses.
    pub async fn create() -> Self {
        let template = variable(TEMPLATE_VARIABLE);
        Self::from_template(&template).await
    }

    /// A database with nothing in it, for what migrates by itself.
    ///
    /// # Panics
    ///
    /// When the environment names no cluster, or PostgreSQL refuses.
    pub async fn create_empty() -> Self {
        Self::from_template("template0").await
    }

    /// A clone of any database of the shared cluster that nobody is connected to.
    ///
    /// # Panics
    ///
    /// When the environment names no cluster, or PostgreSQL refuses.
    pub async fn from_template(template: &str) -> Self {
        let cluster = variable(CLUSTER_VARIABLE);
        let name = format!("t_{}", Uuid::new_v4().simple());
        let statement = format!("CREATE DATABASE {name} TEMPLATE {template};");
        psql::run(&format!("{cluster}/postgres"), &statement).await;
        Self { name, cluster }
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A URL that both libpq and sqlx understand.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}", self.cluster, self.name)
    }

    /// Where the shared cluster listens, for a [`Proxy`] before it.
    ///
    /// # Panics
    ///
    /// When the cluster's URL does not name a socket's directory.
    #[must_use]
    pub fn target(&self) -> Target {
        let host = self
            .cluster
            .rsplit_once('@')
            .map_or("", |(_, host)| host)
            .replace("%2F", "/");
        assert!(
            host.starts_with('/'),
            "{CLUSTER_VARIABLE} should name a socket's directory, as tests/cluster prints it: {}",
            self.cluster
        );
        Target::Unix(PathBuf::from(host).join(".s.PGSQL.5432"))
    }

    /// The URL of this database when reached through a proxy started before [`TestDatabase::target`].
    #[must_use]
    pub fn url_through(&self, proxy: &Proxy) -> String {
        format!("postgres://steadfast@{}/{}", proxy.address(), self.name)
    }

    /// Runs statements, each in its own transaction, and returns what they print: rows on lines, columns parted by `|`.
    ///
    /// # Panics
    ///
    /// When a statement fails.
    pub async fn psql(&self, sql: &str) -> String {
        psql::run(&self.url(), sql).await
    }

    /// A connection that stays open, to hold snapshots, locks and transactions.
    ///
    /// # Panics
    ///
    /// When psql does not start.
    pub async fn session(&self) -> PsqlSession {
        PsqlSession::open(&self.url()).await
    }

    /// A copy of it, made as a backup is while others go on.
    ///
    /// # Panics
    ///
    /// When it cannot be dumped, or the dump not be read.
    pub async fn copy(&self) -> Self {
        let mut dump = tokio::process::Command::new(psql::program("pg_dump"));
        dump.arg("--dbname").arg(self.url());
        let dump = CommandOutput::of(dump).await;
        let copy = Self::create_empty().await;
        copy.psql(dump.success()).await;
        copy
    }

    /// Puts a copy in its place, under its name; whoever is connected is thrown out.
    ///
    /// # Panics
    ///
    /// When PostgreSQL refuses.
    pub async fn replace_with(&self, copy: Self) {
        let (name, other) = (&self.name, &copy.name);
        let sql =
            format!("DROP DATABASE {name} WITH (FORCE); ALTER DATABASE {other} RENAME TO {name};");
        psql::run(&format!("{}/postgres", self.cluster), &sql).await;
    }

    /// Ends every connection to this database from the server's side and says how many there were.
    ///
    /// # Panics
    ///
    /// When PostgreSQL refuses.
    pub async fn terminate_backends(&self) -> usize {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}';",
            self.name
        );
        let count = psql::run(&format!("{}/postgres", self.cluster), &sql).await;
        count
            .parse()
            .unwrap_or_else(|_| panic!("a count is a number: {count}"))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let outcome = std::process::Command::new(psql::program("dropdb"))
            .args(["--force", "--if-exists"])
            .arg(format!("--maintenance-db={}/postgres", self.cluster))
            .arg(&self.name)
            .stdin(Stdio::null())
            .output();
        match outcome {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!(
                "database {} was not dropped: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => eprintln!("database {} was not dropped: {error}", self.name),
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run the tests through tests/run, or start a cluster with: eval \"$(tests/cluster start)\""
        )
    })
}
