//! Exit codes, which scripts rely on, and the failure that carries one.

use std::error::Error;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::protocol::record::{Fault, History, Outcome, Step};
use crate::telemetry::chain;

/// The exit codes. The numbers are a contract with users' scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed: anything that has no code of its own, and a revert that was not complete.
    Failed = 1,
    /// The command line is not understood.
    Usage = 2,
    /// No such app, branch, build, or rollback target.
    NotFound = 3,
    /// Refused or aborted: no node switched.
    Refused = 4,
    /// Timed out or no longer watched; the outcome is not known yet.
    Unknown = 5,
    /// Busy, or overtaken by another request: try again.
    Busy = 6,
    /// Consul or the store does not allow it.
    NotAllowed = 7,
    /// Consul, the store, or the agent cannot be reached.
    Unreachable = 8,
    /// Rolled back after the switch.
    Reverted = 9,
    /// The group is frozen, or the build is marked bad.
    Frozen = 10,
}

impl Code {
    /// The code for a request's outcome; [`Code::Unknown`] while it has none.
    #[must_use]
    pub(crate) fn of(history: &History) -> Self {
        match history.outcome {
            None => Self::Unknown,
            Some(Outcome::Done) => Self::Done,
            Some(Outcome::Aborted) => Self::Refused,
            Some(Outcome::Refused) => history.fault.as_ref().map_or(Self::Refused, Self::of_refusal),
            Some(Outcome::Reverted) => Self::Reverted,
            Some(Outcome::Failed) => Self::Failed,
            Some(Outcome::Superseded) => Self::Busy,
        }
    }

    /// The code for a request that is refused because of this fault.
    #[must_use]
    pub(crate) const fn of_refusal(fault: &Fault) -> Self {
        match fault.step {
            Step::BadMark | Step::Freeze => Self::Frozen,
            Step::NotFound => Self::NotFound,
            _ => Self::Refused,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// Why a command or an API call has no result. `main` prints it once; the API answers with it.
#[derive(Debug)]
pub struct Failure {
    pub(crate) code: Code,
    /// What failed, as a lower-case fragment without the cause.
    pub(crate) what: String,
    /// How to fix it. Printed on a line of its own.
    pub(crate) hint: Option<String>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// An error without a deeper cause.
    #[must_use]
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: None, cause: None }
    }

    /// The same failure with its cause.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same failure with a hint how to fix it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the reader of this program's output has ended, as in `cutover history | head -1`.
    #[must_use]
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// `what failed: cause: cause`, in one line.
    #[must_use]
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl From<std::io::Error> for Failure {
    /// For writes to our own stdout and stderr.
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::Failed, "cannot write the output").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_each_cause_once() {
        let error = Failure::new(Code::Failed, "cannot pack /srv")
            .caused_by(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "denied"));
        assert_eq!(error.chain(), "cannot pack /srv: denied");
        assert!(!error.is_broken_pipe());
    }

    #[test]
    fn a_broken_pipe_is_found_in_the_chain_of_causes() {
        let error = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(error.is_broken_pipe());
    }

    #[test]
    fn the_code_of_a_refusal_follows_from_its_step() {
        for (fault, code) in [
            (Fault::new(Step::Freeze, "frozen by ann"), Code::Frozen),
            (Fault::new(Step::NotFound, "no build of branch x"), Code::NotFound),
            (Fault::new(Step::BadMark, "by ann"), Code::Frozen),
            (Fault::new(Step::Request, "ambiguous"), Code::Refused),
            (Fault::new(Step::Session, "web-2 is absent"), Code::Refused),
        ] {
            assert_eq!(Code::of_refusal(&fault), code, "{fault:?}");
        }
    }
}
