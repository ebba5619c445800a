//! SagaService.

mod follow;
mod message;
mod request;

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use futures::{Stream, future::join_all};
use serde_json::Value;
use steadfast_api::saga::v1::{
    self as api, batch_start_sagas_response::result::Result as BatchResult,
    saga_service_server::SagaService,
};
use steadfast_saga::{
    Engine, Refusal, SagaEventView, SagaView, Verb,
    check::{Format, parse},
    machine::Seen,
};
use steadfast_types::PageToken;
use steadfast_watch::Hub;
use tonic::{Code, Request, Response, Status};

use super::{
    field::{self, Page},
    status::{self, Problem},
};
use follow::Follow;
use request::Filter;

/// Starts of one batch at most.
const MAX_BATCH: usize = 100;
/// Sagas read at a time: with their documents, which a list leaves out, they are up to 128 KiB each.
const LIST_ROWS: u32 = 101;
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
        let (view, replayed) = self
            .engine
            .start_and_wait(start, id, wait)
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

    /// One page of sagas, and where the next one begins.
    async fn page(
        &self,
        filter: &Filter,
        mut after: Option<String>,
        limit: u32,
    ) -> Result<(Vec<api::Saga>, Option<String>), Status> {
        let mut page = Page::new(limit);
        loop {
            // One more than the page takes tells whether another page follows.
            let missing = limit as usize - page.items.len() + 1;
            let rows = u32::try_from(missing).unwrap_or(LIST_ROWS).min(LIST_ROWS);
            let found = self
                .engine
                .list(filter.wanted(), after.clone(), rows)
                .await
                .map_err(refused)?;
            let last = found.len() < rows as usize;
            for view in found {
                if page.is_full() {
                    return Ok((page.items, after));
                }
                after = Some(view.id.clone());
                page.push(message::summary(&view));
            }
            if last {
                return Ok((page.items, None));
            }
        }
    }

    /// What each step returned, as its last event says.
    async fn outputs(&self, id: &str) -> Result<BTreeMap<String, Value>, Status> {
        let mut outputs = BTreeMap::new();
        let mut after = 0;
        loop {
            let events = self.events(id, after, EVENT_ROWS).await?;
            let Some(last) = events.last() else {
                return Ok(outputs);
            };
            after = last.seq;
            for mut event in events {
                if let (Some(step), Some(output)) = (event.step, event.detail.get_mut("output")) {
                    outputs.insert(step, output.take());
                }
            }
        }
    }

    async fn events(&self, id: &str, after: i64, limit: u32) -> Result<Vec<SagaEventView>, Status> {
        self.engine.events(id, after, limit).await.map_err(refused)
    }

    async fn steer(
        &self,
        id: &str,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Option<api::Saga>, Status> {
        let view = self.engine.steer(id, verb, actor, reason).await;
        Ok(Some(message::saga(&view.map_err(refused)?)))
    }

    /// What the author of a verb has seen, with the step's place in the saga.
    async fn seen(&self, id: &str, seen: Option<api::Seen>) -> Result<Seen, Status> {
        let seen = seen.ok_or_else(|| {
            status::invalid_argument(
                "seen",
                "say which control version, step and attempt you saw; GetSaga tells them",
            )
        })?;
        let control_version = u64::try_from(seen.control_version)
            .map_err(|_| status::invalid_argument("seen.control_version", "it is below 0"))?;
        let attempt = u32::try_from(seen.attempt)
            .map_err(|_| status::invalid_argument("seen.attempt", "it is below 0"))?;
        // The steps of a saga never change, so that it does not matter when their names are read.
        let view = self.get(id).await?;
        if view.saga.state.has_ended() {
            return Err(refused(Refusal::HasEnded.into()));
        }
        let step = view.steps.iter().position(|step| step.name == seen.step);
        let Some(step) = step else {
            let name: String = seen.step.chars().take(128).collect();
            let problem = Problem::new(
                Code::NotFound,
                "STEP_NOT_FOUND",
                format!("the saga has no step `{name}`"),
            );
            return Err(problem.with("step", name).into_status());
        };
        Ok(Seen {
            control_version,
            step,
            attempt,
        })
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
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 1_000)?;
        let token = field::page_token(&request.page_token, &[])?;
        let after = match token {
            None => None,
            Some(token) => Some(
                token
                    .after
                    .rsplit_once('@')
                    .and_then(|(name, version)| Some((name.to_owned(), version.parse().ok()?)))
                    .ok_or_else(status::invalid_page_token)?,
            ),
        };
        let found = self
            .engine
            .definitions(after, limit + 1)
            .await
            .map_err(refused)?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for stored in found {
            if page.is_full() {
                let last: &api::SagaDefinition = &page.items[page.items.len() - 1];
                next_page_token =
                    PageToken::new(format!("{}@{}", last.name, last.version)).encode(&[]);
                break;
            }
            page.push(message::definition(&stored));
        }
        Ok(Response::new(api::ListSagaDefinitionsResponse {
            definitions: page.items,
            next_page_token,
        }))
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
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 1_000)?;
        let filter = Filter::read(&request)?;
        let bound = filter.bound();
        let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
        let after = field::page_token(&request.page_token, &bound)?;
        let (sagas, next) = self
            .page(&filter, after.map(|token| token.after), limit)
            .await?;
        Ok(Response::new(api::ListSagasResponse {
            sagas,
            next_page_token: next
                .map_or_else(String::new, |next| PageToken::new(next).encode(&bound)),
        }))
    }

    async fn list_saga_steps(
        &self,
        request: Request<api::ListSagaStepsRequest>,
    ) -> Result<Response<api::ListSagaStepsResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 100)?;
        let token = field::page_token(&request.page_token, &[&request.id])?;
        let first: usize = match token {
            None => 0,
            Some(token) => token
                .after
                .parse()
                .map_err(|_| status::invalid_page_token())?,
        };
        let view = self.get(&request.id).await?;
        let mut outputs = self.outputs(&request.id).await?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for index in first..view.steps.len() {
            if page.is_full() {
                next_page_token = PageToken::new(index.to_string()).encode(&[&request.id]);
                break;
            }
            let output = outputs.remove(&view.steps[index].name);
            page.push(message::step(&view, index, output.as_ref()));
        }
        Ok(Response::new(api::ListSagaStepsResponse {
            steps: page.items,
            next_page_token,
        }))
    }

    async fn list_saga_events(
        &self,
        request: Request<api::ListSagaEventsRequest>,
    ) -> Result<Response<api::ListSagaEventsResponse>, Status> {
        let request = request.into_inner();
        request::id(&request.id)?;
        let limit = field::page_size(request.page_size, 1_000)?;
        let first = request.after_seq.to_string();
        let bound = [request.id.as_str(), first.as_str()];
        let after = match field::page_token(&request.page_token, &bound)? {
            None => field::after_seq(request.after_seq)?,
            Some(token) => token
                .after
                .parse()
                .map_err(|_| status::invalid_page_token())?,
        };
        let found = self.events(&request.id, after, limit + 1).await?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for event in &found {
            if page.is_full() {
                let last: &api::SagaEvent = &page.items[page.items.len() - 1];
                next_page_token = PageToken::new(last.seq.to_string()).encode(&bound);
                break;
            }
            page.push(message::event(event));
        }
        Ok(Response::new(api::ListSagaEventsResponse {
            events: page.items,
            next_page_token,
        }))
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
