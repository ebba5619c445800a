//! What a crowd has received, and how long it took.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::statistics::Latencies;

/// What a publisher puts in front of its payload.
const STAMP_BYTES: usize = 16;

/// When something was published, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// On the clock that all processes of a machine share, in nanoseconds.
    pub(crate) nanos: u64,
    pub(crate) number: u64,
}

/// What was received while it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Changes, over all subscribers.
    pub(crate) deliveries: u64,
    pub(crate) seconds: f64,
    /// From before the publish to the receipt, over all deliveries.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The same of the last subscriber of each publication.
    pub(crate) last_p50_us: f64,
    pub(crate) last_p99_us: f64,
}

/// Counts while it runs.
#[derive(Debug)]
pub(super) struct Tally {
    /// Publications that some have received and others have not, each with the number of those that have.
    partial: HashMap<u64, usize>,
    measuring: Option<Instant>,
    /// What was published before does not count.
    since: u64,
    deliveries: u64,
    latencies: Vec<u32>,
    last: Vec<u32>,
}

/// The only field of a change that is looked at.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "7")]
    payload: Vec<u8>,
}

/// Nanoseconds on the clock that all processes of a machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the kernel has a monotonic clock");
    Duration::from(time).as_nanos() as u64
}

// === impl Stamp ===

impl Stamp {
    /// As the beginning of a payload of so many bytes.
    pub(crate) fn payload(self, bytes: usize) -> Vec<u8> {
        let mut payload = self.nanos.to_le_bytes().to_vec();
        payload.extend(self.number.to_le_bytes());
        payload.resize(bytes.max(STAMP_BYTES), b'.');
        payload
    }

    fn of(change: &[u8]) -> Option<Self> {
        let Payload { payload } = Payload::decode(change).ok()?;
        let (nanos, rest) = payload.split_first_chunk()?;
        Some(Self {
            nanos: u64::from_le_bytes(*nanos),
            number: u64::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            partial: HashMap::new(),
            measuring: None,
            since: 0,
            deliveries: 0,
            latencies: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Measures what is published from now on.
    pub(super) fn begin(&mut self) {
        self.since = now();
        self.measuring = Some(Instant::now());
        self.deliveries = 0;
        self.latencies.clear();
        self.last.clear();
    }

    /// Counts a change that one of so many subscribers received. Returns the publication's number if that was the last one.
    pub(super) fn receive(&mut self, change: &[u8], at: u64, subscribers: usize) -> Option<u64> {
        let stamp = Stamp::of(change)?;
        let received = self.partial.entry(stamp.number).or_default();
        *received += 1;
        let complete = *received >= subscribers;
        if complete {
            self.partial.remove(&stamp.number);
        }
        if self.measuring.is_some() {
            self.deliveries += 1;
            if stamp.nanos >= self.since {
                let took = at.saturating_sub(stamp.nanos) / 1_000;
                let took = u32::try_from(took).unwrap_or(u32::MAX);
                self.latencies.push(took);
                if complete {
                    self.last.push(took);
                }
            }
        }
        complete.then_some(stamp.number)
    }

    /// Ends the measurement.
    pub(super) fn end(&mut self) -> Received {
        let began = self.measuring.take();
        let all = Latencies::of(std::mem::take(&mut self.latencies));
        let last = Latencies::of(std::mem::take(&mut self.last));
        Received {
            deliveries: self.deliveries,
            seconds: began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
            p50_us: all.percentile(50.0),
            p99_us: all.percentile(99.0),
            last_p50_us: last.percentile(50.0),
            last_p99_us: last.percentile(99.0),
        }
    }

    /// Forgets publications that the present subscribers will never complete.
    pub(super) fn forget(&mut self) {
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use steadfast_api::watch::v1::Change;

    use super::*;

    fn change(nanos: u64, number: u64) -> Vec<u8> {
        Change {
            topic: "app/bench".to_owned(),
            payload: Stamp { nanos, number }.payload(40).into(),
            revision: 300,
            ..Change::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn the_last_subscriber_completes_a_publication() {
        let mut tally = Tally::new();
        tally.begin();
        let sent = now();
        let (a, b) = (change(sent, 1), change(sent, 2));
        let us = |us: u64| sent + us * 1_000;
        assert_eq!(tally.receive(&a, us(100), 2), None);
        assert_eq!(tally.receive(&b, us(200), 2), None);
        assert_eq!(tally.receive(&b, us(300), 2), Some(2));
        assert_eq!(tally.receive(&a, us(400), 2), Some(1));
        let received = tally.end();
        assert_eq!(received.deliveries, 4);
        assert_eq!((received.p50_us, received.p99_us), (200.0, 400.0));
        assert_eq!((received.last_p50_us, received.last_p99_us), (300.0, 400.0));
    }

    #[test]
    fn what_was_published_before_has_no_latency() {
        let mut tally = Tally::new();
        let old = change(now() - 1, 1);
        tally.begin();
        assert_eq!(tally.receive(&old, now(), 1), Some(1));
        let received = tally.end();
        assert_eq!((received.deliveries, received.p99_us), (1, 0.0));
        assert_eq!(tally.receive(b"", 0, 1), None);
    }
}
