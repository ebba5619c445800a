//! What is on a stream, read as it comes: no message is ever held whole.
//!
//! A thousand streams that each gather a message of 256 KiB would take a quarter of a gigabyte and more processor time than the
//! server that is measured. So this walks through lengths and types, skips what nobody asked for, and keeps cursors and, when
//! latencies are wanted, changes.

use prost::encoding::decode_varint;

use crate::error::Error;

/// A compressed-flag and a length.
const PREFIX_BYTES: usize = 5;
/// Two numbers of variable length.
const HEAD_BYTES: usize = 20;

/// Something that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told<'a> {
    /// The stream is open.
    Opened,
    /// An encoded `Change`, or nothing if changes are only counted.
    Change(&'a [u8]),
    /// The encoded cursor of a batch or of a progress message.
    Cursor(&'a [u8]),
    /// The watcher must reload.
    Reset,
}

/// Walks through the messages of one stream.
#[derive(Debug)]
pub(super) struct Messages {
    at: At,
    /// Whether the bytes of changes are wanted.
    changes: bool,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// Bytes of the message that are yet to come.
    message_left: usize,
    /// Bytes of the event of the batch within it that are yet to come.
    event_left: usize,
    kept: Vec<u8>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Prefix,
    /// The key and the length of an event, or of a field of it.
    Head(Level),
    /// So many bytes.
    Body(Level, Kind, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Event,
    Batch,
    Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Opened,
    Change,
    Cursor,
    Reset,
    Other,
}

// === impl Messages ===

impl Messages {
    pub(super) fn new(changes: bool) -> Self {
        Self {
            at: At::Prefix,
            changes,
            head: [0; HEAD_BYTES],
            head_len: 0,
            message_left: 0,
            event_left: 0,
            kept: Vec::new(),
        }
    }

    /// Takes what came and tells what is complete.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut tell: impl FnMut(Told<'_>),
    ) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.at {
                At::Prefix => bytes = self.prefix(bytes)?,
                At::Head(level) => bytes = self.head(level, bytes, &mut tell)?,
                At::Body(level, kind, left) => {
                    let taken = left.min(bytes.len());
                    let (body, rest) = bytes.split_at(taken);
                    bytes = rest;
                    if self.keeps(kind) {
                        self.kept.extend_from_slice(body);
                    }
                    self.at = At::Body(level, kind, left - taken);
                    self.count(level, taken)?;
                    if taken == left {
                        self.end_body(level, kind, &mut tell);
                    }
                }
            }
        }
        Ok(())
    }

    fn prefix<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let rest = self.gather(bytes, PREFIX_BYTES);
        if self.head_len < PREFIX_BYTES {
            return Ok(rest);
        }
        self.head_len = 0;
        let [compressed, a, b, c, d, ..] = self.head;
        if compressed != 0 {
            return Err(Error::Unexpected("a message is compressed".to_owned()));
        }
        self.message_left = u32::from_be_bytes([a, b, c, d]) as usize;
        self.at = self.after_event();
        Ok(rest)
    }

    /// A key, and the length or the value that follows it: two numbers of variable length in every case.
    fn head<'a>(
        &mut self,
        level: Level,
        bytes: &'a [u8],
        tell: &mut impl FnMut(Told<'_>),
    ) -> Result<&'a [u8], Error> {
        let mut taken = 0;
        let mut complete = false;
        for byte in bytes {
            let Some(place) = self.head.get_mut(self.head_len) else {
                return Err(malformed());
            };
            *place = *byte;
            self.head_len += 1;
            taken += 1;
            let ends = |byte: &&u8| **byte < 0x80;
            if *byte < 0x80 && self.head[..self.head_len].iter().filter(ends).count() == 2 {
                complete = true;
                break;
            }
        }
        self.count(level, taken)?;
        let rest = &bytes[taken..];
        if !complete {
            return Ok(rest);
        }
        let mut head = &self.head[..self.head_len];
        let key = decode_varint(&mut head).map_err(|_| malformed())?;
        let value = decode_varint(&mut head).map_err(|_| malformed())?;
        self.head_len = 0;
        let (field, has_body) = match key & 7 {
            0 => (key >> 3, false),
            2 => (key >> 3, true),
            _ => return Err(malformed()),
        };
        let left = usize::try_from(value).map_err(|_| malformed())?;
        let kind = match (level, field) {
            (Level::Event, 2 | 3) if has_body => {
                self.event_left = left;
                let level = if field == 2 {
                    Level::Batch
                } else {
                    Level::Progress
                };
                self.at = if left == 0 {
                    self.after_event()
                } else {
                    At::Head(level)
                };
                return Ok(rest);
            }
            (Level::Event, 1) => Kind::Opened,
            (Level::Event, 4) => Kind::Reset,
            (Level::Batch, 1) => Kind::Change,
            (Level::Batch, 2) | (Level::Progress, 1) => Kind::Cursor,
            _ => Kind::Other,
        };
        if has_body && left > 0 {
            self.at = At::Body(level, kind, left);
        } else {
            self.end_body(level, kind, tell);
        }
        Ok(rest)
    }

    fn end_body(&mut self, level: Level, kind: Kind, tell: &mut impl FnMut(Told<'_>)) {
        match kind {
            Kind::Opened => tell(Told::Opened),
            Kind::Change => tell(Told::Change(&self.kept)),
            Kind::Cursor => tell(Told::Cursor(&self.kept)),
            Kind::Reset => tell(Told::Reset),
            Kind::Other => {}
        }
        self.kept.clear();
        self.at = match level {
            Level::Batch | Level::Progress if self.event_left > 0 => At::Head(level),
            _ => self.after_event(),
        };
    }

    fn after_event(&self) -> At {
        if self.message_left == 0 {
            At::Prefix
        } else {
            At::Head(Level::Event)
        }
    }

    fn keeps(&self, kind: Kind) -> bool {
        match kind {
            Kind::Change => self.changes,
            Kind::Cursor => true,
            Kind::Opened | Kind::Reset | Kind::Other => false,
        }
    }

    fn count(&mut self, level: Level, taken: usize) -> Result<(), Error> {
        let less = |left: usize| left.checked_sub(taken).ok_or_else(malformed);
        self.message_left = less(self.message_left)?;
        if level != Level::Event {
            self.event_left = less(self.event_left)?;
        }
        Ok(())
    }

    fn gather<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
        let taken = (wanted - self.head_len).min(bytes.len());
        self.head[self.head_len..self.head_len + taken].copy_from_slice(&bytes[..taken]);
        self.head_len += taken;
        &bytes[taken..]
    }
}

fn malformed() -> Error {
    Error::Unexpected("a message on a stream is not a WatchResponse".to_owned())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use steadfast_api::{
        common::v1::Cursor,
        watch::v1::{self as api, watch_response as response, watch_response::Event},
    };

    use super::*;

    fn cursor(revision: i64) -> Cursor {
        Cursor {
            store_id: "0".repeat(36),
            revision,
            mark: 7,
        }
    }

    fn change(key: &str) -> api::Change {
        api::Change {
            topic: "app/bench".to_owned(),
            key: key.to_owned(),
            payload: vec![0xff; 300].into(),
            ..api::Change::default()
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        framed
    }

    /// All kinds of events, as they are on the wire, with what should be told of them.
    fn stream() -> (Vec<u8>, Vec<String>) {
        let events = [
            Event::Opened(response::Opened {
                head: Some(cursor(1)),
                compacted: Some(cursor(0)),
            }),
            Event::Batch(response::Batch {
                changes: vec![change("a"), change("b")],
                cursor: Some(cursor(300)),
                more: true,
            }),
            Event::Progress(response::Progress {
                cursor: Some(cursor(301)),
            }),
            Event::Batch(response::Batch::default()),
            Event::Reset(response::Reset::default()),
        ];
        let mut bytes = Vec::new();
        for event in events {
            let message = api::WatchResponse { event: Some(event) };
            bytes.extend(framed(&message.encode_to_vec()));
        }
        bytes.extend(framed(&[]));
        let told = ["opened", "a", "b", "300", "301", "reset"];
        (bytes, told.map(str::to_owned).to_vec())
    }

    fn text(told: Told<'_>) -> String {
        match told {
            Told::Opened => "opened".to_owned(),
            Told::Change(body) => api::Change::decode(body).unwrap().key,
            Told::Cursor(body) => Cursor::decode(body).unwrap().revision.to_string(),
            Told::Reset => "reset".to_owned(),
        }
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let (bytes, expected) = stream();
        for length in 1..=bytes.len() {
            let mut messages = Messages::new(true);
            let mut told = Vec::new();
            for piece in bytes.chunks(length) {
                messages.feed(piece, |what| told.push(text(what))).unwrap();
            }
            assert_eq!(told, expected, "in pieces of {length}");
            assert_eq!(messages.at, At::Prefix);
        }
    }

    #[test]
    fn changes_that_are_only_counted_are_not_kept() {
        let (bytes, _) = stream();
        let mut messages = Messages::new(false);
        let (mut changes, mut cursors) = (0, 0);
        messages
            .feed(&bytes, |told| match told {
                Told::Change(body) => {
                    assert!(body.is_empty());
                    changes += 1;
                }
                Told::Cursor(body) => {
                    assert!(!body.is_empty());
                    cursors += 1;
                }
                Told::Opened | Told::Reset => {}
            })
            .unwrap();
        assert_eq!((changes, cursors), (2, 2));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        // A batch of 9 bytes in a message of 4.
        let bytes = framed(&[2 << 3 | 2, 9, 1 << 3 | 2, 5]);
        let mut messages = Messages::new(true);
        messages.feed(&bytes, |_| {}).unwrap();
        assert!(messages.feed(&[0; 5], |_| {}).is_err());
        assert!(Messages::new(true).feed(&[1, 0, 0, 0, 0], |_| {}).is_err());
    }
}
