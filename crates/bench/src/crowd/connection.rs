//! One subscriber: a TCP connection with one HTTP/2 stream, written by hand.
//!
//! A client of tonic takes more processor time for a message than the server that sends it, and would be what is measured on a
//! machine of few cores. This one sends a fixed request, keeps the windows open, answers settings and pings, and hands the data
//! on. It knows nothing of header compression: how a stream ended is read from its server's answer to a real client.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use super::message::{Messages, Told};
use crate::error::Error;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What tonic's clients ask for, for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// What a connection begins with.
const FIRST_WINDOW: u32 = 65_535;
const STREAM: u32 = 1;
const FRAME_HEAD_BYTES: usize = 9;
/// Frames that are not data are gathered, up to the size that HTTP/2 allows without asking.
const CONTROL_BYTES: usize = 16 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const SETTING_PUSH: u16 = 2;
const SETTING_WINDOW: u16 = 4;

/// An open stream.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    messages: Messages,
    head: [u8; FRAME_HEAD_BYTES],
    head_len: usize,
    /// Bytes of the present frame that are yet to come.
    left: usize,
    control: Vec<u8>,
    /// Of the stream, as asked for.
    window: u32,
    /// Data that came since the stream's window, and the connection's, were last opened again.
    unopened: u32,
    unopened_all: u32,
    stalled: bool,
}

/// Whether there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    On,
    Ended,
}

// === impl Connection ===

impl Connection {
    /// Connects and asks, without waiting for anything but the connection.
    pub(super) fn open(
        address: &str,
        path: &str,
        request: &[u8],
        window: u32,
        changes: bool,
    ) -> Result<Self, Error> {
        let failed = || Error::io("connecting a subscriber");
        let mut stream = TcpStream::connect(address).map_err(failed())?;
        stream.set_nodelay(true).map_err(failed())?;
        stream
            .write_all(&opening(address, path, request, window))
            .map_err(failed())?;
        stream.set_nonblocking(true).map_err(failed())?;
        Ok(Self {
            stream,
            messages: Messages::new(changes),
            head: [0; FRAME_HEAD_BYTES],
            head_len: 0,
            left: 0,
            control: Vec::new(),
            window,
            unopened: 0,
            unopened_all: 0,
            stalled: false,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Opens no window from now on.
    pub(super) fn stall(&mut self) {
        self.stalled = true;
    }

    /// Reads once what is there, at most as much as fits into the buffer. `arrived` is called when the bytes are here, before
    /// they are looked at. Returns their number, too.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        arrived: impl FnOnce(),
        mut tell: impl FnMut(Told<'_>),
    ) -> Result<(Went, usize), Error> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Ok((Went::Ended, 0)),
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok((Went::On, 0));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Ok((Went::Ended, 0));
            }
            Err(error) => return Err(Error::io("reading as a subscriber")(error)),
        };
        arrived();
        let went = self.frames(&buffer[..count], &mut tell)?;
        if went == Went::On && !self.stalled {
            self.open_windows()?;
        }
        Ok((went, count))
    }

    fn frames(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Told<'_>)) -> Result<Went, Error> {
        while !bytes.is_empty() {
            if self.head_len < FRAME_HEAD_BYTES {
                let taken = (FRAME_HEAD_BYTES - self.head_len).min(bytes.len());
                self.head[self.head_len..self.head_len + taken].copy_from_slice(&bytes[..taken]);
                self.head_len += taken;
                bytes = &bytes[taken..];
                if self.head_len < FRAME_HEAD_BYTES {
                    break;
                }
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind != DATA && self.left > CONTROL_BYTES || kind == DATA && flags & PADDED != 0
                {
                    return Err(Error::Unexpected(format!(
                        "a frame of kind {kind} with {} bytes and flags {flags:#x}",
                        self.left
                    )));
                }
            }
            let taken = self.left.min(bytes.len());
            let (part, rest) = bytes.split_at(taken);
            bytes = rest;
            self.left -= taken;
            if self.head[3] == DATA {
                self.unopened += taken as u32;
                self.unopened_all += taken as u32;
                self.messages.feed(part, &mut *tell)?;
            } else {
                self.control.extend_from_slice(part);
            }
            if self.left == 0 {
                self.head_len = 0;
                if self.end_frame()? == Went::Ended {
                    return Ok(Went::Ended);
                }
                self.control.clear();
            }
        }
        Ok(Went::On)
    }

    fn end_frame(&mut self) -> Result<Went, Error> {
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => return Ok(Went::Ended),
            RESET | AWAY => return Ok(Went::Ended),
            SETTINGS if flags & ACK == 0 => self.send(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => {
                let answer = frame(PING, ACK, 0, &self.control);
                self.send(&answer)?;
            }
            _ => {}
        }
        Ok(Went::On)
    }

    /// As soon as half of a window was used.
    fn open_windows(&mut self) -> Result<(), Error> {
        if self.unopened >= self.window / 2 {
            let increment = std::mem::take(&mut self.unopened);
            self.send(&frame(WINDOW_UPDATE, 0, STREAM, &increment.to_be_bytes()))?;
        }
        if self.unopened_all >= CONNECTION_WINDOW / 2 {
            let increment = std::mem::take(&mut self.unopened_all);
            self.send(&frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes()))?;
        }
        Ok(())
    }

    /// A few bytes: they fit into the socket's buffer unless the server has stopped to read.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(bytes)
            .map_err(Error::io("answering as a subscriber"))
    }
}

/// All that a subscriber says of its own accord.
fn opening(address: &str, path: &str, request: &[u8], window: u32) -> Vec<u8> {
    let mut settings = Vec::new();
    for (name, value) in [(SETTING_PUSH, 0), (SETTING_WINDOW, window)] {
        settings.extend(name.to_be_bytes());
        settings.extend(value.to_be_bytes());
    }
    let mut message = vec![0];
    message.extend((request.len() as u32).to_be_bytes());
    message.extend(request);
    let more = CONNECTION_WINDOW - FIRST_WINDOW;
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &settings),
        frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()),
        frame(HEADERS, END_HEADERS, STREAM, &headers(address, path)),
        frame(DATA, END_STREAM, STREAM, &message),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The request's headers: from the static table of HPACK where it has them, else literal and not indexed.
fn headers(address: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], address);
    // The thirty-first name of the table.
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    block
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, time::Duration};

    use futures::{Stream, StreamExt as _, stream};
    use steadfast_api::watch::v1::{
        self as api, watch_response as response,
        watch_response::Event,
        watch_service_server::{WatchService, WatchServiceServer},
    };
    use tokio::{net::TcpListener, runtime::Runtime};
    use tonic::{Request, Response, Status, transport::server::TcpIncoming};

    use super::*;

    const BATCHES: usize = 100;
    const PAYLOAD: usize = 10_000;

    /// Sends more than any window, and then says nothing.
    struct Talker;

    #[tonic::async_trait]
    impl WatchService for Talker {
        type WatchStream = Pin<Box<dyn Stream<Item = Result<api::WatchResponse, Status>> + Send>>;

        async fn watch(
            &self,
            request: Request<api::WatchRequest>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            // The request came whole.
            if request.get_ref().filters.len() != 1 {
                return Err(Status::invalid_argument("the request has one filter"));
            }
            let opened = Event::Opened(response::Opened::default());
            let batch = Event::Batch(response::Batch {
                changes: vec![api::Change {
                    payload: vec![7; PAYLOAD].into(),
                    ..api::Change::default()
                }],
                ..response::Batch::default()
            });
            let events = [opened].into_iter().chain(vec![batch; BATCHES]);
            let messages = events.map(|event| Ok(api::WatchResponse { event: Some(event) }));
            let messages = stream::iter(messages.collect::<Vec<_>>());
            Ok(Response::new(Box::pin(messages.chain(stream::pending()))))
        }

        async fn publish(
            &self,
            _: Request<api::PublishRequest>,
        ) -> Result<Response<api::PublishResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn get_head(
            &self,
            _: Request<api::GetHeadRequest>,
        ) -> Result<Response<api::GetHeadResponse>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    fn talker(runtime: &Runtime) -> String {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            // Pings must be answered while the stream goes on.
            .http2_keepalive_interval(Some(Duration::from_millis(1)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_service(WatchServiceServer::new(Talker))
            .serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(server);
        address
    }

    fn open(address: &str, filters: usize) -> Connection {
        let request = prost::Message::encode_to_vec(&api::WatchRequest {
            filters: vec![api::Filter::default(); filters],
            ..api::WatchRequest::default()
        });
        let path = crate::announce::WATCH;
        let connection = Connection::open(address, path, &request, FIRST_WINDOW, true).unwrap();
        // These tests wait for what comes, and for nothing else.
        connection.stream.set_nonblocking(false).unwrap();
        let patience = Some(Duration::from_secs(20));
        connection.stream.set_read_timeout(patience).unwrap();
        connection
    }

    #[test]
    fn everything_comes_through_a_small_window() {
        let runtime = Runtime::new().unwrap();
        let mut connection = open(&talker(&runtime), 1);
        let (mut opened, mut changes) = (0, 0);
        let mut buffer = [0; 5_000];
        while changes < BATCHES {
            let (went, bytes) = connection
                .read(
                    &mut buffer,
                    || {},
                    |told| match told {
                        Told::Opened => opened += 1,
                        Told::Change(body) => {
                            assert!(body.len() > PAYLOAD);
                            changes += 1;
                        }
                        other => panic!("{other:?}"),
                    },
                )
                .unwrap();
            assert!(went == Went::On && bytes > 0, "the stream is silent");
        }
        assert_eq!((opened, changes), (1, BATCHES));
    }

    #[test]
    fn a_stalled_stream_takes_its_window_and_no_more() {
        let runtime = Runtime::new().unwrap();
        let mut connection = open(&talker(&runtime), 1);
        connection.stall();
        let mut buffer = [0; 5_000];
        while connection.unopened < FIRST_WINDOW {
            let (_, bytes) = connection.read(&mut buffer, || {}, |_| {}).unwrap();
            assert!(bytes > 0, "the stream is silent");
        }
        // Pings still come; data would be counted.
        connection
            .stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        for _ in 0..5 {
            connection.read(&mut buffer, || {}, |_| {}).unwrap();
        }
        assert_eq!(connection.unopened, FIRST_WINDOW);
    }

    #[test]
    fn a_refused_stream_ends() {
        let runtime = Runtime::new().unwrap();
        let mut connection = open(&talker(&runtime), 0);
        let mut buffer = [0; 5_000];
        let mut went = Went::On;
        while went == Went::On {
            (went, _) = connection
                .read(&mut buffer, || {}, |told| panic!("{told:?}"))
                .unwrap();
        }
    }
}
