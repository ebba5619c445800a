//! A subscriber of a crowd: its connection, and how it behaves.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use prost::Message;
use steadfast_api::{
    common::v1::Cursor,
    watch::v1::{Start, WatchRequest, start::Position},
};

use super::{
    connection::{Connection, Went},
    message::Told,
    order::{Manner, Open, Until},
};
use crate::error::Error;

/// A subscriber.
#[derive(Debug)]
pub(super) struct Member {
    connection: Connection,
    address: String,
    path: String,
    window: u32,
    manner: Manner,
    counting: bool,
    /// Its stream has said that it is open.
    opened: bool,
    /// It was counted as being as wanted.
    reached: bool,
    /// The last cursor, encoded.
    cursor: Vec<u8>,
    since: Instant,
    /// Up to when its reading was accounted for.
    accounted: Instant,
}

/// What one reading brought.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Saw {
    pub(super) bytes: u64,
    pub(super) changes: u64,
    /// The stream said that it is open.
    pub(super) opened: bool,
}

/// The only field of a cursor that is looked at.
#[derive(Clone, PartialEq, Message)]
struct Revision {
    #[prost(int64, tag = "2")]
    revision: i64,
}

// === impl Member ===

impl Member {
    pub(super) fn open(order: &Open, request: Vec<u8>) -> Result<Self, Error> {
        let now = Instant::now();
        Ok(Self {
            connection: Connection::open(
                &order.address,
                &order.path,
                &request,
                order.window,
                order.counting,
            )?,
            address: order.address.clone(),
            path: order.path.clone(),
            window: order.window,
            manner: order.manner,
            counting: order.counting,
            opened: false,
            reached: false,
            cursor: Vec::new(),
            since: now,
            accounted: now,
        })
    }

    /// Comes back with the last cursor, or as new without one.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let after = match self.cursor.as_slice() {
            [] => None,
            cursor => Some(Cursor::decode(cursor).map_err(|_| malformed())?),
        };
        let request = WatchRequest {
            start: after.map(|cursor| Start {
                position: Some(Position::After(cursor)),
            }),
            ..WatchRequest::default()
        };
        self.connection = Connection::open(
            &self.address,
            &self.path,
            &request.encode_to_vec(),
            self.window,
            self.counting,
        )?;
        self.opened = false;
        self.since = Instant::now();
        Ok(())
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.connection.stream()
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn manner(&self) -> Manner {
        self.manner
    }

    /// Whether it reads as soon as there is something.
    pub(super) fn waits(&self) -> bool {
        match self.manner {
            Manner::Reading | Manner::Reconnecting(_) | Manner::Stalled => true,
            Manner::Frozen | Manner::Draining(_) => !self.opened,
        }
    }

    /// Whether it has stayed for long enough.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.manner, Manner::Reconnecting(ms) if self.since.elapsed() >= Duration::from_millis(ms))
    }

    /// How much it reads now without being asked to, in bytes.
    pub(super) fn allowance(&mut self) -> usize {
        let Manner::Draining(bytes_per_s) = self.manner else {
            return 0;
        };
        if !self.opened {
            return 0;
        }
        let elapsed = self.accounted.elapsed();
        self.accounted += elapsed;
        (bytes_per_s as f64 * elapsed.as_secs_f64()) as usize
    }

    /// Reads once. `arrived` says when the bytes are here, and `changed` is told each change with that time.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        clock: impl FnOnce() -> u64,
        mut changed: impl FnMut(&[u8], u64),
    ) -> Result<(Went, Saw), Error> {
        let mut saw = Saw::default();
        let (cursor, counting) = (&mut self.cursor, self.counting);
        let mut reset = false;
        let at = std::cell::Cell::new(0);
        let (went, bytes) = self.connection.read(
            buffer,
            || at.set(clock()),
            |told| match told {
                Told::Opened => saw.opened = true,
                Told::Change(change) => {
                    saw.changes += 1;
                    if counting {
                        changed(change, at.get());
                    }
                }
                Told::Cursor(told) => {
                    cursor.clear();
                    cursor.extend_from_slice(told);
                }
                Told::Reset => reset = true,
            },
        )?;
        if reset {
            return Err(Error::Unexpected(
                "a subscriber was told to reload: its cursor is no longer in the log".to_owned(),
            ));
        }
        saw.bytes = bytes as u64;
        self.opened |= saw.opened;
        if self.opened && self.manner == Manner::Stalled {
            self.connection.stall();
        }
        Ok((went, saw))
    }

    /// Whether it is as wanted for the first time.
    pub(super) fn reached(&mut self, until: Until) -> bool {
        let is_there = match until {
            Until::Opened => self.opened,
            Until::Level(revision) => {
                self.opened
                    && Revision::decode(self.cursor.as_slice())
                        .is_ok_and(|cursor| cursor.revision >= revision)
            }
        };
        is_there && !std::mem::replace(&mut self.reached, is_there)
    }
}

fn malformed() -> Error {
    Error::Unexpected("a cursor on a stream is not one".to_owned())
}
