//! Actions: what carries out one attempt of one step, and the registry of those that this program has.
//!
//! The engine knows actions by this interface only. It records the intent, renders the input, and hands over an [`Attempt`]; the
//! action says what became of it, with the three answers of [`Outcome`]. An action that cannot tell says `Unknown`: it is never
//! wrong to, and it is wrong to call something "certainly not done" that may have been. Secrets are rendered into the input and
//! travel beside it, so that whoever records an answer can mask them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt as _, ready};
use serde::Deserialize;
use steadfast_types::Timestamp;

use crate::{Action, Direction, Http, Outcome, Probed, Secrets};

/// One attempt to be carried out. Everything is rendered already.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The saga.
    pub saga_id: String,
    /// The step's name.
    pub step: String,
    /// Doing or undoing.
    pub direction: Direction,
    /// From 1; travels beside the key.
    pub attempt: u32,
    /// The idempotency key, `SAGA/STEP/forward` or `SAGA/STEP/backward`: the same for every attempt on every replica.
    pub key: String,
    /// The rendered form of [`Action::input`].
    pub input: serde_json::Value,
    /// What the step returned, when it is undone; `null` if nobody knows.
    pub output: serde_json::Value,
    /// After it, nobody waits for the outcome, and the attempt must have no further effect.
    pub deadline: Timestamp,
    /// How long the attempt may take.
    pub timeout: Duration,
    /// The values that must not be recorded.
    pub secrets: Secrets,
}

/// Something that carries out attempts.
pub trait Act: Send + Sync {
    /// Carries one out. It may be dropped at any time, which leaves the outcome unknown.
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome>;

    /// Says what became of an attempt, by looking at what it acts on. Asked only after the attempt's deadline.
    fn probe(&self, _attempt: Attempt) -> BoxFuture<'static, Probed> {
        ready(Probed::Inconclusive).boxed()
    }

    /// Whether [`Act::probe`] can ever find something.
    fn can_probe(&self) -> bool {
        false
    }
}

/// The actions that this program has.
#[derive(Clone)]
pub struct Actions {
    builtins: BTreeMap<String, Arc<dyn Act>>,
    http: Option<Arc<dyn Act>>,
    task: Option<Arc<dyn Act>>,
}

/// What can be said of actions without running them: what a definition is checked against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownActions {
    /// Builtins by name, and whether each can be asked what became of an attempt.
    pub builtins: BTreeMap<String, bool>,
    /// There is an `http` action.
    pub http: bool,
    /// Tasks reach workers.
    pub task: bool,
}

/// Does nothing, and returns its input.
struct Noop;

/// Fails as it is told to.
struct Fail;

/// The input of `fail`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FailInput {
    /// The code of the failure.
    code: String,
    /// For people.
    message: String,
    /// Whether another attempt may do better.
    retryable: bool,
    /// Only the first attempts fail, this many; all of them if absent.
    times: Option<u32>,
}

/// The code of a failure whose cause is the definition or what was rendered into it.
pub const INVALID_INPUT: &str = "INVALID_INPUT";

// === impl Action ===

impl Action {
    /// What of the action is rendered: `input` of a task or builtin, the whole of an `http`, nothing of a `wait`.
    ///
    /// An `http` is an object of `method`, `url`, `headers` and `body`, which [`Http`] reads back.
    #[must_use]
    pub fn input(&self) -> serde_json::Value {
        match self {
            Self::Task { input, .. } | Self::Builtin { input, .. } => input.clone(),
            Self::Http(http) => http.input(),
            Self::Wait(_) => serde_json::Value::Null,
        }
    }
}

impl Http {
    fn input(&self) -> serde_json::Value {
        serde_json::json!({
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "body": self.body,
        })
    }
}

// === impl Actions ===

impl Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}

impl Actions {
    /// With `noop` and `fail`, which need nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            builtins: BTreeMap::new(),
            http: None,
            task: None,
        }
        .with_builtin("noop", Arc::new(Noop))
        .with_builtin("fail", Arc::new(Fail))
    }

    /// Adds a builtin, or replaces the one of that name.
    #[must_use]
    pub fn with_builtin(mut self, name: &str, act: Arc<dyn Act>) -> Self {
        self.builtins.insert(name.to_owned(), act);
        self
    }

    /// Adds what carries out `http`.
    #[must_use]
    pub fn with_http(mut self, act: Arc<dyn Act>) -> Self {
        self.http = Some(act);
        self
    }

    /// Adds what hands a `task` to workers.
    #[must_use]
    pub fn with_task(mut self, act: Arc<dyn Act>) -> Self {
        self.task = Some(act);
        self
    }

    /// What carries the action out; nothing for a `wait`, which is a timer, and for what this program does not have.
    #[must_use]
    pub fn get(&self, action: &Action) -> Option<&Arc<dyn Act>> {
        match action {
            Action::Task { .. } => self.task.as_ref(),
            Action::Http(_) => self.http.as_ref(),
            Action::Wait(_) => None,
            Action::Builtin { name, .. } => self.builtins.get(name),
        }
    }

    /// What definitions are checked against.
    #[must_use]
    pub fn known(&self) -> KnownActions {
        KnownActions {
            builtins: self
                .builtins
                .iter()
                .map(|(name, act)| (name.clone(), act.can_probe()))
                .collect(),
            http: self.http.is_some(),
            task: self.task.is_some(),
        }
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Actions").field(&self.known()).finish()
    }
}

// === impl KnownActions ===

impl KnownActions {
    /// Whether this program can carry the action out. What it cannot is left to a replica that can.
    #[must_use]
    pub fn has(&self, action: &Action) -> bool {
        match action {
            Action::Builtin { name, .. } => self.builtins.contains_key(name),
            Action::Http(_) => self.http,
            Action::Task { .. } => self.task,
            Action::Wait(_) => true,
        }
    }

    /// Whether the action can be asked, long after, what became of an attempt: a builtin that says so of itself. Tasks and
    /// requests are other people's, and nobody is there to ask.
    #[must_use]
    pub fn can_probe(&self, action: &Action) -> bool {
        match action {
            Action::Builtin { name, .. } => self.builtins.get(name).copied().unwrap_or(false),
            Action::Task { .. } | Action::Http(_) | Action::Wait(_) => false,
        }
    }
}

// === impl Noop ===

impl Act for Noop {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        ready(Outcome::Done(attempt.input)).boxed()
    }
}

// === impl Fail ===

impl Default for FailInput {
    fn default() -> Self {
        Self {
            code: "FAILED".to_owned(),
            message: "the step was told to fail".to_owned(),
            retryable: false,
            times: None,
        }
    }
}

impl Fail {
    fn outcome(attempt: Attempt) -> Outcome {
        let input = match attempt.input {
            serde_json::Value::Null => FailInput::default(),
            value => match serde_json::from_value(value) {
                Ok(input) => input,
                Err(error) => return Outcome::invalid_input(format!("`fail`: {error}")),
            },
        };
        if input.times.is_some_and(|times| attempt.attempt > times) {
            return Outcome::Done(serde_json::Value::Null);
        }
        Outcome::Failed {
            code: input.code,
            message: input.message,
            retryable: input.retryable,
        }
    }
}

impl Act for Fail {
    fn run(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        ready(Self::outcome(attempt)).boxed()
    }
}

// === impl Outcome ===

impl Outcome {
    /// Nothing was done because the rendered input makes no sense, and never will.
    #[must_use]
    pub fn invalid_input(message: String) -> Self {
        Self::Failed {
            code: INVALID_INPUT.to_owned(),
            message,
            retryable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn attempt(number: u32, input: Value) -> Attempt {
        Attempt {
            saga_id: "s".to_owned(),
            step: "a".to_owned(),
            direction: Direction::Forward,
            attempt: number,
            key: "s/a/forward".to_owned(),
            input,
            output: Value::Null,
            deadline: Timestamp(0),
            timeout: Duration::from_secs(1),
            secrets: Secrets::default(),
        }
    }

    fn builtin(name: &str) -> Action {
        Action::Builtin {
            name: name.to_owned(),
            input: Value::Null,
        }
    }

    fn run(name: &str, number: u32, input: Value) -> Outcome {
        let actions = Actions::new();
        let act = actions.get(&builtin(name)).expect("registered");
        act.run(attempt(number, input))
            .now_or_never()
            .expect("it waits for nothing")
    }

    #[test]
    fn noop_returns_its_input() {
        let input = json!({ "a": [1] });
        assert_eq!(run("noop", 1, input.clone()), Outcome::Done(input));
    }

    #[test]
    fn fail_fails_as_told_and_as_often_as_told() {
        let input = json!({ "code": "NO", "message": "m", "retryable": true, "times": 2 });
        for number in 1..=2 {
            let failed = Outcome::Failed {
                code: "NO".to_owned(),
                message: "m".to_owned(),
                retryable: true,
            };
            assert_eq!(run("fail", number, input.clone()), failed);
        }
        assert_eq!(run("fail", 3, input), Outcome::Done(Value::Null));
        assert!(matches!(
            run("fail", 9, Value::Null),
            Outcome::Failed { code, retryable: false, .. } if code == "FAILED"
        ));
    }

    #[test]
    fn an_input_that_makes_no_sense_fails_for_good() {
        let outcome = run("fail", 1, json!({ "cod": "NO" }));
        let Outcome::Failed {
            code,
            message,
            retryable,
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!((code.as_str(), retryable), (INVALID_INPUT, false));
        assert!(message.contains("cod"), "{message}");
    }

    #[test]
    fn the_registry_knows_what_it_was_given() {
        let actions = Actions::new();
        let known = actions.known();
        assert!(known.has(&builtin("noop")));
        assert!(!known.has(&builtin("nope")));
        let wait = Action::Wait(crate::Wait { duration_ms: 1 });
        assert!(known.has(&wait) && actions.get(&wait).is_none());
        let task = Action::Task {
            task_type: "t".to_owned(),
            input: Value::Null,
        };
        let http = Action::Http(Http {
            method: "GET".to_owned(),
            url: "http://h/".to_owned(),
            headers: BTreeMap::new(),
            body: Value::Null,
        });
        assert!(!known.has(&http) && !known.has(&task));
        let with = actions.with_http(Arc::new(Noop)).with_task(Arc::new(Noop));
        let known = with.known();
        assert!(known.has(&http) && known.has(&task));
        assert_eq!(known.builtins.get("noop"), Some(&false));
        let read: Http = serde_json::from_value(http.input()).expect("the rendered form");
        assert_eq!(Action::Http(read), http);
    }
}
