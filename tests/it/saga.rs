//! Sagas as their users meet them: through gRPC, the command line and other people's clients.

mod cli;
mod following;
mod gate;
mod listing;
mod person;
mod python;
mod reach;
mod service;
mod stage;
mod verbs;
mod versions;
