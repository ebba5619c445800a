//! What an event means for a saga that is locked, and is not necessarily in this replica's hand.

use std::sync::Arc;

use steadfast_store::{SagaRow, SteerWrite};
use steadfast_types::Timestamp;

use super::{
    Engine, Error,
    carry::{new_outputs, told},
    hand::{Disposition, InHand, is_work},
    stored,
};
use crate::{Action, Effect, Event, Leg, Outcome, Saga, State, Step, Transition};

impl Engine {
    /// Decides about a saga that is locked and is not necessarily in this replica's hand.
    pub(super) fn decide(
        &self,
        row: &SagaRow,
        steps: &Arc<Vec<Step>>,
        event: Event,
        actor: &str,
        reason: &str,
    ) -> Result<(SteerWrite, Vec<Effect>), Error> {
        let hand = InHand::read(row, steps)?;
        let now = self.now();
        let deadline_done = event == Event::Deadline;
        let verb = match &event {
            Event::Verb(verb) => Some(verb.name()),
            _ => None,
        };
        let known = &self.inner.known;
        let mut transition = hand.saga.apply(steps, known, event, now, rand::random())?;
        self.stop_timer(steps, &mut transition, now)?;
        let executor = self.life().map(|life| life.executor.to_string());
        let is_keyed = row.concurrency_key.is_some();
        let mut disposition = match &executor {
            Some(executor) => Disposition::of(&transition, steps, executor, is_keyed, now),
            // Without a life of its own this replica leaves the work to others: they find it as lost.
            None => Disposition::of(&transition, steps, "nobody", is_keyed, now),
        };
        let works = transition.effects.iter().any(is_work);
        let running = matches!(transition.saga.state, State::Running | State::Compensating);
        if !works && disposition.wake_us.is_none() && running {
            // An attempt is under way, in whosever hand: it stays there.
            disposition.owner.clone_from(&row.owner);
            disposition.wake_us = row.wake_us;
        }
        if transition.saga.state == State::Pending {
            disposition.wake_us = row.wake_us;
        }
        let begin = hand.saga.state == State::Paused && transition.saga.state == State::Pending;
        if is_keyed
            && transition.saga.state == State::Abandoned
            && let Some(until) = last_deadline(&hand.saga).filter(|until| *until > now)
        {
            // What was sent may still have its effect: the key is kept until it cannot any more.
            disposition.release = false;
            disposition.wake_us = Some(until.0);
        }
        let outputs = new_outputs(&hand.saga, &transition.saga);
        told(&row.id, &transition.records);
        let write = SteerWrite {
            owner: disposition.owner,
            wake_us: disposition.wake_us,
            state: stored::state_text(transition.saga.state),
            machine: super::to_json(&transition.saga)?,
            records: stored::records_text(&transition.records, &outputs, verb)?,
            ended: transition.saga.state.has_ended(),
            release: disposition.release,
            begin,
            deadline_done,
            crashes: 0,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
        };
        Ok((write, transition.effects))
    }

    /// A timer can be stopped at once: a cancel need not wait for it.
    fn stop_timer(
        &self,
        steps: &[Step],
        transition: &mut Transition,
        now: Timestamp,
    ) -> Result<(), Error> {
        let stopped = transition.effects.iter().find_map(|effect| match *effect {
            Effect::AskToStop { step, attempt } => Some((step, attempt)),
            _ => None,
        });
        let Some((at, attempt)) = stopped else {
            return Ok(());
        };
        let saga = &transition.saga;
        let timer = matches!(steps[at].action_in(saga.direction), Some(Action::Wait(_)));
        if !timer || saga.state.has_ended() {
            return Ok(());
        }
        let outcome = Outcome::Failed {
            code: "CANCELED".to_owned(),
            message: "the timer was stopped".to_owned(),
            retryable: true,
        };
        let next = saga.apply(
            steps,
            &self.inner.known,
            Event::Ended { attempt, outcome },
            now,
            rand::random(),
        )?;
        transition.saga = next.saga;
        transition.effects = next.effects;
        transition.records.extend(next.records);
        Ok(())
    }
}

/// When the last thing that was sent can have no effect any more.
fn last_deadline(saga: &Saga) -> Option<Timestamp> {
    saga.steps
        .iter()
        .flat_map(|step| {
            let running = [step.forward, step.backward].map(|leg| match leg {
                Leg::Running { deadline, .. } => Some(deadline),
                _ => None,
            });
            [running[0], running[1], step.uncertain_until]
        })
        .flatten()
        .max()
}
