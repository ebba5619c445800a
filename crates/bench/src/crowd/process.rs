//! The process of a crowd: one thread that waits for all of its sockets, and for orders.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::json;

use super::{
    member::{Member, Saw},
    order::{Closed, Complete, Manner, Open, Opened, Order},
    tally::{self, Tally},
};
use crate::{crowd::connection::Went, error::Error};

/// Read at once from one socket.
const BUFFER_BYTES: usize = 256 << 10;
/// Connections made between two looks at those that are there.
const OPENED_AT_ONCE: usize = 16;
const EVENTS: usize = 256;
/// The token of standard input; the others are places of members.
const ORDERS: u64 = u64::MAX;
/// How often those who misbehave are looked at.
const TICK: Duration = Duration::from_millis(10);

/// Everything that the process holds.
struct Crowd {
    epoll: Epoll,
    members: Vec<Member>,
    /// Places of those that do not wait for their sockets.
    timed: Vec<usize>,
    tally: Tally,
    opening: Option<Opening>,
    openings: u64,
    /// Members whose deliveries are counted.
    counting: usize,
}

/// An order to open streams that is not yet answered.
struct Opening {
    order: Open,
    began: Instant,
    /// Yet to connect.
    left: usize,
    /// Yet to be as wanted.
    waiting: usize,
    half: Option<Duration>,
    bytes: u64,
    changes: u64,
}

/// Serves until the bench goes away.
pub(crate) fn serve() -> Result<(), Error> {
    let mut crowd = Crowd::new()?;
    answer(&json!({ "address": "" }))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut input = Vec::new();
    loop {
        let timeout = if crowd.is_opening() {
            EpollTimeout::ZERO
        } else if crowd.timed.is_empty() {
            EpollTimeout::NONE
        } else {
            EpollTimeout::try_from(TICK).unwrap_or(EpollTimeout::ZERO)
        };
        let count = match crowd.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(Error::io("waiting for sockets")(errno.into())),
        };
        for event in &events[..count] {
            if event.data() == ORDERS {
                if !crowd.orders(&mut input)? {
                    return Ok(());
                }
            } else {
                crowd.read(event.data() as usize, &mut buffer)?;
            }
        }
        crowd.open_some()?;
        crowd.tick(&mut buffer)?;
    }
}

fn answer(value: &impl serde::Serialize) -> Result<(), Error> {
    let line =
        serde_json::to_string(value).map_err(|error| Error::Unexpected(error.to_string()))?;
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(Error::io("answering the bench"))
}

// === impl Crowd ===

impl Crowd {
    fn new() -> Result<Self, Error> {
        let failed = |errno: nix::errno::Errno| Error::io("waiting for sockets")(errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        epoll
            .add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, ORDERS))
            .map_err(failed)?;
        Ok(Self {
            epoll,
            members: Vec::new(),
            timed: Vec::new(),
            tally: Tally::new(),
            opening: None,
            openings: 0,
            counting: 0,
        })
    }

    fn is_opening(&self) -> bool {
        self.opening
            .as_ref()
            .is_some_and(|opening| opening.left > 0)
    }

    /// Reads what was ordered and does it. Returns false at the end of the input.
    fn orders(&mut self, input: &mut Vec<u8>) -> Result<bool, Error> {
        let mut chunk = [0; 16 << 10];
        // Once per wake-up: it is readable, so this does not wait.
        let count = io::stdin()
            .lock()
            .read(&mut chunk)
            .map_err(Error::io("listening to the bench"))?;
        input.extend_from_slice(&chunk[..count]);
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let line: VecDeque<u8> = input.drain(..=end).collect();
            let order = serde_json::from_reader(line)
                .map_err(|error| Error::Unexpected(format!("an order is not one: {error}")))?;
            self.obey(order)?;
        }
        Ok(count > 0)
    }

    fn obey(&mut self, order: Order) -> Result<(), Error> {
        match order {
            Order::Open(order) => {
                if order.counting {
                    self.counting += order.count;
                }
                self.opening = Some(Opening {
                    began: Instant::now(),
                    left: order.count,
                    waiting: order.count,
                    half: None,
                    bytes: 0,
                    changes: 0,
                    order,
                });
                Ok(())
            }
            Order::Begin => {
                self.tally.begin();
                answer(&json!({}))
            }
            Order::End => answer(&self.tally.end()),
            Order::Close => {
                self.members.clear();
                self.timed.clear();
                self.counting = 0;
                self.tally.forget();
                let openings = std::mem::take(&mut self.openings);
                answer(&Closed { openings })
            }
        }
    }

    fn open_some(&mut self) -> Result<(), Error> {
        let Some(opening) = self.opening.as_mut().filter(|opening| opening.left > 0) else {
            return Ok(());
        };
        for _ in 0..OPENED_AT_ONCE.min(opening.left) {
            opening.left -= 1;
            let requests = &opening.order.requests;
            let request = requests
                .get(opening.left % requests.len().max(1))
                .cloned()
                .unwrap_or_default();
            let member = Member::open(&opening.order, request)?;
            let place = self.members.len();
            watch(&self.epoll, &member, place)?;
            if member.manner() != Manner::Reading {
                self.timed.push(place);
            }
            self.members.push(member);
            self.openings += 1;
        }
        Ok(())
    }

    /// Reads from a member whose socket has something.
    fn read(&mut self, place: usize, buffer: &mut [u8]) -> Result<(), Error> {
        // Events of members that were closed since.
        let Some(member) = self.members.get_mut(place) else {
            return Ok(());
        };
        let (tally, counting) = (&mut self.tally, self.counting);
        let mut complete = Vec::new();
        let (went, saw) = member.read(buffer, tally::now, |change, at| {
            complete.extend(tally.receive(change, at, counting))
        })?;
        for complete in complete {
            answer(&Complete { complete })?;
        }
        self.saw(place, saw)?;
        if went == Went::Ended {
            let member = &self.members[place];
            if !matches!(member.manner(), Manner::Reconnecting(_)) {
                return Err(Error::Unexpected(format!(
                    "a subscriber's stream of {} ended; the server's log may say why",
                    member.address()
                )));
            }
            self.reopen(place)?;
        } else if !self.members[place].waits() && saw.opened {
            let member = &self.members[place];
            self.epoll
                .delete(member.stream())
                .map_err(|errno| Error::io("leaving a socket alone")(errno.into()))?;
        }
        Ok(())
    }

    /// Counts towards the opening that is under way.
    fn saw(&mut self, place: usize, saw: Saw) -> Result<(), Error> {
        let Some(opening) = &mut self.opening else {
            return Ok(());
        };
        opening.bytes += saw.bytes;
        opening.changes += saw.changes;
        let member = &mut self.members[place];
        if !member.reached(opening.order.until) {
            return Ok(());
        }
        opening.waiting -= 1;
        if opening.half.is_none() && opening.waiting <= opening.order.count / 2 {
            opening.half = Some(opening.began.elapsed());
        }
        if opening.waiting > 0 {
            return Ok(());
        }
        let seconds = opening.began.elapsed();
        let opened = Opened {
            seconds: seconds.as_secs_f64(),
            half_seconds: opening.half.unwrap_or(seconds).as_secs_f64(),
            bytes: opening.bytes,
            changes: opening.changes,
        };
        self.opening = None;
        answer(&opened)
    }

    /// Lets those who misbehave do so.
    fn tick(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        for index in 0..self.timed.len() {
            let place = self.timed[index];
            if self.members[place].is_leaving() {
                self.reopen(place)?;
                continue;
            }
            let allowance = self.members[place].allowance().min(buffer.len());
            if allowance > 0 {
                self.read(place, &mut buffer[..allowance])?;
            }
        }
        Ok(())
    }

    fn reopen(&mut self, place: usize) -> Result<(), Error> {
        self.members[place].reopen()?;
        self.openings += 1;
        watch(&self.epoll, &self.members[place], place)
    }
}

fn watch(epoll: &Epoll, member: &Member, place: usize) -> Result<(), Error> {
    epoll
        .add(
            member.stream(),
            EpollEvent::new(EpollFlags::EPOLLIN, place as u64),
        )
        .map_err(|errno| Error::io("waiting for a socket")(errno.into()))
}
