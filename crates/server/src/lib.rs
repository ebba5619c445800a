//! The gRPC and HTTP edges, configuration, telemetry, schedules and wiring.

pub mod config;
