//! What actions act on: it counts calls, keeps effects by idempotency key, and misbehaves as it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use steadfast_saga::{Act, Attempt, Direction, Outcome, Probed};
use steadfast_types::Timestamp;
use tokio::{sync::Semaphore, time::Instant};

/// One call of an action.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) saga: String,
    pub(crate) step: String,
    pub(crate) direction: Direction,
    pub(crate) key: String,
    pub(crate) attempt: u32,
    pub(crate) input: Value,
    pub(crate) output: Value,
    pub(crate) time: Timestamp,
    pub(crate) deadline: Timestamp,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    probes: Vec<Call>,
    /// The effects that are there: saga and step.
    there: BTreeSet<(String, String)>,
    /// Every key under which an effect happened, and how often it really did.
    effects: BTreeMap<String, u32>,
    /// Steps that wait in the middle of their action.
    held: BTreeMap<String, Gate>,
    /// Calls that have not returned, and how many there were at most.
    inside: usize,
    most_inside: usize,
    /// Every first attempt has its effect, and its answer is lost: so every action is delivered twice.
    twice: bool,
    /// Undos fail, of these steps.
    broken: BTreeSet<String>,
}

/// Lets those that wait through, one by one.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

/// One that is inside an action.
struct Inside(World);

/// The world. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<Inner>>);

/// Acts on the world, idempotently by key.
pub(crate) struct Effect {
    pub(crate) world: World,
    pub(crate) can_probe: bool,
}

impl World {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn deliver_twice(&self) {
        self.inner().twice = true;
    }

    /// From now on the step's calls wait until the gate is notified.
    pub(crate) fn hold(&self, step: &str) -> Gate {
        let gate = Gate(Arc::new(Semaphore::new(0)));
        self.inner().held.insert(step.to_owned(), gate.clone());
        gate
    }

    /// Where calls of a held step wait.
    pub(crate) fn gate(&self, step: &str) -> Gate {
        self.inner().held[step].clone()
    }

    pub(crate) fn hold_no_more(&self) {
        for (_, gate) in std::mem::take(&mut self.inner().held) {
            gate.0.close();
        }
    }

    /// Calls that have not returned.
    pub(crate) fn inside(&self) -> usize {
        self.inner().inside
    }

    pub(crate) fn most_inside(&self) -> usize {
        self.inner().most_inside
    }

    pub(crate) fn break_undo(&self, step: &str) {
        self.inner().broken.insert(step.to_owned());
    }

    pub(crate) fn mend(&self) {
        self.inner().broken.clear();
    }

    /// The calls of one saga, in order.
    pub(crate) fn calls(&self, saga: &str) -> Vec<Call> {
        let inner = self.inner();
        let own = inner.calls.iter().filter(|call| call.saga == saga);
        own.cloned().collect()
    }

    /// Waits until a saga's actions were called so many times.
    pub(crate) async fn called(&self, saga: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.calls(saga).len() < times {
            assert!(Instant::now() < deadline, "{saga}: {:?}", self.calls(saga));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn probes(&self, saga: &str) -> Vec<Call> {
        let inner = self.inner();
        let own = inner.probes.iter().filter(|call| call.saga == saga);
        own.cloned().collect()
    }

    /// How often each step of a saga was called each way: `a` forward, `-a` backward.
    pub(crate) fn counts(&self, saga: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in self.calls(saga) {
            *counts.entry(call.short()).or_default() += 1;
        }
        counts
    }

    /// The order of the calls of a saga, repetitions of one left out.
    pub(crate) fn order(&self, saga: &str) -> Vec<String> {
        let mut order: Vec<_> = self.calls(saga).iter().map(Call::short).collect();
        order.dedup();
        order
    }

    /// The steps whose effect is there.
    pub(crate) fn there(&self, saga: &str) -> Vec<String> {
        let inner = self.inner();
        let own = inner.there.iter().filter(|(of, _)| of == saga);
        own.map(|(_, step)| step.clone()).collect()
    }

    /// The keys under which effects of a saga happened, without the saga, each with how often it did.
    pub(crate) fn effects(&self, saga: &str) -> BTreeMap<String, u32> {
        let inner = self.inner();
        let own = inner
            .effects
            .iter()
            .filter_map(|(key, count)| Some((key.strip_prefix(saga)?.to_owned(), *count)));
        own.collect()
    }
}

impl Gate {
    /// Lets the one through that waits longest, or the next one that comes.
    pub(crate) fn open_once(&self) {
        self.0.add_permits(1);
    }

    async fn pass(self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

impl Inside {
    fn enter(world: &World) -> Self {
        let mut inner = world.inner();
        inner.inside += 1;
        inner.most_inside = inner.most_inside.max(inner.inside);
        Self(world.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inner().inside -= 1;
    }
}

impl Call {
    pub(crate) fn short(&self) -> String {
        match self.direction {
            Direction::Forward => self.step.clone(),
            Direction::Backward => format!("-{}", self.step),
        }
    }
}

impl From<&Attempt> for Call {
    fn from(attempt: &Attempt) -> Self {
        Self {
            saga: attempt.saga_id.clone(),
            step: attempt.step.clone(),
            direction: attempt.direction,
            key: attempt.key.clone(),
            attempt: attempt.attempt,
            input: attempt.input.clone(),
            output: attempt.output.clone(),
            time: Timestamp::now(),
            deadline: attempt.deadline,
        }
    }
}

impl Effect {
    /// The effect itself. The same key again changes nothing.
    fn happen(inner: &mut Inner, attempt: &Attempt) {
        let place = (attempt.saga_id.clone(), attempt.step.clone());
        let key = match attempt.direction {
            Direction::Forward => attempt.key.clone(),
            // An undo may speak of the forward call, and then carries its key.
            Direction::Backward => format!("{} undone", attempt.key),
        };
        let changed = match attempt.direction {
            // Another key would be another effect.
            Direction::Forward => {
                let is_new = !inner.effects.contains_key(&key);
                if is_new {
                    inner.there.insert(place);
                }
                is_new
            }
            Direction::Backward => inner.there.remove(&place),
        };
        if changed {
            *inner.effects.entry(key).or_default() += 1;
        }
    }
}

impl Act for Effect {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        let world = self.world.clone();
        async move {
            let _inside = Inside::enter(&world);
            let what = attempt
                .input
                .get("do")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let (gate, repeats, broken, later) = {
                let mut inner = world.inner();
                inner.calls.push(Call::from(&attempt));
                let broken = attempt.direction == Direction::Backward
                    && inner.broken.contains(&attempt.step);
                let fails = matches!(what.as_str(), "fail" | "vanish" | "freeze") || broken;
                let calls = inner.calls.iter().filter(|call| call.key == attempt.key);
                // The third call succeeds.
                let later = what == "flaky" && calls.count() < 3;
                if !fails && !later {
                    Self::happen(&mut inner, &attempt);
                }
                let repeats = inner.twice && !fails && attempt.attempt == 1;
                (
                    inner.held.get(&attempt.step).cloned(),
                    repeats,
                    broken,
                    later,
                )
            };
            if let Some(gate) = gate {
                gate.pass().await;
            }
            let unknown = || Outcome::Unknown {
                message: "the answer was lost".to_owned(),
            };
            if broken {
                return Outcome::Failed {
                    code: "BROKEN".to_owned(),
                    message: "it is broken".to_owned(),
                    retryable: false,
                };
            }
            match what.as_str() {
                "fail" => Outcome::Failed {
                    code: "NO".to_owned(),
                    message: "told to".to_owned(),
                    retryable: false,
                },
                "flaky" if later => Outcome::Failed {
                    code: "LATER".to_owned(),
                    message: "told to".to_owned(),
                    retryable: true,
                },
                // Without its effect, and with it.
                "vanish" | "unknown" => unknown(),
                "unknown once" if attempt.attempt == 1 => unknown(),
                "freeze" | "hang" => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    unknown()
                }
                "echo" => Outcome::Done(json!({ "echo": attempt.input })),
                "echo and fail" => Outcome::Failed {
                    code: "NO".to_owned(),
                    message: format!("cannot take {}", attempt.input),
                    retryable: false,
                },
                "echo and lose" => Outcome::Unknown {
                    message: format!("lost {}", attempt.input),
                },
                "slow" => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Outcome::Done(Value::Null)
                }
                "shout" => Outcome::Failed {
                    code: "LOUD".repeat(1_000),
                    message: "x".repeat(100_000),
                    retryable: false,
                },
                "big" => Outcome::Done(json!("x".repeat(70_000))),
                _ if repeats => unknown(),
                _ => Outcome::Done(json!({ "of": attempt.step, "attempt": attempt.attempt })),
            }
        }
        .boxed()
    }

    fn probe(&self, attempt: Attempt) -> BoxFuture<'static, Probed> {
        let found = {
            let mut inner = self.world.inner();
            inner.probes.push(Call::from(&attempt));
            let place = (attempt.saga_id.clone(), attempt.step.clone());
            let there = inner.there.contains(&place);
            match (self.can_probe, there, attempt.direction) {
                (false, ..) => Probed::Inconclusive,
                (_, true, Direction::Forward) | (_, false, Direction::Backward) => {
                    Probed::Done(json!({ "of": attempt.step, "found": true }))
                }
                _ => Probed::NotDone,
            }
        };
        std::future::ready(found).boxed()
    }

    fn can_probe(&self) -> bool {
        self.can_probe
    }
}

/// Calls by name, to compare with [`World::counts`].
pub(crate) fn counted<const N: usize>(pairs: [(&str, usize); N]) -> BTreeMap<String, usize> {
    pairs
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}
