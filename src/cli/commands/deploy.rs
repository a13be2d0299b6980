//! `cutover deploy`.

use crate::cli::args::Deploy;
use crate::cli::context::Context;
use crate::cli::request::{ask, by_cli};
use crate::control::{Code, Failure};
use crate::protocol::record::{Request, Wanted};

/// Asks for a deploy and, unless told not to, returns its fate.
///
/// # Errors
///
/// As [`ask`].
pub async fn run(context: &Context, args: &Deploy) -> Result<Code, Failure> {
    let wanted = Wanted::Deploy(args.reference.clone());
    let request = Request { force: args.force, again: args.again, ..by_cli(wanted, &args.asking) };
    ask(context, &args.unit, &request, &args.asking).await
}
