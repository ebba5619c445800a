//! What went wrong, as one line, hints and an exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use steadfast_client::{Code, Error as CallError};
use steadfast_server::config::ConfigErrors;

use crate::{hint, table::clean};

/// How the program ends; the help lists these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success = 0,
    Error = 1,
    Usage = 2,
    Partial = 3,
    Unavailable = 4,
    NotFound = 5,
    Invalid = 6,
    Compensated = 7,
    Stuck = 8,
    Abandoned = 9,
    /// Not every node has applied the revision.
    Lagging = 10,
    /// `drift detect` found drifts, or `schema diff` what breaks; the exit code is 2, which these commands mean nothing else by.
    Drifted = 11,
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Empty if there is nobody to tell: the reader of the output has gone.
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
}

// === impl Exit ===

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Drifted => 2,
            other => other as u8,
        })
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds where in the specifier the server stopped understanding.
    #[must_use]
    pub(crate) fn about_specifier(mut self, error: &CallError, specifier: &str) -> Self {
        self.hints.extend(hint::point_at(error, specifier));
        self
    }

    /// A file that could not be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(Exit::Error, format!("{}: {error}", path.display()))
    }

    /// Tells it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            let mut text = format!("error: {}\n", self.message);
            for hint in &self.hints {
                text.push_str(&format!("hint: {hint}\n"));
            }
            // If standard error is gone too, the exit code is all that can be said.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        self.exit.into()
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::from(&error)
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        let name = code_name(error.code);
        let message = clean(&error.message);
        let message = match (error.reason.as_str(), message) {
            ("", message) => format!("{name}: {message}"),
            (reason, message) if reason == name => format!("{name}: {message}"),
            (reason, message) => format!("{name} {reason}: {message}"),
        };
        Self {
            exit: exit_of(error.code),
            message,
            hints: hint::of(error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever read our output has seen enough, as `head` does: no failure, and nothing to say.
            return Self::new(Exit::Success, "");
        }
        Self::new(Exit::Error, error.to_string())
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(Exit::Usage, errors.to_string())
            .hint("`steadfast init` writes a file that explains every setting")
    }
}

impl From<steadfast_server::Error> for Failure {
    fn from(error: steadfast_server::Error) -> Self {
        Self::new(Exit::Error, with_causes(&error))
    }
}

/// The error, and what it came from where that says more. Callers of the API never see causes; whoever starts the program must.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = clean(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = clean(&error.to_string());
        if !text.contains(&words) {
            text.push_str(&format!(": {words}"));
        }
        cause = error.source();
    }
    text
}

const fn exit_of(code: Code) -> Exit {
    match code {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Exit::Unavailable,
        Code::NotFound => Exit::NotFound,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Exit::Error,
    }
}

/// The code as the gRPC documentation spells it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::tests::call_error;

    #[test]
    fn one_line_tells_code_reason_and_message() {
        let error = call_error(Code::NotFound, "PACKAGE_NOT_FOUND", "there is no package x");
        let failure = Failure::from(error);
        assert_eq!(
            failure.message,
            "NOT_FOUND PACKAGE_NOT_FOUND: there is no package x"
        );
        assert_eq!(failure.exit, Exit::NotFound);
        let failure = Failure::from(call_error(Code::Unavailable, "", "away"));
        assert_eq!(failure.message, "UNAVAILABLE: away");
        assert_eq!(failure.exit, Exit::Unavailable);
        let failure = Failure::from(call_error(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "late",
        ));
        assert_eq!(failure.message, "DEADLINE_EXCEEDED: late");
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug)]
        struct Outer(&'static str, io::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.1)
            }
        }
        for (words, told) in [
            ("no answer", "no answer: refused"),
            ("no answer (refused)", "no answer (refused)"),
        ] {
            let error = Outer(words, io::Error::other("refused"));
            assert_eq!(with_causes(&error), told);
        }
    }

    #[test]
    fn a_reader_who_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (Exit::Success, "")
        );
    }
}
