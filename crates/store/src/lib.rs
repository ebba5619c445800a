//! The one crate that knows the database: engine, change log, leases and one file per aggregate.
