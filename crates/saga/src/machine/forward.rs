//! Going forward.

use super::{Applying, Direction, Leg, Record, State};
use crate::OnFailure;

impl Applying<'_> {
    /// Takes up the step, or what was asked for meanwhile; a safe point.
    pub(super) fn forward_from(&mut self, at: usize) {
        self.saga.at = (at < self.steps.len()).then_some(at);
        if self.take_requests() {
            return;
        }
        if at == self.steps.len() {
            self.end(State::Completed);
        } else {
            self.run(at, 1);
        }
    }

    pub(super) fn forward_done(&mut self, at: usize, output: Option<serde_json::Value>) {
        let step = &mut self.saga.steps[at];
        step.forward = Leg::Done;
        step.output = output;
        step.error = None;
        step.uncertain_until = None;
        self.forward_from(at + 1);
    }

    /// All attempts were spent.
    pub(super) fn forward_failed(&mut self, at: usize, attempt: u32) {
        let name = &self.steps[at].name;
        let reason = format!("step `{name}` failed");
        let uncertain = self.saga.steps[at].uncertain_until.is_some();
        let leg = if uncertain {
            Leg::Unknown { attempt }
        } else {
            Leg::Failed { attempt }
        };
        self.set_leg(at, leg);
        if self.steps[at].optional {
            self.forward_from(at + 1);
        } else if self.pivot_is_passed() {
            self.stuck(format!("{reason} after an irreversible step was done"));
        } else if self.steps[at].on_failure == OnFailure::Stop {
            self.stuck(reason);
        } else {
            self.compensate(reason);
        }
    }

    /// Follows a cancel or a pause, if one was asked for and this is a place for it. Returns whether the saga no longer goes on
    /// the way it went.
    pub(super) fn take_requests(&mut self) -> bool {
        if self.saga.cancel_requested && self.saga.direction == Direction::Forward {
            if self.pivot_is_passed() {
                self.saga.cancel_requested = false;
                self.records.push(Record::CancelDropped);
            } else {
                let reason = if self.saga.reason.is_empty() {
                    "canceled".to_owned()
                } else {
                    self.saga.reason.clone()
                };
                self.compensate(reason);
                return true;
            }
        }
        if self.saga.pause_requested && self.saga.at.is_some() {
            self.saga.pause_requested = false;
            self.saga.state = State::Paused;
            self.records.push(Record::Paused);
            return true;
        }
        false
    }

    pub(super) fn pivot_is_passed(&self) -> bool {
        self.steps
            .iter()
            .zip(&self.saga.steps)
            .any(|(step, state)| {
                step.irreversible && matches!(state.forward, Leg::Done | Leg::Skipped)
            })
    }
}
