//! The gRPC and HTTP edges, configuration, telemetry, schedules and wiring.
//!
//! [`run`] is the whole life of a replica: telemetry, database, memory, ports, work, and the way out. What it serves is in
//! `grpc` and `http`; what it does by itself is in `schedule`, `maintenance`, `inventories` and the executors of the catalogue and of
//! sagas; what the steps of sagas can do here is in `actions`.

mod actions;
pub mod config;
mod grpc;
mod health;
mod http;
mod inventories;
mod life;
mod maintenance;
pub mod metric;
mod schedule;
mod sources;
mod telemetry;

pub use grpc::Error as GrpcError;
pub use inventories::SourceError;
pub use life::{Error, RunOptions, migrate, run};
pub use steadfast_store::{MigrateReport, schema_version};
pub use telemetry::{Error as TelemetryError, Telemetry};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
