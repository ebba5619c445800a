//! Many clients that come back at the same moment.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use steadfast_testkit::Signal;

use crate::scene::{Engine, NoRegistry};

const CLIENTS: usize = 500;

/// One who finds no place while nobody takes clients would wait for ever.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn clients_that_connect_all_at_once_wait_for_the_server_and_are_not_lost() {
    let scene = NoRegistry::start(Engine::Sqlite).await;
    let server = &scene.server;
    let address: SocketAddr = server.grpc_address().parse().expect("an address");
    // Nobody takes them: all must find a place in the queue.
    server.signal(Signal::SIGSTOP);
    let clients = tokio::task::spawn_blocking(move || {
        let connect = |_| TcpStream::connect_timeout(&address, PATIENCE);
        (0..CLIENTS).map(connect).collect::<Result<Vec<_>, _>>()
    });
    let clients = clients.await.expect("connecting does not panic");
    server.signal(Signal::SIGCONT);
    assert_eq!(clients.expect("all are connected").len(), CLIENTS);
    scene.connect().await;
}
