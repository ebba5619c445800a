//! One attempt: its input, its way to the action, and what is kept of its outcome.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DOCUMENT_BYTES, Engine, NAME_BYTES, hand::InHand, stored};
use crate::{
    Action, Attempt, Direction, Effect, Event, Outcome, Probed, metric,
    template::{Scope, render},
};

/// Bytes of a failure's message that are kept.
const MESSAGE_BYTES: usize = 4 << 10;
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

// === impl InHand ===

impl InHand {
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
        let Some(action) = step.action_in(direction) else {
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

// === impl Engine ===

impl Engine {
    /// Sends an attempt and waits for its outcome, or for its deadline.
    pub(super) async fn run_attempt(&self, hand: &InHand, effect: &Effect) -> Event {
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

    pub(super) async fn run_probe(&self, hand: &InHand, effect: &Effect) -> Event {
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
