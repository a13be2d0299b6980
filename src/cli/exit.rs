//! How `cutover` ends: the exit codes as `--help` tells them. What they mean is [`Code`]'s.

use crate::control::Code;

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

/// What the codes mean for `cutover notify test`.
pub const NOTIFY_TEST: &str = "\
Exit codes:
   0  the receiver has taken the event
   1  it answered, and did not take it; or a file that the config names cannot be used
   2  the config has no such receiver, or cannot be read
   8  it did not answer, or cannot be reached
All others are those of `cutover --help`.";

/// What the codes mean for `cutover doctor`.
pub const DOCTOR: &str = "\
Exit codes:
   0  nothing is wrong
   1  something is wrong: what, where, and how to mend it is printed; a node that does not answer is wrong
   6  others ask the nodes: try again
All others are those of `cutover --help`.";

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
