use tokio::time::{Instant, timeout};

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
#[tokio::test]
async fn it_delays_and_leaves_half_open() {
    let proxy = Proxy::start(Target::Tcp(echo().await)).await;
    let connect = || TcpStream::connect(proxy.address());
    let mut chosen = connect().await.unwrap();
    chosen.write_all(b"this one").await.unwrap();
    let mut said = [0; 8];
    chosen.read_exact(&mut said).await.unwrap();
    let mut other = connect().await.unwrap();
    exchange(&mut other).await.unwrap();

    assert_eq!(proxy.freeze_those_that_said("is on"), 1);
    let deaf = Duration::from_millis(50);
    assert!(timeout(deaf, exchange(&mut chosen)).await.is_err());
    assert_eq!(exchange(&mut other).await.unwrap(), *b"ping");
    assert_eq!(proxy.freeze(), 1, "the other one");
    assert!(timeout(deaf, exchange(&mut other)).await.is_err());
    let mut new = connect().await.unwrap();
    assert_eq!(exchange(&mut new).await.unwrap(), *b"ping");
    assert_eq!(proxy.open_connections(), 3);

    proxy.end_frozen();
    assert!(exchange(&mut chosen).await.is_err());
    assert!(exchange(&mut other).await.is_err());

    proxy.delay(Duration::from_millis(30));
    let began = Instant::now();
    exchange(&mut new).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(60), "both ways");
    proxy.cut();
    assert!(exchange(&mut new).await.is_err());
}
