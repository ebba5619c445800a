//! Packages and schemas: sources to store to in-memory snapshot.
