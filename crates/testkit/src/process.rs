//! The real program as a process: started, asked, stopped, paused and killed as an operator or an accident would.
//!
//! The binary is the one that `STEADFAST_BIN` names, built once by `tests/run`. A server gets ports of the system's choice and
//! says with one line of JSON on its standard output when it is ready and where it listens, so nobody waits by sleeping. Its
//! environment is empty but for what a test gives it: no setting of the machine, such as a registry's address, can change a
//! test's meaning unless the test asks for it.

mod command;
mod log;
mod start;
#[cfg(test)]
mod tests;

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

#[cfg(target_os = "linux")]
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

pub use command::{CommandOutput, RunningCommand};
pub use nix::sys::signal::Signal;
pub use start::{ServerBuilder, StartFailure};

use log::Log;

/// Names the program under test.
pub const PROGRAM_VARIABLE: &str = "STEADFAST_BIN";
/// How long a server may take to be ready or to exit, unless a test says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// What a child keeps of the environment of the tests.
const KEPT_VARIABLES: [&str; 4] = ["PATH", "RUST_BACKTRACE", "RUST_LOG", "LLVM_PROFILE_FILE"];

/// A running server; killed when dropped. When a test panics, the end of its log is printed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    ready: Ready,
    place: Place,
    log: Arc<Log>,
    program: PathBuf,
    environment: Vec<(String, String)>,
    inherit: bool,
}

/// What the ready line says.
#[derive(Debug, Clone)]
struct Ready {
    grpc: String,
    http: String,
    replica: String,
    store_id: String,
}

/// Where a server works: a directory of its own, or one that outlives it.
#[derive(Debug, Clone)]
enum Place {
    Own(Arc<TempDir>),
    Given(PathBuf),
}

// === impl Server ===

impl Server {
    /// Sets a server up.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Where it speaks gRPC: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.ready.grpc)
    }

    /// The same as `127.0.0.1:PORT`, for clients that want it bare and for a proxy.
    #[must_use]
    pub fn grpc_address(&self) -> &str {
        &self.ready.grpc
    }

    /// Where it speaks HTTP: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.ready.http)
    }

    /// The replica's name.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.ready.replica
    }

    /// The identity of the store's history when it became ready.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.ready.store_id
    }

    /// Where it works: its SQLite files, its configuration and its log are below.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// All it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.read()
    }

    /// Its process id, while it runs.
    ///
    /// # Panics
    ///
    /// When it was waited for already.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server was not waited for yet")
    }

    /// Sends a signal: SIGTERM to stop it in order, SIGSTOP to freeze it, SIGCONT to wake it. It returns once it is frozen: on a
    /// busy machine its other threads go on for a while, until the one that was chosen to take the signal gets a processor.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id is a small number");
        kill(Pid::from_raw(pid), signal)
            .unwrap_or_else(|error| panic!("{signal} cannot be sent: {error}"));
        #[cfg(target_os = "linux")]
        if signal == Signal::SIGSTOP {
            // Its exit is left for whoever waits for it.
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let frozen = waitid(Id::Pid(Pid::from_raw(pid)), flags);
            assert!(matches!(frozen, Ok(WaitStatus::Stopped(..))), "{frozen:?}");
        }
    }

    /// Ends it at once, as a power cut would, and returns when it is gone.
    ///
    /// # Panics
    ///
    /// When it is gone already.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running server can be killed");
    }

    /// Asks it to stop in order and returns how it exited.
    ///
    /// # Panics
    ///
    /// When it does not exit in time.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit().await
    }

    /// Waits until it exits by itself.
    ///
    /// # Panics
    ///
    /// When it does not exit in time.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        timeout(DEFAULT_DEADLINE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("the server did not exit within {DEFAULT_DEADLINE:?}"))
            .expect("a child can be waited for")
    }

    /// Runs the same program against this server to its end.
    ///
    /// # Panics
    ///
    /// When it does not start, or does not end in time.
    pub async fn cli(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::of(self.command(arguments)).await
    }

    /// Starts the same program against this server and leaves it running, for `watch`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn cli_running(&self, arguments: &[&str]) -> RunningCommand {
        RunningCommand::of(self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        prepare(
            &mut command,
            self.directory(),
            &self.environment,
            self.inherit,
        );
        command.env("STEADFAST_ENDPOINT", self.grpc_endpoint());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of the server {}\n{}",
                self.ready.replica,
                self.log.tail()
            );
        }
    }
}

/// Runs the program under test by itself, in a directory, to its end: for `init`, `config check`, `migrate`.
///
/// # Panics
///
/// When it does not start, or does not end in time.
pub async fn steadfast(
    directory: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> CommandOutput {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut command = Command::new(program());
    command.args(arguments);
    prepare(&mut command, directory, &variables, false);
    CommandOutput::of(command).await
}

// === impl Place ===

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("steadfast-").tempdir();
        Self::Own(Arc::new(
            directory.expect("a temporary directory can be made"),
        ))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Given(path) => path,
        }
    }
}

fn program() -> PathBuf {
    env::var_os(PROGRAM_VARIABLE).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{PROGRAM_VARIABLE} is not set: run the tests through tests/run, or build with `cargo build -p steadfast-cli` and set it to target/debug/steadfast"
        )
    })
}

fn prepare(command: &mut Command, directory: &Path, variables: &[(String, String)], inherit: bool) {
    if !inherit {
        command.env_clear();
        // A home of its own, so that no file of the user's is read.
        command.env("HOME", directory);
        for name in KEPT_VARIABLES {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
    }
    command
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true);
}

// === impl Ready ===

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        (text("event")? == "ready").then_some(Self {
            grpc: text("grpc")?,
            http: text("http")?,
            replica: text("replica")?,
            store_id: text("store_id")?,
        })
    }
}
