//! Resources, drifts and policies.

use steadfast_drift as drift;
use tonic::Code;

use super::Problem;

/// A drift that cannot be accepted or snoozed.
pub(crate) fn of_accept(refusal: drift::AcceptRefusal, id: &str) -> Problem {
    use drift::AcceptRefusal as R;
    let message = refusal.to_string();
    let (what, remedy) = match refusal {
        R::Closed => {
            return Problem::new(Code::FailedPrecondition, "DRIFT_CLOSED", message).with("id", id);
        }
        R::Secret => {
            return Problem::new(Code::FailedPrecondition, "SECRET_PATH", message).with("id", id);
        }
        R::DriftChanged => ("drift", ": read it again, and decide again"),
        R::SpecChanged => ("spec", ": read it again, and decide again"),
        R::ActualChanged => ("actual", ": read it again, and decide again"),
        R::AppliedSince => ("applied", ""),
        R::Unreadable => ("look", ""),
        R::Busy => ("busy", ""),
    };
    Problem::new(Code::Aborted, "DRIFT_CHANGED", format!("{message}{remedy}"))
        .with("what", what)
        .with("id", id)
}

/// The spec of a resource is not as the caller saw it.
pub(crate) fn resource_changed(name: &str) -> Problem {
    Problem::new(
        Code::Aborted,
        "RESOURCE_CHANGED",
        format!("{name} has changed since it was read: read it again"),
    )
    .with("resource", name)
}

/// What is wrong with a policy, all of it; `None` if nothing is.
pub(crate) fn of_policy(problems: &[drift::PolicyProblem]) -> Option<Problem> {
    let first = problems.first()?;
    let message = match problems.len() {
        1 => format!("policy.{first}"),
        count => format!("{count} problems; the first: policy.{first}"),
    };
    let told = Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", message);
    Some(problems.iter().fold(told, |told, problem| {
        told.field(format!("policy.{}", problem.field), problem.message.clone())
    }))
}
