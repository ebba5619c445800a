//! The values that the machine works on.

use serde::{Deserialize, Serialize};
use steadfast_types::Timestamp;

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not begun.
    Pending,
    /// Going forward.
    Running,
    /// Held by a person, in either direction.
    Paused,
    /// Going backward.
    Compensating,
    /// Every step was done, or failed and was optional.
    Completed,
    /// Everything that was or may have been done is undone, and that is proven.
    Compensated,
    /// A person is needed.
    Stuck,
    /// A person has given it up; what was done stays.
    Abandoned,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Doing.
    Forward,
    /// Undoing.
    Backward,
}

/// One direction of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// Not begun.
    #[default]
    Idle,
    /// The intent is recorded; the attempt may have been sent.
    Running {
        /// From 1, counted over all retries.
        attempt: u32,
        /// After it, the attempt can have no further effect.
        deadline: Timestamp,
    },
    /// To be tried again.
    Waiting {
        /// The last one; 0 before the first.
        attempt: u32,
        /// When.
        until: Timestamp,
    },
    /// The action is to be asked what became of it.
    Probing {
        /// The last one.
        attempt: u32,
        /// Not before the attempt's deadline.
        not_before: Timestamp,
        /// How often the answer was "not done".
        negatives: u32,
        /// How often there was no clear answer.
        tries: u32,
    },
    /// Ended without anybody knowing.
    Unknown {
        /// The last one.
        attempt: u32,
    },
    /// Done.
    Done,
    /// A person said that it counts as done.
    Skipped,
    /// Ended, certainly not done.
    Failed {
        /// The last one.
        attempt: u32,
    },
}

/// One step of a saga. What is as it was in the beginning is not written: every transition writes all steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StepState {
    /// Doing it.
    #[serde(skip_serializing_if = "is_default")]
    pub forward: Leg,
    /// Undoing it.
    #[serde(skip_serializing_if = "is_default")]
    pub backward: Leg,
    /// Attempts of either direction before the last retry by a person, which do not count against the limit.
    #[serde(skip_serializing_if = "is_default")]
    pub spent: [u32; 2],
    /// Some attempt's outcome is unknown; no attempt can have an effect after this time.
    #[serde(skip_serializing_if = "is_default")]
    pub uncertain_until: Option<Timestamp>,
    /// What it returned, or what a person gave in its place. Stored apart.
    #[serde(skip)]
    pub output: Option<serde_json::Value>,
    /// The last failure: code and message.
    #[serde(skip_serializing_if = "is_default")]
    pub error: Option<(String, String)>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A saga, but for its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saga {
    /// Where it stands.
    pub state: State,
    /// Which way it goes, also while paused or stuck.
    pub direction: Direction,
    /// One per step of the definition.
    pub steps: Vec<StepState>,
    /// The step that is under way or next.
    pub at: Option<usize>,
    /// To be rolled back at the next safe point.
    pub cancel_requested: bool,
    /// To be held at the next safe point.
    pub pause_requested: bool,
    /// Why it rolls back, is stuck, or ended as it did.
    pub reason: String,
    /// Counts accepted verbs.
    pub control_version: u64,
    /// Counts transitions.
    pub transitions: u64,
}

/// What happens to a saga.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is taken up.
    Begin,
    /// The running attempt ended.
    Ended {
        /// Which; another one's outcome is too late.
        attempt: u32,
        /// How.
        outcome: Outcome,
    },
    /// A probe was answered.
    Probed(Probed),
    /// A wait is over.
    Due,
    /// The executor that had it is gone; what was running may or may not have had its effect.
    Lost,
    /// Too many replicas were lost with it in hand: it may be the cause.
    Poisoned,
    /// Its deadline has come.
    Deadline,
    /// A person, or a program, steers it.
    Verb(Verb),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It had its effect.
    Done(serde_json::Value),
    /// It certainly had none.
    Failed {
        /// Upper snake case.
        code: String,
        /// For people.
        message: String,
        /// Whether another attempt may do better.
        retryable: bool,
    },
    /// Nobody knows.
    Unknown {
        /// For people.
        message: String,
    },
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub enum Probed {
    /// The effect is there.
    Done(serde_json::Value),
    /// It is not; believed when said twice.
    NotDone,
    /// No clear answer.
    Inconclusive,
}

/// How a saga is steered. Retry, skip and abandon name what their author saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Roll back at the next safe point.
    Cancel,
    /// Hold at the next safe point.
    Pause,
    /// Go on.
    Resume,
    /// Try the step again, with a fresh number of attempts.
    Retry(Seen),
    /// Count the step as done, or as undone.
    Skip {
        /// What was seen.
        seen: Seen,
        /// In place of the step's output.
        output: serde_json::Value,
    },
    /// Give up; nothing is undone.
    Abandon(Seen),
}

/// What the author of a verb saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// [`Saga::control_version`].
    pub control_version: u64,
    /// The step.
    pub step: usize,
    /// Its last attempt.
    pub attempt: u32,
}

/// What is to be done, once the transition is committed.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send an attempt.
    Run {
        /// Which step.
        step: usize,
        /// Which way.
        direction: Direction,
        /// Travels beside the idempotency key.
        attempt: u32,
        /// When it counts as unknown.
        deadline: Timestamp,
        /// The undo of a step of which nobody knows whether it was done: it gets no output and the forward key.
        of_unknown: bool,
    },
    /// Ask the action what became of it.
    Probe {
        /// Which step.
        step: usize,
        /// Of which way.
        direction: Direction,
        /// Of which attempt.
        attempt: u32,
    },
    /// Come back then with [`Event::Due`].
    WakeAt(Timestamp),
    /// Tell the running attempt that it need not go on.
    AskToStop {
        /// Which step.
        step: usize,
        /// Which attempt.
        attempt: u32,
    },
    /// It ended: what it holds is free.
    Release,
}

/// What is remembered of a transition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the fields are those of the events and effects above"
)]
pub enum Record {
    Started,
    StepStarted {
        step: usize,
        direction: Direction,
        attempt: u32,
    },
    StepDone {
        step: usize,
        direction: Direction,
        attempt: u32,
    },
    StepFailed {
        step: usize,
        direction: Direction,
        attempt: u32,
        code: String,
        message: String,
    },
    StepUnknown {
        step: usize,
        direction: Direction,
        attempt: u32,
        message: String,
    },
    StepSkipped {
        step: usize,
        direction: Direction,
    },
    StepRetried {
        step: usize,
        direction: Direction,
    },
    Probed {
        step: usize,
        direction: Direction,
        found: &'static str,
    },
    Compensating {
        reason: String,
    },
    CancelRequested,
    CancelDropped,
    DeadlinePassed,
    PauseRequested,
    Paused,
    Resumed,
    /// Taken out of circulation: [`Event::Poisoned`].
    Poisoned,
    /// A verb that left everything as it was.
    Steered,
    Stuck {
        reason: String,
    },
    Ended {
        state: State,
    },
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The saga now.
    pub saga: Saga,
    /// What is to be done.
    pub effects: Vec<Effect>,
    /// What is remembered.
    pub records: Vec<Record>,
}

/// Why an event was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The saga has gone on since.
    #[error("it is too late: the saga has gone on")]
    TooLate,
    /// The author of the verb saw something that is no longer so.
    #[error("the saga has changed since it was read: read it again")]
    Changed,
    /// The saga has ended.
    #[error("the saga has ended")]
    HasEnded,
    /// A stuck saga needs a decision about its step.
    #[error("the saga is stuck: retry or skip its step, or abandon the saga")]
    IsStuck,
    /// There is no way back.
    #[error("an irreversible step is done: the saga can only go forward")]
    PastThePivot,
    /// There is no such step to decide about.
    #[error("this step is not waiting for a decision")]
    NotAtStep,
    /// The stored state makes no sense.
    #[error("the saga's stored state is not one that can be")]
    Illegal,
}

// === impl Saga ===

impl Saga {
    /// A saga of so many steps that has not begun.
    #[must_use]
    pub fn new(steps: usize) -> Self {
        Self {
            state: State::Pending,
            direction: Direction::Forward,
            steps: vec![StepState::default(); steps],
            at: Some(0),
            cancel_requested: false,
            pause_requested: false,
            reason: String::new(),
            control_version: 0,
            transitions: 0,
        }
    }

    /// Whether no step of it was ever taken up: it is, or was when it was paused, [`State::Pending`].
    #[must_use]
    pub fn has_not_begun(&self) -> bool {
        !self.state.has_ended()
            && self.direction == Direction::Forward
            && self.at == Some(0)
            && self
                .steps
                .first()
                .is_some_and(|step| step.forward == Leg::Idle)
    }
}

// === impl State ===

impl State {
    /// Whether nothing can happen any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::Abandoned)
    }

    /// Whether nothing happens any more unless a person says so.
    #[must_use]
    pub const fn rests(self) -> bool {
        self.has_ended() || matches!(self, Self::Stuck | Self::Paused)
    }
}

// === impl Verb ===

impl Verb {
    /// As it is recorded.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry(_) => "retry",
            Self::Skip { .. } => "skip",
            Self::Abandon(_) => "abandon",
        }
    }
}

// === impl StepState ===

impl StepState {
    /// One direction.
    #[must_use]
    pub const fn leg(&self, direction: Direction) -> &Leg {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    pub(super) const fn leg_mut(&mut self, direction: Direction) -> &mut Leg {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Backward => &mut self.backward,
        }
    }

    pub(super) const fn budget_from(&self, direction: Direction) -> u32 {
        self.spent[direction as usize]
    }

    /// The last attempt in a direction; 0 if there was none, or if it was done or skipped.
    #[must_use]
    pub const fn attempt(&self, direction: Direction) -> u32 {
        match *self.leg(direction) {
            Leg::Running { attempt, .. }
            | Leg::Waiting { attempt, .. }
            | Leg::Probing { attempt, .. }
            | Leg::Unknown { attempt }
            | Leg::Failed { attempt } => attempt,
            Leg::Idle | Leg::Done | Leg::Skipped => 0,
        }
    }
}

// === impl Probed ===

impl Probed {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::NotDone => "not_done",
            Self::Inconclusive => "inconclusive",
        }
    }
}
