//! The configuration: embedded defaults, then a file, then environment variables, then flags.
//!
//! It is read once, before a port is bound, and handed around as values; nothing else in the project reads the
//! environment for settings. `default.toml` is the one list of keys, defaults and explanations: a key that it does not name
//! is unknown, and the type of its default is the type of the key.
//!
//! The usual deserialisers stop at the first mistake, and forget where a value came from. So this is a pass of its own, in
//! two steps: `layers` merges the four layers into a flat map of settings that remember their origin, and `reader` turns
//! them into the typed sections. Both collect every mistake, and the caller gets all of them at once, each with what was
//! found, what is allowed and what to do.

mod blocks;
mod catalog;
mod drift;
mod error;
mod inventory;
mod layers;
mod print;
mod reader;
mod sections;
mod source;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::path::{Path, PathBuf};

pub use catalog::{Catalog, Schedule};
pub use drift::Drift;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use inventory::{InventorySource, InventorySourceKind};
use layers::Layers;
pub use print::init_file;
use reader::Reader;
pub use sections::{Database, Lease, Limits, LogFormat, Saga, Server, Telemetry, Upstream, Watch};
pub use source::{NpmSource, Source, SourceKind};
pub use url::DatabaseUrl;

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "steadfast.toml";

/// What variables begin with.
const ENV_PREFIX: &str = "STEADFAST_";

/// The defaults, with their explanations.
const DEFAULTS: &str = include_str!("default.toml");

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept.
    pub database: Database,
    /// Where callers reach it.
    pub server: Server,
    /// What callers may ask for.
    pub limits: Limits,
    /// The change stream.
    pub watch: Watch,
    /// Packages and refreshes.
    pub catalog: Catalog,
    /// Manners towards registries.
    pub upstream: Upstream,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// What the steps of sagas may do.
    pub saga: Saga,
    /// What was asked for against what is there.
    pub drift: Drift,
    /// Leases.
    pub lease: Lease,
    file: Option<PathBuf>,
    settings: layers::Settings,
}

/// Where to read from, above the defaults.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The file; `None` for none. [`default_file`] finds the usual one.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `STEADFAST_` are ignored.
    pub env: Vec<(String, String)>,
    /// Flags, as `section.key` and value.
    pub flags: Vec<(String, String)>,
}

// === impl LoadOptions ===

impl LoadOptions {
    /// Reads this process's environment, and the named file or else the usual one.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                // A value that is not Unicode is passed on in a form that validation shows and refuses.
                name.starts_with(ENV_PREFIX)
                    .then(|| (name, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self {
            file: file.or_else(default_file),
            env,
            flags,
        }
    }
}

// === impl Config ===

impl Config {
    /// Merges the layers and validates the whole.
    ///
    /// # Errors
    /// With every mistake that was found.
    pub fn load(options: LoadOptions) -> Result<Self, ConfigErrors> {
        let mut layers = Layers::defaults();
        if let Some(path) = &options.file {
            layers.read_file(path);
        }
        layers.add_env(options.env);
        layers.add_flags(options.flags);
        let mut reader = Reader::new(layers);
        let config = Self::read(&mut reader);
        let (settings, mut errors) = reader.finish();
        if errors.is_empty() {
            Ok(Self {
                file: options.file,
                settings,
                ..config
            })
        } else {
            errors.sort_by_key(ConfigError::order);
            Err(ConfigErrors(errors))
        }
    }

    /// The settings in force as a TOML file with the origin of each; no secret is shown.
    #[must_use]
    pub fn print(&self) -> String {
        print::print(&self.settings)
    }

    /// The file that was read, if any.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn read(reader: &mut Reader) -> Self {
        let config = Self {
            database: Database::read(reader),
            server: Server::read(reader),
            limits: Limits::read(reader),
            watch: Watch::read(reader),
            catalog: Catalog::read(reader),
            upstream: Upstream::read(reader),
            telemetry: Telemetry::read(reader),
            saga: Saga::read(reader),
            drift: Drift::read(reader),
            lease: Lease::read(reader),
            file: None,
            settings: layers::Settings::new(),
        };
        if config.limits.document_max_bytes >= config.limits.max_message_bytes {
            reader.refuse(
                "limits.document_max_bytes",
                format!(
                    "less than limits.max_message_bytes, which is {}: a document travels in a message",
                    config.limits.max_message_bytes
                ),
                "raise limits.max_message_bytes or lower this",
            );
        }
        config
    }
}

/// `./steadfast.toml`, if it exists.
#[must_use]
pub fn default_file() -> Option<PathBuf> {
    let path = PathBuf::from(DEFAULT_FILE);
    path.exists().then_some(path)
}
