//! `lookup`: what a GetPackage costs, over what sending its answer costs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use rand::Rng as _;
use steadfast_api::registry::v1::{GetPackageRequest, GetPackageResponse};
use tempfile::TempDir;
use tonic::client::Grpc;

use crate::{
    args::Options,
    catalogue::{self, Registry},
    child::Child,
    error::Error,
    floor::{ECHO_PATH, EchoRequest, answers_like},
    load::{self, Load, Measured, Target},
    program::Program,
    report::{self, Report},
    statistics::Series,
};

const PACKAGES: usize = 1_000;
const GET_PACKAGE: &str = "/steadfast.registry.v1.RegistryService/GetPackage";

pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let program = Program::find(options).await?;
    let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
    let mut environment = program.environment(options, scratch.path())?;
    environment.insert(
        "load".to_owned(),
        "8 connections, 8 calls in flight each".into(),
    );

    let registry = Registry::start(PACKAGES, Duration::ZERO).await?;
    let names: Vec<String> = registry.names().collect();
    let server = registry.server(&program).start().await;
    let channel = load::connect(server.grpc_address()).await?;
    catalogue::finished(&channel, PACKAGES, true).await?;
    drop(registry);

    let mut grpc = Grpc::new(channel);
    let mut questions = Vec::with_capacity(PACKAGES);
    let mut answers = Vec::with_capacity(PACKAGES);
    for name in &names {
        let question = Bytes::from(
            GetPackageRequest {
                name: name.clone(),
                ..GetPackageRequest::default()
            }
            .encode_to_vec(),
        );
        let answer = load::call(&mut grpc, GET_PACKAGE, question.clone()).await?;
        check(name, &answer)?;
        questions.push(question);
        answers.push(answer);
    }
    let echo_questions: Vec<Bytes> = questions
        .iter()
        .enumerate()
        .map(|(place, question)| {
            EchoRequest::new(place, question.len())
                .encode_to_vec()
                .into()
        })
        .collect();
    let file = scratch.path().join("answers");
    std::fs::write(&file, answers_like(&answers)).map_err(Error::io("writing the answers"))?;
    let mut arguments = vec!["echo".into(), "--answers".into(), file.into()];
    arguments.extend(program.settings()?.arguments());
    let echo = Child::start(arguments).await?;

    let targets = [
        target(server.grpc_address(), server.pid(), GET_PACKAGE, questions),
        target(echo.address(), echo.pid()?, ECHO_PATH, echo_questions),
    ];
    let load = Load::standard(options.window());
    let mut rounds: [Vec<Measured>; 2] = Default::default();
    for round in 1..=options.rounds {
        for (index, target) in targets.iter().enumerate() {
            let measured = load.run(target).await?;
            eprintln!("round {round} {}: {measured}", ["server", "echo  "][index]);
            rounds[index].push(measured);
        }
    }
    let [server, echo] = rounds;
    let mut report = Report::new("lookup", environment);
    let series = |of: fn(&Measured) -> f64| -> (Series, Series) {
        (
            server.iter().map(of).collect(),
            echo.iter().map(of).collect(),
        )
    };
    let (cpu, floor) = series(|round| round.cpu_us);
    report.ratio(
        "server_cpu_ratio",
        &cpu,
        &floor,
        Some(report::Target::AtMost(1.25)),
    );
    report.floored("server_cpu", "us/call", &cpu, &floor);
    let (rate, floor) = series(|round| round.rate);
    report.floored("rate", "calls/s", &rate, &floor);
    let (p50, floor) = series(|round| round.p50_us);
    report.floored("p50", "us", &p50, &floor);
    let (p99, floor) = series(|round| round.p99_us);
    report.floored("p99", "us", &p99, &floor);
    let (bytes, floor) = series(|round| round.answer_bytes);
    report.floored("answer", "bytes", &bytes, &floor);
    Ok(report)
}

/// What is measured must be a lookup that finds what it was asked for.
fn check(name: &str, answer: &Bytes) -> Result<(), Error> {
    let found = GetPackageResponse::decode(answer.clone())
        .ok()
        .and_then(|answer| answer.package)
        .is_some_and(|package| package.name == *name && !package.versions.is_empty());
    if found {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "GetPackage of {name} answered something else"
    )))
}

fn target(address: &str, pid: u32, path: &'static str, questions: Vec<Bytes>) -> Target {
    Target {
        address: address.to_owned(),
        pid,
        path,
        request: Arc::new(move |random| questions[random.random_range(0..questions.len())].clone()),
    }
}
