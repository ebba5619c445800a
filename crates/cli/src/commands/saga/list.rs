//! Looking at sagas.

use clap::{Args, ValueEnum};
use serde_json::json;
use steadfast_client::{
    Connection,
    api::saga::v1::{
        GetSagaRequest, ListSagaEventsRequest, ListSagaStepsRequest, ListSagasRequest, Saga,
        SagaEvent, SagaState, SagaStep, SagaVerb,
    },
};

use super::{IdArgs, NameAndVersion, report};
use crate::{
    args::key_and_value,
    commands::Session,
    failure::{Exit, Failure},
    json,
};

/// Sagas, or events, of one answer at most, which the contract tells.
const PAGE_SIZE: u32 = 1_000;
/// Events of one saga at most, which are far fewer.
const EVENTS: usize = 10_000;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep sagas in this state; may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateArg>,
    /// Keep sagas of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Keep sagas with this label; may be repeated, and then all must be there
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// Keep sagas of this definition: NAME, or NAME@VERSION
    #[arg(long, value_name = "NAME")]
    definition: Option<NameAndVersion>,
    /// Keep sagas about this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    deployment: String,
    /// The most sagas to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Pending,
    Running,
    Paused,
    Compensating,
    Completed,
    Compensated,
    Stuck,
    Abandoned,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    saga: IdArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    saga: IdArgs,
    /// List events with a higher number only
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,
    /// The most events to list
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

pub(super) async fn run(args: ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.sagas();
    let limit = args.limit as usize;
    let mut request = ListSagasRequest {
        states: args
            .states
            .iter()
            .map(|state| SagaState::from(*state).into())
            .collect(),
        kinds: args.kinds,
        labels: args.labels.into_iter().collect(),
        definition: args.definition.map(Into::into),
        deployment_id: args.deployment,
        page_size: 0,
        page_token: String::new(),
    };
    let mut sagas: Vec<Saga> = Vec::new();
    loop {
        let missing = u32::try_from(limit - sagas.len()).unwrap_or(PAGE_SIZE);
        request.page_size = missing.min(PAGE_SIZE).cast_signed();
        let mut answer = connection.call(client.list_sagas(request.clone())).await?;
        sagas.append(&mut answer.sagas);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || sagas.len() >= limit {
            break;
        }
    }
    let more = !request.page_token.is_empty();
    session.output.print(
        || report::list(&sagas, more),
        || {
            let sagas: Vec<_> = sagas.iter().map(json::saga::saga).collect();
            json!({ "sagas": sagas, "more": more })
        },
    )?;
    Ok(Exit::Success)
}

pub(super) async fn get(args: GetArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.sagas();
    let id = args.saga.id;
    let request = GetSagaRequest { id: id.clone() };
    let answer = connection.call(client.get_saga(request)).await?;
    let saga = answer.saga.unwrap_or_default();
    let steps = steps(&connection, &id).await?;
    // Whoever looks at a saga wants to know whether somebody has decided about it already.
    let steered = match saga.control_version {
        0 => None,
        _ => {
            let events = read_events(&connection, &id, 0, EVENTS).await?;
            let by_verb = |event: &SagaEvent| event.verb() != SagaVerb::Unspecified;
            events.into_iter().rfind(by_verb)
        }
    };
    session.output.print(
        || report::one(&saga, &steps, steered.as_ref()),
        || {
            let steps: Vec<_> = steps.iter().map(json::saga::step).collect();
            let steered = steered.as_ref().map(json::saga::event);
            json!({ "saga": json::saga::saga(&saga), "steps": steps, "steered": steered })
        },
    )?;
    Ok(Exit::Success)
}

async fn steps(connection: &Connection, id: &str) -> Result<Vec<SagaStep>, Failure> {
    let mut client = connection.sagas();
    let mut steps = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSagaStepsRequest {
            id: id.to_owned(),
            page_size: 0,
            page_token,
        };
        let mut answer = connection.call(client.list_saga_steps(request)).await?;
        steps.append(&mut answer.steps);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(steps);
        }
    }
}

pub(super) async fn events(args: EventsArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let limit = args.limit as usize;
    let events = read_events(&connection, &args.saga.id, args.after, limit).await?;
    session.output.print(
        || report::events(&events),
        || {
            let events: Vec<_> = events.iter().map(json::saga::event).collect();
            json!({ "events": events })
        },
    )?;
    Ok(Exit::Success)
}

/// Events after a number, as many as there are up to a limit.
async fn read_events(
    connection: &Connection,
    id: &str,
    after: i64,
    limit: usize,
) -> Result<Vec<SagaEvent>, Failure> {
    let mut client = connection.sagas();
    let mut events: Vec<SagaEvent> = Vec::new();
    let mut page_token = String::new();
    loop {
        let missing = u32::try_from(limit - events.len()).unwrap_or(PAGE_SIZE);
        let request = ListSagaEventsRequest {
            id: id.to_owned(),
            after_seq: after,
            page_size: missing.min(PAGE_SIZE).cast_signed(),
            page_token,
        };
        let mut answer = connection.call(client.list_saga_events(request)).await?;
        events.append(&mut answer.events);
        page_token = answer.next_page_token;
        if page_token.is_empty() || events.len() >= limit {
            return Ok(events);
        }
    }
}

impl From<StateArg> for SagaState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Pending => Self::Pending,
            StateArg::Running => Self::Running,
            StateArg::Paused => Self::Paused,
            StateArg::Compensating => Self::Compensating,
            StateArg::Completed => Self::Completed,
            StateArg::Compensated => Self::Compensated,
            StateArg::Stuck => Self::Stuck,
            StateArg::Abandoned => Self::Abandoned,
        }
    }
}
