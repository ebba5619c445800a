//! What templates refer to: it must be there when the template is rendered.

use serde_json::Value;

use super::{Place, Problems, nearest};
use crate::{
    secret::is_secret_name,
    template::{ROOTS, Reference, references},
};

/// The members of `saga`.
const SAGA: [&str; 3] = ["id", "kind", "deployment_id"];

/// Checks every text of a template that is rendered for the step's action, or for its undo.
pub(super) fn check(
    path: &str,
    template: &Value,
    is_undo: bool,
    place: &Place<'_>,
    problems: &mut Problems,
) {
    match references(template) {
        Ok(found) => {
            for (text, reference) in found {
                if let Some(problem) = problem(&reference, is_undo, place) {
                    problems.add(format!("{path}{text}"), problem);
                }
            }
        }
        Err(errors) => {
            for error in errors {
                problems.add(format!("{path}{}", error.path), error.message);
            }
        }
    }
}

fn problem(reference: &Reference, is_undo: bool, place: &Place<'_>) -> Option<String> {
    let root = reference.path.first().map_or("", String::as_str);
    let member = reference.path.get(1).map(String::as_str);
    match root {
        "inputs" | "context" => None,
        "output" if is_undo => None,
        "output" => Some(
            "`output` is the step's own, and known in its undo only; an earlier step's is `steps.NAME.output`"
                .to_owned(),
        ),
        "saga" => match member {
            Some(member) if SAGA.contains(&member) => None,
            Some(_) | None => Some(format!(
                "`{}` is not known; of the saga, there are saga.{}",
                reference.path.join("."),
                SAGA.join(", saga.")
            )),
        },
        "secret" => match member {
            Some(name) if is_secret_name(name) && reference.path.len() == 2 => None,
            Some(_) | None => Some(format!(
                "`{}` names no secret: write `secret.NAME`, where NAME has upper-case letters, digits and single `_` and begins with \
                 a letter",
                reference.path.join(".")
            )),
        },
        "steps" => step_problem(reference, is_undo, place),
        _ => Some(format!(
            "`{root}` is not known; templates begin with {}{}",
            ROOTS.join(", "),
            nearest(root, ROOTS.into_iter())
        )),
    }
}

fn step_problem(reference: &Reference, is_undo: bool, place: &Place<'_>) -> Option<String> {
    let [_, name, output, ..] = reference.path.as_slice() else {
        return Some(format!(
            "`{}`: write `steps.NAME.output`, with the name of an earlier step",
            reference.path.join(".")
        ));
    };
    if output != "output" {
        return Some(format!(
            "`steps.{name}.{output}`: of a step there is its output, `steps.{name}.output`"
        ));
    }
    let found = place
        .steps
        .iter()
        .position(|step| step.name == Some(name.as_str()));
    let Some(at) = found else {
        let earlier = place.steps.iter().take(place.index);
        return Some(format!(
            "there is no step `{name}`{}",
            nearest(name, earlier.filter_map(|step| step.name))
        ));
    };
    if at == place.index {
        return Some(if is_undo {
            format!("`steps.{name}.output`: in its own undo, it is `output`")
        } else {
            format!("`steps.{name}.output`: a step's output is not known before it was done")
        });
    }
    if at > place.index {
        return Some(format!(
            "`steps.{name}.output`: step `{name}` comes later; only outputs of earlier steps are known"
        ));
    }
    let optional = place
        .steps
        .get(at)
        .and_then(|outline| outline.step)
        .is_some_and(|step| step.optional);
    (optional && !reference.may_be_missing).then(|| {
        let path = reference.path.join(".");
        format!(
            "step `{name}` is optional, so that its output may be missing: give a default, `{path} | default(…)`"
        )
    })
}
