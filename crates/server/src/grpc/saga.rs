//! SagaService.

mod follow;
mod list;
mod message;
mod request;
mod steer;

use std::{pin::Pin, time::Duration};

use futures::{Stream, future::join_all};
use steadfast_api::saga::v1::{
    self as api, batch_start_sagas_response::result::Result as BatchResult,
    saga_service_server::SagaService,
};
use steadfast_saga::{
    Engine, SagaEventView, SagaView, Verb,
    check::{Format, parse},
};
use steadfast_watch::Hub;
use tonic::{Request, Response, Status};

use super::{
    field,
    status::{self, Problem},
};
use follow::Follow;

/// Starts of one batch at most.
const MAX_BATCH: usize = 100;
/// Events read at a time where all of them are wanted.
const EVENT_ROWS: u32 = 500;

/// What the service needs.
#[derive(Clone)]
pub(crate) struct SagaEdge {
    pub(crate) engine: Engine,
    pub(crate) hub: Hub,
    pub(crate) drain_jitter: Duration,
}

// === impl SagaEdge ===

impl SagaEdge {
    async fn start(
        &self,
        request: api::StartSagaRequest,
    ) -> Result<api::StartSagaResponse, Problem> {
        let id = request::request_id(&request)?;
        let wait = request::wait_timeout(&request)?;
        let start = request::start(request, &self.engine.known_actions())?;
        // Boxed, as it is large, and the layers of a call hand their futures on many times.
        let (view, replayed) = Box::pin(self.engine.start_and_wait(start, id, wait))
            .await
            .map_err(|error| status::of_saga(&error, "steps_json"))?;
        Ok(api::StartSagaResponse {
            saga: Some(message::saga(&view)),
            replayed,
        })
    }

    async fn get(&self, id: &str) -> Result<SagaView, Status> {
        request::id(id)?;
        self.engine.get(id).await.map_err(refused)
    }

    async fn events(&self, id: &str, after: i64, limit: u32) -> Result<Vec<SagaEventView>, Status> {
        self.engine.events(id, after, limit).await.map_err(refused)
    }

    /// Somewhere within the configured time, so that the clients of a stopping replica do not come back all at once.
    fn jitter(&self) -> Duration {
        self.drain_jitter.mul_f64(rand::random())
    }
}

#[tonic::async_trait]
impl SagaService for SagaEdge {
    type WatchSagaStream =
        Pin<Box<dyn Stream<Item = Result<api::WatchSagaResponse, Status>> + Send>>;

    async fn create_saga_definition(
        &self,
        request: Request<api::CreateSagaDefinitionRequest>,
    ) -> Result<Response<api::CreateSagaDefinitionResponse>, Status> {
        let request = request.into_inner();
        let field = "definition_json";
        let known = self.engine.known_actions();
        let definition = parse(&request.definition_json, Format::Json, Some(&known))
            .map_err(|problems| status::definition_invalid(&problems, field))?;
        let stored = self
            .engine
            .create_definition(definition, request.validate_only)
            .await
            .map_err(|error| status::of_saga(&error, field).into_status())?;
        let mut definition = message::definition(&stored);
        if request.validate_only {
            definition.create_time = None;
        }
        Ok(Response::new(api::CreateSagaDefinitionResponse {
            definition: Some(definition),
        }))
    }

    async fn get_saga_definition(
        &self,
        request: Request<api::GetSagaDefinitionRequest>,
    ) -> Result<Response<api::GetSagaDefinitionResponse>, Status> {
        let request = request.into_inner();
        request::text("name", &request.name)?;
        let version = request::version("version", request.version)?;
        let stored = self
            .engine
            .definition(&request.name, version)
            .await
            .map_err(refused)?;
        Ok(Response::new(api::GetSagaDefinitionResponse {
            definition: Some(message::definition(&stored)),
        }))
    }

    async fn list_saga_definitions(
        &self,
        request: Request<api::ListSagaDefinitionsRequest>,
    ) -> Result<Response<api::ListSagaDefinitionsResponse>, Status> {
        let page = self.page_of_definitions(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn start_saga(
        &self,
        request: Request<api::StartSagaRequest>,
    ) -> Result<Response<api::StartSagaResponse>, Status> {
        let started = self.start(request.into_inner()).await;
        Ok(Response::new(started.map_err(Problem::into_status)?))
    }

    async fn batch_start_sagas(
        &self,
        request: Request<api::BatchStartSagasRequest>,
    ) -> Result<Response<api::BatchStartSagasResponse>, Status> {
        let requests = request.into_inner().requests;
        if requests.is_empty() || requests.len() > MAX_BATCH {
            let message = format!("{} requests; 1 to {MAX_BATCH}", requests.len());
            return Err(status::invalid_argument("requests", message));
        }
        // Those that arrive together are committed together.
        let started = requests.into_iter().map(|request| self.start(request));
        let results = join_all(started).await.into_iter();
        let results = results.map(|started| api::batch_start_sagas_response::Result {
            result: Some(match started {
                Ok(started) => BatchResult::Started(started),
                Err(problem) => BatchResult::Error(problem.into_item()),
            }),
        });
        Ok(Response::new(api::BatchStartSagasResponse {
            results: results.collect(),
        }))
    }

    async fn get_saga(
        &self,
        request: Request<api::GetSagaRequest>,
    ) -> Result<Response<api::GetSagaResponse>, Status> {
        let view = self.get(&request.into_inner().id).await?;
        Ok(Response::new(api::GetSagaResponse {
            saga: Some(message::saga(&view)),
        }))
    }

    async fn list_sagas(
        &self,
        request: Request<api::ListSagasRequest>,
    ) -> Result<Response<api::ListSagasResponse>, Status> {
        let page = self.page_of_sagas(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_saga_steps(
        &self,
        request: Request<api::ListSagaStepsRequest>,
    ) -> Result<Response<api::ListSagaStepsResponse>, Status> {
        let page = self.page_of_steps(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_saga_events(
        &self,
        request: Request<api::ListSagaEventsRequest>,
    ) -> Result<Response<api::ListSagaEventsResponse>, Status> {
        let page = self.page_of_events(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn watch_saga(
        &self,
        request: Request<api::WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        let request = request.into_inner();
        request::id(&request.id)?;
        let after = field::after_seq(request.after_seq)?;
        let follow = Follow::open(self.clone(), request.id, after).await?;
        Ok(Response::new(Box::pin(follow.into_stream())))
    }

    async fn cancel_saga(
        &self,
        request: Request<api::CancelSagaRequest>,
    ) -> Result<Response<api::CancelSagaResponse>, Status> {
        let api::CancelSagaRequest { id, actor, reason } = request.into_inner();
        request::steering(&id, &actor, &reason)?;
        let saga = self.steer(&id, Verb::Cancel, &actor, &reason).await?;
        Ok(Response::new(api::CancelSagaResponse { saga }))
    }

    async fn pause_saga(
        &self,
        request: Request<api::PauseSagaRequest>,
    ) -> Result<Response<api::PauseSagaResponse>, Status> {
        let api::PauseSagaRequest { id, actor, reason } = request.into_inner();
        request::steering(&id, &actor, &reason)?;
        let saga = self.steer(&id, Verb::Pause, &actor, &reason).await?;
        Ok(Response::new(api::PauseSagaResponse { saga }))
    }

    async fn resume_saga(
        &self,
        request: Request<api::ResumeSagaRequest>,
    ) -> Result<Response<api::ResumeSagaResponse>, Status> {
        let api::ResumeSagaRequest { id, actor, reason } = request.into_inner();
        request::steering(&id, &actor, &reason)?;
        let saga = self.steer(&id, Verb::Resume, &actor, &reason).await?;
        Ok(Response::new(api::ResumeSagaResponse { saga }))
    }

    async fn retry_step(
        &self,
        request: Request<api::RetryStepRequest>,
    ) -> Result<Response<api::RetryStepResponse>, Status> {
        let request = request.into_inner();
        request::steering(&request.id, &request.actor, &request.reason)?;
        let seen = self.seen(&request.id, request.seen).await?;
        let saga = self
            .steer(
                &request.id,
                Verb::Retry(seen),
                &request.actor,
                &request.reason,
            )
            .await?;
        Ok(Response::new(api::RetryStepResponse { saga }))
    }

    async fn skip_step(
        &self,
        request: Request<api::SkipStepRequest>,
    ) -> Result<Response<api::SkipStepResponse>, Status> {
        let request = request.into_inner();
        request::steering(&request.id, &request.actor, &request.reason)?;
        let output = request::document("output_json", &request.output_json)?;
        let seen = self.seen(&request.id, request.seen).await?;
        let verb = Verb::Skip { seen, output };
        let saga = self
            .steer(&request.id, verb, &request.actor, &request.reason)
            .await?;
        Ok(Response::new(api::SkipStepResponse { saga }))
    }

    async fn abandon_saga(
        &self,
        request: Request<api::AbandonSagaRequest>,
    ) -> Result<Response<api::AbandonSagaResponse>, Status> {
        let request = request.into_inner();
        request::steering(&request.id, &request.actor, &request.reason)?;
        let seen = self.seen(&request.id, request.seen).await?;
        let saga = self
            .steer(
                &request.id,
                Verb::Abandon(seen),
                &request.actor,
                &request.reason,
            )
            .await?;
        Ok(Response::new(api::AbandonSagaResponse { saga }))
    }
}

fn refused(error: steadfast_saga::Error) -> Status {
    status::of_saga(&error, "definition_json").into_status()
}
