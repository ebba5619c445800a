//! Asking a server, and keeping what it said as it came over the wire.
//!
//! # What may differ between two servers of one catalogue
//!
//! The `read_state` of an answer says as of which revision of which history the server answers: `store_id`, `revision` and `mark` are of
//! the server's own store, and not of the catalogue. These three are all that [`Told`] leaves out of an answer to a call; [`Standing`]
//! says what they have to be instead. `read_state.checked_time`, when the package's source was last asked, is part of the catalogue.
//! Of an answer over HTTP, [`Page`] leaves out the header `date`. Page tokens do not hold a revision, and errors no read state: nothing
//! of them is left out.

use std::collections::BTreeSet;

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, stream};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, skip_field},
};
use steadfast_client::{Cursor, api::common::v1::ReadState};
use steadfast_testkit::{BytesCodec, Server};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::icons;

/// The number of `read_state` in every answer that has one.
const READ_STATE: u32 = 15;
/// Calls under way at a time.
pub(super) const CONCURRENCY: usize = 16;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) path: &'static str,
    pub(super) request: Bytes,
    /// For people.
    pub(super) what: String,
}

/// What was answered, as bytes, but for what may differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The message but for its read state, and the read state's `checked_time`.
    Message(Bytes, Option<prost_types::Timestamp>),
    /// The status with its details, in which nothing may differ.
    Refused(i32, String, Bytes),
}

/// What was answered over HTTP: status, headers but for `date`, and body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page(pub(super) icons::Answer);

/// A server to be asked, and where it stands meanwhile.
pub(super) struct Standing {
    pub(super) channel: Channel,
    pub(super) cursor: Cursor,
}

// === impl Question ===

impl Question {
    pub(super) fn new(path: &'static str, request: &(impl Message + std::fmt::Debug)) -> Self {
        Self {
            path,
            request: request.encode_to_vec().into(),
            what: format!("{path} {request:?}"),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// Of a server whose catalogue changes no more, and whose memory is level.
    pub(super) async fn of(server: &Server) -> Self {
        let endpoint = Endpoint::from_shared(server.grpc_endpoint()).expect("an address");
        Self {
            channel: endpoint.connect().await.expect("it listens"),
            cursor: super::catalogue::standing(server).await,
        }
    }

    /// All answers, in the order of the questions.
    pub(super) async fn ask_all(&self, questions: &[Question]) -> Vec<Told> {
        stream::iter(questions)
            .map(|question| async move { self.ask(question).await.1 })
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    /// The whole message, empty if it was refused; and what of it may not differ.
    pub(super) async fn ask(&self, question: &Question) -> (Bytes, Told) {
        match self.send(question).await {
            Ok(message) => {
                let told = self.take(&message, &question.what);
                (message, told)
            }
            Err(status) => {
                let details = Bytes::copy_from_slice(status.details());
                assert!(!details.is_empty(), "{}: {status:?}", question.what);
                let message = status.message().to_owned();
                let told = Told::Refused(status.code().into(), message, details);
                (Bytes::new(), told)
            }
        }
    }

    async fn send(&self, question: &Question) -> Result<Bytes, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.expect("the connection lasts");
        let path = PathAndQuery::from_static(question.path);
        let request = Request::new(question.request.clone());
        let answer = grpc.unary(request, path, BytesCodec).await?;
        Ok(answer.into_inner())
    }

    /// Takes the read state out of a message, having seen that it says where the server stands, that it is the message's last field, and
    /// that with it the message is whole again: so nothing else was taken out.
    fn take(&self, message: &Bytes, what: &str) -> Told {
        let (rest, mut states) = split(message);
        assert_eq!(states.len(), 1, "{what}: read states");
        let state = states.remove(0);
        let expected = ReadState {
            store_id: self.cursor.store_id.to_string(),
            revision: self.cursor.revision.0,
            mark: self.cursor.mark.0,
            checked_time: state.checked_time,
        };
        assert_eq!(state, expected, "{what}");
        let mut whole = rest.to_vec();
        prost::encoding::message::encode(READ_STATE, &state, &mut whole);
        assert!(
            whole == **message,
            "{what}: more than the read state is gone"
        );
        Told::Message(rest, state.checked_time)
    }
}

/// A message without the field of the read state, and what that field holds, each time that it is there.
fn split(message: &Bytes) -> (Bytes, Vec<ReadState>) {
    let (mut left, mut rest, mut states) = (message.clone(), Vec::new(), Vec::new());
    while left.has_remaining() {
        let before = left.clone();
        let (tag, kind) = decode_key(&mut left).expect("a field");
        let mut after = left.clone();
        skip_field(kind, tag, &mut after, DecodeContext::default()).expect("a field");
        if tag == READ_STATE {
            assert_eq!(kind, WireType::LengthDelimited);
            let mut state = ReadState::default();
            prost::encoding::message::merge(kind, &mut state, &mut left, DecodeContext::default())
                .expect("a read state");
            states.push(state);
        } else {
            rest.extend_from_slice(&before[..before.len() - after.len()]);
        }
        left = after;
    }
    (rest.into(), states)
}

/// The pages at these addresses, each asked for with a method and headers.
pub(super) async fn pages(server: &Server, asked: &[(&str, String, String)]) -> Vec<Page> {
    stream::iter(asked)
        .map(|(method, path, tag)| async move {
            let condition = [("If-None-Match", tag.as_str())];
            let headers = if tag.is_empty() { &[] } else { &condition[..] };
            let mut page = icons::ask(server, method, path, headers).await;
            assert!(page.headers.remove("date").is_some(), "{path}: {page:?}");
            Page(page)
        })
        .buffered(CONCURRENCY)
        .collect()
        .await
}

/// Panics at the first answer that is another one, or if one of them is of another kind than the rest.
pub(super) fn assert_same<T: PartialEq + std::fmt::Debug>(
    here: &[T],
    there: &[T],
    what: impl Fn(usize) -> String,
) {
    assert_eq!(here.len(), there.len());
    let other: BTreeSet<usize> = (0..here.len())
        .filter(|at| here[*at] != there[*at])
        .collect();
    if let Some(at) = other.first() {
        panic!(
            "{} of {} answers differ; the first is to {}:\n{:?}\n{:?}",
            other.len(),
            here.len(),
            what(*at),
            here[*at],
            there[*at]
        );
    }
}
