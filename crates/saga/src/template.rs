//! Templates: how inputs and earlier outputs get into what an action is given.
//!
//! A template is a JSON value. Within its texts `{{ … }}` is replaced by the value of the expression; a text that is one `{{ … }}`
//! and nothing else keeps the value's JSON type. There are expressions only: no statements, loops, macros, includes or files, and a
//! short list of [filters](FILTERS), each of which does work in proportion to its input. An expression has a fixed amount of fuel,
//! and a rendered template a fixed size, so that no definition can cost more than that.
//!
//! What is not there is an error, not an empty text: a misspelled reference must not end in a URL. `default` is how an author says
//! that something may be missing. The output of an optional step that was not done, and of a step of which nobody knows whether it
//! was done, count as missing together with everything below them.
//!
//! The same template renders twice: for the action, with secrets, and for the record, with [`MASK`] in their place.

mod engine;
mod expression;
mod value;

use std::{cell::OnceCell, collections::BTreeMap};

use minijinja::value::Value as Dynamic;
use serde_json::Value;

pub use engine::FILTERS;
pub use expression::Reference;

use crate::{SecretSource, Secrets, secret::MASK};
use expression::{Expression, Part};
use value::Budget;

/// Bytes that one rendered template may have.
pub const RENDERED_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one text that has `{{ … }}` in it.
pub const TEMPLATE_TEXT_BYTES_MAX: usize = 64 * 1024;

/// The names that templates may begin with; `output` only in an undo.
pub const ROOTS: [&str; 6] = ["inputs", "context", "steps", "saga", "output", "secret"];

/// What a template can refer to.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// `inputs`.
    pub inputs: &'a Value,
    /// `context`.
    pub context: &'a Value,
    /// `steps.NAME.output` of earlier steps; nothing for an optional one that was not done.
    pub steps: BTreeMap<&'a str, Option<&'a Value>>,
    /// `saga.id`.
    pub saga_id: &'a str,
    /// `saga.kind`.
    pub saga_kind: &'a str,
    /// `saga.deployment_id`.
    pub deployment_id: &'a str,
    /// `output`, in an undo: what its step returned, or `null` if nobody knows whether it was done.
    pub output: Option<&'a Value>,
}

/// A template rendered for an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// With secrets: never to be kept.
    pub value: Value,
    /// The secrets that are in it.
    pub secrets: Secrets,
}

/// A template cannot be read or rendered. `Display` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
pub struct TemplateError {
    /// Which text of the template, for example `.body.tags[0]`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Renders a template for an action.
///
/// # Errors
/// If a text cannot be read, refers to something that is not there, names a secret that cannot be had, or becomes too large.
pub fn render(
    template: &Value,
    scope: &Scope<'_>,
    secrets: &dyn SecretSource,
) -> Result<Rendered, TemplateError> {
    let mut rendering = Rendering::new(scope, Some(secrets));
    let value = rendering.walk(template, &mut String::new())?;
    Ok(Rendered {
        value,
        secrets: rendering.used,
    })
}

/// Renders a template to be kept: what comes from `secret` is [`MASK`].
///
/// # Errors
/// As [`render`], but for secrets.
pub fn render_for_record(template: &Value, scope: &Scope<'_>) -> Result<Value, TemplateError> {
    Rendering::new(scope, None).walk(template, &mut String::new())
}

/// What the texts of a template refer to, with the path of each text.
///
/// # Errors
/// Every text that cannot be read.
pub fn references(template: &Value) -> Result<Vec<(String, Reference)>, Vec<TemplateError>> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    each_text(
        template,
        &mut String::new(),
        &mut |path, text| match expression::references(text) {
            Ok(references) => {
                found.extend(references.into_iter().map(|found| (path.to_owned(), found)));
            }
            Err(message) => wrong.push(TemplateError {
                path: path.to_owned(),
                message,
            }),
        },
    );
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(wrong)
    }
}

/// Visits every text with its path.
fn each_text(value: &Value, path: &mut String, visit: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => visit(path, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                within(path, &format!("[{index}]"), |path| {
                    each_text(item, path, visit);
                });
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                within(path, &format!(".{name}"), |path| {
                    each_text(member, path, visit);
                });
            }
        }
    }
}

/// Runs something with a longer path.
fn within<T>(path: &mut String, part: &str, run: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push_str(part);
    let outcome = run(path);
    path.truncate(length);
    outcome
}

/// One template being rendered.
struct Rendering<'a> {
    scope: &'a Scope<'a>,
    source: Option<&'a dyn SecretSource>,
    used: Secrets,
    budget: Budget,
    inputs: OnceCell<Dynamic>,
    context: OnceCell<Dynamic>,
    outputs: BTreeMap<String, Dynamic>,
}

// === impl Rendering ===

impl<'a> Rendering<'a> {
    fn new(scope: &'a Scope<'a>, source: Option<&'a dyn SecretSource>) -> Self {
        Self {
            scope,
            source,
            used: Secrets::default(),
            budget: Budget::new(RENDERED_BYTES_MAX),
            inputs: OnceCell::new(),
            context: OnceCell::new(),
            outputs: BTreeMap::new(),
        }
    }

    fn walk(&mut self, template: &Value, path: &mut String) -> Result<Value, TemplateError> {
        match template {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(template.clone()),
            Value::String(text) => self.text(text).map_err(|message| TemplateError {
                path: path.clone(),
                message: self.used.mask_text(&message).into_owned(),
            }),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    within(path, &format!("[{index}]"), |path| self.walk(item, path))
                })
                .collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| {
                    let value = within(path, &format!(".{name}"), |path| self.walk(member, path))?;
                    Ok((name.clone(), value))
                })
                .collect::<Result<_, _>>()
                .map(Value::Object),
        }
    }

    fn text(&mut self, text: &str) -> Result<Value, String> {
        if !text.contains("{{") {
            self.budget.take(text.len())?;
            return Ok(Value::String(text.to_owned()));
        }
        let parts = expression::split(text)?;
        if let [Part::Expression(source)] = parts.as_slice() {
            let value = self.evaluate(source)?;
            return value::to_json(&value, &mut self.budget)
                .map_err(|problem| format!("`{{{{{source}}}}}`: {problem}"));
        }
        let mut rendered = String::new();
        for part in parts {
            match part {
                Part::Text(text) => {
                    self.budget.take(text.len())?;
                    rendered.push_str(text);
                }
                Part::Expression(source) => {
                    let value = self.evaluate(source)?;
                    let text = value::to_text(&value, &mut self.budget)
                        .map_err(|problem| format!("`{{{{{source}}}}}`: {problem}"))?;
                    rendered.push_str(&text);
                }
            }
        }
        Ok(Value::String(rendered))
    }

    fn evaluate(&mut self, source: &str) -> Result<Dynamic, String> {
        let expression = Expression::parse(source)?;
        let mut names = BTreeMap::new();
        for path in expression.paths() {
            self.provide(&path, &mut names)?;
        }
        let names: BTreeMap<String, Dynamic> = names
            .into_iter()
            .map(|(root, provided)| (root, provided.into()))
            .collect();
        let names = Dynamic::from_pairs(names);
        expression.evaluate(&names)
    }

    /// Makes what a path begins with known.
    fn provide(
        &mut self,
        path: &[String],
        names: &mut BTreeMap<String, Provided>,
    ) -> Result<(), String> {
        let root = path.first().map_or("", String::as_str);
        let scope = self.scope;
        let provided = match root {
            "inputs" => {
                let inputs = self.inputs.get_or_init(|| value::from_json(scope.inputs));
                Provided::Whole(inputs.clone())
            }
            "context" => {
                let context = self.context.get_or_init(|| value::from_json(scope.context));
                Provided::Whole(context.clone())
            }
            "saga" => Provided::Whole(Dynamic::from_pairs([
                ("id", scope.saga_id),
                ("kind", scope.saga_kind),
                ("deployment_id", scope.deployment_id),
            ])),
            "output" => match scope.output {
                Some(Value::Null) => Provided::Whole(value::absent(true)),
                Some(output) => Provided::Whole(self.output_of("", output)),
                None => {
                    return Err("`output` is the step's own and known in its undo only".to_owned());
                }
            },
            "steps" => {
                let name = path.get(1).map_or("", String::as_str);
                let output = match scope.steps.get(name) {
                    Some(Some(output)) => self.output_of(name, output),
                    Some(None) => value::absent(false),
                    None => return Err(format!("there is no earlier step `{name}`")),
                };
                let step = Dynamic::from_pairs([("output", output)]);
                return Provided::add(names, root, name, step);
            }
            "secret" => {
                let name = path.get(1).map_or("", String::as_str);
                let secret = self.secret(name)?;
                return Provided::add(names, root, name, secret);
            }
            _ => {
                return Err(format!(
                    "`{root}` is not known; templates begin with one of {}",
                    ROOTS.join(", ")
                ));
            }
        };
        names.insert(root.to_owned(), provided);
        Ok(())
    }

    fn output_of(&mut self, step: &str, output: &Value) -> Dynamic {
        self.outputs
            .entry(step.to_owned())
            .or_insert_with(|| value::from_json(output))
            .clone()
    }

    fn secret(&mut self, name: &str) -> Result<Dynamic, String> {
        let Some(source) = self.source else {
            return Ok(Dynamic::from(MASK));
        };
        let secret = source.secret(name).map_err(|error| error.to_string())?;
        self.used.add(&secret);
        Ok(Dynamic::from(secret))
    }
}

/// What stands behind a root.
enum Provided {
    /// The value.
    Whole(Dynamic),
    /// Only those members that are referred to.
    Members(BTreeMap<String, Dynamic>),
}

// === impl Provided ===

impl Provided {
    fn add(
        names: &mut BTreeMap<String, Self>,
        root: &str,
        name: &str,
        value: Dynamic,
    ) -> Result<(), String> {
        let members = names
            .entry(root.to_owned())
            .or_insert_with(|| Self::Members(BTreeMap::new()));
        if let Self::Members(members) = members {
            members.insert(name.to_owned(), value);
        }
        Ok(())
    }
}

impl From<Provided> for Dynamic {
    fn from(provided: Provided) -> Self {
        match provided {
            Provided::Whole(value) => value,
            Provided::Members(members) => Self::from_pairs(members),
        }
    }
}

#[cfg(test)]
mod tests;
