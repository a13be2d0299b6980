//! From a request to its outcome: what `deploy` and `rollback` share.

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::args::Asking;
use super::context::Context;
use super::dry_run;
use super::follow::{Followed, Follower};
use super::output::{self, Format};
use super::view;
use crate::control::request::Patience;
use crate::control::{Code, Failure, read, request};
use crate::document::{DeployDocument, Fate};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::record::Author;
use crate::protocol::record::Request;

/// Writes `request` when it is its turn, and follows it to its end unless told not to; with `--dry-run`, only tells what
/// it would do.
///
/// # Errors
///
/// Exit code 3 for a unit that no coordinator has made keys for, 6 where another request runs, waits, or was
/// quicker, 2 for a request that no coordinator would read.
pub async fn ask(context: &Context, unit: &Unit, request: &Request, asking: &Asking) -> Result<Code, Failure> {
    if asking.dry_run {
        return dry_run::run(context, unit, request).await;
    }
    let deadline = Instant::now() + asking.timeout;
    let patience = asking.queue.then(|| patience(deadline)).transpose()?;
    let epoch = request::write(&context.access, unit, request, patience).await?;
    if asking.no_wait {
        let headline = format!("requested: epoch {epoch} on {unit}; `cutover status {unit}` tells what becomes of it");
        let code = Code::Done;
        let document = DeployDocument::without_record(unit.clone(), epoch, Fate::Requested, headline, code as u8);
        print(context, document).await?;
        return Ok(code);
    }
    let (document, code) = document(unit, epoch, Follower::new(context, unit, epoch, deadline).run().await?);
    print(context, document).await?;
    Ok(code)
}

/// Until `deadline` or Ctrl-C, which is heard from now on: it must not end the command in the middle of a write.
fn patience(deadline: Instant) -> Result<Patience, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(Code::Failed, "Ctrl-C cannot be heard").caused_by(error))?;
    Ok(Box::pin(async move {
        tokio::select! {
            () = sleep_until(deadline) => "it did not end in time",
            _ = interrupt.recv() => "the waiting was interrupted",
        }
    }))
}

/// Prints what became of a request.
pub(in crate::cli) async fn print(context: &Context, document: DeployDocument) -> Result<(), Failure> {
    let document = read::compared(&context.access, document).await;
    let text = match context.format {
        Format::Text => view::deploy(&document),
        Format::Json => output::json(&document)?,
    };
    Ok(output::result(&text)?)
}

/// The document of a request that was followed as far as it went.
pub(in crate::cli) fn document(unit: &Unit, epoch: Epoch, followed: Followed) -> (DeployDocument, Code) {
    let ways = format!("`cutover status {unit} --follow` watches on, `cutover abort {unit}` stops it");
    let (fate, code, headline) = match followed {
        Followed::Ended(record) => {
            let code = Code::of(&record);
            return (DeployDocument::of(*record, code as u8), code);
        }
        Followed::Overtaken { by_what } => {
            let headline = format!("overtaken: epoch {epoch} on {unit} by {by_what}; ask again if it is still wanted");
            (Fate::Overtaken, Code::Busy, headline)
        }
        Followed::TimedOut => {
            let headline = format!("not known yet: epoch {epoch} on {unit} has not ended in time; {ways}");
            (Fate::Unknown, Code::Unknown, headline)
        }
        Followed::Interrupted => {
            let headline = format!("no longer watched: epoch {epoch} on {unit} goes on; {ways}");
            (Fate::Unknown, Code::Unknown, headline)
        }
    };
    (DeployDocument::without_record(unit.clone(), epoch, fate, headline, code as u8), code)
}

/// The person at this terminal: a claim.
pub(in crate::cli) fn author(reason: &str) -> Author {
    Author {
        by: super::origin::user(|name| std::env::var(name).ok()),
        via: "cli".to_owned(),
        reason: reason.to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
    }
}

/// A request by the person at this terminal.
pub(in crate::cli) fn by_cli(wanted: crate::protocol::record::Wanted, asking: &Asking) -> Request {
    Request { wanted, author: author(&asking.reason), force: false, again: false }
}
