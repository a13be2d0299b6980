//! The exit codes as `--help` lists them. [`Code`] defines their meaning.

use crate::control::Code;

/// The table of codes in `--help`. Users' scripts rely on it.
pub(crate) const TABLE: &str = "\
Exit codes:
   0  done (also: nothing to do)
   1  failed: any other error, or a revert that did not complete
   2  usage error
   3  not found: no such app, branch, build, or release to roll back to
   4  refused or aborted: no node switched
   5  timed out: the outcome is not known yet (see `cutover status`)
   6  busy, or replaced by another request: try again
   7  not allowed
   8  Consul or the store cannot be reached
   9  rolled back after the switch
  10  frozen, or the build is marked bad";

pub(crate) const RECOVER: &str = "\
Exit codes:
   0  recovered, or nothing to recover
   3  no such app, or no node runs what --to names
   4  nothing was changed: not confirmed, or unclear which release to run
   5  written, but not every live node follows yet
   6  nothing was changed: a deploy is running, or the keys changed meanwhile
All other codes are as in `cutover --help`.";

pub(crate) const NOTIFY_TEST: &str = "\
Exit codes:
   0  the receiver accepted the event
   1  the receiver rejected the event, or a file named in the config cannot be used
   2  the config has no such receiver, or cannot be read
   8  the receiver did not answer, or cannot be reached
All other codes are as in `cutover --help`.";

pub(crate) const DOCTOR: &str = "\
Exit codes:
   0  no problems found
   1  problems found, each printed with its fix; a node that does not answer is a problem
   6  another command is querying the nodes: try again
All other codes are as in `cutover --help`.";

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
