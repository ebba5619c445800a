//! PgBouncer, the real one, before any cluster.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::sleep,
};

use super::{
    private::{Owner, scratch},
    psql,
};
use crate::proxy::Target;

/// How long it may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a client keeps between its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Its session.
    Session,
    /// Nothing: each transaction gets whichever session is free.
    Transaction,
    /// Nothing, and there are no transactions.
    Statement,
}

/// A PgBouncer of one's own, which listens on a Unix socket; stopped and removed when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    directory: TempDir,
}

impl PoolMode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

// === impl PgBouncer ===

impl PgBouncer {
    /// Starts one before a cluster, with so many sessions for each database. All else is as the distribution has it: no start-up
    /// parameter is ignored, no session is reset between transactions.
    ///
    /// # Panics
    ///
    /// When PgBouncer is not installed or does not start.
    pub async fn start(target: &Target, mode: PoolMode, sessions: u32) -> Self {
        let Target::Unix(socket) = target else {
            panic!("a test's cluster listens on a socket, not at {target:?}");
        };
        let host = socket.parent().expect("a socket is in a directory");
        let owner = Owner::needed();
        let directory = scratch(owner);
        let path = directory.path().display();
        let file = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} user=steadfast\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {path}\n\
             auth_type = any\npool_mode = {}\ndefault_pool_size = {sessions}\nmax_client_conn = 400\nlogfile = \
             {path}/pgbouncer.log\n",
            host.display(),
            mode.as_str(),
        );
        fs::write(&file, text).expect("the directory can be written");
        let mut command = Command::new(program());
        command.arg("-q").arg(&file).current_dir(directory.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if let Some(owner) = owner {
            chown(&file, Some(owner.uid), Some(owner.gid)).expect("root may give its files away");
            // It refuses to run as root.
            command.uid(owner.uid).gid(owner.gid);
        }
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "PgBouncer does not start ({error}): run the tests through tests/run as root, which installs it, or install the \
                 distribution's package pgbouncer"
            )
        });
        let mut pooler = Self { child, directory };
        pooler.await_ready().await;
        pooler
    }

    /// The URL of a database when reached through it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = self.directory.path().display().to_string();
        let host = host.replace('/', "%2F");
        format!("postgres://steadfast@{host}:6432/{database}")
    }

    /// Runs statements through it and returns what they print.
    ///
    /// # Panics
    ///
    /// When a statement fails.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        psql::run(&self.url(database), sql).await
    }

    async fn await_ready(&mut self) {
        let socket = self.directory.path().join(".s.PGSQL.6432");
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(&socket).await.is_err() {
            let exited = self.child.try_wait().expect("a child can be asked");
            let log = self.directory.path().join("pgbouncer.log");
            assert!(
                exited.is_none() && Instant::now() < deadline,
                "PgBouncer does not listen ({exited:?}): {}",
                fs::read_to_string(log).unwrap_or_default()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Where the distribution puts it, which is in the path of root only.
fn program() -> PathBuf {
    let installed = PathBuf::from("/usr/sbin/pgbouncer");
    let in_path = env::var_os("PATH").is_some_and(|path| {
        env::split_paths(&path).any(|directory| directory.join("pgbouncer").exists())
    });
    if !in_path && installed.exists() {
        installed
    } else {
        PathBuf::from("pgbouncer")
    }
}
