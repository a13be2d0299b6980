//! `cutover rollback`.

use crate::cli::args::Rollback;
use crate::cli::context::Context;
use crate::cli::request::{ask, by_cli};
use crate::control::{Code, Failure};
use crate::protocol::record::Wanted;

/// Requests a rollback and, unless `--no-wait` is given, returns its outcome.
///
/// # Errors
///
/// As [`ask`].
pub(crate) async fn run(context: &Context, args: &Rollback) -> Result<Code, Failure> {
    let request = by_cli(Wanted::Rollback(args.to.clone()), &args.options);
    ask(context, &args.unit, &request, &args.options).await
}
