//! Answers that are encoded already.
//!
//! Lookups and streams hand out bytes that were encoded once, when the thing changed. The generated services would decode and
//! encode messages again, so these calls go through tonic's own machinery with a codec that only copies.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// What the buffers of a request and an answer begin with. They grow by what each message needs: tonic's own 8 KiB would be held by
/// every stream that waits, or have been touched for it.
const BUFFER_BYTES: usize = 256;

/// Bytes that are gathered before they are handed to the transport, as tonic has it.
const YIELD_BYTES: usize = 32 << 10;

/// An encoded message, in parts that follow each other: concatenated encodings are one message.
#[derive(Debug, Clone)]
pub(crate) struct Encoded(pub(crate) [Bytes; 3]);

/// Decodes requests as `T`, and copies answers.
#[derive(Debug)]
pub(crate) struct RawCodec<T>(PhantomData<T>);

/// The copying half.
#[derive(Debug)]
pub(crate) struct RawEncoder;

/// The decoding half.
#[derive(Debug)]
pub(crate) struct MessageDecoder<T>(PhantomData<T>);

impl From<Bytes> for Encoded {
    fn from(bytes: Bytes) -> Self {
        Self([bytes, Bytes::new(), Bytes::new()])
    }
}

impl Encoded {
    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

impl<T> Default for RawCodec<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Default + Send + 'static> Codec for RawCodec<T> {
    type Encode = Encoded;
    type Decode = T;
    type Encoder = RawEncoder;
    type Decoder = MessageDecoder<T>;

    fn encoder(&mut self) -> Self::Encoder {
        RawEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

impl Encoder for RawEncoder {
    type Item = Encoded;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }

    fn encode(&mut self, answer: Encoded, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(answer.size());
        for part in answer.0 {
            to.put(part);
        }
        Ok(())
    }
}

impl<T: Message + Default> Decoder for MessageDecoder<T> {
    type Item = T;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(from)
            .map(Some)
            .map_err(|error| super::status::malformed(&error.to_string()))
    }
}

impl From<steadfast_catalog::EncodedAnswer> for Encoded {
    fn from(answer: steadfast_catalog::EncodedAnswer) -> Self {
        Self([answer.body, answer.detail, answer.read_state])
    }
}

impl Encoded {
    /// The message, for callers that want it decoded.
    pub(crate) fn decode<M: Message + Default>(self) -> Result<tonic::Response<M>, Status> {
        let [body, detail, read_state] = self.0;
        let whole = body.chain(detail).chain(read_state);
        let message = M::decode(whole).map_err(|_| super::status::internal())?;
        Ok(tonic::Response::new(message))
    }
}
