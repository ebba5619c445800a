//! Starting a server: what it is started with, and how it says that it is ready, or is not.

use std::{
    fmt, fs,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{DEFAULT_DEADLINE, Place, Ready, Server, log::Log, prepare, program};

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    program: Option<PathBuf>,
    directory: Option<PathBuf>,
    database_url: Option<String>,
    configuration: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    inherit: bool,
    deadline: Duration,
}

/// A server that exited, or said nothing, instead of becoming ready.
#[derive(Debug)]
pub struct StartFailure {
    /// How it exited, unless it was still running at the deadline and was killed.
    pub status: Option<ExitStatus>,
    /// All it wrote, standard output and standard error.
    pub output: String,
}

// === impl ServerBuilder ===

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            program: None,
            directory: None,
            database_url: None,
            configuration: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            inherit: false,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Sets the database; without one the server keeps its SQLite file in its working directory.
    #[must_use]
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// Sets the text of `steadfast.toml`, which is passed with `--config`.
    #[must_use]
    pub fn configuration(mut self, toml: impl Into<String>) -> Self {
        self.configuration = Some(toml.into());
        self
    }

    /// Adds an argument after those of `serve` that the test kit sets.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Leaves the machine's environment in place, for tests that need its settings, such as its registry.
    #[must_use]
    pub fn inherit_environment(mut self) -> Self {
        self.inherit = true;
        self
    }

    /// Works in this directory, which outlives the server, instead of a new one.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Runs another program than `STEADFAST_BIN` names.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// How long it may take to become ready.
    #[must_use]
    pub fn ready_within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the server and returns once it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready; with all it wrote.
    pub async fn start(&self) -> Server {
        self.try_start()
            .await
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Starts the server and returns once it is ready or has failed.
    ///
    /// # Errors
    ///
    /// When the server exits first, or is not ready at the deadline.
    ///
    /// # Panics
    ///
    /// When the program is missing.
    pub async fn try_start(&self) -> Result<Server, StartFailure> {
        let program = self.program.clone().unwrap_or_else(program);
        let place = match &self.directory {
            Some(path) => Place::Given(path.clone()),
            None => Place::new(),
        };
        let mut command = Command::new(&program);
        command.args(["serve", "--ready-json"]);
        command.args([
            "--listen-grpc",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
        ]);
        if let Some(text) = &self.configuration {
            let file = place.path().join("steadfast.toml");
            fs::write(&file, text).expect("the server's directory can be written");
            command.arg("--config").arg(file);
        }
        if let Some(url) = &self.database_url {
            command.args(["--database-url", url]);
        }
        command.args(&self.arguments);
        prepare(&mut command, place.path(), &self.environment, self.inherit);
        let log = Arc::new(Log::new(place.path()));
        command.stdout(Stdio::piped()).stderr(log.writer());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let stdout = child.stdout.take().expect("stdout was piped");
        let (sender, ready) = tokio::sync::oneshot::channel();
        tokio::spawn(follow(stdout, Arc::clone(&log), sender));
        let Ok(Ok(ready)) = timeout(self.deadline, ready).await else {
            // A closed output says that it is exiting; a silent one is made to.
            let status = timeout(Duration::from_secs(1), child.wait()).await;
            let status = status.ok().and_then(Result::ok);
            if status.is_none() {
                child.kill().await.expect("a child can be killed");
            }
            let output = log.read();
            return Err(StartFailure { status, output });
        };
        Ok(Server {
            child,
            ready,
            place,
            log,
            program,
            environment: self.environment.clone(),
            inherit: self.inherit,
        })
    }
}

// === impl StartFailure ===

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(
                f,
                "the server is not ready ({status}); it wrote:\n{}",
                self.output
            ),
            None => write!(
                f,
                "the server is not ready in time; it wrote:\n{}",
                self.output
            ),
        }
    }
}

impl std::error::Error for StartFailure {}

/// Copies standard output to the log for as long as it lasts, and reports the ready line.
async fn follow(
    stdout: tokio::process::ChildStdout,
    log: Arc<Log>,
    sender: tokio::sync::oneshot::Sender<Ready>,
) {
    let mut lines = BufReader::new(stdout).lines();
    let mut sender = Some(sender);
    while let Ok(Some(line)) = lines.next_line().await {
        log.add(&line);
        if sender.is_some()
            && let Some(ready) = Ready::parse(&line)
            && let Some(sender) = sender.take()
        {
            // Nobody listens any more when the deadline has passed; the caller says so.
            let _ = sender.send(ready);
        }
    }
}
