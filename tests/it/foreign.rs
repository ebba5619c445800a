//! Programs that other people wrote can do everything, knowing the address only.

mod health;
mod python;
mod readme;
