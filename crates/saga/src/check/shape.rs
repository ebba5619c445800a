//! The members that a definition may have: what is missing, unknown or of the wrong type, all at once.

use serde_json::{Map, Value};

use super::{Problems, nearest};

/// What a member must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Any,
    Text,
    Bool,
    Number,
    Whole { max: u64 },
    Choice(&'static [&'static str]),
    Texts,
    TextMap,
    Object(&'static [Field]),
    Action,
    Undo,
    Steps,
}

/// A member of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    shape: Shape,
    /// What to do about its absence, if it has to be there.
    required: Option<&'static str>,
}

const fn required(name: &'static str, shape: Shape, why: &'static str) -> Field {
    Field {
        name,
        shape,
        required: Some(why),
    }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: None,
    }
}

const U32: Shape = Shape::Whole {
    max: u32::MAX as u64,
};
const MILLISECONDS: Shape = Shape::Whole {
    max: i64::MAX as u64,
};

/// A definition.
pub(super) const DEFINITION: &[Field] = &[
    required("name", Shape::Text, "a definition has a name"),
    required(
        "version",
        Shape::Whole {
            max: i32::MAX as u64,
        },
        "a definition has a version, counted from 1",
    ),
    required("steps", Shape::Steps, "a definition has steps"),
];

const STEP: &[Field] = &[
    required("name", Shape::Text, "a step has a name"),
    required("action", Shape::Action, "say what the step does"),
    required(
        "undo",
        Shape::Undo,
        "say how the step is undone: an action, or \"none\" if there is nothing to undo",
    ),
    optional("retry", Shape::Object(RETRY)),
    optional("timeouts", Shape::Object(TIMEOUTS)),
    optional("optional", Shape::Bool),
    optional("on_failure", Shape::Choice(&["compensate", "stop"])),
    optional("on_unknown", Shape::Choice(&["retry", "reconcile", "stop"])),
    optional("undo_blocks_late", Shape::Bool),
    optional("irreversible", Shape::Bool),
];

const RETRY: &[Field] = &[
    optional("attempts", U32),
    optional("initial_backoff_ms", MILLISECONDS),
    optional("max_backoff_ms", MILLISECONDS),
    optional("multiplier", Shape::Number),
    optional("jitter", Shape::Number),
    optional("non_retryable_codes", Shape::Texts),
];

const TIMEOUTS: &[Field] = &[
    optional("waiting_ms", MILLISECONDS),
    optional("running_ms", MILLISECONDS),
    optional("heartbeat_ms", MILLISECONDS),
];

/// The kinds of actions.
const ACTIONS: &[Field] = &[
    optional("task", Shape::Object(TASK)),
    optional("http", Shape::Object(HTTP)),
    optional("wait", Shape::Object(WAIT)),
    optional("builtin", Shape::Object(BUILTIN)),
];

const TASK: &[Field] = &[
    required("type", Shape::Text, "say which kind of task"),
    optional("input", Shape::Any),
];

const HTTP: &[Field] = &[
    required("method", Shape::Text, "say which method, for example PUT"),
    required("url", Shape::Text, "say where the request goes"),
    optional("headers", Shape::TextMap),
    optional("body", Shape::Any),
];

const WAIT: &[Field] = &[required(
    "duration_ms",
    MILLISECONDS,
    "say how long, in milliseconds",
)];

const BUILTIN: &[Field] = &[
    required("name", Shape::Text, "say which builtin"),
    optional("input", Shape::Any),
];

/// The path of a member of an object.
pub(super) fn member_path(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Compares a value with what it must be.
pub(super) fn check_shape(path: &str, value: &Value, shape: Shape, problems: &mut Problems) {
    let fits = match shape {
        Shape::Any => true,
        Shape::Text => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::Number => value.is_number(),
        Shape::Whole { max } => value.as_u64().is_some_and(|number| number <= max),
        Shape::Choice(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
        Shape::Texts => value
            .as_array()
            .is_some_and(|items| items.iter().all(Value::is_string)),
        Shape::TextMap => value
            .as_object()
            .is_some_and(|members| members.values().all(Value::is_string)),
        Shape::Object(fields) => {
            return match value.as_object() {
                Some(members) => check_members(path, members, fields, problems),
                None => problems.add(path, format!("an object is needed, not {}", kind(value))),
            };
        }
        Shape::Steps => {
            return match value.as_array() {
                Some(steps) => {
                    for (index, step) in steps.iter().enumerate() {
                        let path = format!("{path}[{index}]");
                        check_shape(&path, step, Shape::Object(STEP), problems);
                    }
                }
                None => problems.add(
                    path,
                    format!("a list of steps is needed, not {}", kind(value)),
                ),
            };
        }
        Shape::Action => return check_action(path, value, problems),
        Shape::Undo => {
            return match value {
                Value::String(text) if text == "none" => {}
                Value::Object(_) => check_action(path, value, problems),
                _ => problems.add(path, "an action, or \"none\" if there is nothing to undo"),
            };
        }
    };
    if !fits {
        problems.add(path, format!("{}, not {}", wanted(shape), kind(value)));
    }
}

fn check_action(path: &str, value: &Value, problems: &mut Problems) {
    let names: Vec<&str> = ACTIONS.iter().map(|field| field.name).collect();
    let Some(members) = value.as_object() else {
        problems.add(
            path,
            format!(
                "an object of one of {}, not {}",
                names.join(", "),
                kind(value)
            ),
        );
        return;
    };
    check_members(path, members, ACTIONS, problems);
    let known = members.keys().filter(|name| names.contains(&name.as_str()));
    match known.count() {
        1 => {}
        0 if !members.is_empty() => {}
        0 => problems.add(path, format!("say one of {}", names.join(", "))),
        _ => problems.add(
            path,
            format!("an action is one of {}, not several", names.join(", ")),
        ),
    }
}

fn check_members(
    path: &str,
    members: &Map<String, Value>,
    fields: &[Field],
    problems: &mut Problems,
) {
    for field in fields {
        let path = member_path(path, field.name);
        match (members.get(field.name), field.required) {
            (Some(value), _) => check_shape(&path, value, field.shape, problems),
            (None, Some(why)) => problems.add(path, why),
            (None, None) => {}
        }
    }
    for name in members.keys() {
        if !fields.iter().any(|field| field.name == name) {
            let names = fields.iter().map(|field| field.name);
            let similar = nearest(name, names.clone());
            let remedy = if similar.is_empty() {
                format!("; there are {}", names.collect::<Vec<_>>().join(", "))
            } else {
                similar
            };
            problems.add(
                member_path(path, name),
                format!("there is no such member{remedy}"),
            );
        }
    }
}

fn wanted(shape: Shape) -> String {
    match shape {
        Shape::Text => "a text is needed".to_owned(),
        Shape::Bool => "true or false is needed".to_owned(),
        Shape::Number => "a number is needed".to_owned(),
        Shape::Whole { max } => format!("a whole number up to {max} is needed"),
        Shape::Choice(choices) => format!("one of {} is needed", choices.join(", ")),
        Shape::Texts => "a list of texts is needed".to_owned(),
        Shape::TextMap => "an object whose members are texts is needed".to_owned(),
        Shape::Any | Shape::Object(_) | Shape::Action | Shape::Undo | Shape::Steps => String::new(),
    }
}

/// What the value is, in few words.
fn kind(value: &Value) -> String {
    /// Characters of a text that are shown.
    const SHOWN: usize = 40;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", text.chars().take(SHOWN).collect::<String>()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
