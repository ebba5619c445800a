//! A cluster that belongs to one test, which may stop it, restart it and put an old copy of its files back.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Uid, User};
use tempfile::TempDir;
use tokio::process::Command;

use super::{PsqlSession, psql};
use crate::proxy::{Proxy, Target};

/// How a cluster is set up.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Whether commits reach the disk: for figures, and for tests of what a crash leaves. Off makes everything else fast.
    pub fsync: bool,
    /// Further lines of `postgresql.conf`: name and value.
    pub settings: Vec<(String, String)>,
}

/// How a cluster is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Clients are disconnected, and everything is written down.
    Fast,
    /// As a crash: the next start recovers from the log.
    Immediate,
}

/// A PostgreSQL cluster of one's own; stopped and removed when dropped.
#[derive(Debug)]
pub struct PrivateCluster {
    directory: TempDir,
    bin: PathBuf,
    owner: Option<Owner>,
}

/// The files of a stopped cluster as they were at one moment.
#[derive(Debug)]
pub struct DataCopy {
    directory: TempDir,
}

/// Whom PostgreSQL runs as when the tests run as root, which it refuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

// === impl PrivateCluster ===

impl PrivateCluster {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    ///
    /// When PostgreSQL's server programs are missing or refuse.
    pub async fn start(options: ClusterOptions) -> Self {
        let owner = Owner::needed();
        let directory = scratch(owner);
        let cluster = Self {
            bin: server_programs(),
            owner,
            directory,
        };
        let data = cluster.data();
        cluster
            .call(
                "initdb",
                &[
                    "-U",
                    "steadfast",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "--no-sync",
                    "-D",
                ],
                &data,
            )
            .await;
        let switch = if options.fsync { "on" } else { "off" };
        let mut lines = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = {switch}\nsynchronous_commit = {switch}\n\
             full_page_writes = {switch}\nmax_connections = 200\n",
            cluster.directory.path().display()
        );
        for (name, value) in options.settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let file = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&file).expect("initdb wrote postgresql.conf");
        fs::write(&file, defaults + &lines).expect("postgresql.conf can be written");
        cluster.resume().await;
        cluster
    }

    /// The URL of one of its databases; `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = self
            .directory
            .path()
            .display()
            .to_string()
            .replace('/', "%2F");
        format!("postgres://steadfast@{host}/{database}")
    }

    /// Where it listens, for a proxy before it.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Unix(self.directory.path().join(".s.PGSQL.5432"))
    }

    /// The URL of one of its databases when reached through a proxy started before [`PrivateCluster::target`].
    #[must_use]
    pub fn url_through(&self, proxy: &Proxy, database: &str) -> String {
        format!("postgres://steadfast@{}/{database}", proxy.address())
    }

    /// Makes a database without tables and returns its URL.
    ///
    /// # Panics
    ///
    /// When PostgreSQL refuses.
    pub async fn create_database(&self, name: &str) -> String {
        self.psql("postgres", &format!("CREATE DATABASE {name};"))
            .await;
        self.url(name)
    }

    /// Runs statements in one of its databases and returns what they print.
    ///
    /// # Panics
    ///
    /// When a statement fails.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        psql::run(&self.url(database), sql).await
    }

    /// Opens a connection that stays open.
    ///
    /// # Panics
    ///
    /// When psql does not start or cannot connect.
    pub async fn session(&self, database: &str) -> PsqlSession {
        PsqlSession::open(&self.url(database)).await
    }

    /// Stops the server and returns once it is gone.
    ///
    /// # Panics
    ///
    /// When it does not stop.
    pub async fn stop(&self, mode: StopMode) {
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        self.call(
            "pg_ctl",
            &["-w", "-t", "60", "-m", mode, "stop", "-D"],
            &self.data(),
        )
        .await;
    }

    /// Starts the server again and returns once it takes connections.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn resume(&self) {
        let log = self
            .directory
            .path()
            .join("postgres.log")
            .display()
            .to_string();
        self.call(
            "pg_ctl",
            &["-w", "-t", "60", "-l", &log, "start", "-D"],
            &self.data(),
        )
        .await;
    }

    /// Copies the files of the stopped cluster, as a cold backup does.
    ///
    /// # Panics
    ///
    /// When the cluster runs, or the files cannot be copied.
    pub async fn copy_data(&self) -> DataCopy {
        self.assert_stopped();
        let copy = DataCopy {
            directory: scratch(self.owner),
        };
        copy_tree(&self.data(), &copy.directory.path().join("data")).await;
        copy
    }

    /// Puts a copy in place of the files of the stopped cluster.
    ///
    /// # Panics
    ///
    /// When the cluster runs, or the files cannot be copied.
    pub async fn restore(&self, copy: &DataCopy) {
        self.assert_stopped();
        fs::remove_dir_all(self.data()).expect("the old files can be removed");
        copy_tree(&copy.directory.path().join("data"), &self.data()).await;
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn assert_stopped(&self) {
        assert!(
            !self.data().join("postmaster.pid").exists(),
            "stop the cluster before its files are touched"
        );
    }

    async fn call(&self, program: &str, arguments: &[&str], data: &Path) {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).arg(data);
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        // The server inherits these, so they must not be pipes: nobody would ever see their end.
        let out = self.directory.path().join("call.log");
        let log = fs::File::create(&out).expect("a log can be made in the cluster's directory");
        command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        let status = command
            .status()
            .await
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        assert!(
            status.success(),
            "{program} failed: {}{}",
            fs::read_to_string(&out).unwrap_or_default(),
            fs::read_to_string(self.directory.path().join("postgres.log")).unwrap_or_default()
        );
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        if !self.data().join("postmaster.pid").exists() {
            return;
        }
        let mut command = std::process::Command::new(self.bin.join("pg_ctl"));
        command
            .args(["-w", "-t", "60", "-m", "immediate", "stop", "-D"])
            .arg(self.data());
        command.current_dir(self.directory.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(owner) = self.owner {
            use std::os::unix::process::CommandExt as _;
            command.uid(owner.uid).gid(owner.gid);
        }
        match command.status() {
            Ok(status) if status.success() => {}
            outcome => eprintln!(
                "the cluster in {} was not stopped: {outcome:?}",
                self.directory.path().display()
            ),
        }
    }
}

// === impl Owner ===

impl Owner {
    pub(super) fn needed() -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .unwrap_or_else(|| {
                panic!("no user postgres or nobody: PostgreSQL refuses to run as root")
            });
        Some(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }
}

/// A directory whose path is short enough for a socket in it, below the shared cluster's when there is one, so that
/// stopping that also finds this.
pub(super) fn scratch(owner: Option<Owner>) -> TempDir {
    let parent = env::var_os("STEADFAST_TEST_PG_DIR")
        .map(|directory| PathBuf::from(directory).join("own"))
        .filter(|directory| directory.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let directory = tempfile::Builder::new()
        .prefix("sf")
        .tempdir_in(&parent)
        .unwrap_or_else(|error| {
            panic!("no directory can be made in {}: {error}", parent.display())
        });
    if let Some(owner) = owner {
        chown(directory.path(), Some(owner.uid), Some(owner.gid))
            .expect("root may give its directory away");
    }
    directory
}

async fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .await;
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{} was not copied to {}: {status:?}",
        from.display(),
        to.display()
    );
}

/// The directory of initdb and pg_ctl: as `tests/cluster` said, else the newest one the distribution installed.
fn server_programs() -> PathBuf {
    if let Some(directory) = env::var_os("STEADFAST_TEST_PG_BIN") {
        return PathBuf::from(directory);
    }
    let installed = fs::read_dir("/usr/lib/postgresql")
        .ok()
        .and_then(|entries| {
            entries
                .flatten()
                .filter_map(|entry| {
                    let version: u32 = entry.file_name().to_str()?.parse().ok()?;
                    let bin = entry.path().join("bin");
                    bin.join("initdb").exists().then_some((version, bin))
                })
                .max()
        });
    installed.map(|(_, bin)| bin).unwrap_or_else(|| {
        panic!("no PostgreSQL server programs: run the tests through tests/run, which installs them, or set STEADFAST_TEST_PG_BIN")
    })
}
