//! What is wrong with a configuration, said so that it can be mended without reading code.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The embedded defaults.
    Default,
    /// A line of a file, counted from 1.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line of the value.
        line: usize,
    },
    /// The environment variable of this name.
    Env(String),
    /// A flag.
    Flag,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `section.key`, or the name of what could not be read.
    pub path: String,
    /// Where it was found.
    pub origin: Origin,
    /// What was found; never a secret.
    pub found: String,
    /// What would be accepted.
    pub allowed: String,
    /// What to do.
    pub remedy: String,
}

/// Every mistake of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Env(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// Sorts by origin, so that mistakes of a file come in the order of its lines.
    pub(super) fn order(&self) -> (Origin, String) {
        (self.origin.clone(), self.path.clone())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.path, self.origin)?;
        writeln!(f, "    found:   {}", self.found)?;
        writeln!(f, "    allowed: {}", self.allowed)?;
        write!(f, "    remedy:  {}", self.remedy)
    }
}

// === impl ConfigErrors ===

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let mistakes = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "the configuration has {count} {mistakes}")?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}
