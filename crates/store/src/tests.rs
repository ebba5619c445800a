//! The store's promises, on both engines.

mod drifts;
mod faults;
mod history;
mod icons;
mod leases;
mod nodes;
mod plans;
mod publishing;
mod saga_batches;
mod sagas;
