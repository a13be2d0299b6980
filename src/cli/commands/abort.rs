//! `cutover abort`.

use tokio::time::Instant;

use crate::cli::args::Abort;
use crate::cli::context::Context;
use crate::cli::follow::{Followed, Follower};
use crate::cli::request::{author, document, print};
use crate::control::{Code, Failure, operate};
use crate::document::DeployDocument;
use crate::protocol::record::Outcome;

/// Aborts the running deploy, and waits for the outcome.
///
/// Returns 0 if the deploy was aborted or reverted, and 1 if the abort came too late or a node could not revert.
///
/// # Errors
///
/// Exit code 3 if no deploy is running, 6 if another request was written to the key at the same moment.
pub(crate) async fn run(context: &Context, args: &Abort) -> Result<Code, Failure> {
    let unit = &args.unit;
    let epoch = operate::abort(&context.access, unit, &author(&args.reason)).await?;
    let followed = Follower::new(context, unit, epoch, Instant::now() + args.timeout).run().await?;
    let stopped = match &followed {
        Followed::Ended(record) => match record.outcome {
            Some(Outcome::Aborted | Outcome::Reverted) => Code::Done,
            _ => Code::Failed,
        },
        Followed::Overtaken { .. } => Code::Busy,
        Followed::Interrupted | Followed::TimedOut => Code::Unknown,
    };
    let (document, _) = document(unit, epoch, followed);
    print(context, DeployDocument { code: stopped as u8, ..document }).await?;
    Ok(stopped)
}
