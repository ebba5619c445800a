//! What the author of a verb asks for, and has seen.

use steadfast_api::saga::v1 as api;
use steadfast_saga::{Refusal, Verb, machine::Seen};
use tonic::{Code, Status};

use super::{SagaEdge, message, refused};
use crate::grpc::status::{self, Problem};

// === impl SagaEdge ===

impl SagaEdge {
    pub(super) async fn steer(
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
    pub(super) async fn seen(&self, id: &str, seen: Option<api::Seen>) -> Result<Seen, Status> {
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
}
