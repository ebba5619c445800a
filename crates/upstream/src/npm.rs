//! npm: where the registry is, what it says of a package, and what a version's tarball holds.

mod config;
mod integrity;
mod name;
mod names;
mod npmrc;
mod packument;
mod registry;
mod tarball;
mod template;

pub use config::{NpmConfig, Places, TarballHost};
pub use integrity::{Algorithm, Integrity, InvalidIntegrity};
pub use name::{InvalidName, PackageName};
pub use names::ListedNames;
pub use packument::{
    InvalidManifest, Manifest, Packument, PackumentWarning, Repository, VersionEntry,
};
pub use registry::{NpmRegistry, PackumentAnswer};
pub use tarball::{TarballFindings, TarballLimits};
pub use template::{InvalidTemplate, UrlTemplate};
