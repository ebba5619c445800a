//! Packages from the folders of a monorepo: real files, watched by the real program.

mod coexisting;
mod leasing;
mod monorepo;
mod refreshing;
mod serving;
mod stage;
