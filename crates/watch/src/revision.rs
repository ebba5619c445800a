//! A revision as subscribers share it: every change is encoded once.

use bytes::Bytes;
use prost::Message as _;
use steadfast_api::{common::v1 as common, watch::v1 as api};
use steadfast_store::{Change, Entry, Op};
use steadfast_types::{Cursor, Mark, StoreId, Timestamp};

use crate::batch::BatchEncoder;

/// A change, encoded.
#[derive(Debug, Clone)]
pub struct SharedChange {
    /// Its topic.
    pub topic: Box<str>,
    /// Its key.
    pub key: Box<str>,
    /// The encoded `Change`, without `own`: a part of its revision's answer.
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
    /// The framed `WatchResponse` that hands this whole revision to a subscriber who wants all of it and did not cause it.
    frame: Bytes,
    /// Roughly what it takes in memory.
    bytes: usize,
}

// === impl Revision ===

impl Revision {
    /// Encodes an entry of the log.
    #[must_use]
    pub fn encode(store_id: StoreId, entry: &Entry) -> Self {
        let mut changes: Vec<SharedChange> = entry
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
        let mut ends = Vec::with_capacity(changes.len());
        for change in &changes {
            batch.push(change, false, None);
            ends.push(batch.len());
        }
        let (frame, begin) = batch.encode(cursor, false);
        // Held once: each change is a part of the whole.
        for (change, end) in changes.iter_mut().zip(ends) {
            let end = begin + end;
            change.body = frame.slice(end - change.body.len()..end);
        }
        let names: usize = changes
            .iter()
            .map(|change| change.topic.len() + change.key.len())
            .sum();
        Self {
            number: entry.revision,
            mark: entry.mark,
            time: entry.time,
            bytes: frame.len() + names + 160 + 64 * changes.len(),
            origin: entry.origin.as_str().into(),
            changes,
            frame,
        }
    }

    /// Roughly what it takes in memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// The shared answer; see the field.
    pub(crate) fn frame(&self) -> &Bytes {
        &self.frame
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
            value: None,
        };
        Self {
            topic: change.topic.as_str().into(),
            key: change.key.as_str().into(),
            body: message.encode_to_vec().into(),
        }
    }

    /// The encoded `Change`, without `own`.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
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
    use crate::frame::PREFIX_BYTES;

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
                encoder.push(change, own, None);
            }
            let cursor = revision.cursor(store_id);
            let frame = encoder.encode(cursor, more).0;
            let (prefix, message) = frame.split_at(PREFIX_BYTES);
            let [len0, len1, len2, len3] = u32::try_from(message.len()).unwrap().to_be_bytes();
            prop_assert_eq!(prefix, &[0, len0, len1, len2, len3]);
            let decoded = api::WatchResponse::decode(message).unwrap();
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
            let shared = api::WatchResponse::decode(&revision.frame()[PREFIX_BYTES..]).unwrap();
            let Some(api::watch_response::Event::Batch(shared)) = shared.event else {
                panic!("not a batch");
            };
            prop_assert!(shared.changes.iter().all(|change| !change.own));
            prop_assert_eq!(shared.changes.len(), changes.len());
        }
    }
}
