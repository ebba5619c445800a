//! An HTTP/1.1 server that misbehaves on command. It is written on bare sockets because a proper server library would refuse to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_upstream::Url;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// As it was sent, percent signs and all.
    pub(crate) target: String,
    /// By name in small letters.
    pub(crate) headers: BTreeMap<String, String>,
}

/// What goes out.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    length: Length,
    ending: Ending,
    gate: Option<Arc<Semaphore>>,
}

#[derive(Clone, Copy)]
enum Length {
    Announced(usize),
    Chunked,
}

#[derive(Clone, Copy)]
enum Ending {
    Proper,
    Close,
    Silence,
    /// The body again and again.
    Forever(Duration),
}

/// The server; it ends when this is dropped.
pub(crate) struct Server {
    url: Url,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

/// What to answer to a request, by its number (from 0).
type Behaviour = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

struct State {
    answer: Box<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    in_flight: watch::Sender<InFlight>,
}

#[derive(Clone, Copy, Default)]
struct InFlight {
    now: usize,
    most: usize,
}

// === impl Reply ===

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            headers: Vec::new(),
            length: Length::Announced(body.len()),
            body,
            ending: Ending::Proper,
            gate: None,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.length = Length::Chunked;
        self
    }

    /// Announces more than it sends, and closes.
    pub(crate) fn cut_short(mut self) -> Self {
        if let Length::Announced(bytes) = &mut self.length {
            *bytes += 10;
        }
        self.ending = Ending::Close;
        self
    }

    /// Announces more than it sends, and says nothing further.
    pub(crate) fn falling_silent(self) -> Self {
        let mut cut = self.cut_short();
        cut.ending = Ending::Silence;
        cut
    }

    /// Sends the body again after each pause, for ever.
    pub(crate) fn never_ending(self, pause: Duration) -> Self {
        let mut endless = self.chunked();
        endless.ending = Ending::Forever(pause);
        endless
    }

    /// Is sent once the gate yields a permit.
    pub(crate) fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }

    async fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Any\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&match self.length {
            Length::Announced(bytes) => format!("content-length: {bytes}\r\n\r\n"),
            Length::Chunked => "transfer-encoding: chunked\r\n\r\n".to_owned(),
        });
        stream.write_all(head.as_bytes()).await?;
        self.write_body(stream).await?;
        match self.ending {
            Ending::Proper => match self.length {
                Length::Announced(_) => Ok(()),
                Length::Chunked => stream.write_all(b"0\r\n\r\n").await,
            },
            Ending::Close => stream.shutdown().await,
            Ending::Silence => std::future::pending().await,
            Ending::Forever(pause) => loop {
                tokio::time::sleep(pause).await;
                self.write_body(stream).await?;
            },
        }
    }

    async fn write_body(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        match self.length {
            Length::Announced(_) => stream.write_all(&self.body).await,
            Length::Chunked => {
                let mut chunk = format!("{:x}\r\n", self.body.len()).into_bytes();
                chunk.extend(&self.body);
                chunk.extend(b"\r\n");
                stream.write_all(&chunk).await
            }
        }
    }
}

// === impl Server ===

impl Server {
    /// Answers each request with what `answer` makes of its number (from 0) and itself.
    pub(crate) async fn start(
        answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port on loopback");
        let address = listener.local_addr().expect("the port's number");
        let state = Arc::new(State {
            answer: Box::new(answer),
            seen: Mutex::default(),
            in_flight: watch::Sender::default(),
        });
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move { state.serve(stream).await });
            }
        });
        Self {
            url: format!("http://{address}/").parse().expect("a URL"),
            state,
            _tasks: tasks,
        }
    }

    /// Gives the same answer to everything.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        self.url.join(path).expect("a path")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen().len()
    }

    /// Waits until so many requests are being answered at once.
    pub(crate) async fn reaches(&self, requests: usize) {
        let mut in_flight = self.state.in_flight.subscribe();
        in_flight
            .wait_for(|in_flight| in_flight.now >= requests)
            .await
            .expect("the server runs");
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.state.in_flight.borrow().most
    }
}

// === impl State ===

impl State {
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(seen) = read_request(&mut stream).await {
            let number = {
                let mut all = self.seen.lock().expect("not poisoned");
                all.push(seen.clone());
                all.len() - 1
            };
            self.in_flight.send_modify(|in_flight| {
                in_flight.now += 1;
                in_flight.most = in_flight.most.max(in_flight.now);
            });
            let reply = (self.answer)(number, &seen);
            if let Some(gate) = &reply.gate {
                gate.acquire().await.expect("an open gate").forget();
            }
            // Counted as over before the client can know it, so that the next request is never counted beside this one.
            self.in_flight.send_modify(|in_flight| in_flight.now -= 1);
            // The client may hang up in the middle of an answer; many tests are about just that.
            if reply.write(stream.get_mut()).await.is_err() {
                return;
            }
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let (request, headers) = lines.split_first()?;
    let headers = headers
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Seen {
        target: request.split(' ').nth(1)?.to_owned(),
        headers,
    })
}
