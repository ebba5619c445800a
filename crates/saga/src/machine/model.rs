//! A world that sagas act on, played by chance: attempts that fail, vanish, or have their effect late, lost executors, and a
//! person who steers. Whatever happens, what the machine claims must be true of the world.

use proptest::prelude::*;
use serde_json::json;
use steadfast_types::Timestamp;

use super::{Direction, Effect, Event, Leg, Outcome, Probed, Saga, State, Verb, state::Seen};
use crate::{Action, KnownActions, OnFailure, OnUnknown, Retry, Step, Timeouts, Undo};

/// Choices drawn in advance; when they run out, everything goes well.
struct Chance(std::vec::IntoIter<u8>);

impl Chance {
    fn draw(&mut self, below: u8) -> u8 {
        self.0.next().map_or(0, |byte| byte % below)
    }
}

/// What is really there.
struct World {
    /// Per step.
    effect: Vec<bool>,
    /// Per step, a forward call that is still on its way.
    late: Vec<bool>,
    /// Per step, an undo has run that makes late calls fail.
    blocked: Vec<bool>,
    /// A person's word stands against the facts.
    vouched: bool,
    /// Steps in the order in which their undo took effect.
    undone: Vec<usize>,
    /// Steps in the order in which they were recorded as done.
    done: Vec<usize>,
}

fn step(kind: u8, index: usize) -> Step {
    let action = if kind & 1 == 0 {
        Action::Builtin {
            name: if kind & 128 == 0 { "x" } else { "blind" }.to_owned(),
            input: json!(null),
        }
    } else {
        Action::Task {
            task_type: "x".to_owned(),
            input: json!(null),
        }
    };
    Step {
        name: format!("s{index}"),
        undo: if kind & 2 == 0 || kind & 64 != 0 {
            Undo::By(action.clone())
        } else {
            Undo::None
        },
        action,
        retry: Retry {
            attempts: 1 + u32::from(kind >> 6),
            initial_backoff_ms: 10,
            ..Retry::default()
        },
        timeouts: Timeouts {
            running_ms: 50,
            ..Timeouts::default()
        },
        optional: kind & 28 == 4,
        on_failure: if kind & 28 == 8 {
            OnFailure::Stop
        } else {
            OnFailure::Compensate
        },
        on_unknown: match kind & 3 {
            0 => OnUnknown::Reconcile,
            1 => OnUnknown::Retry,
            2 => OnUnknown::Stop,
            _ => OnUnknown::Retry,
        },
        undo_blocks_late: kind & 32 == 0,
        irreversible: kind & 28 == 16,
    }
}

impl World {
    fn new(steps: usize) -> Self {
        Self {
            effect: vec![false; steps],
            late: vec![false; steps],
            blocked: vec![false; steps],
            vouched: false,
            undone: Vec::new(),
            done: Vec::new(),
        }
    }

    /// A call that was on its way arrives. A builtin's calls end with their deadline; other people's may arrive whenever.
    fn arrive(&mut self, steps: &[Step], at: usize) {
        if std::mem::take(&mut self.late[at]) && !(self.blocked[at] && steps[at].undo_blocks_late) {
            self.effect[at] = true;
        }
    }

    fn run(
        &mut self,
        steps: &[Step],
        at: usize,
        direction: Direction,
        chance: &mut Chance,
    ) -> Outcome {
        let forward = direction == Direction::Forward;
        let luck = chance.draw(8);
        let happens = matches!(luck, 0..=2 | 5);
        if happens {
            if forward {
                self.effect[at] = true;
                self.late[at] = false;
            } else {
                self.undone.push(at);
                self.effect[at] = false;
                self.blocked[at] = true;
            }
        }
        match luck {
            0..=2 => Outcome::Done(json!({ "step": at })),
            3 | 4 => Outcome::Failed {
                code: "NO".to_owned(),
                message: String::new(),
                retryable: luck == 3,
            },
            _ => {
                self.late[at] |= forward && luck == 6;
                if forward
                    && matches!(steps[at].action, Action::Builtin { .. })
                    && chance.draw(2) == 0
                {
                    self.arrive(steps, at);
                }
                Outcome::Unknown {
                    message: String::new(),
                }
            }
        }
    }
}

fn seen(saga: &Saga) -> Seen {
    let at = saga.at.unwrap_or(0);
    Seen {
        control_version: saga.control_version,
        step: at,
        attempt: saga.steps[at].attempt(saga.direction),
    }
}

/// Plays one saga to its end, or to a place where it waits for a person and none comes.
fn play(steps: &[Step], choices: Vec<u8>) -> (Saga, World, Vec<String>) {
    let mut chance = Chance(choices.into_iter());
    let mut world = World::new(steps.len());
    let mut saga = Saga::new(steps.len());
    let mut now = Timestamp(0);
    let mut trace = Vec::new();
    let mut next = Some(Event::Begin);
    let known = KnownActions {
        builtins: [("x".to_owned(), true), ("blind".to_owned(), false)].into(),
        task: true,
        ..KnownActions::default()
    };
    for _ in 0..400 {
        let event = match next.take() {
            Some(event) => event,
            None if saga.state.has_ended() => break,
            None => match chance.draw(4) {
                _ if matches!(saga.state, State::Paused) => Event::Verb(Verb::Resume),
                _ if matches!(saga.state, State::Stuck) && chance.0.len() == 0 => break,
                _ if matches!(saga.state, State::Stuck) => Event::Verb(match chance.draw(3) {
                    0 => Verb::Retry(seen(&saga)),
                    1 => Verb::Skip {
                        seen: seen(&saga),
                        output: json!("a person's"),
                    },
                    _ => Verb::Abandon(seen(&saga)),
                }),
                1 => Event::Verb(Verb::Cancel),
                2 => Event::Verb(Verb::Pause),
                3 => Event::Lost,
                _ => Event::Due,
            },
        };
        trace.push(format!("{now} {:?} {event:?}", saga.state));
        let skipped = matches!(event, Event::Verb(Verb::Skip { .. }));
        let was_at = saga.at;
        let before = saga.clone();
        let Ok(transition) = saga.apply(steps, &known, event, now, 0.5) else {
            assert_eq!(saga, before);
            // Whatever was refused, time goes on.
            now = Timestamp(now.0 + 30_000);
            next = waiting(&saga).then_some(Event::Due);
            continue;
        };
        world.vouched |= skipped;
        saga = transition.saga;
        for (at, state) in saga.steps.iter().enumerate() {
            if matches!(state.forward, Leg::Done) && before.steps[at].forward != Leg::Done {
                world.done.push(at);
            }
        }
        let running = saga.steps.iter().filter(|step| {
            matches!(step.forward, Leg::Running { .. })
                || matches!(step.backward, Leg::Running { .. })
        });
        assert!(
            running.count() <= 1,
            "two steps at once\n{}",
            trace.join("\n")
        );
        for effect in transition.effects {
            match effect {
                Effect::Run {
                    step,
                    direction,
                    attempt,
                    deadline,
                    of_unknown,
                } => {
                    assert!(
                        matches!(*saga.steps[step].leg(direction), Leg::Running { attempt: a, .. } if a == attempt),
                        "run without a recorded intent"
                    );
                    if of_unknown {
                        let until = saga.steps[step].uncertain_until.unwrap();
                        assert!(
                            until <= now,
                            "the undo of an unknown step began before its deadline"
                        );
                        if matches!(steps[step].action, Action::Builtin { .. }) {
                            world.arrive(steps, step);
                        }
                    }
                    // A lost executor: whatever was sent may have happened.
                    let lost = chance.draw(16) == 1;
                    let outcome = world.run(steps, step, direction, &mut chance);
                    if matches!(outcome, Outcome::Unknown { .. }) {
                        now = now.max(deadline);
                    }
                    next = Some(if lost {
                        Event::Lost
                    } else {
                        Event::Ended { attempt, outcome }
                    });
                }
                Effect::Probe {
                    step, direction, ..
                } => {
                    if matches!(steps[step].action, Action::Builtin { .. }) {
                        world.arrive(steps, step);
                    }
                    let there = world.effect[step];
                    let sure =
                        matches!(steps[step].action, Action::Builtin { .. }) && chance.draw(6) != 1;
                    next = Some(Event::Probed(match (sure, direction, there) {
                        (false, ..) => Probed::Inconclusive,
                        (true, Direction::Forward, true) => Probed::Done(json!("found")),
                        (true, Direction::Backward, false) => Probed::Done(json!(null)),
                        (true, ..) => Probed::NotDone,
                    }));
                }
                Effect::WakeAt(until) => {
                    now = now.max(until);
                    if chance.draw(3) != 1 {
                        next = Some(Event::Due);
                    }
                }
                Effect::AskToStop { step, .. } => assert_eq!(Some(step), was_at),
                Effect::Release => assert!(saga.state.has_ended()),
            }
        }
    }
    (saga, world, trace)
}

fn waiting(saga: &Saga) -> bool {
    matches!(saga.state, State::Running | State::Compensating)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_it_claims_is_true(
        kinds in proptest::collection::vec(any::<u8>(), 1..5),
        choices in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let steps: Vec<Step> = kinds.iter().enumerate().map(|(at, kind)| step(*kind, at)).collect();
        let (saga, mut world, trace) = play(&steps, choices);
        let trace = trace.join("\n");
        prop_assert!(
            saga.state.has_ended() || saga.state == State::Stuck,
            "neither ended nor waiting for a person: {:?}\n{}", saga, trace
        );
        // Whatever is still on its way arrives in the end.
        for at in 0..steps.len() {
            world.arrive(&steps, at);
        }
        if saga.state == State::Compensated && !world.vouched {
            for (at, step) in steps.iter().enumerate() {
                prop_assert!(
                    !world.effect[at] || step.undo == Undo::None,
                    "COMPENSATED, but step {at} is there\n{}", trace
                );
            }
        }
        if saga.state == State::Completed {
            for (at, step) in steps.iter().enumerate() {
                let counts = matches!(saga.steps[at].forward, Leg::Done);
                prop_assert!(!counts || world.effect[at], "COMPLETED, but step {at} is not there\n{}", trace);
                prop_assert!(
                    counts || step.optional || matches!(saga.steps[at].forward, Leg::Skipped),
                    "COMPLETED without step {at}\n{}", trace
                );
            }
        }
        // Undo in the reverse order of completion; repetitions of one undo apart.
        let mut undone = world.undone.clone();
        undone.dedup();
        prop_assert!(undone.windows(2).all(|pair| pair[0] > pair[1]), "{undone:?}\n{}", trace);
        prop_assert!(world.done.windows(2).all(|pair| pair[0] < pair[1]), "{:?}\n{}", world.done, trace);
        let pivot = steps.iter().position(|step| step.irreversible);
        if let Some(pivot) = pivot.filter(|pivot| matches!(saga.steps[*pivot].forward, Leg::Done)) {
            prop_assert!(world.undone.is_empty(), "undone past the pivot {pivot}\n{}", trace);
        }
    }
}
