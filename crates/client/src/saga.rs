//! Following one saga to its end, whatever happens to the server meanwhile.

use std::time::Duration;

use steadfast_api::saga::v1::{
    Saga, SagaEvent, WatchSagaRequest, WatchSagaResponse, saga_service_client::SagaServiceClient,
    watch_saga_response::Message,
};
use tokio::time::Instant;
use tonic::{Code, Streaming, transport::Channel};

use crate::{Connection, Error, watch::wait};

/// A stream that lived this long was healthy: the next loss is a new one, and waits begin anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// What a [`SagaWatch`] delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum SagaWatchEvent {
    /// A stream is open, the first or another one: the saga as it is at that moment.
    Opened(Box<Saga>),
    /// Something happened; in order, and nothing comes twice.
    Event(Box<SagaEvent>),
    /// The saga has ended, and this is how. The last event.
    Ended(Box<Saga>),
    /// The stream was lost. The next call waits, and opens another one.
    Disconnected {
        /// Why.
        error: Error,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// A watch of one saga that reconnects after its last event.
#[derive(Debug)]
pub struct SagaWatch {
    client: SagaServiceClient<Channel>,
    id: String,
    after_seq: i64,
    state: State,
    /// Losses since the last healthy stream.
    losses: u32,
}

#[derive(Debug)]
enum State {
    /// A stream is to be opened, not before this instant.
    Closed { until: Instant },
    /// A stream is open.
    Open {
        stream: Box<Streaming<WatchSagaResponse>>,
        since: Instant,
    },
    /// The saga has ended.
    Ended,
}

// === impl SagaWatch ===

impl SagaWatch {
    /// A watch of the saga with this id, from the first event after `after_seq` on; nothing is sent before the first
    /// [`SagaWatch::next`].
    #[must_use]
    pub fn new(connection: &Connection, id: impl Into<String>, after_seq: i64) -> Self {
        Self {
            client: connection.saga_streams(),
            id: id.into(),
            after_seq,
            state: State::Closed {
                until: Instant::now(),
            },
            losses: 0,
        }
    }

    /// The number of the last event that was delivered.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.after_seq
    }

    /// The next event; `None` after [`SagaWatchEvent::Ended`]. It may be dropped while it waits, and called again, without
    /// losing anything.
    ///
    /// # Errors
    /// What no repetition mends: there is no such saga.
    pub async fn next(&mut self) -> Result<Option<SagaWatchEvent>, Error> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Closed { until } => {
                    tokio::time::sleep_until(*until).await;
                    let request = WatchSagaRequest {
                        id: self.id.clone(),
                        after_seq: self.after_seq,
                    };
                    match self.client.watch_saga(request).await {
                        Ok(answer) => {
                            self.state = State::Open {
                                stream: Box::new(answer.into_inner()),
                                since: Instant::now(),
                            };
                        }
                        Err(status) => {
                            return self.lost(Error::from(status), Duration::ZERO).map(Some);
                        }
                    }
                }
                State::Open { stream, since } => {
                    let lived = since.elapsed();
                    let error = match stream.message().await {
                        Ok(Some(message)) => {
                            if let Some(event) = self.accept(message) {
                                return Ok(Some(event));
                            }
                            continue;
                        }
                        Ok(None) => {
                            let message = "the server ended the stream before the saga ended";
                            Error::local(Code::Unavailable, "STREAM_ENDED", message)
                        }
                        Err(status) => Error::from(status),
                    };
                    return self.lost(error, lived).map(Some);
                }
            }
        }
    }

    fn accept(&mut self, message: WatchSagaResponse) -> Option<SagaWatchEvent> {
        // A message that a newer server knows says nothing to this client.
        Some(match message.message? {
            Message::Opened(saga) => SagaWatchEvent::Opened(Box::new(saga)),
            Message::Event(event) => {
                self.after_seq = event.seq;
                SagaWatchEvent::Event(Box::new(event))
            }
            Message::Ended(saga) => {
                self.state = State::Ended;
                SagaWatchEvent::Ended(Box::new(saga))
            }
        })
    }

    fn lost(&mut self, error: Error, lived: Duration) -> Result<SagaWatchEvent, Error> {
        if lived >= HEALTHY {
            self.losses = 0;
        }
        let retry_in = wait(self.losses, rand::random()).max(error.retry_after.unwrap_or_default());
        self.losses = self.losses.saturating_add(1);
        self.state = State::Closed {
            until: Instant::now() + retry_in,
        };
        if error.is_transient() {
            Ok(SagaWatchEvent::Disconnected { error, retry_in })
        } else {
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        convert::Infallible,
        sync::{Arc, Mutex},
        task::{Context, Poll},
    };

    use futures::{StreamExt, stream::BoxStream};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{
        Request, Response, Status,
        body::Body,
        server::{Grpc, NamedService, ServerStreamingService},
        transport::Server,
    };
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::connect;

    type Script = Vec<Result<Message, Status>>;

    /// Plays one script for each stream, and keeps the requests.
    #[derive(Clone, Default)]
    struct Player {
        scripts: Arc<Mutex<VecDeque<Script>>>,
        requests: Arc<Mutex<Vec<WatchSagaRequest>>>,
    }

    impl ServerStreamingService<WatchSagaRequest> for Player {
        type Response = WatchSagaResponse;
        type ResponseStream = BoxStream<'static, Result<WatchSagaResponse, Status>>;
        type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

        fn call(&mut self, request: Request<WatchSagaRequest>) -> Self::Future {
            let mut requests = self.requests.lock().expect("no panic");
            requests.push(request.into_inner());
            let script = self.scripts.lock().expect("no panic").pop_front();
            std::future::ready(match script {
                None => Err(Status::unimplemented("the play is over")),
                Some(script) => {
                    let messages = script.into_iter().map(|message| {
                        message.map(|message| WatchSagaResponse {
                            message: Some(message),
                        })
                    });
                    Ok(Response::new(futures::stream::iter(messages).boxed()))
                }
            })
        }
    }

    impl NamedService for Player {
        const NAME: &'static str = "steadfast.saga.v1.SagaService";
    }

    impl tower::Service<http::Request<Body>> for Player {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = futures::future::BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let player = self.clone();
            Box::pin(async move {
                let codec =
                    tonic_prost::ProstCodec::<WatchSagaResponse, WatchSagaRequest>::default();
                Ok(Grpc::new(codec).server_streaming(player, request).await)
            })
        }
    }

    async fn play(scripts: Vec<Script>) -> (Player, SagaWatch) {
        let player = Player {
            scripts: Arc::new(Mutex::new(scripts.into())),
            requests: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Server::builder().add_service(player.clone());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let connection = connect(&address.to_string(), Duration::from_secs(10))
            .await
            .expect("it listens");
        (player, SagaWatch::new(&connection, "s", 0))
    }

    fn opened() -> Result<Message, Status> {
        Ok(Message::Opened(Saga::default()))
    }

    fn event(seq: i64) -> Result<Message, Status> {
        Ok(Message::Event(SagaEvent {
            seq,
            ..SagaEvent::default()
        }))
    }

    fn ended() -> Result<Message, Status> {
        Ok(Message::Ended(Saga::default()))
    }

    fn draining() -> Result<Message, Status> {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(1)));
        Err(Status::with_error_details(
            Code::Unavailable,
            "draining",
            details,
        ))
    }

    async fn told(watch: &mut SagaWatch) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = watch.next().await.expect("nothing that lasts") {
            told.push(match event {
                SagaWatchEvent::Opened(_) => "opened".to_owned(),
                SagaWatchEvent::Event(event) => event.seq.to_string(),
                SagaWatchEvent::Ended(_) => "ended".to_owned(),
                SagaWatchEvent::Disconnected { .. } => "lost".to_owned(),
            });
        }
        told
    }

    #[tokio::test]
    async fn a_lost_stream_goes_on_after_its_last_event() {
        let scripts = vec![
            vec![opened(), event(1), event(2), draining()],
            // Ends without a reason.
            vec![opened(), event(3)],
            vec![opened(), event(4), ended()],
        ];
        let (player, mut watch) = play(scripts).await;
        assert_eq!(
            told(&mut watch).await,
            [
                "opened", "1", "2", "lost", "opened", "3", "lost", "opened", "4", "ended"
            ]
        );
        assert_eq!(watch.seq(), 4);
        let requests = player.requests.lock().expect("no panic");
        let after: Vec<_> = requests.iter().map(|request| request.after_seq).collect();
        assert_eq!(after, [0, 2, 3]);
    }

    #[tokio::test]
    async fn what_no_repetition_mends_is_an_error() {
        let (_, mut watch) = play(vec![vec![Err(Status::not_found("no such saga"))]]).await;
        let error = watch.next().await.expect_err("it is not there");
        assert_eq!(error.code, Code::NotFound);
    }
}
