//! The test registry as a program of its own, for measurements and for trying things by hand.
//!
//! It prints its address first. `GET /-/fixture/requests`, or SIGUSR1, shows what it was asked.

use std::time::Duration;

use clap::Parser;
use steadfast_testkit::npm::{GeneratedPackages, NpmServer, View};
use tokio::signal::unix::{SignalKind, signal};

/// Serves made-up packages over npm's protocol on loopback.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many packages there are.
    #[arg(long, default_value_t = 1000)]
    packages: usize,
    /// How many versions each has.
    #[arg(long, default_value_t = 1)]
    versions: usize,
    /// What their names begin with; five digits follow.
    #[arg(long, default_value = "@bench/package-")]
    prefix: String,
    /// How long each answer takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// The port on loopback; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Leaves out what some mirrors leave out: ETags, listing, search, optional fields.
    #[arg(long)]
    trimmed: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let server = NpmServer::start_on(arguments.port).await;
    server.generate(GeneratedPackages {
        prefix: arguments.prefix,
        count: arguments.packages,
        versions: arguments.versions,
    });
    server.set_delay(Duration::from_millis(arguments.delay_ms));
    if arguments.trimmed {
        server.set_view(View::Trimmed);
    }
    println!("listening on {}", server.url());
    loop {
        tokio::select! {
            _ = usr1.recv() => println!("{}", server.counts()),
            stopped = tokio::signal::ctrl_c() => return stopped,
        }
    }
}
