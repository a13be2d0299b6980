//! `cutover rollback`.

use crate::cli::args::Rollback;
use crate::cli::context::Context;
use crate::cli::request::{ask, by_cli};
use crate::control::{Code, Failure};
use crate::protocol::record::Wanted;

/// Asks for the way back and, unless told not to, returns its fate.
///
/// # Errors
///
/// As [`ask`].
pub async fn run(context: &Context, args: &Rollback) -> Result<Code, Failure> {
    let request = by_cli(Wanted::Rollback(args.to.clone()), &args.asking);
    ask(context, &args.unit, &request, &args.asking).await
}
