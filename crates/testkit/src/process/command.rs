//! Short-lived programs: run to their end, or left running while a test reads what they print.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::Signal;

/// How long a command may run, or keep silent while a line is waited for.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// How it exited.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// A command that runs on; killed when dropped.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

// === impl CommandOutput ===

impl CommandOutput {
    /// Runs a prepared command to its end.
    ///
    /// # Panics
    ///
    /// When it does not start, or does not end in time.
    pub async fn of(mut command: Command) -> Self {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = timeout(COMMAND_DEADLINE, command.output())
            .await
            .unwrap_or_else(|_| panic!("{command:?} did not end within {COMMAND_DEADLINE:?}"))
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, having succeeded.
    ///
    /// # Panics
    ///
    /// When it failed.
    #[must_use]
    pub fn success(&self) -> &str {
        assert!(
            self.status.success(),
            "the command failed ({}): {}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// What it complained about, having failed with this exit code.
    ///
    /// # Panics
    ///
    /// When it succeeded or failed otherwise.
    #[must_use]
    pub fn failure(&self, code: i32) -> &str {
        assert_eq!(
            self.status.code(),
            Some(code),
            "another exit code was expected: {}{}",
            self.stdout,
            self.stderr
        );
        &self.stderr
    }

    /// The JSON document it printed, having succeeded.
    ///
    /// # Panics
    ///
    /// When it failed or printed something else.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.success();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

// === impl RunningCommand ===

impl RunningCommand {
    /// Starts a prepared command. What it complains about goes to the test's own standard error.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().expect("stdout was piped");
        Self {
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    /// The next line it prints; nothing at its end.
    ///
    /// # Panics
    ///
    /// When it keeps silent for too long.
    pub async fn next_line(&mut self) -> Option<String> {
        timeout(COMMAND_DEADLINE, self.lines.next_line())
            .await
            .unwrap_or_else(|_| panic!("no line within {COMMAND_DEADLINE:?}"))
            .expect("a child's output can be read")
    }

    /// The next line that contains a text; those before it are dropped.
    ///
    /// # Panics
    ///
    /// When it ends, or keeps silent for too long, without such a line.
    pub async fn line_with(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.next_line().await {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!(
            "it ended without a line with {text}; it printed:\n{}",
            seen.join("\n")
        );
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.expect("the command was not waited for yet"));
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} cannot be sent: {error}"));
    }

    /// Ends it at once and returns when it is gone.
    ///
    /// # Panics
    ///
    /// When it was waited for already.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running command can be killed");
    }

    /// Waits until it exits by itself.
    ///
    /// # Panics
    ///
    /// When it does not exit in time.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        timeout(COMMAND_DEADLINE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("the command did not exit within {COMMAND_DEADLINE:?}"))
            .expect("a child can be waited for")
    }
}
