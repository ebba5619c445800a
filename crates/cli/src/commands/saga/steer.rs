//! Steering sagas: every verb says who and why, and those that decide about a step say what was seen.

use std::path::PathBuf;

use clap::Args;
use steadfast_client::{
    Connection,
    api::saga::v1::{
        AbandonSagaRequest, CancelSagaRequest, GetSagaRequest, PauseSagaRequest, ResumeSagaRequest,
        RetryStepRequest, Saga, Seen, SkipStepRequest,
    },
};

use super::{IdArgs, report};
use crate::{
    commands::{Session, document, who::WhoArgs},
    failure::{Exit, Failure},
    json,
};

/// A verb that needs to have seen nothing.
#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    #[command(flatten)]
    saga: IdArgs,
    #[command(flatten)]
    who: WhoArgs,
}

/// A verb about what its author has seen.
#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    #[command(flatten)]
    saga: IdArgs,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    seen: SeenArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SkipArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// What the step would have returned, as JSON; null if it is left out
    #[arg(long, value_name = "JSON", conflicts_with = "result_file")]
    result: Option<String>,
    /// A file with what the step would have returned, in TOML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    result_file: Option<PathBuf>,
}

/// What `saga get` showed. Left out, it is read first, and the verb holds for the saga as it is now.
#[derive(Debug, Args)]
struct SeenArgs {
    /// The step that was seen
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Its attempt that was seen
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<i32>,
    /// The control version that was seen
    #[arg(long, value_name = "NUMBER")]
    control_version: Option<i64>,
}

pub(super) async fn cancel(args: SteerArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = CancelSagaRequest {
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.cancel_saga(request)).await?;
    print(answer.saga, session)
}

pub(super) async fn pause(args: SteerArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = PauseSagaRequest {
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.pause_saga(request)).await?;
    print(answer.saga, session)
}

pub(super) async fn resume(args: SteerArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = ResumeSagaRequest {
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.resume_saga(request)).await?;
    print(answer.saga, session)
}

pub(super) async fn retry(args: DecideArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = RetryStepRequest {
        seen: Some(seen(&connection, &args.saga.id, args.seen).await?),
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.retry_step(request)).await?;
    print(answer.saga, session)
}

pub(super) async fn skip(args: SkipArgs, session: &Session) -> Result<Exit, Failure> {
    let output_json = match (args.result, &args.result_file) {
        (Some(text), _) => text,
        (None, Some(file)) => document::read(file)?.to_string(),
        (None, None) => String::new(),
    };
    let args = args.decide;
    let connection = session.connect().await?;
    let request = SkipStepRequest {
        seen: Some(seen(&connection, &args.saga.id, args.seen).await?),
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
        output_json,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.skip_step(request)).await?;
    print(answer.saga, session)
}

pub(super) async fn abandon(args: DecideArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let request = AbandonSagaRequest {
        seen: Some(seen(&connection, &args.saga.id, args.seen).await?),
        id: args.saga.id,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    let mut client = connection.sagas();
    let answer = connection.call(client.abandon_saga(request)).await?;
    print(answer.saga, session)
}

/// What was given, completed by what the saga is now.
async fn seen(connection: &Connection, id: &str, given: SeenArgs) -> Result<Seen, Failure> {
    if let (Some(step), Some(attempt), Some(control_version)) =
        (&given.step, given.attempt, given.control_version)
    {
        return Ok(Seen {
            control_version,
            step: step.clone(),
            attempt,
        });
    }
    let mut client = connection.sagas();
    let request = GetSagaRequest { id: id.to_owned() };
    let now = connection.call(client.get_saga(request)).await?;
    Ok(completed(given, &now.saga.unwrap_or_default()))
}

fn completed(given: SeenArgs, now: &Saga) -> Seen {
    Seen {
        control_version: given.control_version.unwrap_or(now.control_version),
        step: given.step.unwrap_or_else(|| now.current_step.clone()),
        attempt: given.attempt.unwrap_or(now.current_attempt),
    }
}

fn print(saga: Option<Saga>, session: &Session) -> Result<Exit, Failure> {
    let saga = saga.unwrap_or_default();
    session
        .output
        .print(|| report::one_line(&saga), || json::saga::saga(&saga))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_the_saga_is_now() {
        let now = Saga {
            control_version: 4,
            current_step: "b".to_owned(),
            current_attempt: 5,
            ..Saga::default()
        };
        let given = SeenArgs {
            step: None,
            attempt: Some(3),
            control_version: None,
        };
        let seen = completed(given, &now);
        assert_eq!(
            (seen.control_version, seen.step.as_str(), seen.attempt),
            (4, "b", 3)
        );
    }
}
