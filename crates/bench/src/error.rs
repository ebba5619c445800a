//! Why nothing could be measured.

use std::{io, path::PathBuf};

/// An error of the bench. `Display` names the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{} is missing: build the server with `cargo build --release -p steadfast-cli`, or name its program with `--bin`",
        path.display()
    )]
    ProgramMissing { path: PathBuf },
    #[error(
        "{} was built without optimisation: build the server with `cargo build --release -p steadfast-cli`, and name it with `--bin` or unset STEADFAST_BIN",
        path.display()
    )]
    ProgramUnoptimised { path: PathBuf },
    #[error(
        "this program was built without optimisation, so the floors would be too slow: use `cargo run --release -p steadfast-bench`"
    )]
    Unoptimised,
    #[error(
        "{wanted} files must be open at once, and the machine permits {hard}: raise the hard limit (`ulimit -Hn`; with systemd LimitNOFILE), then `ulimit -n {wanted}`"
    )]
    OpenFiles { wanted: u64, hard: u64 },
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error("a connection to {address} was not made: {source}")]
    Connect {
        address: String,
        source: tonic::transport::Error,
    },
    #[error("a floor's server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("a call failed: {} {}", .0.code(), .0.message())]
    Call(Box<tonic::Status>),
    #[error("database: {0}")]
    Store(#[from] steadfast_store::Error),
    /// What was measured is not what should have been measured.
    #[error("{0}")]
    Unexpected(String),
}

// === impl Error ===

impl Error {
    /// For `map_err`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}
