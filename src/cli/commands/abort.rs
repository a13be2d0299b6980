//! `cutover abort`.

use tokio::time::Instant;

use crate::cli::args::Abort;
use crate::cli::context::Context;
use crate::cli::exit::{CliError, ExitCode};
use crate::cli::follow::{Followed, Follower};
use crate::cli::kv::Replaced;
use crate::cli::request::{absent, barrier, document, print};
use crate::document::{DeployDocument, Waiting};
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::Outcome;

/// Asks for the end of the deploy that runs, and waits for it.
///
/// Ends with 0 when the deploy was stopped or taken back, with 1 when it was too late or not every node could follow.
///
/// # Errors
///
/// Exit code 3 where nothing runs, 6 where somebody else wrote the key at the same moment.
pub async fn run(context: &Context, args: &Abort) -> Result<ExitCode, CliError> {
    let unit = &args.unit;
    let keys = context.keys.unit(unit);
    let Some(deploy) = context.kv.entry(&keys.deploy()).await? else { return Err(absent(context, unit, &keys).await) };
    let standing = barrier(context.kv.entry(&keys.barrier()).await?.as_ref(), unit, &keys.barrier())?;
    let Some(running) = standing.filter(|b| !b.phase.is_settled()) else {
        let error = CliError::new(ExitCode::NotFound, format!("nothing to abort: no deploy of {unit} runs"));
        return Err(match Waiting::read(&deploy) {
            Some(Waiting { wants, by, .. }) => error
                .hint(format!("a request for {wants} by {by} waits; `consul kv put {}` withdraws it", keys.deploy())),
            None => error,
        });
    };
    let epoch = running.epoch;
    let asked = context.kv.entry(&keys.abort()).await?;
    let already = asked.as_ref().is_some_and(|entry| entry.value.trim_ascii() == epoch.to_string().as_bytes());
    let index = asked.map_or(ModifyIndex(0), |entry| entry.modify_index);
    if !already && matches!(context.kv.replace(&keys.abort(), &epoch.to_string(), index).await?, Replaced::Lost) {
        let what = format!("another abort of {unit} was written at the same moment");
        return Err(
            CliError::new(ExitCode::Busy, what).hint(format!("`cutover status {unit}` tells whether it was yours"))
        );
    }
    let followed = Follower::new(context, unit, epoch, Instant::now() + args.timeout).run().await?;
    let stopped = match &followed {
        Followed::Ended(record) => match record.outcome {
            Some(Outcome::Aborted | Outcome::Reverted) => ExitCode::Done,
            _ => ExitCode::Failed,
        },
        Followed::Overtaken { .. } => ExitCode::Busy,
        Followed::Interrupted | Followed::TimedOut => ExitCode::Unknown,
    };
    let (document, _) = document(unit, epoch, followed);
    print(context, &DeployDocument { code: stopped as u8, ..document })?;
    Ok(stopped)
}
