//! How a saga comes to stand where a test wants it.

use serde_json::{Value, json};
use steadfast_client::api::saga::v1::{Direction, Saga, SagaState, SagaVerb, StepState};
use uuid::Uuid;

use super::stage::{Stage, inline};

/// Where a saga stands. A *waiting* one will try its step again in an hour; a *busy* one has an attempt under way, which lasts
/// until its gate is opened; a *new* one waits for a concurrency key that another saga holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pending,
    RunningBusy,
    RunningBusyPauseAsked,
    RunningWaiting,
    RunningPastPivot,
    PausedNew,
    PausedForward,
    PausedPastPivot,
    PausedBackward,
    CompensatingBusy,
    CompensatingBusyPauseAsked,
    CompensatingWaiting,
    Completed,
    Compensated,
    Abandoned,
    StuckForward,
    StuckBackward,
}

/// A saga where it was wanted, and the gate that it waits at.
pub(super) struct Reached {
    pub(super) saga: Saga,
    pub(super) gate: String,
}

fn noop() -> Value {
    json!({ "builtin": { "name": "noop" } })
}

/// Fails at its first attempt only.
fn fail_once(retryable: bool) -> Value {
    json!({ "builtin": { "name": "fail", "input": { "times": 1, "retryable": retryable } } })
}

fn step(name: &str, action: &Value, undo: &Value) -> Value {
    const HOUR_MS: u32 = 3_600_000;
    json!({
        "name": name,
        "action": action,
        "undo": undo,
        "retry": { "attempts": 3, "initial_backoff_ms": HOUR_MS, "max_backoff_ms": HOUR_MS },
    })
}

fn with(mut step: Value, field: &str, value: Value) -> Value {
    step[field] = value;
    step
}

// === impl Place ===

impl Place {
    pub(super) async fn reach(self, stage: &Stage) -> Reached {
        let gate = Uuid::new_v4().to_string();
        let saga = self.reach_with(stage, &gate).await;
        Reached { saga, gate }
    }

    async fn reach_with(self, stage: &Stage, gate: &str) -> Saga {
        let at_gate = json!({ "http": { "method": "PUT", "url": stage.gates.url(gate) } });
        let begin = async |steps: &[Value]| stage.begin(&json!(steps).to_string()).await;
        let none = json!("none");
        let (first, last) = (
            step("first", &noop(), &noop()),
            step("last", &noop(), &none),
        );
        let fails = with(
            step("fails", &fail_once(false), &none),
            "retry",
            json!({ "attempts": 1 }),
        );
        match self {
            Self::Pending => {
                let key = format!("key/{gate}");
                let holder = json!([{ "name": "hold", "action": { "wait": { "duration_ms": 3_600_000 } }, "undo": "none" }]);
                let mut holder = inline(&holder.to_string());
                holder.concurrency_key.clone_from(&key);
                let holder = stage.start_saga(holder).await.expect("it starts");
                assert_eq!(holder.state(), SagaState::Running);
                let mut waiter = inline(&json!([first, last]).to_string());
                waiter.concurrency_key = key;
                let waiter = stage.start_saga(waiter).await.expect("it starts");
                assert_eq!(waiter.state(), SagaState::Pending);
                waiter
            }
            Self::RunningBusy => {
                let saga = begin(&[step("busy", &at_gate, &noop()), last]).await;
                self.at_gate(stage, gate, &saga.id).await
            }
            Self::RunningWaiting => {
                let waits = step("waits", &fail_once(true), &noop());
                let saga = begin(&[first, waits, last]).await;
                self.waiting(stage, &saga.id).await
            }
            Self::RunningPastPivot => {
                let pivot = with(step("pivot", &noop(), &none), "irreversible", json!(true));
                let saga = begin(&[first, pivot, step("busy", &at_gate, &noop())]).await;
                self.at_gate(stage, gate, &saga.id).await
            }
            Self::PausedPastPivot => {
                let pivot = with(step("pivot", &noop(), &none), "irreversible", json!(true));
                let saga = begin(&[first, pivot, step("waits", &fail_once(true), &noop())]).await;
                let waiting = self.waiting(stage, &saga.id).await;
                pause(stage, &waiting).await
            }
            Self::CompensatingBusy => {
                let saga = begin(&[first, step("busy", &noop(), &at_gate), fails]).await;
                self.at_gate(stage, gate, &saga.id).await
            }
            Self::CompensatingWaiting => {
                let waits = step("waits", &noop(), &fail_once(true));
                let saga = begin(&[first, waits, fails]).await;
                self.waiting(stage, &saga.id).await
            }
            Self::Completed => {
                let saga = begin(&[first]).await;
                stage.until_state(&saga.id, SagaState::Completed).await
            }
            Self::Compensated => {
                let saga = begin(&[first, fails]).await;
                stage.until_state(&saga.id, SagaState::Compensated).await
            }
            Self::StuckForward => {
                let stops = with(
                    step("stops", &fail_once(false), &noop()),
                    "on_failure",
                    json!("stop"),
                );
                let saga = begin(&[first, stops, last]).await;
                stage.until_state(&saga.id, SagaState::Stuck).await
            }
            Self::StuckBackward => {
                let stays = step("stays", &noop(), &fail_once(false));
                let saga = begin(&[first, stays, fails]).await;
                stage.until_state(&saga.id, SagaState::Stuck).await
            }
            Self::RunningBusyPauseAsked | Self::CompensatingBusyPauseAsked => {
                let before = if self == Self::RunningBusyPauseAsked {
                    Self::RunningBusy
                } else {
                    Self::CompensatingBusy
                };
                let saga = Box::pin(before.reach_with(stage, gate)).await;
                let saga = pause(stage, &saga).await;
                assert!(saga.pause_requested);
                saga
            }
            Self::PausedNew | Self::PausedForward | Self::PausedBackward => {
                let before = match self {
                    Self::PausedNew => Self::Pending,
                    Self::PausedForward => Self::RunningWaiting,
                    _ => Self::CompensatingWaiting,
                };
                let saga = Box::pin(before.reach_with(stage, gate)).await;
                let saga = pause(stage, &saga).await;
                assert_eq!(saga.state(), SagaState::Paused);
                saga
            }
            Self::Abandoned => {
                let saga = Box::pin(Self::RunningWaiting.reach_with(stage, gate)).await;
                let who = ("setter-up", "to see it abandoned");
                let given_up = stage.steer(SagaVerb::Abandon, &saga, who).await;
                given_up.expect("it can be given up")
            }
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::CompensatingBusy | Self::CompensatingWaiting => Direction::Backward,
            _ => Direction::Forward,
        }
    }

    async fn at_gate(self, stage: &Stage, gate: &str, id: &str) -> Saga {
        stage.gates.asked(gate).await;
        let saga = stage.get(id).await;
        assert_eq!(
            (saga.direction(), saga.current_step.as_str()),
            (self.direction(), "busy")
        );
        saga
    }

    async fn waiting(self, stage: &Stage, id: &str) -> Saga {
        let saga = stage
            .until(id, "waiting for its next attempt", |saga| {
                saga.current_step == "waits"
                    && saga.direction() == self.direction()
                    && saga.wake_time.is_some()
            })
            .await;
        let steps = stage.steps(id).await;
        let at = steps.iter().find(|step| {
            step.definition
                .as_ref()
                .is_some_and(|of| of.name == "waits")
        });
        let at = at.expect("its step");
        let leg = if self.direction() == Direction::Forward {
            &at.forward
        } else {
            &at.backward
        };
        let leg = leg.as_ref().expect("both directions are told");
        assert_eq!((leg.state(), leg.attempt), (StepState::Waiting, 1));
        saga
    }
}

async fn pause(stage: &Stage, saga: &Saga) -> Saga {
    let who = ("setter-up", "to see it paused");
    let paused = stage.steer(SagaVerb::Pause, saga, who).await;
    paused.expect("it can be paused")
}
