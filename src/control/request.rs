//! Writes a request for a deploy or rollback, and optionally waits for its turn.
//!
//! A request is written only if the key `deploy` is empty and unchanged since it was read, so it never replaces a waiting
//! one. The index of the write becomes the request's epoch.

use std::pin::Pin;

use super::access::Access;
use super::attester::{PlannedWrite, Scope};
use super::code::{Code, Failure};
use super::feeds::Feeds;
use super::kv::Replaced;
use crate::document::{Entry, Waiting};
use crate::protocol::ids::{Epoch, ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Phase, RecordError, Request, Status, Wanted, decode};

/// Ends when a request should no longer wait for its turn, and returns the reason.
pub(crate) type Patience = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// Whether a request can be written now.
enum Turn {
    /// Yes, if the key still has this index. `reverted` is the epoch of the last deploy if it was reverted.
    Free { index: ModifyIndex, era: u32, reverted: Option<Epoch> },
    /// No: another deploy is running, or another request is waiting.
    Taken { by_what: String, running: Option<Epoch> },
}

/// Writes the request; returns its epoch. With `patience`, waits for its turn until `patience` ends. A write that has begun
/// is always completed.
///
/// # Errors
///
/// [`Code::Usage`] for an invalid request, [`Code::NotFound`] for a unit without keys, [`Code::Busy`] if another request is
/// running, waiting, or was faster.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or may still happen.
pub(crate) async fn write(
    access: &Access,
    unit: &Unit,
    request: &Request,
    patience: Option<Patience>,
) -> Result<Epoch, Failure> {
    let value = request.encode();
    if let Err(invalid) = Request::parse(value.as_bytes()) {
        return Err(Failure::new(Code::Usage, invalid.to_string()));
    }
    let keys = &access.keys.unit(unit);
    let planned = PlannedWrite { scope: Scope::Unit(unit), key: &keys.deploy(), id: &request.author.id, value: &value };
    let mut told = String::new();
    let mut waited_for = None;
    // The feeds only signal changes. They are opened before the first read, so that no change is missed.
    let mut queue = patience.map(|patience| (patience, Feeds::open(access, [keys.deploy(), keys.barrier()])));
    loop {
        match turn(access, unit, keys).await? {
            // The deploy that this rollback was meant to undo has been reverted meanwhile, so the release before it runs
            // again. Written now, the rollback would undo that release too.
            Turn::Free { reverted: Some(epoch), .. }
                if waited_for == Some(epoch) && is_rollback_to_previous(request) =>
            {
                return Err(reverted_meanwhile(unit, epoch));
            }
            Turn::Free { index, era, .. } => match access.replace(planned, index).await? {
                Replaced::At(index) => return Ok(Epoch { era, number: index.0 }),
                // Another request was written first, so this one waits for the next turn.
                Replaced::Lost if queue.is_some() => {}
                Replaced::Lost => return Err(busy(unit, "another request was written at the same moment")),
            },
            Turn::Taken { by_what, running } => {
                waited_for = running.or(waited_for);
                let Some((patience, changes)) = &mut queue else { return Err(busy(unit, &by_what)) };
                if told != by_what {
                    (access.print_line)(&format!("{unit}  waiting for {by_what}"));
                    told.clone_from(&by_what);
                }
                tokio::select! {
                    change = changes.next() => drop(change?),
                    why = patience => return Err(busy(unit, &format!("{by_what}; {why}, so nothing was requested"))),
                }
            }
        }
    }
}

/// Whether a request is a rollback to the previous release, which depends on when it is written.
fn is_rollback_to_previous(request: &Request) -> bool {
    matches!(request.wanted, Wanted::Rollback(None))
}

fn reverted_meanwhile(unit: &Unit, epoch: Epoch) -> Failure {
    let what =
        format!("deploy #{epoch} on {unit} was reverted while the rollback waited; nothing more was rolled back");
    Failure::new(Code::Busy, what).hint(format!("to go back one more release: `cutover rollback {unit}`"))
}

fn busy(unit: &Unit, by_what: &str) -> Failure {
    Failure::new(Code::Busy, format!("{unit} is busy: {by_what}"))
        .hint(format!("--queue waits for your turn; `cutover status {unit}` shows what is running"))
}

async fn turn(access: &Access, unit: &Unit, keys: &UnitKeys) -> Result<Turn, Failure> {
    let Some(deploy) = access.kv.entry(&keys.deploy()).await? else { return Err(absent(access, unit, keys).await) };
    let barrier = barrier(access.kv.entry(&keys.barrier()).await?.as_ref(), unit, &keys.barrier())?;
    if barrier.is_none() && !access.kv.names(&keys.nodes()).await?.is_empty() {
        return Err(lost(unit));
    }
    if let Some(running) = barrier.as_ref().filter(|b| !b.phase.is_settled()) {
        // `status` only provides the author's name for the message, so it may be unreadable.
        let status = access.kv.entry(&keys.status()).await?;
        let status = status.and_then(|entry| decode::<Status>(&keys.status(), &entry.value).ok());
        let by = status.and_then(|s| s.running).map_or_else(|| "somebody".to_owned(), |running| running.by);
        let artifact = running.target().map(|r| r.artifact.to_string()).unwrap_or_default();
        let by_what = format!("deploy #{} of {artifact} by {by} is in phase {}", running.epoch, running.phase.as_str());
        return Ok(Turn::Taken { by_what, running: Some(running.epoch) });
    }
    if let Some(Waiting { wants, by, epoch }) = Waiting::read(&deploy) {
        let by_what = format!("request #{epoch} for {wants} by {by} is waiting");
        return Ok(Turn::Taken { by_what, running: None });
    }
    let reverted = barrier.as_ref().filter(|b| b.phase == Phase::Reverted).map(|b| b.epoch);
    Ok(Turn::Free { index: deploy.modify_index, era: barrier.map_or(0, |b| b.epoch.era), reverted })
}

/// The failure for a unit without the key `deploy`: the unit is unknown, or its keys were lost.
pub(crate) async fn absent(access: &Access, unit: &Unit, keys: &UnitKeys) -> Failure {
    match access.kv.names(&keys.nodes()).await {
        Ok(nodes) if nodes.is_empty() => access.unknown(unit).await,
        Ok(_) => lost(unit),
        Err(error) => error,
    }
}

fn lost(unit: &Unit) -> Failure {
    Failure::new(Code::Failed, format!("keys of {unit} are missing: they were lost, or never created"))
        .hint(format!("`cutover recover {unit}` shows which, and rebuilds them from what the nodes run"))
}

/// Decodes the barrier; none if the key is missing or empty.
///
/// # Errors
///
/// [`Code::Failed`] for a record that cannot be decoded. Agents ignore such records too.
pub(crate) fn barrier(entry: Option<&Entry>, unit: &Unit, key: &str) -> Result<Option<Barrier>, Failure> {
    let Some(entry) = entry.filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
    Barrier::decode(key, &entry.value).map(Some).map_err(|error| {
        let hint = match &error {
            RecordError::Newer { .. } => "upgrade this program".to_owned(),
            RecordError::Malformed { .. } => {
                format!(
                    "agents ignore such a record; `cutover recover {unit}` rebuilds the keys from what the nodes run"
                )
            }
        };
        Failure::new(Code::Failed, format!("the state of {unit} cannot be read")).caused_by(error).hint(hint)
    })
}
