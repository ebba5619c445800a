//! Values that travel with changes.

use std::fmt;

use bytes::Bytes;
use steadfast_types::Cursor;
use tokio::sync::watch;

/// Bytes of one value at most. A larger one is left out: its reader looks it up.
pub(crate) const VALUE_BYTES: usize = 1 << 20;

/// What is in memory of the things that changes name.
pub trait Values: fmt::Debug + Send + Sync {
    /// How far memory reflects the log.
    fn reached(&self) -> watch::Receiver<Cursor>;

    /// The present value of a thing, as of [`Values::reached`] or later; none if it has none, or is of a kind that has no values.
    fn value(&self, topic: &str, key: &str) -> Option<Value>;
}

/// A value: the encoded answer of the lookup that reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The number of its field in the contract's `Value`.
    pub field: u32,
    /// The encoded message, in parts that follow each other.
    pub parts: [Bytes; 3],
}

// === impl Value ===

impl Value {
    /// Of the message, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}
