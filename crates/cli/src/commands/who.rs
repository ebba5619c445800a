//! Who decides something, and why.

use clap::Args;

/// What every decision of a person is kept with.
#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// Why; kept with what was decided
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Who; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

// === impl WhoArgs ===

impl WhoArgs {
    pub(crate) fn actor(&self) -> String {
        self.actor.clone().unwrap_or_else(user)
    }
}

/// Whoever uses this machine.
pub(crate) fn user() -> String {
    ["STEADFAST_ACTOR", "USER", "LOGNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
