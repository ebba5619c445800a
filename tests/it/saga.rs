//! Sagas as their users meet them: through gRPC, the command line and other people's clients.

mod cli;
mod following;
mod gate;
mod listing;
mod python;
mod reach;
mod service;
mod stage;
mod stuck;
mod verbs;
mod versions;
