//! Ids, revisions, cursors, times, back-off and page tokens: values without IO.
//!
//! Whatever two crates exchange and neither owns lives here, as newtypes, so that a fence cannot be passed where a revision is
//! meant. Nothing here touches a network, a file or a database; the clock in [`Timestamp::now`] is the one exception, and is
//! never compared with another machine's.

mod backoff;
mod cursor;
mod page;
mod replica;
mod time;

pub use backoff::Backoff;
pub use cursor::{Cursor, Mark, ParseCursorError, Revision, StoreId};
pub use page::{InvalidPageToken, PageToken};
pub use replica::{Fence, ReplicaId};
pub use time::Timestamp;
