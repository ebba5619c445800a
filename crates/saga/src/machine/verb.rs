//! Steering.
//!
//! | verb | PENDING | RUNNING | PAUSED | COMPENSATING | STUCK | ended |
//! |---|---|---|---|---|---|---|
//! | cancel | → COMPENSATED | at the next safe point; refused past the pivot | forward: → COMPENSATING; backward: nothing | nothing | refused | refused |
//! | pause | → PAUSED | at the next safe point | nothing | at the next safe point | refused | refused |
//! | resume | nothing | withdraws a pause | goes on, or waits to begin | withdraws a pause | refused | refused |
//! | retry | refused | a waiting step runs now | refused | a waiting undo runs now | goes on | refused |
//! | skip | refused | a waiting step counts as done | refused | a waiting undo counts as done | goes on | refused |
//! | abandon | → ABANDONED | → ABANDONED | → ABANDONED | → ABANDONED | → ABANDONED | refused |

use super::{Applying, Direction, Effect, Leg, Record, Refusal, State, Verb, state::Seen};

impl Applying<'_> {
    pub(super) fn verb(&mut self, state: State, verb: Verb) -> Result<(), Refusal> {
        if state.has_ended() {
            return Err(Refusal::HasEnded);
        }
        match verb {
            Verb::Cancel => self.cancel(state, "canceled")?,
            Verb::Pause => self.pause(state)?,
            Verb::Resume => self.resume(state)?,
            Verb::Retry(seen) => self.retry(state, &seen)?,
            Verb::Skip { seen, output } => self.skip(state, &seen, output)?,
            Verb::Abandon(seen) => {
                self.check_version(&seen)?;
                if let Some(at) = self.saga.at {
                    let attempt = self.saga.steps[at].attempt(self.saga.direction);
                    if seen.step != at || seen.attempt != attempt {
                        return Err(Refusal::Changed);
                    }
                    if matches!(*self.leg(at), Leg::Running { .. }) {
                        self.effects.push(Effect::AskToStop { step: at, attempt });
                    }
                }
                "abandoned".clone_into(&mut self.saga.reason);
                self.end(State::Abandoned);
            }
        }
        if self.records.is_empty() {
            self.records.push(Record::Steered);
        }
        self.saga.control_version += 1;
        Ok(())
    }

    /// A cancel that nobody asked for.
    pub(super) fn deadline(&mut self, state: State) -> Result<(), Refusal> {
        if state.has_ended() {
            return Err(Refusal::HasEnded);
        }
        self.records.push(Record::DeadlinePassed);
        let backward = self.saga.direction == Direction::Backward;
        if backward || state == State::Stuck || self.pivot_is_passed() {
            return Ok(());
        }
        self.cancel(state, "its deadline passed")
    }

    fn cancel(&mut self, state: State, reason: &str) -> Result<(), Refusal> {
        let backward = self.saga.direction == Direction::Backward;
        match state {
            State::Pending => {
                self.saga.direction = Direction::Backward;
                reason.clone_into(&mut self.saga.reason);
                self.end(State::Compensated);
                Ok(())
            }
            State::Stuck => Err(Refusal::IsStuck),
            State::Compensating => Ok(()),
            State::Paused if backward => Ok(()),
            State::Running | State::Paused if self.pivot_is_passed() => Err(Refusal::PastThePivot),
            State::Paused => {
                self.compensate(reason.to_owned());
                Ok(())
            }
            State::Running => {
                self.records.push(Record::CancelRequested);
                self.saga.cancel_requested = true;
                reason.clone_into(&mut self.saga.reason);
                let at = self.at()?;
                match *self.leg(at) {
                    // Between two attempts is a safe point.
                    Leg::Waiting { .. } => {
                        self.take_requests();
                    }
                    Leg::Running { attempt, .. } => {
                        self.effects.push(Effect::AskToStop { step: at, attempt });
                    }
                    // The outcome has to be known first.
                    Leg::Probing { .. } => {}
                    Leg::Idle
                    | Leg::Unknown { .. }
                    | Leg::Done
                    | Leg::Skipped
                    | Leg::Failed { .. } => {
                        return Err(Refusal::Illegal);
                    }
                }
                Ok(())
            }
            State::Completed | State::Compensated | State::Abandoned => Err(Refusal::HasEnded),
        }
    }

    fn pause(&mut self, state: State) -> Result<(), Refusal> {
        match state {
            State::Pending => {
                self.saga.state = State::Paused;
                self.records.push(Record::Paused);
            }
            State::Running | State::Compensating => {
                self.saga.pause_requested = true;
                let at = self.at()?;
                if matches!(*self.leg(at), Leg::Waiting { .. }) {
                    self.take_requests();
                } else {
                    self.records.push(Record::PauseRequested);
                }
            }
            State::Paused => {}
            State::Stuck => return Err(Refusal::IsStuck),
            State::Completed | State::Compensated | State::Abandoned => {
                return Err(Refusal::HasEnded);
            }
        }
        Ok(())
    }

    fn resume(&mut self, state: State) -> Result<(), Refusal> {
        match state {
            State::Paused => {
                self.records.push(Record::Resumed);
                if self.saga.has_not_begun() {
                    // Whether it may begin is for its concurrency key, and for a replica with room, to say.
                    self.saga.state = State::Pending;
                    return Ok(());
                }
                self.saga.state = match self.saga.direction {
                    Direction::Forward => State::Running,
                    Direction::Backward => State::Compensating,
                };
                self.go_on()?;
            }
            State::Running | State::Compensating => {
                if std::mem::take(&mut self.saga.pause_requested) {
                    self.records.push(Record::Resumed);
                }
            }
            State::Pending => {}
            State::Stuck => return Err(Refusal::IsStuck),
            State::Completed | State::Compensated | State::Abandoned => {
                return Err(Refusal::HasEnded);
            }
        }
        Ok(())
    }

    /// Goes on where the saga stands.
    fn go_on(&mut self) -> Result<(), Refusal> {
        let at = self.at()?;
        match *self.leg(at) {
            Leg::Idle => self.run(at, 1),
            Leg::Waiting { until, .. } => self.effects.push(Effect::WakeAt(until)),
            Leg::Probing { not_before, .. } => self.effects.push(Effect::WakeAt(not_before)),
            Leg::Running { .. }
            | Leg::Unknown { .. }
            | Leg::Done
            | Leg::Skipped
            | Leg::Failed { .. } => {
                return Err(Refusal::Illegal);
            }
        }
        Ok(())
    }

    fn retry(&mut self, state: State, seen: &Seen) -> Result<(), Refusal> {
        let at = self.decidable(state, seen)?;
        let direction = self.saga.direction;
        let attempt = self.saga.steps[at].attempt(self.saga.direction);
        self.saga.steps[at].spent[direction as usize] = attempt;
        self.records.push(Record::StepRetried {
            step: at,
            direction,
        });
        self.go_again();
        if direction == Direction::Backward && self.steps[at].irreversible {
            // There is nothing that could run.
            return Err(Refusal::PastThePivot);
        }
        self.run(at, attempt + 1);
        Ok(())
    }

    fn skip(
        &mut self,
        state: State,
        seen: &Seen,
        output: serde_json::Value,
    ) -> Result<(), Refusal> {
        let at = self.decidable(state, seen)?;
        let direction = self.saga.direction;
        self.records.push(Record::StepSkipped {
            step: at,
            direction,
        });
        self.go_again();
        self.set_leg(at, Leg::Skipped);
        let step = &mut self.saga.steps[at];
        match direction {
            Direction::Forward => {
                // What may have been done is still undone on the way back.
                step.output = Some(output);
                self.forward_from(at + 1);
            }
            Direction::Backward => {
                // A person vouches for it.
                step.uncertain_until = None;
                self.backward_from(at);
            }
        }
        Ok(())
    }

    fn go_again(&mut self) {
        self.saga.state = match self.saga.direction {
            Direction::Forward => {
                // What it was stuck for is dealt with.
                self.saga.reason.clear();
                State::Running
            }
            Direction::Backward => State::Compensating,
        };
    }

    /// The step, if it waits for a decision and is as the verb's author saw it.
    fn decidable(&self, state: State, seen: &Seen) -> Result<usize, Refusal> {
        self.check_version(seen)?;
        let at = self.at()?;
        let waits = match state {
            State::Stuck => true,
            State::Running | State::Compensating => {
                matches!(*self.leg(at), Leg::Waiting { .. } | Leg::Probing { .. })
            }
            State::Pending
            | State::Paused
            | State::Completed
            | State::Compensated
            | State::Abandoned => false,
        };
        if !waits || seen.step != at {
            return Err(Refusal::NotAtStep);
        }
        if seen.attempt != self.saga.steps[at].attempt(self.saga.direction) {
            return Err(Refusal::Changed);
        }
        Ok(at)
    }

    fn check_version(&self, seen: &Seen) -> Result<(), Refusal> {
        if seen.control_version == self.saga.control_version {
            Ok(())
        } else {
            Err(Refusal::Changed)
        }
    }
}
