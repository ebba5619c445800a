//! Compares what a saga's record says with what really happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use steadfast_client::api::saga::v1::{
    Direction, SagaEvent, SagaEventKind as Kind, SagaState, StepState,
};
use steadfast_testkit::effects::{Entry, Way, What};

use super::{
    case::{Attempt, Case, index, is_arrived, is_undone},
    load::{Fate, STEPS, Told},
};

/// What was found out about all sagas of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) completed: usize,
    pub(crate) compensated: usize,
    pub(crate) stuck: usize,
    /// Effects that came about, of which some were taken back.
    pub(crate) applied: usize,
    /// Undos of steps of which nobody knew.
    pub(crate) undone_unknown: usize,
    /// Forward calls that came after their undo and were turned away.
    pub(crate) blocked: usize,
    /// Forward calls that came after their undo and had their effect.
    pub(crate) late: usize,
    /// Attempts whose replica was lost.
    pub(crate) lost: usize,
    /// Requests.
    pub(crate) calls: usize,
}

/// Judges all sagas of a run against the ledger.
///
/// # Panics
///
/// With what is wrong, and all that is known about the first few of which it is.
pub(crate) fn judge(
    all: &[Told],
    ledger: &[Entry],
    blocks_late: bool,
    fate: impl Fn(u64) -> Fate,
) -> Summary {
    let mut by_saga: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in ledger {
        by_saga.entry(&entry.call.saga).or_default().push(entry);
    }
    let mut summary = Summary::default();
    let mut findings = Vec::new();
    for told in all {
        let entries = by_saga.remove(told.saga.id.as_str()).unwrap_or_default();
        let case = Case {
            told,
            entries: &entries,
            blocks_late,
        };
        let fate = fate(told.number);
        match case.judge(fate) {
            Ok(()) => case.count(&mut summary),
            Err(finding) => findings.push(format!("{finding}\nfate: {fate:?}\n{case}")),
        }
    }
    assert!(by_saga.is_empty(), "effects of no saga: {by_saga:?}");
    assert!(
        findings.is_empty(),
        "{} of {} sagas are wrong:\n{}",
        findings.len(),
        all.len(),
        findings[..findings.len().min(3)].join("\n")
    );
    summary
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

// === impl Case ===

impl Case<'_> {
    fn judge(&self, fate: Fate) -> Result<(), String> {
        self.record()?;
        self.calls()?;
        let turning = match fate {
            Fate::Completes => return self.completed(),
            Fate::RefusedAt(at) | Fate::SilentAt(at) | Fate::LateAt(at) => at,
        };
        let unknown = self.marks(Kind::StepUnknown, Way::Do).contains(&turning);
        ensure!(
            unknown || fate == Fate::RefusedAt(turning),
            "what was never answered is said to be known"
        );
        self.went_forward_to(turning)?;
        if unknown && !self.blocks_late {
            self.stuck_at(turning)
        } else {
            self.compensated_from(turning, unknown)
        }
    }

    /// The record by itself: one history, with a beginning and at most one end.
    fn record(&self) -> Result<(), String> {
        let events = &self.told.events;
        ensure!(
            events.windows(2).all(|pair| pair[0].seq < pair[1].seq),
            "the numbers of events do not rise"
        );
        let of = |kind: Kind| events.iter().filter(|event| event.kind() == kind).count();
        ensure!(
            events.first().map(SagaEvent::kind) == Some(Kind::Created),
            "it does not begin with its creation"
        );
        ensure!(
            (of(Kind::Created), of(Kind::Started)) == (1, 1),
            "it began more than once"
        );
        let last = events.last().map(SagaEvent::kind);
        ensure!(
            of(Kind::Ended) + of(Kind::Stuck) == 1
                && matches!(last, Some(Kind::Ended | Kind::Stuck)),
            "it has not one end, at the end"
        );
        let started: Vec<_> = self.attempts(Kind::StepStarted);
        let once: BTreeSet<_> = started.iter().collect();
        ensure!(once.len() == started.len(), "an attempt began twice");
        for way in [Way::Do, Way::Undo] {
            let done = self.marks(Kind::StepDone, way);
            let once: BTreeSet<_> = done.iter().collect();
            ensure!(
                once.len() == done.len(),
                "an outcome was recorded twice: {way:?} {done:?}"
            );
        }
        // Every attempt ended before the next one began, and in no other way than one.
        for at in &started {
            let ends = [Kind::StepDone, Kind::StepFailed, Kind::StepUnknown];
            let ended = ends.iter().flat_map(|kind| self.attempts(*kind));
            let ended = ended.filter(|attempt| attempt == at).count();
            ensure!(ended == 1, "{at:?} has {ended} outcomes");
        }
        Ok(())
    }

    /// Every request was recorded before it was sent, was sent once, and said what it had to.
    fn calls(&self) -> Result<(), String> {
        let started: BTreeSet<_> = self.attempts(Kind::StepStarted).into_iter().collect();
        let mut came = BTreeSet::new();
        for call in self.arrived() {
            let step = index(&call.step);
            let attempt = Attempt {
                step,
                way: call.way,
                number: call.attempt,
            };
            ensure!(
                started.contains(&attempt),
                "{attempt:?} came and was not recorded"
            );
            ensure!(came.insert(attempt), "{attempt:?} came twice");
            let of = |way: &str| format!("{}/{}/{way}", call.saga, call.step);
            let said = match call.way {
                Way::Do => {
                    ensure!(call.key == of("forward"), "a step with another key");
                    let receipt = (step > 0).then(|| self.receipt(step - 1)).flatten();
                    (
                        &call.body["before"],
                        receipt.map_or(Value::Null, Value::from),
                    )
                }
                Way::Undo if call.key == of("forward") => (&call.body["output"], Value::Null),
                Way::Undo => {
                    ensure!(call.key == of("backward"), "an undo with another key");
                    let output = &self.told.steps[step].output_json;
                    let output = serde_json::from_str(output).map_err(|error| error.to_string())?;
                    (&call.body["output"], output)
                }
            };
            ensure!(
                *said.0 == said.1,
                "{attempt:?} said {}, not {}",
                said.0,
                said.1
            );
        }
        // What is recorded as done really happened.
        for way in [Way::Do, Way::Undo] {
            for step in self.marks(Kind::StepDone, way) {
                let happened = match way {
                    Way::Do => self.happened(Way::Do).contains(&step),
                    Way::Undo => self.happened(Way::Undo).contains(&step),
                };
                ensure!(
                    happened,
                    "{way:?} of `{}` is recorded and did not happen",
                    STEPS[step]
                );
            }
        }
        Ok(())
    }

    fn completed(&self) -> Result<(), String> {
        let all: Vec<_> = (0..STEPS.len()).collect();
        ensure!(
            self.state() == SagaState::Completed,
            "it is {:?}",
            self.state()
        );
        ensure!(
            self.happened(Way::Do) == all,
            "effects: {:?}",
            self.happened(Way::Do)
        );
        ensure!(
            self.marks(Kind::StepDone, Way::Do) == all,
            "recorded as done: others"
        );
        let undos = self.arrived().filter(|call| call.way == Way::Undo).count();
        ensure!(undos == 0, "{undos} undos");
        ensure!(
            self.told.saga.outcome_reason.is_empty(),
            "a reason for nothing"
        );
        Ok(())
    }

    /// All steps before were done, in their order, and none behind was tried.
    fn went_forward_to(&self, turning: usize) -> Result<(), String> {
        let before: Vec<_> = (0..turning).collect();
        ensure!(
            self.marks(Kind::StepDone, Way::Do) == before,
            "recorded as done: others"
        );
        let behind = self.arrived().find(|call| index(&call.step) > turning);
        ensure!(
            behind.is_none(),
            "{behind:?} came after the step that failed"
        );
        let mut effects = self.happened(Way::Do);
        effects.retain(|step| *step != turning);
        ensure!(
            effects == before,
            "effects before the step that failed: {effects:?}"
        );
        Ok(())
    }

    fn compensated_from(&self, turning: usize, unknown: bool) -> Result<(), String> {
        ensure!(
            self.state() == SagaState::Compensated,
            "it is {:?}",
            self.state()
        );
        let first = if unknown { turning + 1 } else { turning };
        let backward: Vec<_> = (0..first).rev().collect();
        ensure!(
            self.marks(Kind::StepDone, Way::Undo) == backward,
            "recorded as undone: others"
        );
        ensure!(
            self.happened(Way::Undo) == backward,
            "undone: {:?}",
            self.happened(Way::Undo)
        );
        ensure!(self.there().is_empty(), "left behind: {:?}", self.there());
        self.undo_keys(turning)?;
        // Strictly one after the other: no undo was even asked for before the one behind it had happened.
        for pair in backward.windows(2) {
            let undone = self.first(|entry| is_undone(entry) && index(&entry.call.step) == pair[0]);
            let next = self
                .first(|entry| is_arrived(entry, Way::Undo) && index(&entry.call.step) == pair[1]);
            ensure!(
                undone < next,
                "`{}` was undone before `{}`",
                STEPS[pair[1]],
                STEPS[pair[0]]
            );
        }
        let reason = format!("step `{}` failed", STEPS[turning]);
        ensure!(
            self.told.saga.outcome_reason == reason,
            "{}",
            self.told.saga.outcome_reason
        );
        Ok(())
    }

    /// The step of which nobody knows was undone, which proves nothing; everything before it waits for a person.
    fn stuck_at(&self, turning: usize) -> Result<(), String> {
        let saga = &self.told.saga;
        ensure!(self.state() == SagaState::Stuck, "it is {:?}", self.state());
        ensure!(
            saga.direction() == Direction::Backward,
            "it is stuck going forward"
        );
        ensure!(
            saga.current_step == STEPS[turning],
            "it is stuck at `{}`",
            saga.current_step
        );
        let reason = format!(
            "whether step `{}` was ever done is unknown, and its undo is no proof that it will not be",
            STEPS[turning]
        );
        ensure!(saga.outcome_reason == reason, "{}", saga.outcome_reason);
        ensure!(
            self.happened(Way::Undo) == [turning],
            "undone: {:?}",
            self.happened(Way::Undo)
        );
        self.undo_keys(turning)?;
        let early = self
            .arrived()
            .find(|call| call.way == Way::Undo && index(&call.step) != turning);
        ensure!(early.is_none(), "another undo was tried: {early:?}");
        for (at, step) in self.told.steps.iter().enumerate() {
            let forward = step.forward.as_ref().map(|leg| leg.state());
            let backward = step.backward.as_ref().map(|leg| leg.state());
            let expected = match at {
                _ if at < turning => (StepState::Done, StepState::Idle),
                _ if at == turning => (StepState::Unknown, StepState::Unknown),
                _ => (StepState::Idle, StepState::Idle),
            };
            ensure!(
                (forward, backward) == (Some(expected.0), Some(expected.1)),
                "`{}` is {forward:?}, {backward:?}",
                STEPS[at]
            );
            let uncertain = step.uncertain_until_time.is_some();
            ensure!(
                uncertain == (at == turning),
                "`{}`: uncertain: {uncertain}",
                STEPS[at]
            );
        }
        Ok(())
    }

    /// The undo of what is unknown speaks of the forward call; every other has a key of its own.
    fn undo_keys(&self, turning: usize) -> Result<(), String> {
        for call in self.arrived().filter(|call| call.way == Way::Undo) {
            let forward = call.key.ends_with("/forward");
            let unknown = index(&call.step) == turning;
            ensure!(
                forward == unknown,
                "an undo of `{}` had the key {}",
                call.step,
                call.key
            );
        }
        Ok(())
    }

    fn count(&self, summary: &mut Summary) {
        match self.state() {
            SagaState::Completed => summary.completed += 1,
            SagaState::Compensated => summary.compensated += 1,
            _ => summary.stuck += 1,
        }
        summary.applied += self.happened(Way::Do).len();
        summary.calls += self.arrived().count();
        let of =
            |is: &dyn Fn(&Entry) -> bool| self.entries.iter().filter(|entry| is(entry)).count();
        summary.blocked += of(&|entry| entry.what == What::Blocked);
        summary.undone_unknown +=
            of(&|entry| is_undone(entry) && entry.call.key.ends_with("/forward"));
        let undone = self.first(is_undone);
        let behind = self.entries.iter().skip(undone);
        summary.late += behind.filter(|entry| entry.what == What::Applied).count();
        let lost = |event: &&SagaEvent| {
            event
                .detail_json
                .contains("the replica that ran it was lost")
        };
        summary.lost += self.told.events.iter().filter(lost).count();
    }
}
