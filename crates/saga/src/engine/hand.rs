//! A saga in this replica's hand, and who has it next.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use steadfast_store::SagaRow;
use steadfast_types::Timestamp;

use super::{Error, stored};
use crate::{Action, Direction, Effect, Event, Leg, Outcome, Saga, State, Step, Transition};

/// A saga that this replica carries out.
#[derive(Debug)]
pub(super) struct InHand {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) deployment_id: String,
    pub(super) inputs: Value,
    pub(super) context: Value,
    pub(super) steps: Arc<Vec<Step>>,
    pub(super) saga: Saga,
    pub(super) version: i64,
    /// It waited for a concurrency key, or holds one.
    pub(super) is_keyed: bool,
}

/// Who has a saga after a transition, and when it goes on if nobody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) owner: String,
    pub(super) wake_us: Option<i64>,
    /// Its concurrency key, if it has one, goes to the next.
    pub(super) release: bool,
}

/// Whether somebody has to do it now.
pub(super) fn is_work(effect: &Effect) -> bool {
    matches!(effect, Effect::Run { .. } | Effect::Probe { .. })
}

// === impl Disposition ===

impl Disposition {
    pub(super) fn of(
        transition: &Transition,
        steps: &[Step],
        executor: &str,
        is_keyed: bool,
        now: Timestamp,
    ) -> Self {
        let mut disposition = Self {
            owner: String::new(),
            wake_us: None,
            release: is_keyed && transition.saga.state.has_ended(),
        };
        for effect in &transition.effects {
            match effect {
                Effect::Run {
                    step, direction, ..
                } => match steps[*step].action_in(*direction) {
                    Some(Action::Wait(wait)) => {
                        let until = now.plus(Duration::from_millis(wait.duration_ms));
                        disposition.wake_us = Some(until.0);
                    }
                    _ => executor.clone_into(&mut disposition.owner),
                },
                Effect::Probe { .. } => executor.clone_into(&mut disposition.owner),
                Effect::WakeAt(until) => disposition.wake_us = Some(until.0),
                Effect::AskToStop { .. } | Effect::Release => {}
            }
        }
        disposition
    }
}

// === impl InHand ===

impl InHand {
    /// A saga without its outputs.
    pub(super) fn read(row: &SagaRow, steps: &Arc<Vec<Step>>) -> Result<Self, Error> {
        let json = |text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|_| Error::Internal("a saga's inputs cannot be read"))
        };
        let saga = stored::read_machine(row)?;
        if saga.steps.len() != steps.len() {
            return Err(Error::Internal("a saga does not fit its plan"));
        }
        Ok(Self {
            id: row.id.clone(),
            kind: row.kind.clone(),
            deployment_id: row.deployment_id.clone(),
            inputs: json(&row.inputs)?,
            context: json(&row.context)?,
            steps: Arc::clone(steps),
            saga,
            version: row.version,
            is_keyed: row.concurrency_key.is_some(),
        })
    }

    /// What a saga that was recorded as running, and was not sent yet, has to do.
    pub(super) fn effects_of_running(&self) -> Vec<Effect> {
        let Some(at) = self.saga.at else {
            return Vec::new();
        };
        match *self.saga.steps[at].leg(self.saga.direction) {
            Leg::Running { attempt, deadline } => vec![Effect::Run {
                step: at,
                direction: self.saga.direction,
                attempt,
                deadline,
                of_unknown: self.saga.direction == Direction::Backward
                    && self.saga.steps[at].uncertain_until.is_some(),
            }],
            _ => Vec::new(),
        }
    }

    /// What an outcome speaks of.
    pub(super) fn place(&self) -> Option<(usize, Direction, Leg)> {
        let (at, direction) = (self.saga.at?, self.saga.direction);
        Some((at, direction, *self.saga.steps[at].leg(direction)))
    }

    /// The event with which a saga goes on whose holder is gone.
    pub(super) fn event_when_lost(&self) -> Option<Event> {
        let is_timer = |at: usize, direction| {
            matches!(self.steps[at].action_in(direction), Some(Action::Wait(_)))
        };
        match self.place() {
            _ if self.saga.state == State::Pending => self.event_when_claimed(),
            // Nobody takes a timer in hand before it is due, and nothing was sent.
            Some((at, direction, Leg::Running { .. })) if is_timer(at, direction) => {
                self.event_when_claimed()
            }
            _ => Some(Event::Lost),
        }
    }

    /// What a saga that was given back to the database has to have done next: only who has that action can carry it on.
    pub(super) fn needs(&self) -> Option<&Action> {
        if self.saga.state == State::Pending {
            return self.steps.first().map(|step| &step.action);
        }
        let (at, direction, leg) = self.place()?;
        match leg {
            Leg::Waiting { .. } => self.steps[at].action_in(direction),
            // Asked is what the step itself did, even on the way back.
            Leg::Probing { .. } => Some(&self.steps[at].action),
            _ => None,
        }
    }

    /// The event with which a saga goes on that was given back to the database and taken again.
    pub(super) fn event_when_claimed(&self) -> Option<Event> {
        if self.saga.state == State::Pending {
            return Some(Event::Begin);
        }
        if !matches!(self.saga.state, State::Running | State::Compensating) {
            return None;
        }
        let at = self.saga.at?;
        match *self.saga.steps[at].leg(self.saga.direction) {
            // Only a timer runs while nobody has the saga.
            Leg::Running { attempt, .. } => Some(Event::Ended {
                attempt,
                outcome: Outcome::Done(Value::Null),
            }),
            Leg::Waiting { .. } | Leg::Probing { .. } => Some(Event::Due),
            Leg::Idle | Leg::Unknown { .. } | Leg::Done | Leg::Skipped | Leg::Failed { .. } => None,
        }
    }
}
