//! A floor, or a crowd of subscribers, as a process: started from this same program, asked over its standard input, gone when it
//! is dropped.

use std::{env, ffi::OsString, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child as Process, ChildStdin, ChildStdout, Command},
};

use crate::error::Error;

/// A running floor or crowd.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
}

// === impl Child ===

impl Child {
    /// Starts this program as `floor …` and waits for the line with its address.
    pub(crate) async fn start(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, Error> {
        Self::start_as("floor", arguments).await
    }

    /// Starts this program with another command.
    pub(crate) async fn start_as(
        command: &str,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, Error> {
        let failed = || Error::io("starting a floor");
        let mut process = Command::new(env::current_exe().map_err(failed())?)
            .arg(command)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed())?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Unexpected("a floor has no pipes".to_owned()));
        };
        let mut child = Self {
            process,
            stdin,
            lines: BufReader::new(stdout).lines(),
            address: String::new(),
        };
        let ready = child.line().await?;
        child.address = ready["address"].as_str().unwrap_or_default().to_owned();
        Ok(child)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> Result<u32, Error> {
        self.process
            .id()
            .ok_or_else(|| Error::Unexpected("a floor has ended".to_owned()))
    }

    /// Writes a line and returns the one that is answered.
    pub(crate) async fn ask(&mut self, question: &str) -> Result<Value, Error> {
        self.write(question).await?;
        self.line().await
    }

    /// Writes a line.
    pub(crate) async fn write(&mut self, question: &str) -> Result<(), Error> {
        self.stdin
            .write_all(format!("{question}\n").as_bytes())
            .await
            .map_err(Error::io("asking a floor"))
    }

    /// Waits for a line. It may be dropped while waiting; nothing is lost.
    pub(crate) async fn line(&mut self) -> Result<Value, Error> {
        let line = self
            .lines
            .next_line()
            .await
            .map_err(Error::io("listening to a floor"))?
            .ok_or_else(|| Error::Unexpected("a floor ended before it answered".to_owned()))?;
        serde_json::from_str(&line)
            .map_err(|error| Error::Unexpected(format!("a floor said {line:?}: {error}")))
    }
}
