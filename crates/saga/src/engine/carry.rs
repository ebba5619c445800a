//! One saga in hand: attempt, commit, next attempt.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use steadfast_store::{SagaRow, SagaTransition, SteerWrite, TransitionOutcome};
use steadfast_types::{Backoff, Timestamp};

use super::{DOCUMENT_BYTES, Engine, Error, Life, NAME_BYTES, held::Held, rest::Rested, stored};
use crate::{
    Action, Attempt, Direction, Effect, Event, Leg, Outcome, Probed, Record, Saga, State, Step,
    Transition, Undo, metric,
    template::{Scope, render},
};

/// Bytes of a failure's message that are kept.
const MESSAGE_BYTES: usize = 4 << 10;
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// A saga that this replica carries out.
#[derive(Debug)]
pub(super) struct InHand {
    pub(super) id: String,
    kind: String,
    deployment_id: String,
    inputs: Value,
    context: Value,
    steps: Arc<Vec<Step>>,
    pub(super) saga: Saga,
    version: i64,
    /// It waited for a concurrency key, or holds one.
    is_keyed: bool,
}

/// Who has a saga after a transition, and when it goes on if nobody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) owner: String,
    pub(super) wake_us: Option<i64>,
    /// Its concurrency key, if it has one, goes to the next.
    pub(super) release: bool,
}

/// What became of an event.
enum Advanced {
    /// Committed; what is to be done.
    On(Vec<Effect>),
    /// The saga is not in this hand any more.
    Gone,
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
                } => match action_of(&steps[*step], *direction) {
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
    fn place(&self) -> Option<(usize, Direction, Leg)> {
        let (at, direction) = (self.saga.at?, self.saga.direction);
        Some((at, direction, *self.saga.steps[at].leg(direction)))
    }

    /// The event with which a saga goes on whose holder is gone.
    pub(super) fn event_when_lost(&self) -> Option<Event> {
        let is_timer = |at: usize, direction| {
            matches!(action_of(&self.steps[at], direction), Some(Action::Wait(_)))
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

    fn attempt(&self, engine: &Engine, effect: &Effect) -> Result<(Action, Attempt), Outcome> {
        let (at, direction, attempt, deadline, of_unknown) = match *effect {
            Effect::Run {
                step,
                direction,
                attempt,
                deadline,
                of_unknown,
            } => (step, direction, attempt, deadline, of_unknown),
            Effect::Probe {
                step,
                direction,
                attempt,
            } => (
                step,
                direction,
                attempt,
                engine.now().plus(PROBE_TIMEOUT),
                false,
            ),
            _ => return Err(Outcome::invalid_input("not an attempt".to_owned())),
        };
        let step = &self.steps[at];
        let Some(action) = action_of(step, direction) else {
            return Err(Outcome::invalid_input("the step has no undo".to_owned()));
        };
        let null = Value::Null;
        let output = self.saga.steps[at].output.as_ref().filter(|_| !of_unknown);
        let scope = Scope {
            inputs: &self.inputs,
            context: &self.context,
            steps: self
                .steps
                .iter()
                .zip(&self.saga.steps)
                .take(at)
                .map(|(step, state)| (step.name.as_str(), state.output.as_ref()))
                .collect(),
            saga_id: &self.id,
            saga_kind: &self.kind,
            deployment_id: &self.deployment_id,
            output: (direction == Direction::Backward).then_some(output.unwrap_or(&null)),
        };
        let rendered = render(&action.input(), &scope, engine.inner.secrets.as_ref())
            .map_err(|error| Outcome::invalid_input(error.to_string()))?;
        // The undo of a step of which nobody knows speaks of the forward call, and so carries its key.
        let way = if direction == Direction::Forward || of_unknown {
            "forward"
        } else {
            "backward"
        };
        let timeout = deadline.since(engine.now());
        let attempt = Attempt {
            saga_id: self.id.clone(),
            step: step.name.clone(),
            direction,
            attempt,
            key: format!("{}/{}/{way}", self.id, step.name),
            input: rendered.value,
            output: output.cloned().unwrap_or(Value::Null),
            deadline,
            timeout,
            secrets: rendered.secrets,
        };
        Ok((action.clone(), attempt))
    }
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
            // With the lease, everything that it covered ends.
            let _ = ended
                .run_until_cancelled(engine.carry(hand, next, life))
                .await;
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
                        action_of(&hand.steps[*step], *direction),
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

    /// Sends an attempt and waits for its outcome, or for its deadline.
    async fn run_attempt(&self, hand: &InHand, effect: &Effect) -> Event {
        let Effect::Run {
            attempt: number, ..
        } = *effect
        else {
            return Event::Due;
        };
        let started = Instant::now();
        let outcome = match hand.attempt(self, effect) {
            Err(outcome) => outcome,
            Ok((action, attempt)) => {
                let (secrets, timeout) = (attempt.secrets.clone(), attempt.timeout);
                let outcome = match self.inner.actions.get(&action) {
                    // As after a sleep: whoever took the saga over counts on it that nothing comes after the deadline.
                    Some(_) if timeout.is_zero() => Outcome::Failed {
                        code: "NOT_SENT".to_owned(),
                        message: "its deadline passed before it could be sent".to_owned(),
                        retryable: true,
                    },
                    None => Outcome::Failed {
                        code: "UNKNOWN_ACTION".to_owned(),
                        message: "this program does not have the action".to_owned(),
                        retryable: true,
                    },
                    Some(act) => match tokio::time::timeout(timeout, act.run(attempt)).await {
                        Ok(outcome) => outcome,
                        Err(_) => Outcome::Unknown {
                            message: "no answer before the attempt's deadline".to_owned(),
                        },
                    },
                };
                bounded(mask(outcome, &secrets))
            }
        };
        let name = match &outcome {
            Outcome::Done(_) => "done",
            Outcome::Failed { .. } => "failed",
            Outcome::Unknown { .. } => "unknown",
        };
        metrics::counter!(metric::ATTEMPTS, "outcome" => name).increment(1);
        metrics::histogram!(metric::ATTEMPT_SECONDS).record(started.elapsed());
        Event::Ended {
            attempt: number,
            outcome,
        }
    }

    async fn run_probe(&self, hand: &InHand, effect: &Effect) -> Event {
        let found = match hand.attempt(self, effect) {
            Err(_) => Probed::Inconclusive,
            Ok((action, attempt)) => {
                let secrets = attempt.secrets.clone();
                match self.inner.actions.get(&action) {
                    None => Probed::Inconclusive,
                    Some(act) => {
                        match tokio::time::timeout(PROBE_TIMEOUT, act.probe(attempt)).await {
                            Ok(Probed::Done(output)) => Probed::Done(secrets.mask(output)),
                            Ok(found) => found,
                            Err(_) => Probed::Inconclusive,
                        }
                    }
                }
            }
        };
        Event::Probed(found)
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
                Ok(TransitionOutcome::Changed) => match self.reload(hand, life).await {
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
                    if matches!(self.reload(hand, life).await, Ok(false)) {
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
        let timer = matches!(action_of(&steps[at], saga.direction), Some(Action::Wait(_)));
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

enum Next {
    Event(Event),
    Effects(Vec<Effect>),
}

fn action_of(step: &Step, direction: Direction) -> Option<&Action> {
    match (direction, &step.undo) {
        (Direction::Forward, _) => Some(&step.action),
        (Direction::Backward, Undo::By(action)) => Some(action),
        (Direction::Backward, Undo::None) => None,
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

fn new_outputs(before: &Saga, after: &Saga) -> BTreeMap<usize, Value> {
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

/// Secrets that an action repeated are not recorded.
fn mask(outcome: Outcome, secrets: &crate::Secrets) -> Outcome {
    match outcome {
        Outcome::Done(output) => Outcome::Done(secrets.mask(output)),
        Outcome::Failed {
            code,
            message,
            retryable,
        } => Outcome::Failed {
            code,
            message: secrets.mask_text(&message).into_owned(),
            retryable,
        },
        Outcome::Unknown { message } => Outcome::Unknown {
            message: secrets.mask_text(&message).into_owned(),
        },
    }
}

/// An output that cannot be kept does not undo what was done: its step is done, and says why its output is missing. Of a failure
/// the beginning is kept.
fn bounded(outcome: Outcome) -> Outcome {
    let output = match outcome {
        Outcome::Done(output) => output,
        Outcome::Failed {
            code,
            message,
            retryable,
        } => {
            return Outcome::Failed {
                code: beginning(code, NAME_BYTES),
                message: beginning(message, MESSAGE_BYTES),
                retryable,
            };
        }
        Outcome::Unknown { message } => {
            return Outcome::Unknown {
                message: beginning(message, MESSAGE_BYTES),
            };
        }
    };
    let bytes = output.to_string().len();
    let fits = bytes <= DOCUMENT_BYTES && !stored::has_nul(&output);
    Outcome::Done(if fits {
        output
    } else {
        serde_json::json!({
            "dropped": format!("the output has {bytes} bytes; at most {DOCUMENT_BYTES}, without NUL, are kept")
        })
    })
}

fn beginning(mut text: String, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes);
    text.truncate(end);
    text
}

/// What an operator has to know at once.
fn told(id: &str, records: &[Record]) {
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
