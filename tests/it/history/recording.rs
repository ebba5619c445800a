//! A watcher that writes down what it saw, message by message, for the judge.

use std::time::Duration;

use steadfast_client::{
    Cursor, Error,
    api::watch::v1::{
        Filter, OnCompacted, ResetReason, Start, WatchRequest, WatchResponse, start::Position,
        watch_response::Event as Message, watch_service_client::WatchServiceClient,
    },
    cursor_from_api, cursor_to_api,
};
use steadfast_testkit::history::{Event, Segment, StartAt, WatcherLog, key};
use steadfast_types::Revision;
use tokio::time::timeout;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::duration;

/// How long a watcher waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A watcher over all its connections. It does not use the client's own watch: that one puts split revisions together and
/// resumes by itself, and what is judged here is the server.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    start: StartAt,
    filters: Vec<(String, String)>,
    on_compacted: OnCompacted,
    cursor: Option<Cursor>,
    log: WatcherLog,
    resets: Vec<ResetReason>,
}

/// One of its connections. Dropping it is how the watcher dies.
#[derive(Debug)]
pub(crate) struct Recording<'a> {
    recorder: &'a mut Recorder,
    stream: Streaming<WatchResponse>,
}

// === impl Recorder ===

impl Recorder {
    /// A watcher of everything.
    pub(crate) fn new(name: impl Into<String>, start: StartAt) -> Self {
        Self {
            start,
            filters: Vec::new(),
            on_compacted: OnCompacted::Reset,
            cursor: match start {
                StartAt::After(cursor) => Some(cursor),
                StartAt::Earliest | StartAt::Now => None,
            },
            log: WatcherLog {
                name: name.into(),
                ..WatcherLog::default()
            },
            resets: Vec::new(),
        }
    }

    /// Of some topics only: an exact topic with a prefix of the key, or `…/*` with any key.
    pub(crate) fn filtered(mut self, filters: &[(&str, &str)]) -> Self {
        let owned = filters
            .iter()
            .map(|(topic, prefix)| ((*topic).into(), (*prefix).into()));
        self.filters = owned.collect();
        let prefixes = filters
            .iter()
            .map(|(topic, prefix)| match topic.strip_suffix('*') {
                Some(above) => above.to_owned(),
                None => format!("{topic}:{prefix}"),
            });
        self.log.prefixes = prefixes.collect();
        self
    }

    /// Wants an error, not a reset, where the history is gone.
    pub(crate) fn or_fail(mut self) -> Self {
        self.on_compacted = OnCompacted::Fail;
        self
    }

    /// Why it was told to reload, each time.
    pub(crate) fn resets(&self) -> &[ResetReason] {
        &self.resets
    }

    /// For the judge. `finished` says that it had time to see everything.
    pub(crate) fn into_log(mut self, finished: bool) -> WatcherLog {
        self.log.finished = finished;
        self.log
    }

    /// Connects to a server and asks for what comes after the last cursor.
    pub(crate) async fn open(&mut self, endpoint: &str) -> Result<Recording<'_>, Error> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .expect("a server's address is one")
            .connect()
            .await
            .map_err(|error| Error::from(tonic::Status::from_error(Box::new(error))))?;
        let start = self.cursor.map_or(self.start, StartAt::After);
        let stream = self.call(channel, start).await?;
        self.log.segments.push(Segment {
            start,
            events: Vec::new(),
        });
        Ok(Recording {
            recorder: self,
            stream,
        })
    }

    /// Connects and reads until the cursor is at the revision, then dies. It may be a long way in a long run.
    pub(crate) async fn catch_up(&mut self, endpoint: &str, to: Revision) -> Result<(), Error> {
        let name = self.log.name.clone();
        let patience = duration(PATIENCE, 10 * PATIENCE);
        let caught_up = async { self.open(endpoint).await?.until(to).await };
        timeout(patience, caught_up)
            .await
            .unwrap_or_else(|_| panic!("{name} did not reach revision {to} in {patience:?}"))
    }

    async fn call(
        &self,
        channel: Channel,
        start: StartAt,
    ) -> Result<Streaming<WatchResponse>, Error> {
        let position = match start {
            StartAt::After(cursor) => Position::After(cursor_to_api(cursor)),
            StartAt::Earliest => Position::Earliest(()),
            StartAt::Now => Position::Now(()),
        };
        let filters = self.filters.iter().map(|(topic, key_prefix)| Filter {
            topic: topic.clone(),
            key_prefix: key_prefix.clone(),
        });
        let request = WatchRequest {
            filters: filters.collect(),
            start: Some(Start {
                position: Some(position),
            }),
            on_compacted: self.on_compacted.into(),
            progress_interval: Duration::from_secs(1).try_into().ok(),
            ..WatchRequest::default()
        };
        let mut client = WatchServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Ok(client.watch(request).await?.into_inner())
    }

    fn take(&mut self, message: WatchResponse) -> Result<(), Error> {
        let message = message.event.expect("the server knows its own events");
        let event = match message {
            Message::Opened(opened) => {
                let head = cursor_from_api(opened.head)?;
                if self.start == StartAt::Now {
                    self.cursor.get_or_insert(head);
                }
                Event::Opened { head }
            }
            Message::Batch(batch) => {
                let cursor = cursor_from_api(batch.cursor)?;
                let at_earliest = batch.more && cursor.revision == Revision::ZERO;
                if self.cursor.is_some() || !at_earliest {
                    self.cursor = Some(cursor);
                }
                let named = |change: &steadfast_client::api::watch::v1::Change| {
                    let name = format!("{}:{}", change.topic, change.key);
                    (Revision(change.revision), key(&name))
                };
                Event::Batch {
                    changes: batch.changes.iter().map(named).collect(),
                    cursor,
                    more: batch.more,
                }
            }
            Message::Progress(progress) => {
                let cursor = cursor_from_api(progress.cursor)?;
                self.cursor = Some(cursor);
                Event::Progress { cursor }
            }
            Message::Reset(reset) => {
                self.resets.push(reset.reason());
                let head = cursor_from_api(reset.head)?;
                self.cursor = Some(head);
                Event::Reset { head }
            }
        };
        let segment = self.log.segments.last_mut();
        segment
            .expect("a segment is begun with each connection")
            .events
            .push(event);
        Ok(())
    }
}

// === impl Recording ===

impl Recording<'_> {
    /// Waits for the next message and writes it down.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        match self.stream.message().await? {
            Some(message) => self.recorder.take(message),
            None => Err(Error::from(tonic::Status::unavailable(
                "the stream ended without a reason",
            ))),
        }
    }

    /// Reads until the cursor is at the revision.
    pub(crate) async fn until(&mut self, to: Revision) -> Result<(), Error> {
        while self
            .recorder
            .cursor
            .is_none_or(|cursor| cursor.revision < to)
        {
            self.next().await?;
        }
        Ok(())
    }

    /// Reads until a reset.
    pub(crate) async fn until_reset(&mut self) -> Result<ResetReason, Error> {
        let before = self.recorder.resets.len();
        loop {
            if let Some(reason) = self.recorder.resets.get(before) {
                return Ok(*reason);
            }
            self.next().await?;
        }
    }
}
