//! `steadfast-bench`: loads the real server as its callers would, and says how far it is from what is possible.
//!
//! A rate alone says more about a machine than about a program, so every figure has a floor that is measured in the same run:
//! the simplest server that could give the same answers, with the same transport settings, on the same disk. Rounds of the
//! server and of its floors alternate, so that a change of the machine's mood strikes both, and medians are compared. The
//! server is the release binary as a process of its own with its default configuration; floors and the package registry are
//! further processes, made of this program, so that their processor time is nobody else's.

mod announce;
mod args;
mod catalogue;
mod child;
mod crowd;
mod drift;
mod error;
mod fanout;
mod floor;
mod idle;
mod load;
mod lookup;
mod machine;
mod process;
mod program;
mod publish;
mod refresh;
mod report;
mod saga;
mod slow;
mod stage;
mod statistics;
mod storm;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command, Format},
    error::Error,
};

/// The server's: a floor must not be lower or higher for the sake of another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    if matches!(cli.command, Command::Crowd) {
        return crowd::serve();
    }
    let runtime = tokio::runtime::Runtime::new().map_err(Error::io("starting the runtime"))?;
    runtime.block_on(async {
        let report = match &cli.command {
            Command::Floor(floor) => return floor::serve(floor).await,
            Command::Crowd => return crowd::serve(),
            _ if cfg!(debug_assertions) => return Err(Error::Unoptimised),
            Command::Lookup => lookup::run(&cli.options).await?,
            Command::Publish => publish::run(&cli.options).await?,
            Command::Refresh => refresh::run(&cli.options).await?,
            Command::Saga(saga) => saga::run(&cli.options, saga).await?,
            Command::Drift(drift) => drift::run(&cli.options, drift).await?,
            Command::Fanout(fanout) => fanout::run(&cli.options, fanout).await?,
            Command::Idle => idle::run(&cli.options).await?,
            Command::Slow(slow) => slow::run(&cli.options, slow).await?,
            Command::Storm => storm::run(&cli.options).await?,
        };
        match cli.options.output {
            Format::Table => println!("{}", table::render(&report)),
            Format::Json => println!("{:#}", report.to_json()),
        }
        Ok(())
    })
}
