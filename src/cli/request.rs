//! From a request to its outcome: what `deploy` and `rollback` share.
//!
//! A request is written only over an empty key that nobody has touched since it was read, so it never replaces one
//! that waits. The index of that write is the epoch by which everything afterwards is found.

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::args::Asking;
use super::context::Context;
use super::exit::{CliError, ExitCode};
use super::feeds::Feeds;
use super::follow::{Followed, Follower};
use super::kv::Replaced;
use super::output::{self, Format, clean};
use super::view;
use crate::document::{DeployDocument, Entry, Fate, Waiting};
use crate::protocol::ids::{Epoch, ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Request, Status, decode};

/// Whether a request can be written now.
enum Turn {
    /// Yes, over the key as it stands at this index.
    Free { index: ModifyIndex, era: u32 },
    /// No: this runs or waits.
    Taken { by_what: String },
}

/// Writes `request` when it is its turn, and follows it to its end unless told not to.
///
/// # Errors
///
/// Exit code 3 for a unit that no coordinator has made keys for, 6 where another request runs, waits, or was
/// quicker, 2 for a request that no coordinator would read.
pub async fn ask(context: &Context, unit: &Unit, request: &Request, asking: &Asking) -> Result<ExitCode, CliError> {
    let value = request.encode();
    if let Err(problem) = Request::parse(value.as_bytes()) {
        return Err(CliError::new(ExitCode::Usage, problem));
    }
    let keys = context.keys.unit(unit);
    let deadline = Instant::now() + asking.timeout;
    let epoch = write(context, unit, &keys, &value, asking.queue.then_some(deadline)).await?;
    if asking.no_wait {
        let headline = format!("requested: epoch {epoch} on {unit}; `cutover status {unit}` tells what becomes of it");
        let code = ExitCode::Done;
        print(context, &without_record(unit, epoch, Fate::Requested, code, headline))?;
        return Ok(code);
    }
    let (document, code) = document(unit, epoch, Follower::new(context, unit, epoch, deadline).run().await?);
    print(context, &document)?;
    Ok(code)
}

/// Prints what became of a request.
pub(in crate::cli) fn print(context: &Context, document: &DeployDocument) -> Result<(), CliError> {
    let text = match context.format {
        Format::Text => view::deploy(document),
        Format::Json => output::json(document)?,
    };
    Ok(output::result(&text)?)
}

/// The document of a request that was followed as far as it went.
pub(in crate::cli) fn document(unit: &Unit, epoch: Epoch, followed: Followed) -> (DeployDocument, ExitCode) {
    let ways = format!("`cutover status {unit} --follow` watches on, `cutover abort {unit}` stops it");
    let (fate, code, headline) = match followed {
        Followed::Ended(record) => {
            let code = ExitCode::of(&record);
            return (DeployDocument::of(*record, code as u8), code);
        }
        Followed::Overtaken { by_what } => {
            let headline = format!("overtaken: epoch {epoch} on {unit} by {by_what}; ask again if it is still wanted");
            (Fate::Overtaken, ExitCode::Busy, headline)
        }
        Followed::TimedOut => {
            let headline = format!("not known yet: epoch {epoch} on {unit} has not ended in time; {ways}");
            (Fate::Unknown, ExitCode::Unknown, headline)
        }
        Followed::Interrupted => {
            let headline = format!("no longer watched: epoch {epoch} on {unit} goes on; {ways}");
            (Fate::Unknown, ExitCode::Unknown, headline)
        }
    };
    (without_record(unit, epoch, fate, code, headline), code)
}

fn without_record(unit: &Unit, epoch: Epoch, fate: Fate, code: ExitCode, headline: String) -> DeployDocument {
    DeployDocument { unit: unit.clone(), epoch, fate, headline, code: code as u8, record: None }
}

/// Writes the request; with `queue_until` as often as it takes until then. Only the waiting is cut off by that moment:
/// a write that has begun is always seen to its end.
async fn write(
    context: &Context,
    unit: &Unit,
    keys: &UnitKeys,
    value: &str,
    queue_until: Option<Instant>,
) -> Result<Epoch, CliError> {
    let mut told = String::new();
    // Doorbells only, opened before the first read so that no change falls between the two.
    let mut queue = queue_until.map(|until| (until, Feeds::open(&context.kv, [keys.deploy(), keys.barrier()])));
    loop {
        match turn(context, unit, keys).await? {
            Turn::Free { index, era } => match context.kv.replace(&keys.deploy(), value, index).await? {
                Replaced::At(index) => return Ok(Epoch { era, number: index.0 }),
                Replaced::Lost if queue.is_some() => {}
                Replaced::Lost => return Err(busy(unit, "another request was written at the same moment")),
            },
            Turn::Taken { by_what } => {
                let Some((until, changes)) = &mut queue else { return Err(busy(unit, &by_what)) };
                if told != by_what {
                    output::say(&format!("{unit}  waiting for {}", clean(&by_what)));
                    told.clone_from(&by_what);
                }
                match timeout_at(*until, changes.next()).await {
                    Ok(change) => drop(change?),
                    Err(_) => return Err(busy(unit, &format!("{by_what}; it did not end in time"))),
                }
            }
        }
    }
}

fn busy(unit: &Unit, by_what: &str) -> CliError {
    CliError::new(ExitCode::Busy, format!("{unit} is busy: {by_what}"))
        .hint(format!("--queue waits for its turn; `cutover status {unit}` shows what runs"))
}

async fn turn(context: &Context, unit: &Unit, keys: &UnitKeys) -> Result<Turn, CliError> {
    let Some(deploy) = context.kv.entry(&keys.deploy()).await? else { return Err(absent(context, unit, keys).await) };
    let barrier = barrier(context.kv.entry(&keys.barrier()).await?.as_ref(), unit, &keys.barrier())?;
    if barrier.is_none() && !context.kv.names(&keys.nodes()).await?.is_empty() {
        return Err(lost(unit));
    }
    if let Some(running) = barrier.as_ref().filter(|b| !b.phase.is_settled()) {
        // For people only, so an unreadable status costs no more than a name.
        let status = context.kv.entry(&keys.status()).await?;
        let status = status.and_then(|entry| decode::<Status>(&keys.status(), &entry.value).ok());
        let by = status.and_then(|s| s.running).map_or_else(|| "somebody".to_owned(), |running| running.by);
        let artifact = running.target().map(|r| r.artifact.to_string()).unwrap_or_default();
        let by_what = format!("{artifact} by {by} is in phase {}, epoch {}", running.phase.as_str(), running.epoch);
        return Ok(Turn::Taken { by_what });
    }
    if let Some(Waiting { wants, by, epoch }) = Waiting::read(&deploy) {
        return Ok(Turn::Taken { by_what: format!("a request for {wants} by {by} waits, epoch {epoch}") });
    }
    Ok(Turn::Free { index: deploy.modify_index, era: barrier.map_or(0, |b| b.epoch.era) })
}

/// The error for a unit without a request key: nobody has ever made one, or it was lost.
pub(in crate::cli) async fn absent(context: &Context, unit: &Unit, keys: &UnitKeys) -> CliError {
    match context.kv.names(&keys.nodes()).await {
        Ok(nodes) if nodes.is_empty() => context.unknown(unit).await,
        Ok(_) => lost(unit),
        Err(error) => error,
    }
}

fn lost(unit: &Unit) -> CliError {
    CliError::new(ExitCode::Failed, format!("the keys of {unit} are not all there: they were lost, or never made"))
        .hint(format!("`cutover recover {unit}` tells which, and begins again from what the nodes run"))
}

/// Reads the barrier; empty, as a coordinator creates it, is none.
pub(in crate::cli) fn barrier(entry: Option<&Entry>, unit: &Unit, key: &str) -> Result<Option<Barrier>, CliError> {
    let Some(entry) = entry.filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
    Barrier::decode(key, &entry.value).map(Some).map_err(|error| {
        CliError::new(ExitCode::Failed, "nothing can be asked here").caused_by(error).hint(format!(
            "no agent acts on such a record; `cutover recover {unit}` begins again from what the nodes run"
        ))
    })
}

/// A request by the person at this terminal.
pub(in crate::cli) fn by_cli(wanted: crate::protocol::record::Wanted, asking: &Asking) -> Request {
    Request {
        wanted,
        by: super::origin::user(|name| std::env::var(name).ok()),
        via: "cli".to_owned(),
        reason: asking.reason.clone(),
        id: uuid::Uuid::now_v7().to_string(),
        force: false,
        again: false,
    }
}

/// Now, for a freeze that ends by itself.
pub(in crate::cli) fn now() -> Timestamp {
    Timestamp::now()
}
