//! Writes a request and reports its outcome: shared by `deploy` and `rollback`.

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::args::RequestOptions;
use super::context::Context;
use super::dry_run;
use super::follow::{Followed, Follower};
use super::output::{self, Format};
use super::view;
use crate::control::request::Patience;
use crate::control::{Code, Failure, read, request};
use crate::document::{DeployDocument, DeployState};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::record::Author;
use crate::protocol::record::Request;

/// Writes `request`, with `--queue` once the group is idle, and follows it to its outcome unless `--no-wait` is given.
/// With `--dry-run` it only prints what the request would do.
///
/// # Errors
///
/// Exit code 2 for a request that no coordinator would accept, 3 for a group without keys, 6 if another request runs,
/// waits, or was written first.
pub(crate) async fn ask(
    context: &Context,
    unit: &Unit,
    request: &Request,
    options: &RequestOptions,
) -> Result<Code, Failure> {
    if options.dry_run {
        return dry_run::run(context, unit, request).await;
    }
    let deadline = Instant::now() + options.timeout;
    let patience = options.queue.then(|| patience(deadline)).transpose()?;
    let epoch = request::write(&context.access, unit, request, patience).await?;
    if options.no_wait {
        let headline = format!("requested: deploy #{epoch} on {unit}; see `cutover status {unit}` for its progress");
        let code = Code::Done;
        let document =
            DeployDocument::without_record(unit.clone(), epoch, DeployState::Requested, headline, code as u8);
        print(context, document).await?;
        return Ok(code);
    }
    let (document, code) = document(unit, epoch, Follower::new(context, unit, epoch, deadline).run().await?);
    print(context, document).await?;
    Ok(code)
}

/// Waits until `deadline` or Ctrl-C. The handler is installed at once, so that Ctrl-C cannot end the command in the middle
/// of a write.
fn patience(deadline: Instant) -> Result<Patience, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(Code::Failed, "cannot install a handler for Ctrl-C").caused_by(error))?;
    Ok(Box::pin(async move {
        tokio::select! {
            () = sleep_until(deadline) => "it did not end in time",
            _ = interrupt.recv() => "the waiting was interrupted",
        }
    }))
}

/// Prints the outcome of a request.
pub(in crate::cli) async fn print(context: &Context, document: DeployDocument) -> Result<(), Failure> {
    let document = read::compared(&context.access, document).await;
    let text = match context.format {
        Format::Text => view::deploy(&document),
        Format::Json => output::json(&document)?,
    };
    Ok(output::result(&text)?)
}

/// The document of a followed request.
pub(in crate::cli) fn document(unit: &Unit, epoch: Epoch, followed: Followed) -> (DeployDocument, Code) {
    let next = format!("watch it with `cutover status {unit} --follow`, stop it with `cutover abort {unit}`");
    let (fate, code, headline) = match followed {
        Followed::Ended(record) => {
            let code = Code::of(&record);
            return (DeployDocument::of(*record, code as u8), code);
        }
        Followed::Overtaken { by_what } => {
            let headline =
                format!("overtaken: deploy #{epoch} on {unit} was replaced by {by_what}; retry if it is still needed");
            (DeployState::Overtaken, Code::Busy, headline)
        }
        Followed::TimedOut => {
            let headline = format!("timed out: deploy #{epoch} on {unit} is still running; {next}");
            (DeployState::Unknown, Code::Unknown, headline)
        }
        Followed::Interrupted => {
            let headline = format!("stopped watching: deploy #{epoch} on {unit} continues; {next}");
            (DeployState::Unknown, Code::Unknown, headline)
        }
    };
    (DeployDocument::without_record(unit.clone(), epoch, fate, headline, code as u8), code)
}

/// The user at this terminal. The name is only claimed, not verified.
pub(in crate::cli) fn author(reason: &str) -> Author {
    Author {
        by: super::origin::user(|name| std::env::var(name).ok()),
        via: "cli".to_owned(),
        reason: reason.to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
    }
}

/// A request by the user at this terminal.
pub(in crate::cli) fn by_cli(wanted: crate::protocol::record::Wanted, options: &RequestOptions) -> Request {
    Request { wanted, author: author(&options.reason), force: false, again: false }
}
