//! `refresh`: what it prints, what it fetches, and what it leaves alone.

mod asking;
mod failing;
mod progress;
mod resuming;
mod steering;
mod tokens;
mod unchanged;
