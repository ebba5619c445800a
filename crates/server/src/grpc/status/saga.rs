//! Sagas and their definitions.

use steadfast_saga::{self as saga, Refusal, check};
use steadfast_store as store;
use tonic::{Code, Status};

use super::{Problem, internal_problem, invalid, of_store};

/// A definition with problems, all of them, in the request's field.
pub(crate) fn definition_invalid(problems: &[check::Problem], field: &str) -> Status {
    definition_problem(problems, field).into_status()
}

/// The same, for an item of a batch.
pub(crate) fn definition_problem(problems: &[check::Problem], field: &str) -> Problem {
    // The steps of a definition are the whole of `steps_json`.
    let whole = if field == "steps_json" { "steps" } else { "" };
    let path = |problem: &check::Problem| {
        let path = problem.path.strip_prefix(whole).unwrap_or(&problem.path);
        match path {
            "" => field.to_owned(),
            path if path.starts_with('[') => format!("{field}{path}"),
            path => format!("{field}.{path}"),
        }
    };
    let first = problems.first().map_or_else(String::new, |problem| {
        format!("{}: {}", path(problem), problem.message)
    });
    let message = match problems.len() {
        0 | 1 => first,
        count => format!("{count} problems; the first: {first}"),
    };
    problems.iter().fold(
        Problem::new(Code::InvalidArgument, "DEFINITION_INVALID", message),
        |told, problem| told.field(path(problem), problem.message.clone()),
    )
}

/// A saga that cannot be started, shown or steered. `plan` is the request's field that holds a definition or steps.
pub(crate) fn of_saga(error: &saga::Error, plan: &str) -> Problem {
    use saga::Error as E;
    let message = error.to_string();
    match error {
        E::DefinitionInvalid(problems) => definition_problem(problems, plan),
        E::DefinitionExists { name, version } => {
            Problem::new(Code::AlreadyExists, "DEFINITION_EXISTS", message)
                .with("name", name)
                .with("version", version)
        }
        E::DefinitionNotFound { name, .. } => {
            Problem::new(Code::NotFound, "DEFINITION_NOT_FOUND", message).with("name", name)
        }
        E::SagaNotFound { id } => {
            Problem::new(Code::NotFound, "SAGA_NOT_FOUND", message).with("id", id)
        }
        E::Refused(refusal) => of_refusal(*refusal),
        E::InvalidArgument {
            field,
            message: why,
        } => invalid(field, why.clone()),
        E::RequestIdReused => of_store(&store::Error::RequestIdReused),
        E::Store(error) => of_store(error),
        E::Internal(what) => {
            tracing::error!(what, "a call failed");
            internal_problem()
        }
    }
}

/// A verb that does not fit the saga's state.
fn of_refusal(refusal: Refusal) -> Problem {
    let message = refusal.to_string();
    let precondition = |reason, message| Problem::new(Code::FailedPrecondition, reason, message);
    match refusal {
        Refusal::Changed | Refusal::TooLate => Problem::new(Code::Aborted, "SAGA_CHANGED", message),
        Refusal::HasEnded => precondition("SAGA_ENDED", message),
        Refusal::IsStuck => precondition("SAGA_STUCK", message),
        Refusal::PastThePivot => precondition("PAST_THE_PIVOT", message),
        Refusal::NotAtStep => precondition("NOT_AT_STEP", message),
        Refusal::Illegal => {
            tracing::error!(what = %refusal, "a saga cannot be steered");
            internal_problem()
        }
    }
}
