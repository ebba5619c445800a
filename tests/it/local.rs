//! Packages from the folders of a monorepo: real files, watched by the real program.

mod coexisting;
mod leasing;
pub(crate) mod monorepo;
mod refreshing;
mod serving;
pub(crate) mod stage;
