//! Each promise by itself, and each verb in each state.

use serde_json::json;
use steadfast_types::Timestamp;

use super::{
    Direction, Effect, Event, Leg, Outcome, Probed, Record, Refusal, Saga, State, Verb, state::Seen,
};
use crate::{Action, KnownActions, OnFailure, OnUnknown, Retry, Step, Timeouts, Undo};

const NOW: Timestamp = Timestamp(1_000_000);

/// Every builtin of these tests can be asked, but for `blind`.
fn known() -> KnownActions {
    let names = ["a", "b", "c", "undo", "blind"];
    KnownActions {
        builtins: names.map(|name| (name.to_owned(), name != "blind")).into(),
        task: true,
        ..KnownActions::default()
    }
}

fn builtin(name: &str) -> Action {
    Action::Builtin {
        name: name.to_owned(),
        input: json!({}),
    }
}

fn task(name: &str) -> Action {
    Action::Task {
        task_type: name.to_owned(),
        input: json!({}),
    }
}

fn step(name: &str) -> Step {
    Step {
        name: name.to_owned(),
        action: builtin(name),
        undo: Undo::By(builtin("undo")),
        retry: Retry {
            attempts: 2,
            jitter: 0.0,
            ..Retry::default()
        },
        timeouts: Timeouts::default(),
        optional: false,
        on_failure: OnFailure::Compensate,
        on_unknown: OnUnknown::Retry,
        undo_blocks_late: false,
        irreversible: false,
    }
}

fn steps() -> Vec<Step> {
    ["a", "b", "c"].map(step).to_vec()
}

/// A saga being walked through; `now` stands still unless it is set.
struct Walk {
    steps: Vec<Step>,
    saga: Saga,
    now: Timestamp,
    effects: Vec<Effect>,
    records: Vec<Record>,
}

impl Walk {
    fn begin(steps: Vec<Step>) -> Self {
        let saga = Saga::new(steps.len());
        let mut walk = Self {
            steps,
            saga,
            now: NOW,
            effects: Vec::new(),
            records: Vec::new(),
        };
        walk.event(Event::Begin);
        walk
    }

    fn try_event(&mut self, event: Event) -> Result<(), Refusal> {
        let transition = self
            .saga
            .apply(&self.steps, &known(), event, self.now, 0.0)?;
        self.saga = transition.saga;
        self.effects = transition.effects;
        self.records = transition.records;
        Ok(())
    }

    fn event(&mut self, event: Event) -> &mut Self {
        self.try_event(event).unwrap();
        self
    }

    fn attempt(&self) -> u32 {
        self.saga.steps[self.saga.at.unwrap()].attempt(self.saga.direction)
    }

    fn ended(&mut self, outcome: Outcome) -> &mut Self {
        let attempt = self.attempt();
        self.event(Event::Ended { attempt, outcome })
    }

    fn done(&mut self) -> &mut Self {
        self.ended(Outcome::Done(json!({ "n": self.saga.at })))
    }

    fn failed(&mut self, retryable: bool) -> &mut Self {
        self.ended(Outcome::Failed {
            code: "NO".to_owned(),
            message: "no".to_owned(),
            retryable,
        })
    }

    fn unknown(&mut self) -> &mut Self {
        self.ended(Outcome::Unknown {
            message: "lost".to_owned(),
        })
    }

    /// Time moves to the next wake-up, and it comes due.
    fn due(&mut self) -> &mut Self {
        if let Some(until) = self.effects.iter().find_map(|effect| match effect {
            Effect::WakeAt(until) => Some(*until),
            _ => None,
        }) {
            self.now = self.now.max(until);
        }
        self.event(Event::Due)
    }

    fn verb(&mut self, verb: Verb) -> Result<(), Refusal> {
        self.try_event(Event::Verb(verb))
    }

    fn seen(&self) -> Seen {
        Seen {
            control_version: self.saga.control_version,
            step: self.saga.at.unwrap_or(0),
            attempt: self.saga.at.map_or(0, |_| self.attempt()),
        }
    }

    /// Which step runs, which way.
    fn running(&self) -> Option<(usize, Direction)> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Run {
                step, direction, ..
            } => Some((*step, *direction)),
            _ => None,
        })
    }

    fn state(&self) -> State {
        self.saga.state
    }
}

#[test]
fn steps_run_in_order_and_complete() {
    let mut walk = Walk::begin(steps());
    for at in 0..3 {
        assert_eq!(walk.running(), Some((at, Direction::Forward)));
        walk.done();
    }
    assert_eq!(walk.state(), State::Completed);
    assert_eq!(walk.effects, [Effect::Release]);
    assert_eq!(walk.saga.steps[1].output, Some(json!({ "n": 1 })));
}

#[test]
fn every_step_failing_in_turn_unwinds_in_reverse() {
    for failing in 0..3 {
        let mut walk = Walk::begin(steps());
        for _ in 0..failing {
            walk.done();
        }
        walk.failed(false);
        for at in (0..failing).rev() {
            assert_eq!(walk.state(), State::Compensating);
            assert_eq!(walk.running(), Some((at, Direction::Backward)), "{failing}");
            walk.done();
        }
        assert_eq!(walk.state(), State::Compensated, "{failing}");
    }
}

#[test]
fn a_failure_that_may_pass_is_tried_again_until_attempts_end() {
    let mut walk = Walk::begin(steps());
    walk.failed(true);
    assert_eq!(walk.effects, [Effect::WakeAt(Timestamp(NOW.0 + 1_000_000))]);
    walk.due();
    assert!(matches!(walk.effects[0], Effect::Run { attempt: 2, .. }));
    walk.failed(true);
    assert_eq!(walk.state(), State::Compensated);
}

#[test]
fn a_code_that_cannot_pass_is_not_tried_again() {
    let mut steps = steps();
    steps[0].retry.non_retryable_codes = vec!["NO".to_owned()];
    let mut walk = Walk::begin(steps);
    walk.failed(true);
    assert_eq!(walk.state(), State::Compensated);
}

#[test]
fn an_optional_steps_failure_does_not_fail_the_saga() {
    let mut steps = steps();
    steps[1].optional = true;
    let mut walk = Walk::begin(steps);
    walk.done().failed(false);
    assert_eq!(walk.running(), Some((2, Direction::Forward)));
    walk.done();
    assert_eq!(walk.state(), State::Completed);
}

#[test]
fn on_failure_stop_waits_for_a_person() {
    let mut steps = steps();
    steps[1].on_failure = OnFailure::Stop;
    let mut walk = Walk::begin(steps);
    walk.done().failed(false);
    assert_eq!(
        (walk.state(), walk.saga.direction),
        (State::Stuck, Direction::Forward)
    );
    assert_eq!(walk.verb(Verb::Cancel), Err(Refusal::IsStuck));
    walk.verb(Verb::Retry(walk.seen())).unwrap();
    assert_eq!(walk.running(), Some((1, Direction::Forward)));
    walk.done().done();
    assert_eq!(walk.state(), State::Completed);
}

#[test]
fn past_the_pivot_a_failure_goes_to_a_person_and_cancel_is_refused() {
    let mut steps = steps();
    steps[0].irreversible = true;
    let mut walk = Walk::begin(steps);
    walk.done();
    assert_eq!(walk.verb(Verb::Cancel), Err(Refusal::PastThePivot));
    walk.event(Event::Deadline);
    assert_eq!(walk.records, [Record::DeadlinePassed]);
    assert_eq!(walk.state(), State::Running);
    walk.failed(false);
    assert_eq!(
        (walk.state(), walk.saga.direction),
        (State::Stuck, Direction::Forward)
    );
}

#[test]
fn a_cancel_that_arrives_while_the_pivot_runs_is_dropped_once_it_is_done() {
    let mut steps = steps();
    steps[0].irreversible = true;
    let mut walk = Walk::begin(steps);
    walk.verb(Verb::Cancel).unwrap();
    assert_eq!(
        walk.effects,
        [Effect::AskToStop {
            step: 0,
            attempt: 1
        }]
    );
    walk.done();
    assert!(walk.records.contains(&Record::CancelDropped));
    assert_eq!(walk.running(), Some((1, Direction::Forward)));
}

#[test]
fn unknown_and_retry_sends_the_same_step_again_and_stays_uncertain_until_done() {
    let mut walk = Walk::begin(steps());
    walk.unknown();
    assert!(walk.saga.steps[0].uncertain_until.is_some());
    walk.due().failed(false);
    // The second attempt certainly failed, but the first may have had its effect: it is undone, after its deadline.
    assert_eq!(walk.state(), State::Compensating);
    let deadline = Timestamp(NOW.0 + 60_000_000);
    assert_eq!(walk.effects, [Effect::WakeAt(deadline)]);
    walk.due();
    let Effect::Run {
        of_unknown,
        direction,
        ..
    } = walk.effects[0]
    else {
        panic!("{:?}", walk.effects);
    };
    assert!(of_unknown && direction == Direction::Backward && walk.now >= deadline);
}

#[test]
fn the_undo_of_an_uncertain_step_counts_only_if_it_is_proven() {
    let rolled_back = |mut steps: Vec<Step>, blocks: bool, action: Action| {
        steps.truncate(1);
        steps[0].undo_blocks_late = blocks;
        steps[0].action = action;
        steps[0].retry.attempts = 1;
        let mut walk = Walk::begin(steps);
        walk.unknown();
        walk.due();
        walk.done();
        walk
    };
    let blocked = rolled_back(steps(), true, task("t"));
    assert_eq!(blocked.state(), State::Compensated);
    let unproven = rolled_back(steps(), false, task("t"));
    assert_eq!(
        (unproven.state(), unproven.saga.direction),
        (State::Stuck, Direction::Backward)
    );
    // A builtin that cannot be asked proves no more than a stranger.
    let blind = rolled_back(steps(), false, builtin("blind"));
    assert_eq!(blind.state(), State::Stuck);
    assert!(
        blind.saga.reason.contains("no proof"),
        "{}",
        blind.saga.reason
    );
    let mut probed = rolled_back(steps(), false, builtin("b"));
    assert_eq!(probed.state(), State::Compensating);
    probed.due();
    assert!(matches!(
        probed.effects[0],
        Effect::Probe {
            direction: Direction::Forward,
            ..
        }
    ));
    probed.event(Event::Probed(Probed::NotDone));
    assert_eq!(probed.state(), State::Compensating, "once is not enough");
    probed.due().event(Event::Probed(Probed::NotDone));
    assert_eq!(probed.state(), State::Compensated);
}

#[test]
fn reconcile_asks_after_the_deadline_and_believes_not_done_when_said_twice() {
    let mut steps = steps();
    steps[0].on_unknown = OnUnknown::Reconcile;
    let mut walk = Walk::begin(steps.clone());
    walk.unknown();
    assert_eq!(
        walk.effects,
        [Effect::WakeAt(Timestamp(NOW.0 + 60_000_000))]
    );
    walk.event(Event::Due);
    assert_eq!(walk.running(), None, "too early");
    walk.due();
    assert!(matches!(walk.effects[0], Effect::Probe { step: 0, .. }));
    walk.event(Event::Probed(Probed::NotDone));
    walk.due().event(Event::Probed(Probed::NotDone));
    walk.due();
    assert!(matches!(walk.effects[0], Effect::Run { attempt: 2, .. }));
    let mut found = Walk::begin(steps);
    found
        .unknown()
        .due()
        .event(Event::Probed(Probed::Done(json!("found"))));
    assert_eq!(found.running(), Some((1, Direction::Forward)));
    assert_eq!(found.saga.steps[0].output, Some(json!("found")));
}

#[test]
fn probes_that_tell_nothing_end_with_a_person() {
    let mut steps = steps();
    steps[0].on_unknown = OnUnknown::Reconcile;
    let mut walk = Walk::begin(steps);
    walk.unknown();
    for _ in 0..10 {
        assert_eq!(walk.state(), State::Running);
        walk.due().event(Event::Probed(Probed::Inconclusive));
    }
    assert_eq!(walk.state(), State::Stuck);
}

#[test]
fn an_undo_that_cannot_be_done_is_stuck_with_the_rest_pending() {
    let mut walk = Walk::begin(steps());
    walk.done().done().failed(false);
    walk.failed(true).due().failed(true);
    assert_eq!(
        (walk.state(), walk.saga.direction),
        (State::Stuck, Direction::Backward)
    );
    assert_eq!(walk.saga.at, Some(1));
    assert_eq!(walk.saga.steps[0].backward, Leg::Idle);
    let mut skipped = walk.saga.clone();
    std::mem::swap(&mut skipped, &mut walk.saga);
    walk.verb(Verb::Retry(walk.seen())).unwrap();
    walk.done();
    assert_eq!(walk.running(), Some((0, Direction::Backward)));
    walk.done();
    assert_eq!(walk.state(), State::Compensated);
}

#[test]
fn a_step_that_says_there_is_nothing_to_undo_is_passed_over() {
    let mut steps = steps();
    steps[1].undo = Undo::None;
    let mut walk = Walk::begin(steps);
    walk.done().done().failed(false);
    assert_eq!(walk.running(), Some((0, Direction::Backward)));
}

#[test]
fn a_lost_executor_leaves_an_unknown_outcome() {
    let mut walk = Walk::begin(steps());
    walk.event(Event::Lost);
    assert!(matches!(
        walk.records[0],
        Record::StepUnknown { attempt: 1, .. }
    ));
    walk.due();
    assert!(matches!(walk.effects[0], Effect::Run { attempt: 2, .. }));
}

#[test]
fn outcomes_of_other_attempts_are_too_late() {
    let mut walk = Walk::begin(steps());
    let late = Event::Ended {
        attempt: 2,
        outcome: Outcome::Done(json!(null)),
    };
    assert_eq!(walk.try_event(late), Err(Refusal::TooLate));
    walk.failed(true);
    let late = Event::Ended {
        attempt: 1,
        outcome: Outcome::Done(json!(null)),
    };
    assert_eq!(walk.try_event(late), Err(Refusal::TooLate));
}

#[test]
fn pause_holds_at_the_next_safe_point_in_both_directions() {
    let mut walk = Walk::begin(steps());
    walk.verb(Verb::Pause).unwrap();
    assert_eq!(walk.state(), State::Running);
    walk.done();
    assert_eq!((walk.state(), walk.running()), (State::Paused, None));
    walk.verb(Verb::Resume).unwrap();
    assert_eq!(walk.running(), Some((1, Direction::Forward)));
    walk.failed(false);
    walk.verb(Verb::Pause).unwrap();
    walk.failed(true);
    assert_eq!(
        (walk.state(), walk.saga.direction),
        (State::Paused, Direction::Backward)
    );
    assert_eq!(walk.verb(Verb::Cancel), Ok(()));
    assert_eq!(walk.state(), State::Paused, "it goes backward already");
    walk.verb(Verb::Resume).unwrap();
    walk.due().done();
    assert_eq!(walk.state(), State::Compensated);
}

#[test]
fn verbs_that_name_what_was_seen_are_refused_when_it_has_changed() {
    let mut steps = steps();
    steps[0].on_failure = OnFailure::Stop;
    let mut walk = Walk::begin(steps);
    walk.failed(false);
    let seen = walk.seen();
    for changed in [
        Seen {
            control_version: 9,
            ..seen.clone()
        },
        Seen {
            attempt: 9,
            ..seen.clone()
        },
    ] {
        assert_eq!(walk.verb(Verb::Retry(changed)), Err(Refusal::Changed));
    }
    let elsewhere = Seen {
        step: 2,
        ..seen.clone()
    };
    assert_eq!(walk.verb(Verb::Retry(elsewhere)), Err(Refusal::NotAtStep));
    let output = json!({ "by": "hand" });
    walk.verb(Verb::Skip {
        seen,
        output: output.clone(),
    })
    .unwrap();
    assert_eq!(walk.saga.steps[0].output, Some(output));
    assert_eq!(walk.running(), Some((1, Direction::Forward)));
}

#[test]
fn a_saga_that_had_not_begun_waits_to_begin_again_when_it_is_resumed() {
    let mut walk = Walk::begin(steps());
    walk.saga = Saga::new(3);
    walk.verb(Verb::Pause).unwrap();
    assert!(walk.saga.has_not_begun() && walk.state() == State::Paused);
    walk.verb(Verb::Resume).unwrap();
    assert_eq!((walk.state(), walk.running()), (State::Pending, None));
    assert_eq!(walk.records, [Record::Resumed]);
    walk.event(Event::Begin);
    assert!(!walk.saga.has_not_begun());
    assert_eq!(walk.running(), Some((0, Direction::Forward)));
}

#[test]
fn a_verb_that_changes_nothing_is_remembered() {
    let mut walk = Walk::begin(steps());
    walk.verb(Verb::Resume).unwrap();
    assert_eq!(walk.records, [Record::Steered]);
    walk.verb(Verb::Pause).unwrap();
    assert_eq!(walk.records, [Record::PauseRequested]);
}

#[test]
fn what_replicas_are_lost_with_is_taken_out_of_circulation_and_a_person_decides() {
    let mut pending = Walk::begin(steps());
    pending.saga = Saga::new(3);
    let mut running = Walk::begin(steps());
    running.done();
    for (mut walk, at, unknown) in [(pending, 0, false), (running, 1, true)] {
        walk.event(Event::Poisoned);
        assert_eq!(walk.state(), State::Stuck);
        assert_eq!(walk.records[0], Record::Poisoned);
        assert!(matches!(walk.records[1], Record::Stuck { .. }));
        assert_eq!(walk.saga.steps[at].uncertain_until.is_some(), unknown);
        walk.verb(Verb::Retry(walk.seen())).unwrap();
        assert_eq!(walk.running(), Some((at, Direction::Forward)));
    }
    let mut paused = Walk::begin(steps());
    paused.verb(Verb::Pause).unwrap();
    paused.done().event(Event::Poisoned);
    assert_eq!((paused.state(), paused.records.len()), (State::Paused, 0));
}

/// The table in `verb.rs`, cell by cell.
#[test]
fn each_verb_in_each_state() {
    use State as S;
    let reach = |state: S| {
        let mut plan = steps();
        plan[1].on_failure = OnFailure::Stop;
        let mut walk = Walk::begin(plan.clone());
        match state {
            S::Pending => walk.saga = Saga::new(3),
            S::Running => {
                walk.done();
            }
            S::Paused => {
                walk.verb(Verb::Pause).unwrap();
                walk.done();
            }
            S::Compensating => {
                walk.verb(Verb::Cancel).unwrap();
                walk.done();
            }
            S::Completed => {
                walk.done().done().done();
            }
            S::Compensated => {
                walk.failed(false);
            }
            S::Stuck => {
                walk.done().failed(false);
            }
            S::Abandoned => {
                walk.verb(Verb::Abandon(walk.seen())).unwrap();
            }
        }
        assert_eq!(walk.state(), state);
        walk
    };
    let cancel = |_: &Walk| Verb::Cancel;
    let pause = |_: &Walk| Verb::Pause;
    let resume = |_: &Walk| Verb::Resume;
    let retry = |walk: &Walk| Verb::Retry(walk.seen());
    let skip = |walk: &Walk| Verb::Skip {
        seen: walk.seen(),
        output: json!(1),
    };
    let abandon = |walk: &Walk| Verb::Abandon(walk.seen());
    let ended = || Err(Refusal::HasEnded);
    type Row<'a> = (
        &'a str,
        &'a dyn Fn(&Walk) -> Verb,
        [(S, Result<S, Refusal>); 8],
    );
    let table: [Row<'_>; 6] = [
        (
            "cancel",
            &cancel,
            [
                (S::Pending, Ok(S::Compensated)),
                (S::Running, Ok(S::Running)),
                (S::Paused, Ok(S::Compensating)),
                (S::Compensating, Ok(S::Compensating)),
                (S::Stuck, Err(Refusal::IsStuck)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
        (
            "pause",
            &pause,
            [
                (S::Pending, Ok(S::Paused)),
                (S::Running, Ok(S::Running)),
                (S::Paused, Ok(S::Paused)),
                (S::Compensating, Ok(S::Compensating)),
                (S::Stuck, Err(Refusal::IsStuck)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
        (
            "resume",
            &resume,
            [
                (S::Pending, Ok(S::Pending)),
                (S::Running, Ok(S::Running)),
                (S::Paused, Ok(S::Running)),
                (S::Compensating, Ok(S::Compensating)),
                (S::Stuck, Err(Refusal::IsStuck)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
        (
            "retry",
            &retry,
            [
                (S::Pending, Err(Refusal::NotAtStep)),
                (S::Running, Err(Refusal::NotAtStep)),
                (S::Paused, Err(Refusal::NotAtStep)),
                (S::Compensating, Err(Refusal::NotAtStep)),
                (S::Stuck, Ok(S::Running)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
        (
            "skip",
            &skip,
            [
                (S::Pending, Err(Refusal::NotAtStep)),
                (S::Running, Err(Refusal::NotAtStep)),
                (S::Paused, Err(Refusal::NotAtStep)),
                (S::Compensating, Err(Refusal::NotAtStep)),
                (S::Stuck, Ok(S::Running)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
        (
            "abandon",
            &abandon,
            [
                (S::Pending, Ok(S::Abandoned)),
                (S::Running, Ok(S::Abandoned)),
                (S::Paused, Ok(S::Abandoned)),
                (S::Compensating, Ok(S::Abandoned)),
                (S::Stuck, Ok(S::Abandoned)),
                (S::Completed, ended()),
                (S::Compensated, ended()),
                (S::Abandoned, ended()),
            ],
        ),
    ];
    for (name, verb, row) in table {
        for (state, expected) in row {
            let mut walk = reach(state);
            let before = walk.saga.control_version;
            let verb = verb(&walk);
            let outcome = walk.verb(verb).map(|()| walk.state());
            assert_eq!(outcome, expected, "{name} in {state:?}");
            let bumped = walk.saga.control_version - before;
            assert_eq!(bumped, u64::from(expected.is_ok()), "{name} in {state:?}");
        }
    }
}

#[test]
fn what_this_program_does_not_have_waits_for_one_that_has_it() {
    let mut steps = steps();
    steps[0].undo = Undo::By(builtin("elsewhere"));
    steps[1].action = builtin("elsewhere");
    let mut walk = Walk::begin(steps);
    walk.done();
    assert_eq!(walk.effects, [Effect::WakeAt(NOW)]);
    let left = Leg::Waiting {
        attempt: 0,
        until: NOW,
    };
    let step = &walk.saga.steps[1];
    assert_eq!(*step.leg(Direction::Forward), left);
    assert_eq!(step.error.as_ref().unwrap().0, "UNKNOWN_ACTION");
    // It is no attempt.
    let started = |record: &Record| matches!(record, Record::StepStarted { .. });
    assert!(!walk.records.iter().any(started));
    walk.due();
    assert_eq!(*walk.saga.steps[1].leg(Direction::Forward), left);

    let mut newer = known();
    newer.builtins.insert("elsewhere".to_owned(), true);
    let taken = walk.saga.apply(&walk.steps, &newer, Event::Due, NOW, 0.0);
    let taken = taken.unwrap();
    assert!(matches!(
        taken.effects[..],
        [Effect::Run {
            step: 1,
            attempt: 1,
            ..
        }]
    ));
    walk.verb(Verb::Cancel).unwrap();
    assert_eq!(walk.saga.state, State::Compensating);
    assert_eq!(*walk.saga.steps[0].leg(Direction::Backward), left);
}
