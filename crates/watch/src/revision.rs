//! A revision as subscribers share it: every change is encoded once.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use steadfast_api::{common::v1 as common, watch::v1 as api};
use steadfast_store::{Change, Entry, Op};
use steadfast_types::{Cursor, Mark, StoreId, Timestamp};

/// The field of `Batch` that holds changes.
const BATCH_CHANGES: u32 = 1;
/// The field of `Batch` that holds the cursor.
const BATCH_CURSOR: u32 = 2;
/// The field of `Batch` that says that the last revision goes on.
const BATCH_MORE: u32 = 3;
/// The field of `WatchResponse` that holds a batch.
const RESPONSE_BATCH: u32 = 2;
/// The field of `Change` that says that the watcher caused it, set.
const OWN: [u8; 2] = [9 << 3, 1];

/// A change, encoded.
#[derive(Debug, Clone)]
pub struct SharedChange {
    /// Its topic.
    pub topic: Box<str>,
    /// Its key.
    pub key: Box<str>,
    /// The encoded `Change`, without `own`.
    body: Bytes,
}

/// A revision, encoded. Shared by all subscribers.
#[derive(Debug)]
pub struct Revision {
    /// Its number.
    pub number: steadfast_types::Revision,
    /// Its mark.
    pub mark: Mark,
    /// When it was committed, by the database's clock.
    pub time: Timestamp,
    /// The incarnation that caused it.
    pub origin: Box<str>,
    /// All of its changes.
    pub changes: Vec<SharedChange>,
    /// The `WatchResponse` that hands this whole revision to a subscriber who wants all of it and did not cause it.
    response: Bytes,
    /// Roughly what it takes in memory.
    bytes: usize,
}

/// Puts parts of revisions together as one encoded `WatchResponse`.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    changes: BytesMut,
    count: usize,
}

// === impl Revision ===

impl Revision {
    /// Encodes an entry of the log.
    #[must_use]
    pub fn encode(store_id: StoreId, entry: &Entry) -> Self {
        let changes: Vec<SharedChange> = entry
            .changes
            .iter()
            .map(|change| SharedChange::encode(entry, change))
            .collect();
        let cursor = Cursor {
            store_id,
            revision: entry.revision,
            mark: entry.mark,
        };
        let mut batch = BatchEncoder::default();
        for change in &changes {
            batch.push(change, false);
        }
        let response = batch.finish(cursor, false);
        let names: usize = changes
            .iter()
            .map(|change| change.topic.len() + change.key.len())
            .sum();
        Self {
            number: entry.revision,
            mark: entry.mark,
            time: entry.time,
            // Once in the shared answer and once by itself.
            bytes: 2 * response.len() + names + 256,
            origin: entry.origin.as_str().into(),
            changes,
            response,
        }
    }

    /// Roughly what it takes in memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// The shared answer; see the field.
    pub(crate) fn response(&self) -> &Bytes {
        &self.response
    }

    /// Where it stands.
    #[must_use]
    pub fn cursor(&self, store_id: StoreId) -> Cursor {
        Cursor {
            store_id,
            revision: self.number,
            mark: self.mark,
        }
    }
}

// === impl SharedChange ===

impl SharedChange {
    fn encode(entry: &Entry, change: &Change) -> Self {
        let message = api::Change {
            topic: change.topic.clone(),
            key: change.key.clone(),
            op: match change.op {
                Op::Upsert => api::Op::Upsert,
                Op::Delete => api::Op::Delete,
            }
            .into(),
            etag: change.etag.clone(),
            origin: entry.origin.clone(),
            time: Some(prost_types::Timestamp {
                seconds: entry.time.seconds(),
                nanos: entry.time.nanos(),
            }),
            payload: change.payload.clone().into(),
            revision: entry.revision.0,
            own: false,
        };
        Self {
            topic: change.topic.as_str().into(),
            key: change.key.as_str().into(),
            body: message.encode_to_vec().into(),
        }
    }

    /// The encoded size in a batch, in bytes, at most.
    pub(crate) fn encoded_len(&self) -> usize {
        self.body.len() + OWN.len() + 11
    }
}

// === impl BatchEncoder ===

impl BatchEncoder {
    /// Adds a change.
    pub(crate) fn push(&mut self, change: &SharedChange, own: bool) {
        let own: &[u8] = if own { &OWN } else { &[] };
        encode_key(BATCH_CHANGES, WireType::LengthDelimited, &mut self.changes);
        encode_varint((change.body.len() + own.len()) as u64, &mut self.changes);
        self.changes.put_slice(&change.body);
        self.changes.put_slice(own);
        self.count += 1;
    }

    /// Changes so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// The encoded `WatchResponse`.
    pub(crate) fn finish(self, cursor: Cursor, more: bool) -> Bytes {
        let cursor = message_of(cursor);
        let cursor_len = cursor.encoded_len();
        let more_len = if more { 2 } else { 0 };
        let len =
            self.changes.len() + 1 + encoded_len_varint(cursor_len as u64) + cursor_len + more_len;
        let mut out = BytesMut::with_capacity(len + 8);
        encode_key(RESPONSE_BATCH, WireType::LengthDelimited, &mut out);
        encode_varint(len as u64, &mut out);
        out.put_slice(&self.changes);
        encode_key(BATCH_CURSOR, WireType::LengthDelimited, &mut out);
        encode_varint(cursor_len as u64, &mut out);
        cursor
            .encode(&mut out)
            .expect("a growing buffer has room for the message");
        if more {
            encode_key(BATCH_MORE, WireType::Varint, &mut out);
            encode_varint(1, &mut out);
        }
        out.freeze()
    }
}

/// The message of a cursor.
pub(crate) fn message_of(cursor: Cursor) -> common::Cursor {
    common::Cursor {
        store_id: cursor.store_id.to_string(),
        revision: cursor.revision.0,
        mark: cursor.mark.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(changes: Vec<(String, Vec<u8>)>) -> Entry {
        Entry {
            revision: steadfast_types::Revision(7),
            mark: Mark(9),
            origin: "node".to_owned(),
            time: Timestamp(1_500_000),
            changes: changes
                .into_iter()
                .map(|(key, payload)| Change {
                    payload,
                    ..Change::new("app/t", key, Op::Delete, "etag")
                })
                .collect(),
        }
    }

    proptest! {
        /// What is put together by hand is what the generated code would have written.
        #[test]
        fn hand_made_batches_decode(
            changes in proptest::collection::vec((".{0,200}", proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
            own in any::<bool>(),
            more in any::<bool>(),
        ) {
            let store_id = StoreId::random();
            let revision = Revision::encode(store_id, &entry(changes.clone()));
            let mut encoder = BatchEncoder::default();
            for change in &revision.changes {
                encoder.push(change, own);
            }
            let cursor = revision.cursor(store_id);
            let decoded = api::WatchResponse::decode(encoder.finish(cursor, more)).unwrap();
            let Some(api::watch_response::Event::Batch(batch)) = decoded.event else {
                panic!("not a batch");
            };
            prop_assert_eq!(batch.cursor, Some(message_of(cursor)));
            prop_assert_eq!(batch.more, more);
            prop_assert_eq!(batch.changes.len(), changes.len());
            for (change, (key, payload)) in batch.changes.iter().zip(&changes) {
                prop_assert_eq!(&change.key, key);
                prop_assert_eq!(&change.payload[..], &payload[..]);
                prop_assert_eq!(change.own, own);
                prop_assert_eq!((change.revision, change.op()), (7, api::Op::Delete));
            }
            let shared = api::WatchResponse::decode(revision.response().clone()).unwrap();
            let Some(api::watch_response::Event::Batch(shared)) = shared.event else {
                panic!("not a batch");
            };
            prop_assert!(shared.changes.iter().all(|change| !change.own));
            prop_assert_eq!(shared.changes.len(), changes.len());
        }
    }
}
