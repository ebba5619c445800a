//! The store's promises, on both engines.

mod history;
mod leases;
mod publishing;
