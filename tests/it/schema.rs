//! Schemas: looked up, listed, and documents checked against them.

mod comparing;
mod looking;
mod validating;
