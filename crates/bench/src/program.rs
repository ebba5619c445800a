//! The server under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Map, Value, json};
use steadfast_testkit::process::{Server, ServerBuilder};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{args::Options, error::Error, machine};

/// How long a server may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// The release binary, with what it says about itself.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    version: String,
    configuration: Value,
}

/// Transport and database settings that floors share with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Settings {
    #[arg(long)]
    pub(crate) max_concurrent_streams: u32,
    #[arg(long)]
    pub(crate) keepalive_interval_ms: u64,
    #[arg(long)]
    pub(crate) keepalive_timeout_ms: u64,
    #[arg(long)]
    pub(crate) max_message_bytes: usize,
    #[arg(long)]
    pub(crate) max_connections: u32,
}

// === impl Program ===

impl Program {
    /// Finds the binary and asks it for its version and its default configuration.
    pub(crate) async fn find(options: &Options) -> Result<Self, Error> {
        let path = match &options.bin {
            Some(path) => path.clone(),
            None => default_path()?,
        };
        let path = path
            .canonicalize()
            .map_err(|_| Error::ProgramMissing { path })?;
        // Cargo's name for the folder of builds without optimisation; STEADFAST_BIN may name one, for the tests.
        if path
            .parent()
            .is_some_and(|folder| folder.ends_with("debug"))
        {
            return Err(Error::ProgramUnoptimised { path });
        }
        let version = ask(&path, &["--version"]).await?;
        let configuration = ask(&path, &["config", "print", "--output", "json"]).await?;
        let configuration = serde_json::from_str(&configuration).map_err(|error| {
            Error::Unexpected(format!("`config print --output json` is not JSON: {error}"))
        })?;
        Ok(Self {
            path,
            version: version.split_whitespace().collect::<Vec<_>>().join(" "),
            configuration,
        })
    }

    /// A server with its default configuration, but for what is added.
    pub(crate) fn server(&self) -> ServerBuilder {
        Server::builder().program(&self.path).ready_within(READY)
    }

    /// A number of the default configuration.
    pub(crate) fn setting(&self, section: &str, key: &str) -> Result<u64, Error> {
        self.configuration[section][key].as_u64().ok_or_else(|| {
            Error::Unexpected(format!("the configuration has no number {section}.{key}"))
        })
    }

    /// What floors share with the server.
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let too_large = |_| Error::Unexpected("a setting is too large".to_owned());
        let streams = self.setting("limits", "max_concurrent_streams_per_connection")?;
        let message = self.setting("limits", "max_message_bytes")?;
        let connections = self.setting("database", "max_connections")?;
        Ok(Settings {
            max_concurrent_streams: u32::try_from(streams).map_err(too_large)?,
            keepalive_interval_ms: self.setting("watch", "keepalive_interval_ms")?,
            keepalive_timeout_ms: self.setting("watch", "keepalive_timeout_ms")?,
            max_message_bytes: usize::try_from(message).map_err(too_large)?,
            max_connections: u32::try_from(connections).map_err(too_large)?,
        })
    }

    /// Machine, disk, versions, configuration.
    pub(crate) fn environment(
        &self,
        options: &Options,
        disk: &Path,
    ) -> Result<Map<String, Value>, Error> {
        let mut facts = machine::facts();
        facts.insert("disk".to_owned(), machine::disk(disk)?);
        facts.insert("server".to_owned(), json!(self.version));
        facts.insert("bench".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        facts.insert("rounds".to_owned(), json!(options.rounds));
        facts.insert("seconds_per_round".to_owned(), json!(options.seconds));
        facts.insert("configuration".to_owned(), self.configuration.clone());
        Ok(facts)
    }
}

// === impl Settings ===

impl Settings {
    /// As arguments for a floor.
    pub(crate) fn arguments(&self) -> Vec<std::ffi::OsString> {
        [
            (
                "--max-concurrent-streams",
                u64::from(self.max_concurrent_streams),
            ),
            ("--keepalive-interval-ms", self.keepalive_interval_ms),
            ("--keepalive-timeout-ms", self.keepalive_timeout_ms),
            ("--max-message-bytes", self.max_message_bytes as u64),
            ("--max-connections", u64::from(self.max_connections)),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.into(), value.to_string().into()])
        .collect()
    }
}

/// The directory of this program is `target/PROFILE`.
fn default_path() -> Result<PathBuf, Error> {
    let own = env::current_exe().map_err(Error::io("looking for the server's program"))?;
    let target = own.parent().and_then(Path::parent);
    Ok(target
        .unwrap_or(Path::new("target"))
        .join("release/steadfast"))
}

/// Runs the program where no configuration file is, without any of its variables.
async fn ask(path: &Path, arguments: &[&str]) -> Result<String, Error> {
    let failed = || Error::io("running the server's program");
    let nowhere = TempDir::new().map_err(failed())?;
    let output = Command::new(path)
        .args(arguments)
        .env_clear()
        .current_dir(nowhere.path())
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(failed())?;
    if !output.status.success() {
        return Err(Error::Unexpected(format!(
            "`{} {}` failed: {}",
            path.display(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
