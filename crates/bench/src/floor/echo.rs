//! A bare tonic server: it sends an answer that it has, and does nothing else.
//!
//! A request names the answer by its place, padded to the size of the request that the real server gets, so that not even a
//! look-up is needed. Requests and answers pass tonic's own codec for protocol buffers, as in any generated service.

use std::{
    fs,
    future::{Ready, ready},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use clap::Args;
use prost::Message;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

use super::bare::{self, Answer, Calls};
use crate::{error::Error, program::Settings};

/// Where it answers.
pub(crate) const ECHO_PATH: &str = "/steadfast.bench.v1.EchoService/Echo";

/// How an echo is started.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    settings: Settings,
    /// The answers, each after its length
    #[arg(long)]
    answers: PathBuf,
}

/// Asks for an answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct EchoRequest {
    /// From 1, so that it is never left out of the message.
    #[prost(fixed32, tag = "1")]
    place: u32,
    #[prost(bytes = "bytes", tag = "2")]
    padding: Bytes,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct EchoAnswer {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

/// The service.
#[derive(Clone)]
struct Echo {
    answers: Arc<Vec<EchoAnswer>>,
}

// === impl EchoRequest ===

impl EchoRequest {
    /// For the answer at a place, from 0, in a message of this many bytes where that is possible.
    pub(crate) fn new(place: usize, bytes: usize) -> Self {
        let mut request = Self {
            place: u32::try_from(place + 1).unwrap_or(u32::MAX),
            padding: Bytes::new(),
        };
        request.padding =
            vec![b'.'; payload_of(bytes.saturating_sub(request.encoded_len()))].into();
        request
    }
}

// === impl EchoAnswer ===

impl EchoAnswer {
    /// With the first of these bytes, in a message of their number.
    fn like(bytes: &Bytes) -> Self {
        Self {
            payload: bytes.slice(..payload_of(bytes.len())),
        }
    }
}

/// The longest payload whose field, with tag and length, fits into so many bytes.
fn payload_of(bytes: usize) -> usize {
    let fits = |payload: usize| 1 + prost::length_delimiter_len(payload) + payload <= bytes;
    (0..=bytes)
        .rev()
        .find(|payload| fits(*payload))
        .unwrap_or(0)
}

/// The file of answers that have the sizes of these.
pub(crate) fn answers_like(answers: &[Bytes]) -> Vec<u8> {
    answers
        .iter()
        .flat_map(|bytes| EchoAnswer::like(bytes).encode_length_delimited_to_vec())
        .collect()
}

fn read_answers(mut file: Bytes) -> Result<Vec<EchoAnswer>, prost::DecodeError> {
    let mut answers = Vec::new();
    while !file.is_empty() {
        answers.push(EchoAnswer::decode_length_delimited(&mut file)?);
    }
    Ok(answers)
}

/// Serves until the bench goes away.
pub(super) async fn serve(args: &EchoArgs) -> Result<(), Error> {
    let file = fs::read(&args.answers).map_err(Error::io("reading the answers"))?;
    let answers = read_answers(file.into())
        .map_err(|error| Error::Unexpected(format!("the answers cannot be read: {error}")))?;
    let echo = Echo {
        answers: Arc::new(answers),
    };
    bare::serve(echo, &args.settings).await
}

// === impl Echo ===

impl Calls for Echo {
    const NAME: &'static str = "steadfast.bench.v1.EchoService";

    fn answer(self, request: http::Request<Body>) -> Option<Answer> {
        (request.uri().path() == ECHO_PATH).then(|| -> Answer {
            Box::pin(async move { Grpc::new(ProstCodec::default()).unary(self, request).await })
        })
    }
}

impl UnaryService<EchoRequest> for Echo {
    type Response = EchoAnswer;
    type Future = Ready<Result<Response<EchoAnswer>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let place = (request.into_inner().place as usize).checked_sub(1);
        let answer = place.and_then(|place| self.answers.get(place));
        ready(
            answer
                .cloned()
                .map(Response::new)
                .ok_or_else(|| Status::not_found("no such answer")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_sizes_that_were_asked_for() {
        for bytes in [3, 22, 127, 128, 129, 500, 16_384] {
            let answer = EchoAnswer::like(&vec![b'x'; bytes].into());
            // A length of two bytes begins at 128: one size in between cannot be had.
            let missing = bytes - answer.encoded_len();
            assert!(missing <= 1, "{bytes}: {}", answer.encoded_len());
        }
        for (place, bytes) in [(0, 22), (999, 22), (5, 40)] {
            assert_eq!(EchoRequest::new(place, bytes).encoded_len(), bytes);
        }
        assert_eq!(EchoRequest::new(0, 1).encoded_len(), 5);
    }

    #[test]
    fn answers_survive_their_file() {
        let answers = [Bytes::from_static(b"abcdef"), Bytes::from(vec![7; 300])];
        let read = read_answers(answers_like(&answers).into()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].payload, Bytes::from_static(b"abcd"));
        assert_eq!(read[1].encoded_len(), 300);
    }
}
