//! `watch` and `publish`: the stream as its users meet it.

mod alone_slow;
mod draining;
mod filtering;
mod history;
mod publishing;
mod restarting;
mod returning;

use steadfast_client::{
    Connection, Error,
    api::{
        common::v1::Cursor,
        watch::v1::{
            Op, PublishRequest, WatchRequest, WatchResponse, publish_request::Change,
            watch_response::Event,
        },
    },
};
use tonic::Streaming;

/// An open stream.
async fn open(connection: &Connection, request: WatchRequest) -> Streaming<WatchResponse> {
    let answer = connection.watches().watch(request).await;
    answer.expect("the stream opens").into_inner()
}

/// What comes next.
pub(crate) async fn next(stream: &mut Streaming<WatchResponse>) -> Result<Event, Error> {
    let message = stream.message().await?.expect("the stream goes on");
    Ok(message.event.expect("every message has an event"))
}

pub(crate) fn change(topic: &str, key: &str) -> Change {
    Change {
        topic: topic.to_owned(),
        key: key.to_owned(),
        op: Op::Upsert.into(),
        ..Change::default()
    }
}

pub(crate) async fn publish(connection: &Connection, changes: Vec<Change>) -> Cursor {
    let request = PublishRequest {
        changes,
        ..PublishRequest::default()
    };
    let answer = connection
        .call(connection.watches().publish(request))
        .await
        .expect("it is published");
    answer.cursor.expect("a cursor")
}
