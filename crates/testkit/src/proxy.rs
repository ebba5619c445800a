//! A TCP relay on loopback that misbehaves on command: what a network between two processes can do to them.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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
    open: AtomicUsize,
    accepted: AtomicUsize,
}

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
        *self
            .shared
            .target
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = target;
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
        tokio::spawn(async move {
            tokio::select! {
                // Nothing that was held back gets through after a cut.
                biased;
                _ = cut.changed() => {}
                _ = relay(stream, &shared) => {}
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn relay(client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let target = shared
        .target
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
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
    tokio::try_join!(
        pump(client_read, server_write, shared.paused.subscribe()),
        pump(server_read, client_write, shared.answers_paused.subscribe()),
    )?;
    Ok(())
}

async fn pump<R, W>(mut from: R, mut to: W, mut paused: watch::Receiver<bool>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        // The sender lives as long as the relay's shared state, so this only fails when everything is going away.
        if paused.wait_for(|paused| !paused).await.is_err() || count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo() -> SocketAddr {
        echo_and_count().await.0
    }

    /// Says how many bytes it heard, too.
    async fn echo_and_count() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        counted.fetch_add(count, Ordering::SeqCst);
                        if stream.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        (address, heard)
    }

    async fn exchange(stream: &mut TcpStream) -> io::Result<[u8; 4]> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn it_relays_pauses_cuts_and_refuses() {
        let proxy = Proxy::start(Target::Tcp(echo().await)).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut stream).await.unwrap(), *b"ping");

        proxy.pause();
        {
            let held = exchange(&mut stream);
            tokio::pin!(held);
            assert!(timeout(Duration::from_millis(50), &mut held).await.is_err());
            proxy.resume();
            assert_eq!(held.await.unwrap(), *b"ping");
        }

        let heard = echo_and_count().await;
        proxy.retarget(Target::Tcp(heard.0));
        let mut unanswered = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut unanswered).await.unwrap(), *b"ping");
        proxy.hold_answers();
        let answer = timeout(Duration::from_millis(50), exchange(&mut unanswered));
        assert!(answer.await.is_err());
        assert_eq!(heard.1.load(Ordering::SeqCst), 8, "it heard both");
        proxy.resume();

        proxy.cut();
        assert!(exchange(&mut stream).await.is_err());
        assert!(exchange(&mut unanswered).await.is_err());

        proxy.refuse(true);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(exchange(&mut refused).await.is_err());

        proxy.refuse(false);
        proxy.retarget(Target::Tcp(echo().await));
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut again).await.unwrap(), *b"ping");
        assert_eq!(proxy.accepted_connections(), 4);
    }
}
