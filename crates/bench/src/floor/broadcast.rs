//! A bare tonic server that hands everyone the same bytes: a broadcast channel of tokio, and no database.
//!
//! Its Watch sends the messages that it was started with, and then what is published; its Publish takes an encoded
//! `WatchResponse`, hands it to the channel and answers. Nothing is filtered, kept, numbered or made durable.

use std::{
    fs,
    future::{Ready, ready},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes};
use clap::Args;
use futures::stream;
use prost::Message as _;
use steadfast_api::{common::v1::Cursor, watch::v1::PublishResponse};
use steadfast_testkit::BytesCodec;
use tokio::sync::broadcast;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, ServerStreamingService, UnaryService},
};

use super::bare::{self, Answer, Calls};
use crate::{
    announce::{PUBLISH, WATCH},
    error::Error,
    program::Settings,
};

/// More than are ever under way.
const CHANNEL: usize = 4_096;

/// How a broadcast is started.
#[derive(Debug, Args)]
pub(crate) struct BroadcastArgs {
    #[command(flatten)]
    settings: Settings,
    /// What each stream begins with, each message after its length
    #[arg(long)]
    messages: PathBuf,
}

/// The service.
#[derive(Clone)]
struct Broadcast {
    first: Arc<Vec<Bytes>>,
    sender: broadcast::Sender<Bytes>,
    answer: Bytes,
}

/// The file of messages that each stream begins with.
pub(crate) fn messages_file(messages: &[Bytes]) -> Vec<u8> {
    let mut file = Vec::new();
    for message in messages {
        file.put_u32(message.len() as u32);
        file.put_slice(message);
    }
    file
}

fn read_messages(mut file: Bytes) -> Result<Vec<Bytes>, Error> {
    let mut messages = Vec::new();
    while let Ok(length) = file.try_get_u32() {
        let length = length as usize;
        if length > file.len() {
            return Err(Error::Unexpected("the messages are cut off".to_owned()));
        }
        messages.push(file.split_to(length));
    }
    Ok(messages)
}

/// Serves until the bench goes away.
pub(super) async fn serve(args: &BroadcastArgs) -> Result<(), Error> {
    let file = fs::read(&args.messages).map_err(Error::io("reading the messages"))?;
    let broadcast = Broadcast {
        first: Arc::new(read_messages(file.into())?),
        sender: broadcast::Sender::new(CHANNEL),
        // As long as a real one.
        answer: PublishResponse {
            cursor: Some(Cursor {
                store_id: "0".repeat(36),
                revision: 1 << 14,
                mark: u64::MAX,
            }),
            replayed: false,
        }
        .encode_to_vec()
        .into(),
    };
    bare::serve(broadcast, &args.settings).await
}

// === impl Broadcast ===

impl Calls for Broadcast {
    const NAME: &'static str = "steadfast.watch.v1.WatchService";

    fn answer(self, request: http::Request<Body>) -> Option<Answer> {
        let mut grpc = Grpc::new(BytesCodec);
        match request.uri().path() {
            WATCH => Some(Box::pin(async move {
                grpc.server_streaming(self, request).await
            })),
            PUBLISH => Some(Box::pin(async move { grpc.unary(self, request).await })),
            _ => None,
        }
    }
}

impl ServerStreamingService<Bytes> for Broadcast {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn futures::Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let began = (Arc::clone(&self.first), 0, self.sender.subscribe());
        let stream = stream::unfold(began, |(first, sent, mut live)| async move {
            if let Some(message) = first.get(sent) {
                return Some((Ok(message.clone()), (first, sent + 1, live)));
            }
            let message = match live.recv().await {
                Ok(message) => Ok(message),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(lost @ broadcast::error::RecvError::Lagged(_)) => {
                    Err(Status::data_loss(lost.to_string()))
                }
            };
            Some((message, (first, sent, live)))
        });
        ready(Ok(Response::new(Box::pin(stream))))
    }
}

impl UnaryService<Bytes> for Broadcast {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        // An error says that nobody listens.
        let _listeners = self.sender.send(request.into_inner());
        ready(Ok(Response::new(self.answer.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_file() {
        let messages = [
            Bytes::from_static(b"abc"),
            Bytes::new(),
            vec![7; 300].into(),
        ];
        let file = Bytes::from(messages_file(&messages));
        assert_eq!(read_messages(file.clone()).unwrap(), messages);
        assert!(read_messages(file.slice(..file.len() - 1)).is_err());
    }
}
