//! The package registry, and what it was asked.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use steadfast_testkit::npm::{GeneratedPackages, NpmServer};

use super::{announce, questions};
use crate::error::Error;

/// How a registry is started.
#[derive(Debug, Args)]
pub(crate) struct NpmArgs {
    #[arg(long)]
    prefix: String,
    #[arg(long)]
    packages: usize,
    #[arg(long, default_value_t = 1)]
    versions: usize,
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

/// What the registry was asked since the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) requests: usize,
    pub(crate) in_flight_peak: usize,
    /// From the first request's arrival to the last one's.
    pub(crate) span_s: f64,
}

/// Serves until the bench goes away. `counts` answers [`Counts`]; `reset` begins a new count.
pub(super) async fn serve(args: &NpmArgs) -> Result<(), Error> {
    let server = NpmServer::start().await;
    server.generate(GeneratedPackages {
        prefix: args.prefix.clone(),
        count: args.packages,
        versions: args.versions,
    });
    server.set_delay(Duration::from_millis(args.delay_ms));
    announce(server.url());
    let mut questions = questions();
    while let Some(question) = questions.recv().await {
        match question.as_str() {
            "counts" => println!("{}", json!(counts(&server))),
            "reset" => {
                server.reset_requests();
                println!("{}", json!({}));
            }
            other => return Err(Error::Unexpected(format!("{other:?} is no question"))),
        }
    }
    Ok(())
}

fn counts(server: &NpmServer) -> Counts {
    let requests = server.requests().0;
    let span = match (requests.first(), requests.last()) {
        (Some(first), Some(last)) => last.since_start.saturating_sub(first.since_start),
        _ => Duration::ZERO,
    };
    Counts {
        requests: requests.len(),
        in_flight_peak: server.in_flight_peak(),
        span_s: span.as_secs_f64(),
    }
}
