//! `cutover demo`. The demo is another program, because it brings an S3 server and a Consul cluster that no node needs.

use crate::cli::args::Demo;
use crate::control::{Code, Failure};

/// Says how to get the demo.
///
/// # Errors
///
/// Always exit code 2.
pub(crate) fn run(args: &Demo) -> Result<Code, Failure> {
    let arguments = match args.arguments.join(" ") {
        none if none.is_empty() => none,
        some => format!(" ARGS='{some}'"),
    };
    let answer = format!("the demo is not part of this program: run `make demo{arguments}` in Cutover's source tree");
    Err(Failure::new(Code::Usage, answer))
}
