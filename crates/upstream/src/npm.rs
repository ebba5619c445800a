//! npm: where the registry is, what it says of a package, and what a version's tarball holds.

mod config;
mod integrity;
mod name;
mod npmrc;
mod packument;
mod registry;
mod tarball;

pub use config::{NpmConfig, Places, TarballHost};
pub use integrity::{Algorithm, Integrity, InvalidIntegrity};
pub use name::{InvalidName, PackageName};
pub use packument::{
    InvalidManifest, Manifest, Packument, PackumentWarning, Repository, VersionEntry,
};
pub use registry::{NpmRegistry, PackumentAnswer};
pub use tarball::{TarballFindings, TarballLimits};
