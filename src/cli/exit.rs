//! How `cutover` ends: the exit codes that scripts rely on, and the error that carries one.

use std::error::Error;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::protocol::record::{Fault, History, Outcome, Step};
use crate::telemetry::chain;

/// The exit codes. The numbers are a contract with users' scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed: anything that has no code of its own, and a revert that was not complete.
    Failed = 1,
    /// The command line is not understood.
    Usage = 2,
    /// No such app, branch, build, or rollback target.
    NotFound = 3,
    /// Refused or aborted: nobody switched.
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

/// The table of codes as `--help` shows it; interface.md is where it is decided.
pub const TABLE: &str = "\
Exit codes:
   0  done (also: nothing to do)
   1  failed: anything else, and a revert that was not complete
   2  usage
   3  not found: no such app, branch, build, or rollback target
   4  refused or aborted: nobody switched
   5  timed out, outcome not known yet (`cutover status` tells)
   6  busy, or overtaken by another request: try again
   7  not allowed
   8  Consul or the store cannot be reached
   9  rolled back after the switch
  10  frozen, or the build is marked bad";

/// What the codes mean for `cutover recover`.
pub const RECOVER: &str = "\
Exit codes:
   0  recovered, or nothing to recover
   3  no such app, or no node runs what --to names
   4  nothing was changed: not confirmed, or it cannot be told what is to run
   5  written, and not every live node follows yet
   6  a deploy runs, or the keys were written meanwhile; nothing was changed
All others are those of `cutover --help`.";

impl ExitCode {
    /// The code for a request's recorded end; [`ExitCode::Unknown`] while it has none.
    #[must_use]
    pub fn of(history: &History) -> Self {
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

    fn of_refusal(fault: &Fault) -> Self {
        match fault.step {
            Step::BadMark | Step::Freeze => Self::Frozen,
            Step::NotFound => Self::NotFound,
            _ => Self::Refused,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl Serialize for ExitCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// Why a command ended without a result: printed once, by `main`.
#[derive(Debug)]
pub struct CliError {
    /// The code to exit with.
    pub code: ExitCode,
    /// What failed, a lower-case fragment.
    pub what: String,
    /// How to mend it; its own line.
    pub hint: Option<String>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl CliError {
    /// An error without a deeper cause.
    #[must_use]
    pub fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: None, cause: None }
    }

    /// The same with what caused it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same with how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether it only says that nobody reads our output any more, as in `cutover history | head -1`.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
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
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl From<std::io::Error> for CliError {
    /// For writes to our own stdout and stderr.
    fn from(error: std::io::Error) -> Self {
        Self::new(ExitCode::Failed, "cannot write the output").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_each_cause_once() {
        let error = CliError::new(ExitCode::Failed, "cannot pack /srv")
            .caused_by(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "denied"));
        assert_eq!(error.chain(), "cannot pack /srv: denied");
        assert!(!error.is_broken_pipe());
    }

    #[test]
    fn a_broken_pipe_is_found_below_the_surface() {
        let error = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(error.is_broken_pipe());
    }

    #[test]
    fn a_refusal_says_by_its_step_what_kind_it_is() {
        for (fault, code) in [
            (Fault::new(Step::Freeze, "frozen by ann"), ExitCode::Frozen),
            (Fault::new(Step::NotFound, "no build of branch x"), ExitCode::NotFound),
            (Fault::new(Step::BadMark, "by ann"), ExitCode::Frozen),
            (Fault::new(Step::Request, "ambiguous"), ExitCode::Refused),
            (Fault::new(Step::Session, "web-2 is absent"), ExitCode::Refused),
        ] {
            assert_eq!(ExitCode::of_refusal(&fault), code, "{fault:?}");
        }
    }
}
