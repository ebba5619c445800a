//! Values between JSON and the template engine, and the one kind that JSON does not have: what is absent.

use std::{fmt, sync::Arc};

use minijinja::value::{Object, ObjectRepr, Serde, Value as Dynamic, ValueKind};
use serde_json::Value;

/// The output of a step that was not done, and everything below it. Only `default` and `is defined` make something of it.
#[derive(Debug)]
pub(super) struct Absent {
    /// It is `null` where it is asked for as a whole.
    is_null: bool,
}

/// What the engine makes of it where it wants a text, so that it is found there. No text that the database can keep has it.
const ABSENT_TEXT: &str = "\0\0\0";

/// The bytes that are left to be rendered.
pub(super) struct Budget {
    left_bytes: usize,
    all_bytes: usize,
}

/// Something that is absent; as a whole `null`, or an error.
pub(super) fn absent(is_null: bool) -> Dynamic {
    Dynamic::from_object(Absent { is_null })
}

/// Whether there is nothing.
pub(super) fn is_missing(value: &Dynamic) -> bool {
    value.is_undefined() || value.downcast_object_ref::<Absent>().is_some()
}

/// For the engine.
pub(super) fn from_json(value: &Value) -> Dynamic {
    Dynamic::from(Serde(value))
}

/// As JSON, within what is left of the budget.
pub(super) fn to_json(value: &Dynamic, budget: &mut Budget) -> Result<Value, String> {
    if let Some(absent) = value.downcast_object_ref::<Absent>() {
        return if absent.is_null {
            Ok(Value::Null)
        } else {
            Err("the step was not done, so that it has no output; give a default".to_owned())
        };
    }
    budget.take(1)?;
    Ok(match value.kind() {
        ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number => number(value)?,
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if text.contains(ABSENT_TEXT) {
                return Err("a part of it is not there, and has no default".to_owned());
            }
            budget.take(text.len())?;
            Value::String(text.to_owned())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|error| error.to_string())?;
            let items: Result<_, _> = items.map(|item| to_json(&item, budget)).collect();
            Value::Array(items?)
        }
        ValueKind::Map => {
            let mut members = serde_json::Map::new();
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let name = key.as_str().ok_or("a member's name is not a text")?;
                budget.take(name.len())?;
                let member = value.get_item(&key).map_err(|error| error.to_string())?;
                members.insert(name.to_owned(), to_json(&member, budget)?);
            }
            Value::Object(members)
        }
        ValueKind::Undefined => {
            return Err("a part of it is not there, and has no default".to_owned());
        }
        other => return Err(format!("{other} is no JSON value")),
    })
}

fn number(value: &Dynamic) -> Result<Value, String> {
    let number = serde_json::to_value(value).map_err(|_| "the number is too large for JSON")?;
    // An infinite number, or one that is none, serialises as null.
    if number.is_number() {
        Ok(number)
    } else {
        Err("the number is not finite".to_owned())
    }
}

/// As a part of a text: texts as they are, everything else but `null` as JSON.
pub(super) fn to_text(value: &Dynamic, budget: &mut Budget) -> Result<String, String> {
    match to_json(value, budget)? {
        Value::String(text) => Ok(text),
        Value::Null => Err("it is null, which has no text; give a default".to_owned()),
        other => {
            let text = other.to_string();
            budget.take(text.len())?;
            Ok(text)
        }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) const fn new(bytes: usize) -> Self {
        Self {
            left_bytes: bytes,
            all_bytes: bytes,
        }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), String> {
        match self.left_bytes.checked_sub(bytes) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(format!(
                "the rendered template is larger than {} bytes",
                self.all_bytes
            )),
        }
    }
}

// === impl Absent ===

impl Object for Absent {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, _key: &Dynamic) -> Option<Dynamic> {
        Some(absent(false))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ABSENT_TEXT)
    }
}
