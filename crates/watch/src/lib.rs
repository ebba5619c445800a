//! Change log to ring to subscribers.
