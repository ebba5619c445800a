//! One saga in hand: attempt, commit, next attempt.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use steadfast_store::{SagaRow, SagaTransition, TransitionOutcome};
use steadfast_types::Backoff;

use super::{
    Engine, Error, Life,
    hand::{Disposition, InHand, is_work},
    held::Held,
    rest::Rested,
    stored,
};
use crate::{Action, Effect, Event, Record, Saga, Step, Transition, metric};

/// What became of an event.
enum Advanced {
    /// Committed; what is to be done.
    On(Vec<Effect>),
    /// The saga is not in this hand any more.
    Gone,
}

impl Engine {
    /// A saga with its outputs.
    pub(super) async fn load(
        &self,
        row: &SagaRow,
        steps: &Arc<Vec<Step>>,
    ) -> Result<InHand, Error> {
        let mut hand = InHand::read(row, steps)?;
        let events = self.inner.store.saga_histories(&[&row.id]).await?;
        stored::restore_outputs(&mut hand.saga, events.iter())?;
        Ok(hand)
    }

    /// Carries a saga on in a task of its own.
    pub(super) fn carry_on_hand(&self, hand: InHand, effects: Vec<Effect>) {
        self.spawn_carry(hand, Next::Effects(effects));
    }

    /// Applies an event to a saga that was just taken, and carries it on.
    pub(super) fn carry_on_event(&self, hand: InHand, event: Event) {
        self.spawn_carry(hand, Next::Event(event));
    }

    fn spawn_carry(&self, hand: InHand, next: Next) {
        let Some(life) = self.life() else { return };
        let engine = self.clone();
        let held = Held::new(&engine, &hand.id);
        self.inner.tasks.spawn(async move {
            let ended = life.ended.clone();
            // Boxed, as it is large and would be moved from hand to hand. With the lease, everything that it covered ends.
            let carrying = Box::pin(engine.carry(hand, next, life));
            let _ = ended.run_until_cancelled(carrying).await;
            drop(held);
        });
    }

    async fn carry(&self, mut hand: InHand, mut next: Next, life: Life) {
        loop {
            let event = match next {
                Next::Event(event) => event,
                Next::Effects(effects) => match effects.iter().find(|effect| is_work(effect)) {
                    Some(
                        effect @ Effect::Run {
                            step, direction, ..
                        },
                    ) if !matches!(
                        hand.steps[*step].action_in(*direction),
                        Some(Action::Wait(_))
                    ) =>
                    {
                        life.is_covered().await;
                        self.run_attempt(&hand, effect).await
                    }
                    Some(effect @ Effect::Probe { .. }) => self.run_probe(&hand, effect).await,
                    _ => return,
                },
            };
            match self.advance(&mut hand, event, &life).await {
                Advanced::On(effects) => next = Next::Effects(effects),
                Advanced::Gone => return,
            }
        }
    }

    /// Applies an event and commits what follows. If somebody steered the saga meanwhile, the event is applied to what it is now.
    async fn advance(&self, hand: &mut InHand, event: Event, life: &Life) -> Advanced {
        let place = hand.place();
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            if hand.place() != place {
                // The transition was committed, and its answer lost: the event does not speak of what the saga stands at now.
                return match self.hands(&hand.id) {
                    0 | 1 => Advanced::On(hand.effects_of_running()),
                    _ => Advanced::Gone,
                };
            }
            let now = self.now();
            let applied = hand.saga.apply(
                &hand.steps,
                &self.inner.known,
                event.clone(),
                now,
                rand::random(),
            );
            let transition = match applied {
                Ok(transition) => transition,
                Err(refusal) => {
                    tracing::debug!(saga = hand.id, %refusal, "an outcome came too late");
                    return Advanced::Gone;
                }
            };
            let executor = life.executor.to_string();
            let disposition =
                Disposition::of(&transition, &hand.steps, &executor, hand.is_keyed, now);
            let write = match self.transition(hand, &transition, &disposition, life) {
                Ok(mut write) => {
                    // Whatever came of it, no replica was lost by it.
                    write.progress |= matches!(event, Event::Ended { .. } | Event::Probed(_));
                    write
                }
                Err(error) => {
                    tracing::error!(saga = hand.id, %error, "a transition cannot be written");
                    return Advanced::Gone;
                }
            };
            match self.inner.store.commit_saga(write).await {
                Ok(TransitionOutcome::Committed(time)) => {
                    hand.saga = transition.saga;
                    hand.version += 1;
                    told(&hand.id, &transition.records);
                    if hand.saga.state.rests() {
                        let rested = time.map(|time| Rested {
                            saga: hand.saga.clone(),
                            version: hand.version,
                            time,
                        });
                        self.inner.rests.came(&hand.id, rested);
                    }
                    self.inner.wakeups.kick_others();
                    if disposition.wake_us.is_some() || disposition.release {
                        self.inner.poke.notify_one();
                    }
                    return Advanced::On(transition.effects);
                }
                Ok(TransitionOutcome::Fenced) => {
                    life.ended.cancel();
                    return Advanced::Gone;
                }
                Ok(TransitionOutcome::Changed) => match Box::pin(self.reload(hand, life)).await {
                    Ok(true) => {}
                    Ok(false) => return Advanced::Gone,
                    Err(error) => {
                        tracing::warn!(saga = hand.id, %error, "a steered saga cannot be read again");
                        tokio::time::sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum))
                            .await;
                    }
                },
                // The lease decides how long that makes sense.
                Err(error) => {
                    tracing::debug!(
                        saga = hand.id,
                        error = &error as &dyn std::error::Error,
                        "a transition is not committed yet"
                    );
                    tokio::time::sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum)).await;
                    if matches!(Box::pin(self.reload(hand, life)).await, Ok(false)) {
                        return Advanced::Gone;
                    }
                }
            }
        }
    }

    /// Reads a saga again that may have been changed by others. False if it is not in this hand any more.
    async fn reload(&self, hand: &mut InHand, life: &Life) -> Result<bool, Error> {
        let Some(row) = self.inner.store.saga(&hand.id).await? else {
            return Ok(false);
        };
        if row.owner != life.executor.to_string() {
            return Ok(false);
        }
        if row.version != hand.version {
            *hand = self.load(&row, &hand.steps.clone()).await?;
        }
        Ok(true)
    }

    fn transition(
        &self,
        hand: &InHand,
        transition: &Transition,
        disposition: &Disposition,
        life: &Life,
    ) -> Result<SagaTransition, Error> {
        let outputs = new_outputs(&hand.saga, &transition.saga);
        Ok(SagaTransition {
            id: hand.id.clone(),
            expected: hand.version,
            held_by: life.executor.to_string(),
            owner: disposition.owner.clone(),
            wake_us: disposition.wake_us,
            state: stored::state_text(transition.saga.state),
            machine: super::to_json(&transition.saga)?,
            records: stored::records_text(&transition.records, &outputs, None)?,
            ended: transition.saga.state.has_ended(),
            release: disposition.release,
            progress: is_progress(&transition.records),
            lease: life.lease.clone(),
        })
    }
}

enum Next {
    Event(Event),
    Effects(Vec<Effect>),
}

/// The outputs that a transition brought.
pub(super) fn new_outputs(before: &Saga, after: &Saga) -> BTreeMap<usize, Value> {
    let pairs = before.steps.iter().zip(&after.steps).enumerate();
    pairs
        .filter(|(_, (before, after))| before.forward != after.forward)
        .filter_map(|(at, (before, after))| {
            let output = after.output.as_ref()?;
            (before.output.as_ref() != Some(output)).then(|| (at, output.clone()))
        })
        .collect()
}

fn is_progress(records: &[Record]) -> bool {
    records.iter().any(|record| {
        matches!(
            record,
            Record::StepDone { .. } | Record::StepFailed { .. } | Record::StepSkipped { .. }
        )
    })
}

/// What an operator has to know at once.
pub(super) fn told(id: &str, records: &[Record]) {
    for record in records {
        match record {
            Record::Stuck { reason } => {
                metrics::counter!(metric::STUCK_TOTAL).increment(1);
                tracing::warn!(saga = id, reason, "a saga is stuck: a person is needed");
            }
            Record::Ended { state } => {
                metrics::counter!(metric::ENDED, "state" => stored::state_text(*state))
                    .increment(1);
            }
            _ => {}
        }
    }
}
