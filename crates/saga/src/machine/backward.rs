//! Going backward: strictly in the reverse of the order in which steps were done, and only claiming what is proven.

use super::{Applying, Direction, Leg, Record, State};
use crate::Undo;

impl Applying<'_> {
    /// Turns round. The step that is under way, if there is one, is not running.
    pub(super) fn compensate(&mut self, reason: String) {
        self.saga.state = State::Compensating;
        self.saga.direction = Direction::Backward;
        self.saga.cancel_requested = false;
        self.saga.reason.clone_from(&reason);
        self.records.push(Record::Compensating { reason });
        for step in &mut self.saga.steps {
            // Waiting for another attempt that will not come: not done, unless an earlier one is uncertain.
            if let Leg::Waiting { attempt, .. } = step.forward {
                step.forward = if step.uncertain_until.is_some() {
                    Leg::Unknown { attempt }
                } else {
                    Leg::Failed { attempt }
                };
            }
        }
        self.backward_from(self.steps.len());
    }

    /// Takes up the last step before `end` that has to be undone; a safe point.
    pub(super) fn backward_from(&mut self, end: usize) {
        let Some(at) = (0..end).rev().find(|at| self.has_to_be_undone(*at)) else {
            self.saga.at = None;
            self.end(State::Compensated);
            return;
        };
        self.saga.at = Some(at);
        if self.steps[at].irreversible {
            // It may have been done, and cannot be undone.
            self.stuck(format!(
                "irreversible step `{}` may have been done",
                self.steps[at].name
            ));
            return;
        }
        let not_before = self.saga.steps[at].uncertain_until;
        match not_before {
            Some(until) if until > self.now => self.wait(at, 0, until),
            Some(_) | None => {
                if !self.take_requests() {
                    self.run(at, 1);
                }
            }
        }
    }

    /// Whether the step had an effect, or may have had one, that something can undo, and has not been undone.
    fn has_to_be_undone(&self, at: usize) -> bool {
        let state = &self.saga.steps[at];
        let effect = matches!(state.forward, Leg::Done | Leg::Unknown { .. })
            || state.uncertain_until.is_some();
        let undone = matches!(state.backward, Leg::Done | Leg::Skipped);
        let nothing_to_undo = self.steps[at].undo == Undo::None && !self.steps[at].irreversible;
        effect && !undone && !nothing_to_undo
    }

    /// The undo ran to its end.
    pub(super) fn backward_done(&mut self, at: usize, attempt: u32) {
        let uncertain = self.saga.steps[at].uncertain_until.is_some();
        if !uncertain || self.steps[at].undo_blocks_late {
            self.backward_proven(at);
        } else if self.can_probe(at) {
            // Nothing was there to undo, or it was undone, or it may still arrive: asked until it is sure.
            self.probe_later(at, attempt, self.now, 0, 0);
        } else {
            self.set_leg(at, Leg::Unknown { attempt });
            self.stuck(format!(
                "whether step `{}` was ever done is unknown, and its undo is no proof that it will not be",
                self.steps[at].name
            ));
        }
    }

    /// The step certainly has no effect any more.
    pub(super) fn backward_proven(&mut self, at: usize) {
        let step = &mut self.saga.steps[at];
        step.backward = Leg::Done;
        step.error = None;
        step.uncertain_until = None;
        self.backward_from(at);
    }

    /// Whether the probe that is under way asks after the forward effect, to prove an undo.
    pub(super) fn is_proving_undo(&self, at: usize) -> bool {
        self.saga.direction == Direction::Backward && self.saga.steps[at].uncertain_until.is_some()
    }

    /// Which way's effect a probe asks after.
    pub(super) fn probe_direction(&self, at: usize) -> Direction {
        if self.is_proving_undo(at) {
            Direction::Forward
        } else {
            self.saga.direction
        }
    }
}
