//! A TCP relay on loopback that misbehaves on command: what a network between two processes can do to them.

#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// Where a proxy relays to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket, such as a test cluster's.
    Unix(PathBuf),
}

/// A relay that lives as long as this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<Target>,
    paused: watch::Sender<bool>,
    /// The same for what comes back from the target.
    answers_paused: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    /// Raised to cut every connection opened before.
    cut: watch::Sender<u64>,
    /// How long every byte is on its way.
    delay: watch::Sender<Duration>,
    connections: Mutex<Vec<Weak<Link>>>,
    open: AtomicUsize,
    accepted: AtomicUsize,
}

/// One connection through the relay.
#[derive(Debug)]
struct Link {
    state: watch::Sender<State>,
    /// What the client said first.
    said: Mutex<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Frozen,
    Over,
}

/// How much of it is kept, to tell connections apart.
const SAID_BYTES: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

// === impl Proxy ===

impl Proxy {
    /// Listens on a port of the system's choice.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn start(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            paused: watch::Sender::new(false),
            answers_paused: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            cut: watch::Sender::new(0),
            delay: watch::Sender::new(Duration::ZERO),
            connections: Mutex::default(),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// The address to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds back every byte in both directions while connections stay open, as a stalled network does.
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
        self.hold_answers();
    }

    /// Holds back what the target says, while it hears everything: what it did by then, nobody else knows.
    pub fn hold_answers(&self) {
        self.shared.answers_paused.send_replace(true);
    }

    /// Lets the bytes held back, and all later ones, through.
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
        self.shared.answers_paused.send_replace(false);
    }

    /// Makes everything that comes from now on take longer, in each direction; zero for no longer than it takes.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.send_replace(delay);
    }

    /// Leaves every open connection half-open: neither side hears anything more, nor that it is over. New ones are relayed. Returns
    /// how many there were.
    pub fn freeze(&self) -> usize {
        self.freeze_if(|_| true)
    }

    /// The same with those whose client has said this, soon after it connected.
    pub fn freeze_those_that_said(&self, text: &str) -> usize {
        let text = text.as_bytes();
        self.freeze_if(|said| said.windows(text.len()).any(|window| window == text))
    }

    fn freeze_if(&self, chosen: impl Fn(&[u8]) -> bool) -> usize {
        let links = lock(&self.shared.connections);
        let open = links.iter().filter_map(Weak::upgrade);
        let chosen = open.filter(|link| chosen(&lock(&link.said)));
        // One that is frozen already is not counted again.
        chosen
            .filter(|link| link.state.send_replace(State::Frozen) == State::Open)
            .count()
    }

    /// Closes the connections that are half-open, on both sides, as when a host that had vanished is back and knows nothing of
    /// them.
    pub fn end_frozen(&self) {
        for link in lock(&self.shared.connections)
            .iter()
            .filter_map(Weak::upgrade)
        {
            link.state.send_if_modified(|state| {
                let frozen = *state == State::Frozen;
                if frozen {
                    *state = State::Over;
                }
                frozen
            });
        }
    }

    /// Closes every open connection on both sides; new ones are taken.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|generation| *generation += 1);
    }

    /// Closes new connections as soon as they come, or takes them again. Open ones are left alone.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.send_replace(refuse);
    }

    /// Relays new connections to somewhere else.
    pub fn retarget(&self, target: Target) {
        *lock(&self.shared.target) = target;
    }

    /// How many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many connections were ever accepted, refused ones included.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("the proxy cannot accept: {error}");
                return;
            }
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if *shared.refusing.borrow() {
            continue;
        }
        let shared = Arc::clone(&shared);
        // Taken before the task starts, so that a cut right after the accept is not missed.
        let mut cut = shared.cut.subscribe();
        shared.open.fetch_add(1, Ordering::SeqCst);
        let link = Arc::new(Link {
            state: watch::Sender::new(State::Open),
            said: Mutex::default(),
        });
        {
            let mut links = lock(&shared.connections);
            links.retain(|link| link.strong_count() > 0);
            links.push(Arc::downgrade(&link));
        }
        let mut state = link.state.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Nothing that was held back gets through after a cut.
                biased;
                _ = cut.changed() => {}
                _ = state.wait_for(|state| *state == State::Over) => {}
                _ = relay(stream, &shared, &link) => {}
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn relay(client: TcpStream, shared: &Shared, link: &Link) -> io::Result<()> {
    client.set_nodelay(true)?;
    let target = lock(&shared.target).clone();
    let server: Box<dyn Stream> = match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = tokio::io::split(server);
    let asked = Pump {
        paused: shared.paused.subscribe(),
        state: link.state.subscribe(),
        delay: shared.delay.subscribe(),
        said: Some(&link.said),
    };
    let answered = Pump {
        paused: shared.answers_paused.subscribe(),
        state: link.state.subscribe(),
        delay: shared.delay.subscribe(),
        said: None,
    };
    tokio::try_join!(
        asked.run(client_read, server_write),
        answered.run(server_read, client_write),
    )?;
    Ok(())
}

/// One direction of a connection.
struct Pump<'a> {
    paused: watch::Receiver<bool>,
    state: watch::Receiver<State>,
    delay: watch::Receiver<Duration>,
    said: Option<&'a Mutex<Vec<u8>>>,
}

// === impl Pump ===

impl Pump<'_> {
    async fn run<R, W>(mut self, mut from: R, mut to: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if let Some(said) = self.said {
                let mut said = lock(said);
                let room = SAID_BYTES.saturating_sub(said.len());
                said.extend(&buffer[..count.min(room)]);
            }
            let delay = *self.delay.borrow();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // The senders live as long as the relay, so these only fail when everything is going away.
            let paused = self.paused.wait_for(|paused| !paused).await.is_err();
            let state = self.state.wait_for(|state| *state != State::Frozen);
            let over = state.await.is_err();
            if paused || over || count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..count]).await?;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
