//! Many subscribers in a process of their own, and what they are told.
//!
//! Each has a TCP connection, and on it one stream. The server's subscribers and the floor's are the same.

mod connection;
mod member;
mod message;
mod order;
mod process;
mod tally;

use std::collections::VecDeque;

use serde::de::DeserializeOwned;

use crate::{child::Child, error::Error};

pub(crate) use order::{Manner, Open, Opened, Until};
pub(crate) use process::serve;
pub(crate) use tally::{Received, Stamp, now};

use order::{Closed, Complete, Order};

/// The window that tonic's clients offer.
pub(crate) const WINDOW: u32 = 2 << 20;
/// The window of HTTP/2 itself, for clients that ask for nothing.
pub(crate) const SMALL_WINDOW: u32 = 65_535;

/// The bench's side of a crowd.
#[derive(Debug)]
pub(crate) struct Crowd {
    child: Child,
    /// Announced while something else was waited for.
    complete: VecDeque<u64>,
}

// === impl Crowd ===

impl Crowd {
    pub(crate) async fn start() -> Result<Self, Error> {
        Ok(Self {
            child: Child::start_as("crowd", []).await?,
            complete: VecDeque::new(),
        })
    }

    pub(crate) fn pid(&self) -> Result<u32, Error> {
        self.child.pid()
    }

    pub(crate) async fn open(&mut self, order: Open) -> Result<Opened, Error> {
        self.ask(&Order::Open(order)).await
    }

    pub(crate) async fn begin(&mut self) -> Result<(), Error> {
        self.ask::<serde_json::Value>(&Order::Begin).await.map(drop)
    }

    pub(crate) async fn end(&mut self) -> Result<Received, Error> {
        self.ask(&Order::End).await
    }

    /// Returns how often streams were opened.
    pub(crate) async fn close(&mut self) -> Result<u64, Error> {
        let closed: Closed = self.ask(&Order::Close).await?;
        self.complete.clear();
        Ok(closed.openings)
    }

    /// Waits for the next publication that all have received. It may be dropped while waiting.
    pub(crate) async fn complete(&mut self) -> Result<u64, Error> {
        if let Some(complete) = self.complete.pop_front() {
            return Ok(complete);
        }
        let line = self.child.line().await?;
        let told: Complete = serde_json::from_value(line)
            .map_err(|error| Error::Unexpected(format!("a crowd announced nothing: {error}")))?;
        Ok(told.complete)
    }

    async fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T, Error> {
        let wrong = |error: serde_json::Error| Error::Unexpected(format!("a crowd: {error}"));
        let order = serde_json::to_string(order).map_err(wrong)?;
        self.child.write(&order).await?;
        loop {
            let line = self.child.line().await?;
            match serde_json::from_value::<Complete>(line.clone()) {
                Ok(told) => self.complete.push_back(told.complete),
                Err(_) => return serde_json::from_value(line).map_err(wrong),
            }
        }
    }
}
