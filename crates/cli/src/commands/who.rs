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
    /// A decision is kept with its author, so it needs one.
    pub(crate) fn actor(&self) -> String {
        actor(self.actor.clone())
    }
}

/// The name that was given, or whoever uses this machine.
pub(crate) fn actor(given: Option<String>) -> String {
    given.or_else(user).unwrap_or_else(|| "unknown".to_owned())
}

/// Whoever uses this machine, if it says so.
pub(crate) fn user() -> Option<String> {
    ["STEADFAST_ACTOR", "USER", "LOGNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty())
}
