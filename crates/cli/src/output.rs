//! Writes results, as what they were asked for.

use std::io::{self, Write};

use serde_json::Value;

use crate::{args::Format, failure::Failure};

/// Standard output in the wanted format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

// === impl Output ===

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Writes one result; only the wanted form of it is made.
    pub(crate) fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.raw(&text()),
            Format::Json => self.raw(&format!("{:#}", json())),
        }
    }

    /// Writes text as it is, with a line end if it has none.
    pub(crate) fn raw(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
        Ok(())
    }
}

/// Tells people something that is no result.
pub(crate) fn note(text: &str) {
    // A note that nobody can read is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}
