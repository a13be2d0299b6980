//! A deploy request: written when it is its turn, and never over one that waits.
//!
//! A request is written only over an empty key that nobody has touched since it was read. The index of that write is
//! the epoch by which everything afterwards is found.

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

/// How long one waits for a turn; it ends with why.
pub(crate) type Patience = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// Whether a request can be written now.
enum Turn {
    /// Yes, over the key as it stands at this index.
    Free { index: ModifyIndex, era: u32, reverted: Option<Epoch> },
    /// No: this runs or waits.
    Taken { by_what: String, running: Option<Epoch> },
}

/// Writes the request; with `patience` as often as it takes, until that ends and says why. Only the waiting is cut off by
/// it: a write that has begun is always seen to its end.
///
/// # Errors
///
/// [`Code::Usage`] for a request that no coordinator would read, [`Code::NotFound`] for a unit that no coordinator has
/// made keys for, [`Code::Busy`] where another request runs, waits, or was quicker.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
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
    // Doorbells only, opened before the first read so that no change falls between the two.
    let mut queue = patience.map(|patience| (patience, Feeds::open(access, [keys.deploy(), keys.barrier()])));
    loop {
        match turn(access, unit, keys).await? {
            // The fleet has just gone back. The same rollback, written now, would take it one release further than meant.
            Turn::Free { reverted: Some(epoch), .. } if waited_for == Some(epoch) && asks_for_the_former(request) => {
                return Err(reverted_meanwhile(unit, epoch));
            }
            Turn::Free { index, era, .. } => match access.replace(planned, index).await? {
                Replaced::At(index) => return Ok(Epoch { era, number: index.0 }),
                Replaced::Lost if queue.is_some() => {}
                Replaced::Lost => return Err(busy(unit, "another request was written at the same moment")),
            },
            Turn::Taken { by_what, running } => {
                waited_for = running.or(waited_for);
                let Some((patience, changes)) = &mut queue else { return Err(busy(unit, &by_what)) };
                if told != by_what {
                    (access.tell)(&format!("{unit}  waiting for {by_what}"));
                    told.clone_from(&by_what);
                }
                tokio::select! {
                    change = changes.next() => drop(change?),
                    why = patience => return Err(busy(unit, &format!("{by_what}; {why}, and nothing was asked"))),
                }
            }
        }
    }
}

/// Whether a request is a rollback that names no release.
fn asks_for_the_former(request: &Request) -> bool {
    matches!(request.wanted, Wanted::Rollback(None))
}

fn reverted_meanwhile(unit: &Unit, epoch: Epoch) -> Failure {
    let what =
        format!("deploy #{epoch} on {unit} was reverted while the rollback waited; nothing more was rolled back");
    Failure::new(Code::Busy, what).hint(format!("to go back one more release: `cutover rollback {unit}`"))
}

fn busy(unit: &Unit, by_what: &str) -> Failure {
    Failure::new(Code::Busy, format!("{unit} is busy: {by_what}"))
        .hint(format!("--queue waits for its turn; `cutover status {unit}` shows what runs"))
}

async fn turn(access: &Access, unit: &Unit, keys: &UnitKeys) -> Result<Turn, Failure> {
    let Some(deploy) = access.kv.entry(&keys.deploy()).await? else { return Err(absent(access, unit, keys).await) };
    let barrier = barrier(access.kv.entry(&keys.barrier()).await?.as_ref(), unit, &keys.barrier())?;
    if barrier.is_none() && !access.kv.names(&keys.nodes()).await?.is_empty() {
        return Err(lost(unit));
    }
    if let Some(running) = barrier.as_ref().filter(|b| !b.phase.is_settled()) {
        // For people only, so an unreadable status costs no more than a name.
        let status = access.kv.entry(&keys.status()).await?;
        let status = status.and_then(|entry| decode::<Status>(&keys.status(), &entry.value).ok());
        let by = status.and_then(|s| s.running).map_or_else(|| "somebody".to_owned(), |running| running.by);
        let artifact = running.target().map(|r| r.artifact.to_string()).unwrap_or_default();
        let by_what = format!("{artifact} by {by} is in phase {}, epoch {}", running.phase.as_str(), running.epoch);
        return Ok(Turn::Taken { by_what, running: Some(running.epoch) });
    }
    if let Some(Waiting { wants, by, epoch }) = Waiting::read(&deploy) {
        let by_what = format!("a request for {wants} by {by} waits, epoch {epoch}");
        return Ok(Turn::Taken { by_what, running: None });
    }
    let reverted = barrier.as_ref().filter(|b| b.phase == Phase::Reverted).map(|b| b.epoch);
    Ok(Turn::Free { index: deploy.modify_index, era: barrier.map_or(0, |b| b.epoch.era), reverted })
}

/// The failure for a unit without a request key: nobody has ever made one, or it was lost.
pub(crate) async fn absent(access: &Access, unit: &Unit, keys: &UnitKeys) -> Failure {
    match access.kv.names(&keys.nodes()).await {
        Ok(nodes) if nodes.is_empty() => access.unknown(unit).await,
        Ok(_) => lost(unit),
        Err(error) => error,
    }
}

fn lost(unit: &Unit) -> Failure {
    Failure::new(Code::Failed, format!("the keys of {unit} are not all there: they were lost, or never made"))
        .hint(format!("`cutover recover {unit}` tells which, and begins again from what the nodes run"))
}

/// Reads the barrier; empty, as a coordinator creates it, is none.
///
/// # Errors
///
/// [`Code::Failed`] for a record that no agent would act on.
pub(crate) fn barrier(entry: Option<&Entry>, unit: &Unit, key: &str) -> Result<Option<Barrier>, Failure> {
    let Some(entry) = entry.filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
    Barrier::decode(key, &entry.value).map(Some).map_err(|error| {
        let hint = match &error {
            RecordError::Newer { .. } => "upgrade this program".to_owned(),
            RecordError::Malformed { .. } => {
                format!("no agent acts on such a record; `cutover recover {unit}` begins again from what the nodes run")
            }
        };
        Failure::new(Code::Failed, "nothing can be asked here").caused_by(error).hint(hint)
    })
}
