//! For tests only: databases, a real server process, an npm registry and a server of effects on loopback, and fault plans.
//!
//! Everything here is a real thing in small: PostgreSQL itself behind a private socket, the released binary as a process
//! that can be killed, a registry that answers over TCP and lies on command. Nothing is a mock, and nothing in this crate
//! shares code with what it tests: it links neither the database driver nor the HTTP client nor the server. What a test needs
//! and does not find is a panic that names the remedy, never a silent skip.

mod codec;
pub mod effects;
pub mod foreign;
pub mod history;
pub mod listing;
pub mod npm;
pub mod otlp;
pub mod postgres;
pub mod process;
pub mod proxy;

pub use codec::BytesCodec;
pub use effects::EffectServer;
pub use listing::{ListingAnswer, ListingRequest, ListingServer};
pub use npm::{Fault, NpmServer, PackageSpec, Times, VersionSpec};
pub use postgres::{
    ClusterOptions, PgBouncer, PoolMode, PrivateCluster, PsqlSession, StopMode, TestDatabase,
};
pub use process::{CommandOutput, RunningCommand, Server, Signal, steadfast};
pub use proxy::{Proxy, Target};

/// Whether the long forms of tests were asked for, with `tests/run --long`. A test that has one runs longer then; none is left
/// out otherwise.
#[must_use]
pub fn long_runs() -> bool {
    std::env::var_os("STEADFAST_LONG").is_some()
}
