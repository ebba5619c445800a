//! Batches: changes put together as the answer that carries them, once for all streams that want the same.
//!
//! Streams that follow the log closely stand at the same place, and those that resume after an outage soon do, because a batch
//! ends at a multiple of [`STEP`] revisions. So what was put together for one stream is kept for a moment, and handed to every other
//! that stands there and wants the same. Only what a stream caused itself is told to it in a batch of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use steadfast_types::Cursor;

use crate::{
    Filters, Revision, SharedChange, Value, Values, frame::FrameBuilder, revision::message_of,
    values::VALUE_BYTES,
};

/// A batch ends at a multiple of so many revisions, and between two batches other tasks get their turn.
pub(crate) const STEP: usize = 512;

/// Encoded bytes in one batch, beyond the change that exceeds it: far below the default limit on messages, 4 MiB.
const BATCH_BYTES: usize = 256 << 10;

/// Batches kept for other streams, and their bytes.
const SHARED: usize = 64;
const SHARED_BYTES: usize = 4 << 20;

/// The field of `WatchResponse` that holds a batch.
const RESPONSE_BATCH: u32 = 2;
/// The fields of `Batch`.
const BATCH_CHANGES: u32 = 1;
const BATCH_CURSOR: u32 = 2;
const BATCH_MORE: u32 = 3;
/// The field of `Change` that says that the watcher caused it, set.
const OWN: [u8; 2] = [9 << 3, 1];
/// The field of `Change` that holds its value.
const CHANGE_VALUE: u32 = 10;

/// What a stream wants of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wants {
    pub(crate) filters: Filters,
    /// Where values come from, if they are wanted.
    pub(crate) values: Option<Arc<dyn Values>>,
}

/// Who a batch is for: what this incarnation caused is marked, or left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'r> {
    pub(crate) wants: &'r Wants,
    pub(crate) incarnation: &'r str,
    pub(crate) suppress_own: bool,
}

/// Changes of consecutive revisions, put together.
#[derive(Debug, Clone)]
pub(crate) struct Assembled {
    /// Everything at or below it that matches was delivered.
    pub(crate) through: Cursor,
    /// Changes of the revision after `through` that are in it.
    pub(crate) of_next: usize,
    /// The last revision goes on.
    pub(crate) more: bool,
    pub(crate) changes: usize,
    /// The framed `WatchResponse`; empty if nothing matches.
    pub(crate) frame: Bytes,
}

/// Batches of the last moments.
#[derive(Debug, Default)]
pub(crate) struct SharedBatches {
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The newest in front.
    batches: VecDeque<SharedBatch>,
    bytes: usize,
}

#[derive(Debug)]
struct SharedBatch {
    after: Cursor,
    wants: Arc<Wants>,
    /// Who caused any of it.
    origins: Box<[Box<str>]>,
    assembled: Assembled,
}

/// Puts changes together as one framed `WatchResponse`.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    changes: BytesMut,
    count: usize,
}

// === impl Wants ===

impl PartialEq for Wants {
    fn eq(&self, other: &Self) -> bool {
        // There is one place where values come from.
        self.values.is_some() == other.values.is_some() && self.filters == other.filters
    }
}

impl Wants {
    fn value(&self, change: &SharedChange) -> Option<Value> {
        let value = self.values.as_ref()?.value(&change.topic, &change.key)?;
        (value.len() <= VALUE_BYTES).then_some(value)
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn caused(&self, revision: &Revision) -> bool {
        !self.incarnation.is_empty() && *revision.origin == *self.incarnation
    }

    /// Puts together what comes after a cursor: whole revisions, as many as fit. Of one that alone does not fit, a part, after the
    /// first `skip` of its changes.
    pub(crate) fn assemble(
        &self,
        after: Cursor,
        skip: usize,
        revisions: &[Arc<Revision>],
    ) -> Assembled {
        let plain = self.wants.filters.keeps_all() && self.wants.values.is_none();
        // The common case: one whole revision for a stream that wants everything. Its bytes were encoded with it.
        if let [revision] = revisions
            && plain
            && skip == 0
            && !self.caused(revision)
            && !revision.changes.is_empty()
            && revision.frame().len() <= BATCH_BYTES
        {
            return Assembled {
                through: revision.cursor(after.store_id),
                of_next: 0,
                more: false,
                changes: revision.changes.len(),
                frame: revision.frame().clone(),
            };
        }
        let mut batch = BatchEncoder::default();
        let (mut through, mut skip) = (after, skip);
        for revision in revisions {
            let whole = (batch.changes.len(), batch.count);
            let own = self.caused(revision);
            for (index, change) in revision.changes.iter().enumerate().skip(skip) {
                if (own && self.suppress_own)
                    || !self.wants.filters.keeps(&change.topic, &change.key)
                {
                    continue;
                }
                let value = self.wants.value(change);
                if batch.count > 0
                    && batch.changes.len() + change.encoded_len(value.as_ref()) > BATCH_BYTES
                {
                    if whole.1 > 0 {
                        batch.truncate(whole);
                        return batch.finish(through, 0, false);
                    }
                    return batch.finish(through, index, true);
                }
                batch.push(change, own, value.as_ref());
            }
            skip = 0;
            through = revision.cursor(after.store_id);
        }
        batch.finish(through, 0, false)
    }
}

// === impl SharedBatches ===

impl SharedBatches {
    /// What was put together for another stream that stands there and wants the same.
    pub(crate) fn find(
        &self,
        after: Cursor,
        wants: &Arc<Wants>,
        reader: Reader<'_>,
    ) -> Option<Assembled> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let found = held.batches.iter().find(|one| {
            one.after == after && (Arc::ptr_eq(&one.wants, wants) || one.wants == *wants)
        })?;
        let own = !reader.incarnation.is_empty()
            && found
                .origins
                .iter()
                .any(|origin| **origin == *reader.incarnation);
        (!own).then(|| found.assembled.clone())
    }

    /// Keeps what others may want too.
    pub(crate) fn keep(
        &self,
        after: Cursor,
        wants: &Arc<Wants>,
        reader: Reader<'_>,
        revisions: &[Arc<Revision>],
        assembled: &Assembled,
    ) {
        let through = assembled.through.revision;
        if assembled.more || through == after.revision {
            return;
        }
        let mut origins: Vec<&str> = Vec::new();
        for revision in revisions.iter().take_while(|one| one.number <= through) {
            if reader.caused(revision) {
                return;
            }
            let origin = &*revision.origin;
            if !origin.is_empty() && !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        let batch = SharedBatch {
            after,
            wants: Arc::clone(wants),
            origins: origins.into_iter().map(Box::from).collect(),
            assembled: assembled.clone(),
        };
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.bytes += batch.assembled.frame.len();
        held.batches.push_front(batch);
        while held.batches.len() > SHARED || held.bytes > SHARED_BYTES {
            let Some(oldest) = held.batches.pop_back() else {
                break;
            };
            held.bytes -= oldest.assembled.frame.len();
        }
    }

    /// Forgets everything: the history is another one.
    pub(crate) fn clear(&self) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held::default();
    }
}

// === impl SharedChange ===

impl SharedChange {
    /// The encoded size in a batch, in bytes, at most.
    fn encoded_len(&self, value: Option<&Value>) -> usize {
        let value = value.map_or(0, |value| value.len() + 22);
        self.body().len() + OWN.len() + 11 + value
    }
}

// === impl BatchEncoder ===

impl BatchEncoder {
    /// Adds a change.
    pub(crate) fn push(&mut self, change: &SharedChange, own: bool, value: Option<&Value>) {
        let own: &[u8] = if own { &OWN } else { &[] };
        let to = &mut self.changes;
        // A value is a message with one field, which is the answer of the lookup.
        let answer = value.map(|value| (value, value.len()));
        let outer = answer.map_or(0, |(value, len)| {
            prost::encoding::key_len(value.field) + encoded_len_varint(len as u64) + len
        });
        let value_len = answer.map_or(0, |_| {
            prost::encoding::key_len(CHANGE_VALUE) + encoded_len_varint(outer as u64) + outer
        });
        encode_key(BATCH_CHANGES, WireType::LengthDelimited, to);
        encode_varint((change.body().len() + own.len() + value_len) as u64, to);
        to.put_slice(change.body());
        to.put_slice(own);
        if let Some((value, len)) = answer {
            encode_key(CHANGE_VALUE, WireType::LengthDelimited, to);
            encode_varint(outer as u64, to);
            encode_key(value.field, WireType::LengthDelimited, to);
            encode_varint(len as u64, to);
            for part in &value.parts {
                to.put_slice(part);
            }
        }
        self.count += 1;
    }

    /// Takes back what was added since it was so long and had so many changes.
    fn truncate(&mut self, (len, count): (usize, usize)) {
        self.changes.truncate(len);
        self.count = count;
    }

    fn finish(self, through: Cursor, of_next: usize, more: bool) -> Assembled {
        let changes = self.count;
        Assembled {
            through,
            of_next,
            more,
            changes,
            frame: if changes > 0 {
                self.encode(through, more).0
            } else {
                Bytes::new()
            },
        }
    }

    /// The framed `WatchResponse`, and where its changes begin.
    pub(crate) fn encode(self, cursor: Cursor, more: bool) -> (Bytes, usize) {
        let cursor = message_of(cursor);
        let cursor_len = cursor.encoded_len();
        let more_len = if more { 2 } else { 0 };
        let len =
            self.changes.len() + 1 + encoded_len_varint(cursor_len as u64) + cursor_len + more_len;
        let mut out = FrameBuilder::with_capacity(len + 8);
        encode_key(RESPONSE_BATCH, WireType::LengthDelimited, &mut out.bytes);
        encode_varint(len as u64, &mut out.bytes);
        let begin = out.bytes.len();
        out.bytes.put_slice(&self.changes);
        encode_key(BATCH_CURSOR, WireType::LengthDelimited, &mut out.bytes);
        encode_varint(cursor_len as u64, &mut out.bytes);
        cursor
            .encode(&mut out.bytes)
            .expect("a growing buffer has room for the message");
        if more {
            encode_key(BATCH_MORE, WireType::Varint, &mut out.bytes);
            encode_varint(1, &mut out.bytes);
        }
        (out.finish(), begin)
    }

    /// Bytes of the changes so far.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }
}
