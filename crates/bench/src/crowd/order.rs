//! What a crowd is told to do, one line of JSON each; each is answered by one line.

use serde::{Deserialize, Serialize};

/// One order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Open streams. Answered when all are as wanted.
    Open(Open),
    /// Measure what is published from now on. Answered at once.
    Begin,
    /// End the measurement. Answered with what was received.
    End,
    /// Close all streams. Answered at once, with how often streams were opened.
    Close,
}

/// Streams to open, all at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) address: String,
    pub(crate) path: String,
    pub(crate) count: usize,
    /// Encoded requests; the streams take them in turns.
    pub(crate) requests: Vec<Vec<u8>>,
    /// The window that each stream offers, in bytes.
    pub(crate) window: u32,
    pub(crate) manner: Manner,
    /// Whether publications are counted; each that all subscribers of the crowd have received is announced by a line.
    pub(crate) counting: bool,
    pub(crate) until: Until,
}

/// How a subscriber behaves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Manner {
    /// It reads whatever comes.
    Reading,
    /// Once its stream is open, it takes no more than its window allows, as an application that has stopped to read while its
    /// HTTP/2 library lives on and answers pings.
    Stalled,
    /// Once its stream is open, it does not even read its socket, as a process that is stopped. Servers that send pings leave it
    /// after a while.
    Frozen,
    /// Once its stream is open, it reads so many bytes per second.
    Draining(usize),
    /// It leaves after so many milliseconds without a word and comes back at once, with its last cursor.
    Reconnecting(u64),
}

/// When an opening is answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// All streams have said that they are open.
    Opened,
    /// All streams have told a cursor at or above this revision.
    Level(i64),
}

/// The answer to an opening.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// From before the first connection until all were as wanted.
    pub(crate) seconds: f64,
    /// Until half of them were.
    pub(crate) half_seconds: f64,
    /// Read from the sockets.
    pub(crate) bytes: u64,
    pub(crate) changes: u64,
}

/// The answer to a closing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Closed {
    /// Streams opened since the last closing, those of reconnecting subscribers each time.
    pub(crate) openings: u64,
}

/// Every subscriber has received this publication.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Complete {
    pub(crate) complete: u64,
}
