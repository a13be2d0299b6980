//! `cutover abort`.

use tokio::time::Instant;

use crate::cli::args::Abort;
use crate::cli::context::Context;
use crate::cli::follow::{Followed, Follower};
use crate::cli::request::{author, document, print};
use crate::control::{Code, Failure, operate};
use crate::document::DeployDocument;
use crate::protocol::record::Outcome;

/// Asks for the end of the deploy that runs, and waits for it.
///
/// Ends with 0 when the deploy was stopped or taken back, with 1 when it was too late or not every node could follow.
///
/// # Errors
///
/// Exit code 3 where nothing runs, 6 where somebody else wrote the key at the same moment.
pub async fn run(context: &Context, args: &Abort) -> Result<Code, Failure> {
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
