//! Nodes: who watches, what each has applied, and waiting for it.

mod cli;
mod leaving;
mod proving;
mod python;
mod refusing;
mod stage;
