//! A psql kept open, to hold what only a living connection can hold.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::timeout,
};

use super::psql;

/// How long a statement may take before the test is told.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(60);

/// An open connection. Statements go out in order; a transaction begun in one call is there in the next.
#[derive(Debug)]
pub struct PsqlSession {
    child: Child,
    stdin: ChildStdin,
    stdout: Gathered<ChildStdout>,
    stderr: Gathered<ChildStderr>,
    sent: u64,
    awaited: u64,
}

/// The lines of one of psql's outputs, up to the marker that ends an answer.
#[derive(Debug)]
struct Gathered<R> {
    lines: Lines<BufReader<R>>,
    kept: Vec<String>,
    whole: bool,
}

/// What PostgreSQL answered instead of a result, with its SQLSTATE, or why the connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PsqlError(pub String);

impl std::fmt::Display for PsqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PsqlError {}

// === impl PsqlSession ===

impl PsqlSession {
    /// Connects to a URL.
    ///
    /// # Panics
    ///
    /// When psql does not start or cannot connect.
    pub async fn open(url: &str) -> Self {
        let mut child = psql::command(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("psql does not start: {error}"));
        let mut session = Self {
            stdin: child.stdin.take().expect("stdin was piped"),
            stdout: Gathered::new(child.stdout.take().expect("stdout was piped")),
            stderr: Gathered::new(child.stderr.take().expect("stderr was piped")),
            child,
            sent: 0,
            awaited: 0,
        };
        if let Err(error) = session.run("SELECT 1;").await {
            panic!("psql cannot use {url}: {error}");
        }
        session
    }

    /// Runs statements and returns the rows they print.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered, or that the connection is gone.
    ///
    /// # Panics
    ///
    /// When there is no answer within a minute.
    pub async fn run(&mut self, sql: &str) -> Result<String, PsqlError> {
        self.send(sql).await?;
        self.wait().await
    }

    /// Sends statements without waiting for them, for one that is meant to block; [`PsqlSession::wait`] takes the answer.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn send(&mut self, sql: &str) -> Result<(), PsqlError> {
        self.sent += 1;
        let marker = marker(self.sent);
        let text = format!("{sql}\n;\n\\echo {marker}\n\\warn {marker}\n");
        self.stdin
            .write_all(text.as_bytes())
            .await
            .map_err(|error| PsqlError(format!("the connection is gone: {error}")))
    }

    /// Waits for the oldest statements sent and not yet waited for. A wait that is given up, to show that they block, may be
    /// repeated.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered, or that the connection is gone.
    ///
    /// # Panics
    ///
    /// When nothing was sent, or there is no answer within a minute.
    pub async fn wait(&mut self) -> Result<String, PsqlError> {
        assert!(self.awaited < self.sent, "nothing was sent to wait for");
        let marker = marker(self.awaited + 1);
        let both = async {
            self.stdout.until(&marker).await;
            self.stderr.until(&marker).await;
        };
        timeout(STATEMENT_DEADLINE, both)
            .await
            .unwrap_or_else(|_| panic!("psql did not answer within {STATEMENT_DEADLINE:?}"));
        self.awaited += 1;
        let (rows, whole) = self.stdout.take();
        let (complaints, _) = self.stderr.take();
        let failed = complaints
            .iter()
            .any(|line| line.contains("ERROR:") || line.contains("FATAL:"));
        if failed || !whole {
            return Err(PsqlError(complaints.join("\n")));
        }
        Ok(rows.join("\n"))
    }

    /// The process id of the server's side of this connection.
    ///
    /// # Panics
    ///
    /// When the connection is gone.
    pub async fn backend_pid(&mut self) -> i32 {
        let answer = self.run("SELECT pg_backend_pid();").await;
        answer
            .as_deref()
            .ok()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_else(|| panic!("no backend's process id in {answer:?}"))
    }

    /// Ends the client at once, as a crash would.
    ///
    /// # Panics
    ///
    /// When the process cannot be ended.
    pub async fn kill(mut self) {
        self.child
            .kill()
            .await
            .unwrap_or_else(|error| panic!("psql cannot be ended: {error}"));
    }
}

fn marker(number: u64) -> String {
    format!("steadfast-done-{number}")
}

// === impl Gathered ===

impl<R: AsyncRead + Unpin> Gathered<R> {
    fn new(from: R) -> Self {
        Self {
            lines: BufReader::new(from).lines(),
            kept: Vec::new(),
            whole: false,
        }
    }

    /// Gathers the lines up to the marker; nothing is lost when this is dropped half-way.
    async fn until(&mut self, marker: &str) {
        while !self.whole {
            match self.lines.next_line().await {
                Ok(Some(line)) if line == marker => self.whole = true,
                Ok(Some(line)) => self.kept.push(line),
                Ok(None) => return,
                Err(error) => {
                    self.kept
                        .push(format!("psql's output cannot be read: {error}"));
                    return;
                }
            }
        }
    }

    /// What was gathered, and whether the marker came.
    fn take(&mut self) -> (Vec<String>, bool) {
        (
            std::mem::take(&mut self.kept),
            std::mem::take(&mut self.whole),
        )
    }
}
