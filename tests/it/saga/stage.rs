//! A server that carries sagas out, and what a test asks it.

use std::{path::Path, time::Duration};

use serde_json::Value;
use steadfast_client::{
    Connection, Error,
    api::saga::v1::{
        AbandonSagaRequest, CancelSagaRequest, CreateSagaDefinitionRequest, DefinitionRef,
        GetSagaRequest, ListSagaEventsRequest, ListSagaStepsRequest, PauseSagaRequest,
        ResumeSagaRequest, RetryStepRequest, Saga, SagaDefinition, SagaEvent, SagaState, SagaStep,
        SagaVerb, Seen, SkipStepRequest, StartSagaRequest, start_saga_request::Plan,
    },
};
use steadfast_testkit::{Server, TestDatabase, process::ServerBuilder};
use tempfile::TempDir;

use super::gate::Gates;
use crate::scene::{Engine, connection, eventually};

/// Steps may ask this machine, and a lost server is replaced soon.
const CONFIGURATION: &str = "
[saga]
http_allow_local = true

[lease]
duration_ms = 1000
";

/// A server and its database, which outlives it, and an HTTP server for its steps.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) gates: Gates,
    pub(super) connection: Connection,
    builder: ServerBuilder,
    _database: Option<TestDatabase>,
    _directory: TempDir,
}

// === impl Stage ===

impl Stage {
    pub(super) async fn start(engine: Engine) -> Self {
        let directory = tempfile::Builder::new().prefix("steadfast-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        let database = engine.database().await;
        let mut builder = Server::builder()
            .directory(directory.path())
            .configuration(CONFIGURATION);
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        let server = builder.start().await;
        let stage = Self {
            connection: connection(&server).await,
            server,
            gates: Gates::start().await,
            builder,
            _database: database,
            _directory: directory,
        };
        stage.await_executor().await;
        stage
    }

    /// Ends the server as a power cut would, and starts it again.
    pub(super) async fn restart(&mut self) {
        self.server.kill().await;
        self.server = self.builder.start().await;
        self.connection = connection(&self.server).await;
    }

    /// Until the executor has its lease, a saga is PENDING for a moment; the tests want to see the states that they ask for.
    async fn await_executor(&self) {
        let id = self.begin(r#"[{"name":"a","action":{"builtin":{"name":"noop"}},"undo":"none"}]"#);
        self.until_state(&id.await.id, SagaState::Completed).await;
    }

    pub(super) fn directory(&self) -> &Path {
        self.server.directory()
    }

    pub(super) async fn define(&self, document: &Value) -> Result<SagaDefinition, Error> {
        let request = CreateSagaDefinitionRequest {
            definition_json: document.to_string(),
            validate_only: false,
        };
        let mut client = self.connection.sagas();
        let answer = self.connection.call(client.create_saga_definition(request));
        Ok(answer.await?.definition.expect("a definition"))
    }

    pub(super) async fn start_saga(&self, request: StartSagaRequest) -> Result<Saga, Error> {
        let mut client = self.connection.sagas();
        let answer = self.connection.call(client.start_saga(request)).await?;
        Ok(answer.saga.expect("a saga"))
    }

    /// Starts a saga with steps of its own.
    pub(super) async fn begin(&self, steps_json: &str) -> Saga {
        let started = self.start_saga(inline(steps_json)).await;
        started.expect("it starts")
    }

    pub(super) async fn get(&self, id: &str) -> Saga {
        let request = GetSagaRequest { id: id.to_owned() };
        let mut client = self.connection.sagas();
        let answer = self.connection.call(client.get_saga(request)).await;
        answer.expect("it is there").saga.expect("a saga")
    }

    pub(super) async fn until(&self, id: &str, what: &str, wanted: impl Fn(&Saga) -> bool) -> Saga {
        eventually(&format!("saga {id} to be {what}"), async || {
            Some(self.get(id).await).filter(&wanted)
        })
        .await
    }

    pub(super) async fn until_state(&self, id: &str, state: SagaState) -> Saga {
        let what = state.as_str_name();
        self.until(id, what, |saga| saga.state() == state).await
    }

    pub(super) async fn events(&self, id: &str) -> Vec<SagaEvent> {
        let mut client = self.connection.sagas();
        let mut events = Vec::new();
        let mut request = ListSagaEventsRequest {
            id: id.to_owned(),
            ..ListSagaEventsRequest::default()
        };
        loop {
            let answer = self
                .connection
                .call(client.list_saga_events(request.clone()));
            let answer = answer.await.expect("it is there");
            events.extend(answer.events);
            if answer.next_page_token.is_empty() {
                return events;
            }
            request.page_token = answer.next_page_token;
        }
    }

    pub(super) async fn steps(&self, id: &str) -> Vec<SagaStep> {
        let mut client = self.connection.sagas();
        let request = ListSagaStepsRequest {
            id: id.to_owned(),
            ..ListSagaStepsRequest::default()
        };
        let answer = self.connection.call(client.list_saga_steps(request)).await;
        answer.expect("it is there").steps
    }

    /// Steers a saga as it was seen.
    pub(super) async fn steer(
        &self,
        verb: SagaVerb,
        saga: &Saga,
        (actor, reason): (&str, &str),
    ) -> Result<Saga, Error> {
        let (connection, mut client) = (&self.connection, self.connection.sagas());
        let (id, actor, reason) = (saga.id.clone(), actor.to_owned(), reason.to_owned());
        let seen = Some(seen(saga));
        let steered = match verb {
            SagaVerb::Cancel => {
                let request = CancelSagaRequest { id, actor, reason };
                connection.call(client.cancel_saga(request)).await?.saga
            }
            SagaVerb::Pause => {
                let request = PauseSagaRequest { id, actor, reason };
                connection.call(client.pause_saga(request)).await?.saga
            }
            SagaVerb::Resume => {
                let request = ResumeSagaRequest { id, actor, reason };
                connection.call(client.resume_saga(request)).await?.saga
            }
            SagaVerb::Retry => {
                let request = RetryStepRequest {
                    id,
                    actor,
                    reason,
                    seen,
                };
                connection.call(client.retry_step(request)).await?.saga
            }
            SagaVerb::Skip => {
                let output_json = r#"{"by":"hand"}"#.to_owned();
                let request = SkipStepRequest {
                    id,
                    actor,
                    reason,
                    seen,
                    output_json,
                };
                connection.call(client.skip_step(request)).await?.saga
            }
            SagaVerb::Abandon => {
                let request = AbandonSagaRequest {
                    id,
                    actor,
                    reason,
                    seen,
                };
                connection.call(client.abandon_saga(request)).await?.saga
            }
            SagaVerb::Unspecified => panic!("there is no such verb"),
        };
        Ok(steered.expect("a saga"))
    }
}

pub(super) fn seen(saga: &Saga) -> Seen {
    Seen {
        control_version: saga.control_version,
        step: saga.current_step.clone(),
        attempt: saga.current_attempt,
    }
}

/// A start with steps of its own.
pub(super) fn inline(steps_json: &str) -> StartSagaRequest {
    StartSagaRequest {
        plan: Some(Plan::StepsJson(steps_json.to_owned())),
        triggered_by: "tester".to_owned(),
        ..StartSagaRequest::default()
    }
}

/// A start of a stored definition; version 0 is the newest.
pub(super) fn named(name: &str, version: i32) -> StartSagaRequest {
    StartSagaRequest {
        plan: Some(Plan::Definition(DefinitionRef {
            name: name.to_owned(),
            version,
        })),
        triggered_by: "tester".to_owned(),
        ..StartSagaRequest::default()
    }
}

/// How soon something has to show.
pub(super) const SOON: Duration = Duration::from_secs(1);
