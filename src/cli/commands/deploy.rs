//! `cutover deploy`.

use crate::cli::args::Deploy;
use crate::cli::context::Context;
use crate::cli::output;
use crate::cli::request::{ask, by_cli};
use crate::control::{Code, Failure, group};
use crate::protocol::ids::Unit;
use crate::protocol::record::{Request, Selector, Wanted};

/// Asks for a deploy and, unless told not to, returns its fate.
///
/// # Errors
///
/// As [`ask`]; with `--from`, exit code 4 where that group's last deploy was not done.
pub async fn run(context: &Context, args: &Deploy) -> Result<Code, Failure> {
    let selector = match (&args.reference, &args.from) {
        (Some(reference), _) => reference.clone(),
        (None, Some(from)) => same_as(context, args, from).await?,
        (None, None) => return Err(Failure::new(Code::Usage, "it is not said what to deploy: give REF or --from")),
    };
    let wanted = Wanted::Deploy(selector);
    let request = Request { force: args.force, again: args.again, ..by_cli(wanted, &args.asking) };
    ask(context, &args.unit, &request, &args.asking).await
}

/// The build that `from` runs, by its exact name.
async fn same_as(context: &Context, args: &Deploy, from: &Unit) -> Result<Selector, Failure> {
    if from.app != args.unit.app {
        let what = format!("{from} is a group of another app than {}", args.unit);
        return Err(Failure::new(Code::Usage, what).hint("--from names a group of the same app"));
    }
    if *from == args.unit {
        let what = format!("--from {from} is the group itself");
        return Err(Failure::new(Code::Usage, what).hint("--again makes a new release of what runs already"));
    }
    let runs = group::runs(&context.access, from).await?;
    output::say(&format!("{}  {} as {from} runs it, epoch {}", args.unit, runs.artifact, runs.epoch));
    Ok(Selector::Artifact(runs.artifact))
}
