//! The catalogue on real databases and a real registry over TCP: sources, refreshes, replicas, faults, lookups.

mod faults;
mod fixture;
mod folders;
mod hostile;
mod icons;
mod icons_again;
mod lookups;
mod refreshes;
mod replicas;
mod snapshots;
mod sources;
mod steering;
mod takeovers;
