//! From the change log to subscribers.
//!
//! One tailer per process reads the log in pages and encodes each change once into a shared ring ([`Hub`]). A subscriber holds
//! a cursor and no buffer ([`Subscription`]): it is pulled by its transport, so a slow one is simply pulled less often. While
//! its cursor is in the ring it reads shared memory; once it has fallen off, it reads pages of the log until it is level
//! again, together with all that are at about the same place. What is put together for one is handed to all that stand there and
//! want the same. Nobody waits for a subscriber, and all memory is the ring's and that of a few pages and batches, which is bounded.
//!
//! Which processes watch, and what each of them has proven to have applied, is known to [`Nodes`].
//!
//! It is not the log: that is `store`'s. Nothing is ever delivered that was not read back from the database, so what a
//! subscriber has seen is durable, and every page proves that the history is still the one that was being followed.

mod batch;
mod error;
mod filter;
mod frame;
mod hub;
pub mod metric;
mod nodes;
mod publish;
mod replay;
mod revision;
mod ring;
mod subscription;
mod tailer;
mod values;

pub use error::{End, Error};
pub use filter::{Filter, Filters};
pub use hub::{Hub, Options, Position};
pub use nodes::{NewStream, NodeError, NodeOptions, NodeStream, Nodes, Report, Waited};
pub use publish::{FieldViolation, PublishLimits, check_publish};
pub use revision::{Revision, SharedChange};
pub use subscription::{
    Batch, Event, OnLost, Pace, ResetReason, Start, SubscribeOptions, Subscription,
};
pub use values::{Value, Values};
