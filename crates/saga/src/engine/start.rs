//! Starting sagas: everything that can be said before the database is asked, and waiting for the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use steadfast_store::{NewSaga, Request, SagaFirst, SagaRow};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Engine, Error, SagaView, StartSaga,
    hand::{Disposition, InHand},
    plan::plan_row,
    rest::Rest,
    stored::{self, DefinitionRef},
    to_json,
};
use crate::{Definition, Event, Saga, Step, check::check};

/// How soon a saga is looked at again because other replicas committed something.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

// === impl Engine ===

impl Engine {
    /// Starts a saga, and takes it in hand if there is room. True if the same request had started it before.
    ///
    /// # Errors
    /// As [`Engine::start_and_wait`].
    pub async fn start(
        &self,
        start: StartSaga,
        request: Option<Request>,
    ) -> Result<(SagaView, bool), Error> {
        self.start_and_wait(start, request, Duration::ZERO).await
    }

    /// Starts a saga, and returns once it has ended or needs a person, or as it is after `wait`.
    ///
    /// # Errors
    /// [`Error::DefinitionNotFound`], [`Error::DefinitionInvalid`] for inline steps, [`Error::InvalidArgument`],
    /// [`Error::RequestIdReused`].
    pub async fn start_and_wait(
        &self,
        start: StartSaga,
        request: Option<Request>,
        wait: Duration,
    ) -> Result<(SagaView, bool), Error> {
        let until = Instant::now() + wait;
        let (new, steps) = self.prepare(start, request).await?;
        // Before it can end.
        let rest = (!wait.is_zero()).then(|| self.inner.rests.wait_for(&new.row.id));
        let started = self.inner.store.start_saga(new).await?;
        self.inner.wakeups.kick_others();
        let replayed = started.replayed;
        if !replayed {
            self.take_started(&started.row, &steps);
        }
        let steps = if replayed {
            self.plan(&started.row.plan_hash).await?
        } else {
            steps
        };
        let view = SagaView::read(started.row, &steps)?;
        match rest {
            Some(rest) if !view.saga.state.rests() => {
                let rest = if replayed {
                    self.inner.rests.wait_for(&view.id)
                } else {
                    rest
                };
                Ok((self.at_rest(view, rest, until).await?, replayed))
            }
            _ => Ok((view, replayed)),
        }
    }

    /// The saga once it rests, or as it is at the end of the time.
    async fn at_rest(
        &self,
        started: SagaView,
        mut rest: Rest,
        until: Instant,
    ) -> Result<SagaView, Error> {
        let mut others = self.inner.wakeups.subscribe_to_others();
        let id = started.id.clone();
        loop {
            let look = Instant::now() + self.inner.options.poll_interval;
            tokio::select! {
                rested = rest.came() => {
                    if let Some(ended) = rested.and_then(|rested| rested.ended(&started)) {
                        return Ok(ended);
                    }
                }
                // It may be in another replica's hand.
                _ = others.changed() => tokio::time::sleep(LOOK_AGAIN).await,
                () = tokio::time::sleep_until(look.min(until)) => {}
            }
            let view = self.get(&id).await?;
            if view.saga.state.rests() || Instant::now() >= until {
                return Ok(view);
            }
            rest = self.inner.rests.wait_for(&id);
        }
    }

    /// Everything about a start that can be said before the database is asked.
    async fn prepare(
        &self,
        start: StartSaga,
        request: Option<Request>,
    ) -> Result<(NewSaga, Arc<Vec<Step>>), Error> {
        start.check()?;
        let (name, version, plan, steps) = match start.definition {
            DefinitionRef::Named { ref name, version } => {
                let planned = self.planned(name, version).await?;
                let (name, version) = planned.definition.clone();
                (
                    name,
                    version,
                    planned.plan.clone(),
                    Arc::clone(&planned.steps),
                )
            }
            DefinitionRef::Inline(ref steps) => {
                let definition = Definition {
                    name: "inline".to_owned(),
                    version: 1,
                    steps: steps.clone(),
                };
                let problems = check(&definition, &self.inner.known);
                if !problems.is_empty() {
                    return Err(Error::DefinitionInvalid(problems));
                }
                let plan = plan_row(&definition.steps)?;
                let steps = self.keep_plan(&plan.hash, definition.steps);
                (String::new(), 0, plan, steps)
            }
        };
        let saga = Saga::new(steps.len());
        let waiting = SagaFirst {
            owner: String::new(),
            wake_us: None,
            state: stored::state_text(saga.state),
            machine: to_json(&saga)?,
            records: stored::records_text(&[], &BTreeMap::new(), None)?,
        };
        let life = self.life().filter(|_| self.room() > 0);
        let now = self.now();
        let knows = steps
            .first()
            .is_some_and(|step| self.inner.known.has(&step.action));
        let free = match life.filter(|_| knows) {
            Some(life) => {
                let transition =
                    saga.apply(&steps, &self.inner.known, Event::Begin, now, rand::random())?;
                let executor = life.executor.to_string();
                let disposition = Disposition::of(&transition, &steps, &executor, false, now);
                SagaFirst {
                    owner: disposition.owner,
                    wake_us: disposition.wake_us,
                    state: stored::state_text(transition.saga.state),
                    machine: to_json(&transition.saga)?,
                    records: stored::records_text(&transition.records, &BTreeMap::new(), None)?,
                }
            }
            None => SagaFirst {
                wake_us: Some(0),
                ..waiting.clone()
            },
        };
        let row = start.into_row(
            Uuid::now_v7().to_string(),
            (name, version),
            plan.hash.clone(),
            request,
        )?;
        let new = NewSaga {
            plan,
            row,
            free,
            waiting,
        };
        Ok((new, steps))
    }

    /// Carries a saga on that was started in this replica's hand.
    fn take_started(&self, row: &SagaRow, steps: &Arc<Vec<Step>>) {
        let own = self
            .life()
            .is_some_and(|life| life.executor.to_string() == row.owner);
        if !own {
            self.inner.poke.notify_one();
            return;
        }
        match InHand::read(row, steps) {
            Ok(hand) => {
                let effects = hand.effects_of_running();
                self.carry_on_hand(hand, effects);
            }
            Err(error) => {
                tracing::error!(saga = row.id, %error, "a saga that was just started cannot be read")
            }
        }
    }
}
