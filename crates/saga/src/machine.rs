//! The state machine: one saga, one event, and what follows.
//!
//! [`Saga::apply`] is the only way a saga changes. It never looks at a clock or draws a number: both come in. An attempt is
//! recorded as running *before* it is sent ([`Effect::Run`] is carried out only after the transition was committed), so whoever
//! takes over a saga knows that it may have had an effect ([`Event::Lost`]).
//!
//! Certainty is tracked per step. Once the outcome of any attempt was unknown, a later "certainly not done" speaks for that
//! attempt alone: the step stays uncertain until it is done, or until a probe, begun after the last attempt's deadline, has said
//! twice that nothing was done. An uncertain step is undone when the saga rolls back, and its undo counts only if it is proven.

mod backward;
mod forward;
#[cfg(test)]
mod model;
mod state;
#[cfg(test)]
mod tests;
mod verb;

use steadfast_types::Timestamp;

pub use state::Seen;
pub use state::{
    Direction, Effect, Event, Leg, Outcome, Probed, Record, Refusal, Saga, State, StepState,
    Transition, Verb,
};

use crate::{KnownActions, OnUnknown, Step};

/// Probes without a clear answer, after which a person is needed.
const PROBE_TRIES: u32 = 10;

/// How often a probe must say "not done" before that is believed.
const PROBE_NEGATIVES: u32 = 2;

/// What is said of a step whose action the program that came to it does not have.
const UNKNOWN_ACTION: &str = "UNKNOWN_ACTION";

/// One event being applied.
struct Applying<'a> {
    steps: &'a [Step],
    known: &'a KnownActions,
    saga: Saga,
    now: Timestamp,
    random: f64,
    effects: Vec<Effect>,
    records: Vec<Record>,
}

// === impl Saga ===

impl Saga {
    /// Applies an event at a time. `known` says which actions can be asked what became of an attempt; `random`, in 0..1, is
    /// used for jitter.
    ///
    /// # Errors
    /// If the event does not fit the saga's state: a verb that is not allowed there, or an outcome that came too late. The saga
    /// is as it was.
    pub fn apply(
        &self,
        steps: &[Step],
        known: &KnownActions,
        event: Event,
        now: Timestamp,
        random: f64,
    ) -> Result<Transition, Refusal> {
        debug_assert_eq!(steps.len(), self.steps.len());
        let mut applying = Applying {
            steps,
            known,
            saga: self.clone(),
            now,
            random,
            effects: Vec::new(),
            records: Vec::new(),
        };
        applying.event(event)?;
        applying.saga.transitions += 1;
        Ok(Transition {
            saga: applying.saga,
            effects: applying.effects,
            records: applying.records,
        })
    }
}

// === impl Applying ===

impl Applying<'_> {
    /// The one match over states and events.
    fn event(&mut self, event: Event) -> Result<(), Refusal> {
        use State as S;
        match (self.saga.state, event) {
            (S::Pending, Event::Begin) => {
                self.saga.state = S::Running;
                self.records.push(Record::Started);
                self.forward_from(0);
                Ok(())
            }
            (S::Running | S::Compensating, Event::Ended { attempt, outcome }) => {
                self.ended(attempt, outcome)
            }
            (S::Running | S::Compensating, Event::Probed(found)) => self.probed(found),
            (S::Running | S::Compensating, Event::Due) => self.due(),
            (S::Running | S::Compensating, Event::Lost) => self.lost(),
            // Nothing was under way.
            (S::Pending | S::Paused | S::Stuck, Event::Lost) => Ok(()),
            (S::Pending | S::Running | S::Compensating, Event::Poisoned) => self.poisoned(),
            (S::Paused | S::Stuck, Event::Poisoned) => Ok(()),
            (state, Event::Deadline) => self.deadline(state),
            (state, Event::Verb(verb)) => self.verb(state, verb),
            (
                S::Pending | S::Paused | S::Stuck,
                Event::Ended { .. } | Event::Probed(_) | Event::Due,
            )
            | (S::Running | S::Paused | S::Compensating | S::Stuck, Event::Begin)
            | (
                S::Completed | S::Compensated | S::Abandoned,
                Event::Begin
                | Event::Ended { .. }
                | Event::Probed(_)
                | Event::Due
                | Event::Lost
                | Event::Poisoned,
            ) => Err(Refusal::TooLate),
        }
    }

    /// An attempt's outcome.
    fn ended(&mut self, attempt: u32, outcome: Outcome) -> Result<(), Refusal> {
        let at = self.at()?;
        let Leg::Running {
            attempt: running,
            deadline,
        } = *self.leg(at)
        else {
            return Err(Refusal::TooLate);
        };
        if running != attempt {
            return Err(Refusal::TooLate);
        }
        match outcome {
            Outcome::Done(output) => self.done(at, attempt, output),
            Outcome::Failed {
                code,
                message,
                retryable,
            } => {
                self.records.push(Record::StepFailed {
                    step: at,
                    direction: self.saga.direction,
                    attempt,
                    code: code.clone(),
                    message: message.clone(),
                });
                self.saga.steps[at].error = Some((code.clone(), message));
                let again = retryable && self.steps[at].retry.may_pass(&code);
                self.not_done(at, attempt, again);
            }
            Outcome::Unknown { message } => self.unknown(at, attempt, deadline, message),
        }
        Ok(())
    }

    fn done(&mut self, at: usize, attempt: u32, output: serde_json::Value) {
        self.records.push(Record::StepDone {
            step: at,
            direction: self.saga.direction,
            attempt,
        });
        match self.saga.direction {
            Direction::Forward => self.forward_done(at, Some(output)),
            Direction::Backward => self.backward_done(at, attempt),
        }
    }

    /// The attempt certainly had no effect.
    fn not_done(&mut self, at: usize, attempt: u32, again: bool) {
        let used = attempt - self.saga.steps[at].budget_from(self.saga.direction);
        if again && used < self.steps[at].retry.attempts {
            let wait = self.steps[at].retry.wait(used, self.random);
            self.wait(at, attempt, self.now.plus(wait));
        } else {
            self.exhausted(at, attempt);
        }
    }

    /// Nobody knows whether the attempt had an effect.
    fn unknown(&mut self, at: usize, attempt: u32, deadline: Timestamp, message: String) {
        self.records.push(Record::StepUnknown {
            step: at,
            direction: self.saga.direction,
            attempt,
            message: message.clone(),
        });
        let step = &mut self.saga.steps[at];
        step.error = Some(("UNKNOWN".to_owned(), message));
        if self.saga.direction == Direction::Forward {
            let latest = step
                .uncertain_until
                .map_or(deadline, |known| known.max(deadline));
            step.uncertain_until = Some(latest);
        }
        match self.steps[at].on_unknown {
            OnUnknown::Retry => self.not_done(at, attempt, true),
            OnUnknown::Reconcile => self.probe_later(at, attempt, deadline, 0, 0),
            OnUnknown::Stop => {
                self.set_leg(at, Leg::Unknown { attempt });
                self.stuck(format!(
                    "the outcome of step `{}` is unknown",
                    self.steps[at].name
                ));
            }
        }
    }

    /// What a probe found.
    fn probed(&mut self, found: Probed) -> Result<(), Refusal> {
        let at = self.at()?;
        let Leg::Probing {
            attempt,
            negatives,
            tries,
            ..
        } = *self.leg(at)
        else {
            return Err(Refusal::TooLate);
        };
        self.records.push(Record::Probed {
            step: at,
            direction: self.saga.direction,
            found: found.name(),
        });
        let proving_undo = self.is_proving_undo(at);
        match found {
            // The forward effect is there although its undo ran: undo it again.
            Probed::Done(_) if proving_undo => self.not_done(at, attempt, true),
            Probed::Done(output) => self.done(at, attempt, output),
            Probed::NotDone if negatives + 1 < PROBE_NEGATIVES => {
                let wait = self.steps[at].retry.wait(1, self.random);
                self.probe_later(at, attempt, self.now.plus(wait), negatives + 1, tries);
            }
            Probed::NotDone => {
                if self.saga.direction == Direction::Forward || proving_undo {
                    self.saga.steps[at].uncertain_until = None;
                }
                if proving_undo {
                    self.backward_proven(at);
                } else {
                    self.not_done(at, attempt, true);
                }
            }
            Probed::Inconclusive if tries + 1 < PROBE_TRIES => {
                let wait = self.steps[at].retry.wait(tries + 1, self.random);
                self.probe_later(at, attempt, self.now.plus(wait), negatives, tries + 1);
            }
            Probed::Inconclusive => {
                self.set_leg(at, Leg::Unknown { attempt });
                self.stuck(format!(
                    "probes of step `{}` found nothing certain",
                    self.steps[at].name
                ));
            }
        }
        Ok(())
    }

    /// A wait is over.
    fn due(&mut self) -> Result<(), Refusal> {
        let at = self.at()?;
        match *self.leg(at) {
            Leg::Waiting { until, .. } if until > self.now => {
                self.effects.push(Effect::WakeAt(until))
            }
            Leg::Waiting { attempt, .. } => self.run(at, attempt + 1),
            Leg::Probing { not_before, .. } if not_before > self.now => {
                self.effects.push(Effect::WakeAt(not_before));
            }
            Leg::Probing { attempt, .. } => self.effects.push(Effect::Probe {
                step: at,
                direction: self.probe_direction(at),
                attempt,
            }),
            Leg::Idle
            | Leg::Running { .. }
            | Leg::Unknown { .. }
            | Leg::Done
            | Leg::Skipped
            | Leg::Failed { .. } => return Err(Refusal::TooLate),
        }
        Ok(())
    }

    /// Whoever carried the saga out is gone.
    fn lost(&mut self) -> Result<(), Refusal> {
        let at = self.at()?;
        match *self.leg(at) {
            Leg::Running { attempt, deadline } => {
                let message = "the replica that ran it was lost".to_owned();
                self.unknown(at, attempt, deadline, message);
            }
            Leg::Waiting { until, .. }
            | Leg::Probing {
                not_before: until, ..
            } => {
                self.effects.push(Effect::WakeAt(until));
            }
            Leg::Idle | Leg::Unknown { .. } | Leg::Done | Leg::Skipped | Leg::Failed { .. } => {
                return Err(Refusal::Illegal);
            }
        }
        Ok(())
    }

    /// Replicas were lost with it time and again.
    fn poisoned(&mut self) -> Result<(), Refusal> {
        let at = self.at()?;
        if let Leg::Running { attempt, deadline } = *self.leg(at) {
            let step = &mut self.saga.steps[at];
            if self.saga.direction == Direction::Forward {
                let latest = step
                    .uncertain_until
                    .map_or(deadline, |known| known.max(deadline));
                step.uncertain_until = Some(latest);
            }
            self.set_leg(at, Leg::Unknown { attempt });
        }
        self.records.push(Record::Poisoned);
        self.stuck("replicas were lost again and again with this saga in hand".to_owned());
        Ok(())
    }

    /// The last attempt that the step has.
    fn exhausted(&mut self, at: usize, attempt: u32) {
        match self.saga.direction {
            Direction::Forward => self.forward_failed(at, attempt),
            Direction::Backward => {
                self.set_leg(at, Leg::Failed { attempt });
                self.stuck(format!(
                    "step `{}` could not be undone",
                    self.steps[at].name
                ));
            }
        }
    }

    /// Tries again later; a safe point.
    fn wait(&mut self, at: usize, attempt: u32, until: Timestamp) {
        self.set_leg(at, Leg::Waiting { attempt, until });
        if !self.take_requests() {
            self.effects.push(Effect::WakeAt(until));
        }
    }

    /// Asks the action later; a safe point for pausing, not for cancelling: the outcome has to be known first.
    fn probe_later(
        &mut self,
        at: usize,
        attempt: u32,
        not_before: Timestamp,
        negatives: u32,
        tries: u32,
    ) {
        self.set_leg(
            at,
            Leg::Probing {
                attempt,
                not_before,
                negatives,
                tries,
            },
        );
        self.effects.push(Effect::WakeAt(not_before));
    }

    /// Records the intent, and asks for the attempt. What this program does not have waits for a replica that has it.
    fn run(&mut self, at: usize, attempt: u32) {
        let direction = self.saga.direction;
        self.saga.at = Some(at);
        if self.steps[at]
            .action_in(direction)
            .is_some_and(|action| !self.known.has(action))
        {
            let message = "it waits for a replica that has the action".to_owned();
            self.saga.steps[at].error = Some((UNKNOWN_ACTION.to_owned(), message));
            return self.wait(at, attempt - 1, self.now);
        }
        let running = std::time::Duration::from_millis(self.steps[at].timeouts.running_ms);
        let deadline = self.now.plus(running);
        self.set_leg(at, Leg::Running { attempt, deadline });
        self.records.push(Record::StepStarted {
            step: at,
            direction,
            attempt,
        });
        self.effects.push(Effect::Run {
            step: at,
            direction,
            attempt,
            deadline,
            of_unknown: direction == Direction::Backward
                && self.saga.steps[at].uncertain_until.is_some(),
        });
    }

    fn stuck(&mut self, reason: String) {
        self.saga.state = State::Stuck;
        self.saga.pause_requested = false;
        self.saga.reason.clone_from(&reason);
        self.records.push(Record::Stuck { reason });
    }

    fn end(&mut self, state: State) {
        self.saga.state = state;
        self.saga.at = None;
        self.saga.pause_requested = false;
        self.records.push(Record::Ended { state });
        self.effects.push(Effect::Release);
    }

    fn at(&self) -> Result<usize, Refusal> {
        self.saga.at.ok_or(Refusal::Illegal)
    }

    fn leg(&self, at: usize) -> &Leg {
        self.saga.steps[at].leg(self.saga.direction)
    }

    fn set_leg(&mut self, at: usize, leg: Leg) {
        let direction = self.saga.direction;
        *self.saga.steps[at].leg_mut(direction) = leg;
    }

    /// Whether the step's own outcome can be asked for again, long after.
    fn can_probe(&self, at: usize) -> bool {
        self.known.can_probe(&self.steps[at].action)
    }
}
