//! `cutover deploy`.

use crate::cli::args::Deploy;
use crate::cli::context::Context;
use crate::cli::output;
use crate::cli::request::{ask, by_cli};
use crate::control::{Code, Failure, group};
use crate::protocol::ids::Unit;
use crate::protocol::record::{Request, Selector, Wanted};

/// Requests a deploy and, unless `--no-wait` is given, returns its outcome.
///
/// # Errors
///
/// As [`ask`]; with `--from`, exit code 4 if that group's last deploy did not succeed.
pub(crate) async fn run(context: &Context, args: &Deploy) -> Result<Code, Failure> {
    let selector = match (&args.reference, &args.from) {
        (Some(reference), _) => reference.clone(),
        (None, Some(from)) => same_as(context, args, from).await?,
        (None, None) => return Err(Failure::new(Code::Usage, "nothing to deploy was given: add REF or --from")),
    };
    let wanted = Wanted::Deploy(selector);
    let request = Request { force: args.force, again: args.again, ..by_cli(wanted, &args.options) };
    ask(context, &args.unit, &request, &args.options).await
}

/// The exact name of the build that `from` runs.
async fn same_as(context: &Context, args: &Deploy, from: &Unit) -> Result<Selector, Failure> {
    if from.app != args.unit.app {
        let what = format!("{from} and {} are groups of different apps", args.unit);
        return Err(Failure::new(Code::Usage, what).hint("--from takes another group of the same app"));
    }
    if *from == args.unit {
        let what = format!("--from {from} is the group to deploy to");
        return Err(Failure::new(Code::Usage, what).hint("to make a new release of the running build, use --again"));
    }
    let runs = group::runs(&context.access, from).await?;
    output::say(&format!("{}  {}, which {from} runs since deploy #{}", args.unit, runs.artifact, runs.epoch));
    Ok(Selector::Artifact(runs.artifact))
}
