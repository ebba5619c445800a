//! What the server is compared with, each a process of its own.
//!
//! A floor prints one line of JSON with its address and serves until its standard input ends, which it does when the bench
//! goes away, however it goes.

mod bare;
mod broadcast;
mod echo;
mod npm;
mod publish;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Subcommand;
use serde_json::json;
use tokio::{net::TcpSocket, sync::mpsc};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{error::Error, program::Settings};

pub(crate) use broadcast::messages_file;
pub(crate) use echo::{ECHO_PATH, EchoRequest, answers_like};
pub(crate) use npm::Counts;

/// Which floor.
#[derive(Debug, Subcommand)]
pub(crate) enum FloorCommand {
    /// Answers with messages of given sizes
    Echo(echo::EchoArgs),
    /// Commits one statement per Publish
    Publish(publish::PublishArgs),
    /// Hands everyone the same bytes
    Broadcast(broadcast::BroadcastArgs),
    /// A package registry that answers late
    Npm(npm::NpmArgs),
}

/// As the server sets it: when the kernel begins to ask a silent peer whether it is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// As the server sets it: connections that wait to be taken.
const BACKLOG: u32 = 4_096;

/// Serves until the bench goes away.
pub(crate) async fn serve(command: &FloorCommand) -> Result<(), Error> {
    match command {
        FloorCommand::Echo(args) => echo::serve(args).await,
        FloorCommand::Publish(args) => publish::serve(args).await,
        FloorCommand::Broadcast(args) => broadcast::serve(args).await,
        FloorCommand::Npm(args) => npm::serve(args).await,
    }
}

/// The transport's settings: those of the server's own builder.
fn builder(settings: &Settings) -> Server {
    Server::builder()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .http2_keepalive_interval(Some(Duration::from_millis(settings.keepalive_interval_ms)))
        .http2_keepalive_timeout(Some(Duration::from_millis(settings.keepalive_timeout_ms)))
}

/// Listens as the server does.
fn listen() -> Result<TcpIncoming, Error> {
    let failed = || Error::io("listening on loopback");
    let socket = TcpSocket::new_v4().map_err(failed())?;
    socket
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .map_err(failed())?;
    let listener = socket.listen(BACKLOG).map_err(failed())?;
    announce(&listener.local_addr().map_err(failed())?.to_string());
    Ok(TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(TCP_KEEPALIVE)))
}

fn announce(address: &str) {
    println!("{}", json!({ "address": address }));
}

/// The lines that the bench writes; the end of them says that it has gone away.
fn questions() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    // A thread of its own, which nobody waits for at the end: reading standard input cannot be cancelled.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            // An error says the same as the end.
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Returns when the bench has gone away.
async fn abandoned() {
    let mut questions = questions();
    while questions.recv().await.is_some() {}
}
