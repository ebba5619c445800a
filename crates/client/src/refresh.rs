//! Following one refresh to its end, whatever happens to the server meanwhile.

use std::time::Duration;

use steadfast_api::registry::v1::{
    Refresh, RefreshItem, RefreshState, WatchRefreshRequest, WatchRefreshResponse,
    refresh_service_client::RefreshServiceClient,
};
use tokio::time::Instant;
use tonic::{Code, Streaming, transport::Channel};

use crate::{Connection, Error, watch::wait};

/// What a [`RefreshWatch`] delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum RefreshWatchEvent {
    /// The refresh as it is now, and what ended since the event before; no item comes twice.
    Moved {
        /// With its counts.
        refresh: Box<Refresh>,
        /// In the order in which they ended.
        items: Vec<RefreshItem>,
    },
    /// The stream was lost. The next call waits, and opens another one.
    Disconnected {
        /// Why.
        error: Error,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// A watch of one refresh that reconnects after its last item.
#[derive(Debug)]
pub struct RefreshWatch {
    client: RefreshServiceClient<Channel>,
    id: String,
    seen: i32,
    state: State,
    /// Losses since the last message.
    losses: u32,
}

#[derive(Debug)]
enum State {
    /// A stream is to be opened, not before this instant.
    Closed { until: Instant },
    /// A stream is open.
    Open(Box<Streaming<WatchRefreshResponse>>),
    /// The refresh has ended.
    Ended,
}

// === impl RefreshWatch ===

impl RefreshWatch {
    /// A watch of the refresh with this id, from its first item on; nothing is sent before the first [`RefreshWatch::next`].
    #[must_use]
    pub fn new(connection: &Connection, id: impl Into<String>) -> Self {
        Self {
            client: connection.refresh_streams(),
            id: id.into(),
            seen: 0,
            state: State::Closed {
                until: Instant::now(),
            },
            losses: 0,
        }
    }

    /// What happened next; `None` after the refresh has ended and everything was told. It may be dropped while it waits, and called
    /// again, without losing anything.
    ///
    /// # Errors
    /// What no repetition mends: there is no such refresh.
    pub async fn next(&mut self) -> Result<Option<RefreshWatchEvent>, Error> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Closed { until } => {
                    tokio::time::sleep_until(*until).await;
                    let request = WatchRefreshRequest {
                        id: self.id.clone(),
                        skip_items: self.seen,
                    };
                    match self.client.watch_refresh(request).await {
                        Ok(answer) => self.state = State::Open(Box::new(answer.into_inner())),
                        Err(status) => return self.lost(Error::from(status)).map(Some),
                    }
                }
                State::Open(stream) => {
                    let error = match stream.message().await {
                        Ok(Some(message)) => return Ok(Some(self.accept(message))),
                        Ok(None) => {
                            let message = "the server ended the stream before the refresh ended";
                            Error::local(Code::Unavailable, "STREAM_ENDED", message)
                        }
                        Err(status) => Error::from(status),
                    };
                    return self.lost(error).map(Some);
                }
            }
        }
    }

    fn accept(&mut self, message: WatchRefreshResponse) -> RefreshWatchEvent {
        let refresh = message.refresh.unwrap_or_default();
        self.losses = 0;
        self.seen = self
            .seen
            .saturating_add(i32::try_from(message.items.len()).unwrap_or(i32::MAX));
        // What came as the most that one message holds is followed by another one.
        if has_ended(&refresh) && message.items.len() < MAX_ITEMS {
            self.state = State::Ended;
        }
        RefreshWatchEvent::Moved {
            refresh: Box::new(refresh),
            items: message.items,
        }
    }

    fn lost(&mut self, error: Error) -> Result<RefreshWatchEvent, Error> {
        let retry_in = wait(self.losses, rand::random()).max(error.retry_after.unwrap_or_default());
        self.losses = self.losses.saturating_add(1);
        self.state = State::Closed {
            until: Instant::now() + retry_in,
        };
        if error.is_transient() {
            Ok(RefreshWatchEvent::Disconnected { error, retry_in })
        } else {
            Err(error)
        }
    }
}

/// The most items of one message, which the contract tells.
const MAX_ITEMS: usize = 1_000;

fn has_ended(refresh: &Refresh) -> bool {
    !matches!(
        refresh.state(),
        RefreshState::Unspecified | RefreshState::Queued | RefreshState::Running
    )
}
