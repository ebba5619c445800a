//! Schemas: looked up, listed, and documents checked against them.

mod looking;
mod validating;
