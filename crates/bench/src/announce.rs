//! Who publishes: to the server, or the same bytes as the server would send to the floor that hands them on.

use std::{
    collections::HashMap,
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use steadfast_api::{
    common::v1::Cursor,
    watch::v1::{
        self as api, Op, PublishRequest, PublishResponse, WatchRequest, publish_request,
        watch_response::Event, watch_service_client::WatchServiceClient,
    },
};
use tokio::time::{sleep_until, timeout};
use tonic::{client::Grpc, transport::Channel};

use crate::{
    crowd::{Crowd, Stamp, now},
    error::Error,
    load,
};

pub(crate) const WATCH: &str = "/steadfast.watch.v1.WatchService/Watch";
pub(crate) const PUBLISH: &str = "/steadfast.watch.v1.WatchService/Publish";

/// How long nothing may happen while something is under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher with one connection.
pub(crate) struct Announcer {
    grpc: Grpc<Channel>,
    form: Form,
    /// Bytes of a payload.
    payload: usize,
    next: u64,
}

/// What is sent.
enum Form {
    /// A request to publish.
    Server,
    /// A whole answer of the server's, in which the payload is replaced.
    Floor(api::WatchResponse),
}

/// What is under way: which publications are not both answered and received by all.
type Halves = HashMap<u64, u8>;

// === impl Announcer ===

impl Announcer {
    /// Publishes to a server, with payloads of so many bytes.
    pub(crate) async fn to_server(address: &str, payload: usize) -> Result<Self, Error> {
        Self::new(address, payload, Form::Server).await
    }

    /// Publishes to a floor what a server has sent.
    pub(crate) async fn to_floor(
        address: &str,
        payload: usize,
        sample: api::WatchResponse,
    ) -> Result<Self, Error> {
        Self::new(address, payload, Form::Floor(sample)).await
    }

    async fn new(address: &str, payload: usize, form: Form) -> Result<Self, Error> {
        Ok(Self {
            grpc: Grpc::new(load::connect(address).await?),
            form,
            payload,
            next: 0,
        })
    }

    /// Keeps so many publications under way for the window. One ends when it is answered and all subscribers have it.
    pub(crate) async fn closed(
        &mut self,
        crowd: &mut Crowd,
        in_flight: usize,
        window: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + window;
        let mut calls = FuturesUnordered::new();
        let mut halves = Halves::new();
        loop {
            while halves.len() < in_flight && Instant::now() < end {
                let (number, call) = self.publish();
                halves.insert(number, 2);
                calls.push(call);
            }
            if halves.is_empty() {
                return Ok(());
            }
            let number = timeout(PATIENCE, async {
                tokio::select! {
                    Some(answered) = calls.next() => answered,
                    complete = crowd.complete() => complete,
                }
            });
            halve(&mut halves, number.await.map_err(lost)??);
        }
    }

    /// Publishes so often per second, whatever becomes of it, for the window; then waits for what is under way.
    pub(crate) async fn open_loop(
        &mut self,
        crowd: &mut Crowd,
        per_second: u32,
        window: Duration,
    ) -> Result<(), Error> {
        let mut next = Instant::now();
        let end = next + window;
        let mut calls = FuturesUnordered::new();
        let mut halves = Halves::new();
        loop {
            let number = tokio::select! {
                () = sleep_until(next.into()), if next < end => {
                    next += Duration::from_secs(1) / per_second;
                    let (number, call) = self.publish();
                    halves.insert(number, 2);
                    calls.push(call);
                    continue;
                }
                Some(answered) = calls.next() => answered?,
                complete = crowd.complete(), if !halves.is_empty() => complete?,
                () = tokio::time::sleep(PATIENCE), if !halves.is_empty() => {
                    return Err(lost(halves.len()));
                }
                else => return Ok(()),
            };
            halve(&mut halves, number);
        }
    }

    /// Begins a publication and returns its number.
    fn publish(&mut self) -> (u64, impl Future<Output = Result<u64, Error>> + use<>) {
        let number = self.next;
        self.next += 1;
        let mut grpc = self.grpc.clone();
        let stamp = Stamp {
            nanos: now(),
            number,
        };
        let payload = Bytes::from(stamp.payload(self.payload));
        let request: Bytes = match &mut self.form {
            Form::Server => request(number, payload).encode_to_vec().into(),
            Form::Floor(sample) => {
                if let Some(Event::Batch(batch)) = &mut sample.event {
                    for change in &mut batch.changes {
                        change.payload.clone_from(&payload);
                    }
                }
                sample.encode_to_vec().into()
            }
        };
        (number, async move {
            load::call(&mut grpc, PUBLISH, request).await?;
            Ok(number)
        })
    }
}

fn halve(halves: &mut Halves, number: u64) {
    if let Some(half) = halves.get_mut(&number) {
        *half -= 1;
        if *half == 0 {
            halves.remove(&number);
        }
    }
}

fn lost(_: impl Sized) -> Error {
    Error::Unexpected(format!(
        "publications are under way, and nothing was answered or received for {PATIENCE:?}"
    ))
}

/// One change, as a service that invalidates caches sends it.
pub(crate) fn request(number: u64, payload: Bytes) -> PublishRequest {
    PublishRequest {
        changes: vec![publish_request::Change {
            topic: "app/bench".to_owned(),
            key: format!("key-{number:010}"),
            op: Op::Upsert.into(),
            etag: format!("{number:016x}"),
            payload,
        }],
        origin: "steadfast-bench".to_owned(),
        request_id: String::new(),
    }
}

/// What a server sends to a new subscriber, and then for a publication with a payload of so many bytes.
pub(crate) async fn sample(
    address: &str,
    payload: usize,
) -> Result<(api::WatchResponse, api::WatchResponse), Error> {
    let mut client = WatchServiceClient::new(load::connect(address).await?);
    let mut stream = client.watch(WatchRequest::default()).await?.into_inner();
    let ended = || Error::Unexpected("a stream ended".to_owned());
    let opened = stream.message().await?.ok_or_else(ended)?;
    let stamp = Stamp {
        nanos: 0,
        number: 0,
    };
    client
        .publish(request(0, stamp.payload(payload).into()))
        .await?;
    loop {
        let message = stream.message().await?.ok_or_else(ended)?;
        if matches!(message.event, Some(Event::Batch(_))) {
            return Ok((opened, message));
        }
    }
}

/// Publishes so many revisions, many at once, and returns their cursors in the order of history.
pub(crate) async fn fill(address: &str, count: u64, payload: usize) -> Result<Vec<Cursor>, Error> {
    const AT_ONCE: usize = 256;
    let grpc = Grpc::new(load::connect(address).await?);
    let mut cursors: Vec<Cursor> = futures::stream::iter(0..count)
        .map(|number| {
            let mut grpc = grpc.clone();
            let request = request(number, vec![b'.'; payload].into()).encode_to_vec();
            async move {
                let answer = load::call(&mut grpc, PUBLISH, request.into()).await?;
                PublishResponse::decode(answer)
                    .ok()
                    .and_then(|answer| answer.cursor)
                    .ok_or_else(|| Error::Unexpected("a publish has no cursor".to_owned()))
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    cursors.sort_by_key(|cursor| cursor.revision);
    Ok(cursors)
}
