//! Definitions of the bench, and starting sagas of them.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use steadfast_api::saga::v1::{
    BatchStartSagasRequest, CreateSagaDefinitionRequest, DefinitionRef, SagaState,
    StartSagaRequest, batch_start_sagas_response::result::Result as BatchResult,
    saga_service_client::SagaServiceClient, start_saga_request::Plan,
};
use tonic::transport::Channel;

use crate::error::Error;

/// Sagas in one call of BatchStartSagas.
const BATCH: usize = 100;
/// Such calls in flight.
const CALLS: usize = 4;

/// So many steps that do nothing, each through the same path as any action.
pub(super) fn steps(count: usize) -> Value {
    let step = |number| {
        json!({
            "name": format!("step_{number}"),
            "action": { "builtin": { "name": "noop" } },
            "undo": "none",
        })
    };
    (1..=count).map(step).collect()
}

/// Creates a definition, version 1.
pub(super) async fn define(channel: &Channel, name: &str, steps: Value) -> Result<(), Error> {
    let definition = json!({ "name": name, "version": 1, "steps": steps });
    let request = CreateSagaDefinitionRequest {
        definition_json: definition.to_string(),
        validate_only: false,
    };
    SagaServiceClient::new(channel.clone())
        .create_saga_definition(request)
        .await?;
    Ok(())
}

pub(super) fn start_of(definition: &str) -> StartSagaRequest {
    StartSagaRequest {
        plan: Some(Plan::Definition(DefinitionRef {
            name: definition.to_owned(),
            version: 1,
        })),
        triggered_by: "steadfast-bench".to_owned(),
        ..StartSagaRequest::default()
    }
}

/// Starts one and waits until it is completed.
pub(super) async fn complete(
    client: &mut SagaServiceClient<Channel>,
    definition: &str,
) -> Result<(), Error> {
    let request = StartSagaRequest {
        wait_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..start_of(definition)
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(90));
    let answer = client.start_saga(request).await?.into_inner();
    let saga = answer.saga.ok_or_else(no_saga)?;
    if saga.state() != SagaState::Completed {
        return Err(Error::Unexpected(format!("a saga is {:?}", saga.state())));
    }
    Ok(())
}

/// Starts many and returns their ids.
pub(super) async fn start_many(
    channel: &Channel,
    definition: &str,
    count: usize,
) -> Result<Vec<String>, Error> {
    let calls = (0..count).step_by(BATCH).map(|from| {
        let requests = vec![start_of(definition); BATCH.min(count - from)];
        let mut client = SagaServiceClient::new(channel.clone());
        async move {
            let request = BatchStartSagasRequest { requests };
            let answer = client.batch_start_sagas(request).await?.into_inner();
            let ids = answer.results.into_iter().map(|item| match item.result {
                Some(BatchResult::Started(started)) => {
                    started.saga.map(|saga| saga.id).ok_or_else(no_saga)
                }
                other => Err(Error::Unexpected(format!("a start was answered {other:?}"))),
            });
            ids.collect::<Result<Vec<String>, Error>>()
        }
    });
    let ids: Vec<Vec<String>> = stream::iter(calls)
        .buffer_unordered(CALLS)
        .try_collect()
        .await?;
    Ok(ids.concat())
}

fn no_saga() -> Error {
    Error::Unexpected("a start was answered without a saga".to_owned())
}
