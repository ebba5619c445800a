//! Packages, the configuration schemas they carry and their icons: from npm registries through the store into memory.
//!
//! # How it is built
//!
//! Decisions are pure and apart from their execution. [`specifier`] and [`range`] read what callers write; [`resolve`] chooses a
//! version; [`membership`] says which packages there are; [`plan`] compares, schedules and judges; [`validate`] checks documents and [`diff`] compares schemas. They take values and return values.
//!
//! A refresh reads registries ([`Source`]) and writes to the store: a transaction takes all packages that have been read, each that
//! changed with its change-log entry; unchanged packages move no revision; and one replica at a time does it, under a lease. Memory learns of it only from the log,
//! here as on every other replica: the follower reads log page, head and rows in one database snapshot and swaps in a new
//! [`Snapshot`]. [`Catalog`] answers from that: no lock, no database, no parsing, and answers encoded beforehand.
//!
//! Bytes of icons are apart from the snapshot, under their hash, and fetched for the fleet once if somebody asks before a refresh did.
//!
//! # What it is not
//!
//! It speaks no gRPC: it uses the contract's messages, and [`Error`] says what a caller can do about a failure; the server maps it
//! to codes. It opens no connection to a registry: `upstream` does, with its manners.

mod bundle;
mod bundle_flow;
mod bundle_line;
mod catalog;
mod compiled;
pub mod describe;
pub mod diff;
mod entry;
mod error;
mod executor;
mod field;
mod follow;
mod icon;
mod icon_bytes;
mod icon_fetch;
mod icon_reading;
mod json;
mod listing;
mod load;
mod local;
mod lookup;
pub mod membership;
pub mod metric;
mod options;
mod package;
mod packument;
mod pattern;
pub mod plan;
mod progress;
pub mod range;
mod reading;
mod refresh;
mod removal;
mod report;
pub mod resolve;
mod run;
mod schema;
mod schema_reading;
mod snapshot;
pub mod specifier;
pub mod validate;
mod values;
mod weigh;

pub use bundle::{BUNDLE_FORMAT, BundleError, BundleHeader};
pub use bundle_flow::{BundleFile, BundleSpool, CHUNK_BYTES, VerifiedBundle};
pub use catalog::{BatchResolution, Catalog, IconFile};
pub use entry::{PackageEntry, SchemaSlot};
pub use error::Error;
pub use icon::{IconEntry, IconManifest, IconSlot, Icons, PATH_HASH_LENGTH};
pub use json::{JsonError, JsonLimits};
pub use lookup::{FoundSchema, MAX_BATCH, MAX_PAGE_SIZE, MAX_QUERY_BYTES};
pub use options::{LocalSource, NpmSource, Options, Source, SourceKind};
pub use package::{PackageDocument, RepositoryDocument, VersionDocument};
pub use pattern::{InvalidPattern, Patterns};
pub use progress::{MAX_WATCHES, RefreshProgress, RefreshWatch};
pub use refresh::{Asker, MAX_ITEMS, MAX_REQUEST_ID_BYTES};
pub use schema::{Compiled, SCHEMA_LIMITS, Schema};
pub use snapshot::{CheckedTimes, Content, EncodedAnswer, Snapshot, Stamp};
