//! `steadfast`: the server, and the operator's commands.
//!
//! Every command is a thin shell around one or a few calls of the client: it asks, renders a table or JSON, and turns what
//! went wrong into one line, a hint and an exit code. Rendering is pure and apart from asking, so that it can be tested
//! without a server. Standard output carries results only; progress, notes and errors go to standard error.

mod args;
mod commands;
mod failure;
mod hint;
mod json;
mod moment;
mod output;
mod table;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{args::Cli, failure::Failure};

/// Of the three large buffers that the transport has for each connection, only the beginnings are used. This allocator puts each on
/// pages of its own, of which the rest is never touched: five thousand open streams take a sixth less than with the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return args::refused(&error),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    let outcome = runtime.block_on(commands::run(cli));
    // Work that blocks in the background must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}
