//! Sagas, by the real program, whatever happens to it.

mod judge;
mod load;
mod many;
mod outage;
mod sqlite_crash;
mod stopped;
mod stuck;
