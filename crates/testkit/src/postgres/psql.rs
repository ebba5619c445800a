//! One-shot runs of PostgreSQL's client programs.

use std::{env, path::PathBuf, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

/// Where a client program is: beside the server's, when `tests/cluster` said where that is, else in PATH.
pub(super) fn program(name: &str) -> PathBuf {
    env::var_os("STEADFAST_TEST_PG_BIN")
        .map(|directory| PathBuf::from(directory).join(name))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}

/// A psql that reads no file of the user's, prints bare rows and names errors by SQLSTATE.
pub(super) fn command(url: &str) -> Command {
    let mut command = Command::new(program("psql"));
    command
        .args(["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", url])
        .kill_on_drop(true);
    command
}

/// Runs statements and returns what they print.
pub(super) async fn run(url: &str, sql: &str) -> String {
    let mut child = command(url)
        .args(["-v", "ON_ERROR_STOP=1", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("psql does not start: {error}; install PostgreSQL's client programs")
        });
    let mut stdin = child.stdin.take().expect("stdin was piped");
    let feed = async move {
        // psql may have exited because of an error already; its own message then says more than a broken pipe.
        let _ = stdin.write_all(format!("{sql}\n;\n").as_bytes()).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output.unwrap_or_else(|error| panic!("psql cannot be waited for: {error}"));
    assert!(
        output.status.success(),
        "psql failed on {sql}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}
