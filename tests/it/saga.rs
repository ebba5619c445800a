//! Sagas, by the real program: as their users meet them, and whatever happens to it.

mod case;
mod cli;
mod drama;
mod following;
mod gate;
mod judge;
mod listing;
mod load;
mod many;
mod outage;
mod person;
mod python;
mod reach;
mod service;
mod sqlite_crash;
mod stage;
mod stopped;
mod stuck;
mod verbs;
mod versions;
