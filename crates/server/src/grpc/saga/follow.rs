//! WatchSaga: one saga's events, those of the past and those to come.
//!
//! The events come from the database; the change log only tells that there are new ones. It is subscribed to before the first
//! read, so that nothing falls between the two.

use std::{collections::VecDeque, time::Duration};

use futures::{Stream, stream};
use steadfast_api::saga::v1::{self as api, watch_saga_response::Message};
use steadfast_watch::{Event, Filters, OnLost, Pace, Start, SubscribeOptions, Subscription};
use tonic::Status;

use super::{EVENT_ROWS, SagaEdge, message};
use crate::grpc::status;

/// The topic of sagas in the change log.
const TOPIC: &str = "saga";
/// Progress of the log is of no interest here: the longest pause there is.
const PROGRESS: Duration = Duration::from_secs(600);

/// An open stream.
pub(super) struct Follow {
    edge: SagaEdge,
    id: String,
    after: i64,
    subscription: Subscription,
    /// What is yet to be sent.
    ready: VecDeque<Message>,
    /// Its end was seen: what has been read is all there will be.
    ended: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There may be more events in the database.
    Reading,
    /// All were read; the log will tell of others.
    Waiting,
    /// Everything was said.
    Closed,
}

// === impl Follow ===

impl Follow {
    /// Subscribes, and reads the saga as it is.
    pub(super) async fn open(edge: SagaEdge, id: String, after: i64) -> Result<Self, Status> {
        let filters = Filters::parse([(TOPIC, id.as_str())])
            .map_err(|error| status::of_watch(&error, Duration::ZERO))?;
        let options = SubscribeOptions {
            filters,
            start: Start::Now,
            on_lost: OnLost::Reset,
            pace: Pace::Every(PROGRESS),
            incarnation: String::new(),
            suppress_own: false,
            values: None,
        };
        let subscription = edge
            .hub
            .subscribe(options)
            .await
            .map_err(|error| status::of_watch(&error, edge.jitter()))?;
        let view = edge.get(&id).await?;
        Ok(Self {
            ready: VecDeque::from([Message::Opened(message::saga(&view))]),
            ended: view.saga.state.has_ended(),
            stage: Stage::Reading,
            edge,
            id,
            after,
            subscription,
        })
    }

    pub(super) fn into_stream(
        self,
    ) -> impl Stream<Item = Result<api::WatchSagaResponse, Status>> + Send + 'static {
        stream::unfold(self, |mut follow| async move {
            let message = match follow.next().await {
                Ok(Some(message)) => Ok(api::WatchSagaResponse {
                    message: Some(message),
                }),
                Ok(None) => return None,
                Err(status) => {
                    follow.stage = Stage::Closed;
                    Err(status)
                }
            };
            Some((message, follow))
        })
    }

    async fn next(&mut self) -> Result<Option<Message>, Status> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            match self.stage {
                Stage::Reading => self.read().await?,
                Stage::Waiting => self.wait().await?,
                Stage::Closed => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> Result<(), Status> {
        let events = self.edge.events(&self.id, self.after, EVENT_ROWS).await?;
        if let Some(last) = events.last() {
            self.after = last.seq;
            let messages = events.iter().map(message::event);
            self.ready.extend(messages.map(Message::Event));
            let end = api::SagaEventKind::Ended;
            self.ended |= events
                .iter()
                .any(|event| message::event_kind(&event.kind) == end);
            return Ok(());
        }
        if self.ended {
            let view = self.edge.get(&self.id).await?;
            self.ready.push_back(Message::Ended(message::saga(&view)));
            self.stage = Stage::Closed;
        } else {
            self.stage = Stage::Waiting;
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Status> {
        match self.subscription.next().await {
            // After a reset anything may have happened.
            Ok(Event::Batch(_) | Event::Reset { .. }) => self.stage = Stage::Reading,
            Ok(Event::Opened { .. } | Event::Progress(_)) => {}
            Err(end) => return Err(status::of_end(end, self.edge.jitter())),
        }
        Ok(())
    }
}
