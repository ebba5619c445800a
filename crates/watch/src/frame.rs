//! Messages as gRPC sends them, with their length in front (gRPC over HTTP/2, `Length-Prefixed-Message`).
//!
//! A frame is made once, with the message, and handed to the transport of every stream as it is: a prefix of each stream's own would
//! need a buffer of each stream's own, into which the message were copied.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

/// One byte that says whether it is compressed, and four of length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A frame whose message is being written.
pub(crate) struct FrameBuilder {
    /// Room for the prefix, and the message so far.
    pub(crate) bytes: BytesMut,
}

impl FrameBuilder {
    pub(crate) fn with_capacity(message_bytes: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message_bytes);
        bytes.put_bytes(0, PREFIX_BYTES);
        Self { bytes }
    }

    /// Not compressed: it goes to many, and its parts are small.
    ///
    /// # Panics
    /// If the message is longer than 4 GiB; batches end long before.
    pub(crate) fn finish(mut self) -> Bytes {
        let len = u32::try_from(self.bytes.len() - PREFIX_BYTES).expect("messages are bounded");
        self.bytes[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        self.bytes.freeze()
    }
}

/// A whole message, framed.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(message.encoded_len());
    message
        .encode(&mut frame.bytes)
        .expect("a growing buffer has room for the message");
    frame.finish()
}
