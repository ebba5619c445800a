//! Programs that other people wrote: gRPC clients and an npm server.
//!
//! What grpcurl and Python's grpcio can do with the server, anybody can; our own client would share our mistakes. `tests/run`
//! installs them and names their directory in `STEADFAST_TEST_TOOLS`.

mod verdaccio;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tokio::process::Command;

pub use verdaccio::Verdaccio;

use crate::process::{CommandOutput, RunningCommand};

/// Names the directory that `tests/run` installed the programs into.
pub const TOOLS_VARIABLE: &str = "STEADFAST_TEST_TOOLS";

/// Runs grpcurl to its end, for example with `-plaintext`, an address and `list`.
///
/// # Panics
///
/// When it is not installed, or does not end in time.
pub async fn grpcurl(arguments: &[&str]) -> CommandOutput {
    CommandOutput::of(grpcurl_command(arguments)).await
}

/// Starts grpcurl and leaves it running, for a stream.
///
/// # Panics
///
/// When it is not installed.
#[must_use]
pub fn grpcurl_running(arguments: &[&str]) -> RunningCommand {
    RunningCommand::of(grpcurl_command(arguments))
}

/// Runs a text as a Python program that can import grpcio and its reflection, to its end.
///
/// # Panics
///
/// When Python is not installed, or does not end in time.
pub async fn python(program: &str, arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(tool("venv/bin/python"));
    command.args(["-c", program]).args(arguments);
    CommandOutput::of(command).await
}

/// Runs a text as a Python program that learns the contract from the server at `address`: `method(service, name)` is a call
/// of it and `plain(message)` a message in its JSON form. The texts before it are in `reflection.py`.
///
/// # Panics
///
/// When Python is not installed, or does not end in time.
pub async fn python_by_reflection(program: &str, address: &str) -> CommandOutput {
    let program = format!("{}\n{program}", include_str!("foreign/reflection.py"));
    python(&program, &[address]).await
}

/// Runs a text as a Python program that can import the stubs which the stock generator makes of the contract, as
/// `steadfast.drift.v1.drift_pb2` and `…_grpc`. The texts before it are in `stubs.py`.
///
/// # Panics
///
/// When Python or its generator is not installed, the generator refuses the contract, or the program does not end in time.
pub async fn python_with_stubs(program: &str, arguments: &[&str]) -> CommandOutput {
    let program = format!("{}\n{program}", include_str!("foreign/stubs.py"));
    let contract = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    python(&program, &[&[contract], arguments].concat()).await
}

/// Tarballs of a few real packages, as their authors packed them, in order of their names.
///
/// # Panics
///
/// When `tests/run` did not fetch them.
#[must_use]
pub fn real_packages() -> Vec<PathBuf> {
    let directory = tool("packages");
    let mut packages: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", directory.display()))
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .collect();
    assert!(
        !packages.is_empty(),
        "{} is empty: run the tests through tests/run, which fetches the packages",
        directory.display()
    );
    packages.sort();
    packages
}

fn grpcurl_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("venv/bin/grpcurl"));
    command.args(arguments);
    command
}

fn tool(path: &str) -> PathBuf {
    let directory = env::var_os(TOOLS_VARIABLE).unwrap_or_else(|| {
        panic!("{TOOLS_VARIABLE} is not set: run the tests through tests/run, or set it to tests/.cache/tools once that has run")
    });
    let path = Path::new(&directory).join(path);
    assert!(
        path.exists(),
        "{} is missing: run the tests through tests/run, which installs it",
        path.display()
    );
    path
}
