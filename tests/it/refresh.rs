//! `refresh`: what it prints, what it fetches, and what it leaves alone.

mod asking;
mod failing;
mod progress;
mod unchanged;
