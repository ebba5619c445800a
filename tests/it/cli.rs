//! The program itself: its configuration, its start, its refusals, and what it says about them.

mod about;
mod configuration;
mod reaching;
mod scheduling;
mod schema_version;
mod starting;
