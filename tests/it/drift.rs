//! Resources, their drifts and policies, by the real program.

mod cli;
mod failing;
mod hiding;
mod holding;
mod killed;
mod life;
mod python;
mod refusing;
mod secrets;
mod source;
mod stage;
mod watching;
