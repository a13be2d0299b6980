//! Reads documents: each function reads the keys of one document consistently, with the caller's token.

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use super::request::barrier;
use crate::document::{
    AppsDocument, BuildsDocument, DeployDocument, DeployState, FullHistory, NodesDocument, StatusDocument, Usual,
    Waiting,
};
use crate::protocol::ids::{App, Epoch, Unit};
use crate::protocol::record::{Build, History, Release, Running, Status, decode};

/// How many keys are read in one transaction: fewer than the 64 that Consul takes.
const AT_ONCE: usize = 32;

/// The keys of a unit that its status is made of, but for the members' list.
#[must_use]
pub(crate) fn watched(access: &Access, unit: &Unit) -> [String; 8] {
    let keys = access.keys.unit(unit);
    [
        keys.barrier(),
        keys.nodes(),
        keys.acks(),
        keys.status(),
        keys.deploy(),
        keys.freeze(),
        keys.coordinator(),
        keys.store(),
    ]
}

/// One unit as it stands.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; as any read of Consul.
pub(crate) async fn status(access: &Access, unit: &Unit) -> Result<StatusDocument, Failure> {
    if let Some(document) = status_if_known(access, unit).await? {
        return Ok(document);
    }
    // Read by itself the key tells a missing right from a missing unit; a list hides the difference.
    access.kv.entry(&access.keys.unit(unit).deploy()).await?;
    Err(access.unknown(unit).await)
}

/// The units of `units` that have keys.
///
/// # Errors
///
/// As any read of Consul.
pub(crate) async fn statuses(access: &Access, units: &[Unit]) -> Result<Vec<StatusDocument>, Failure> {
    let mut documents = Vec::with_capacity(units.len());
    for unit in units {
        documents.extend(status_if_known(access, unit).await?);
    }
    Ok(documents)
}

async fn status_if_known(access: &Access, unit: &Unit) -> Result<Option<StatusDocument>, Failure> {
    let keys = access.keys.unit(unit);
    let mut entries = access.kv.at_one_moment(&watched(access, unit)).await?;
    if entries.is_empty() {
        return Ok(None);
    }
    let now = Timestamp::now();
    // The list never changes once the barrier names its epoch.
    let epoch = StatusDocument::build(unit, &keys, &entries, now).epoch;
    if let Some(key) = epoch.map(|epoch| keys.members(epoch))
        && let Some(entry) = access.kv.entry(&key).await?
    {
        entries.insert(key, entry);
    }
    Ok(Some(StatusDocument::build(unit, &keys, &entries, now)))
}

/// Every build of an app.
///
/// # Errors
///
/// [`Code::NotFound`] for an app without builds; as any read of Consul.
pub(crate) async fn builds(access: &Access, app: &App) -> Result<BuildsDocument, Failure> {
    let keys = &access.keys;
    let mut entries = access.kv.entries(&keys.builds(app)).await?;
    entries.append(&mut access.kv.entries(&keys.runs(app)).await?);
    entries.append(&mut access.kv.entries(&keys.bad_marks(app)).await?);
    if entries.is_empty() {
        let failure = Failure::new(Code::NotFound, format!("no build of {app} is recorded"));
        return Err(
            failure.hint(format!("`cutover publish --app {app}` makes one; does the token read {}?", keys.builds(app)))
        );
    }
    for unit in access.units().await?.into_iter().filter(|unit| unit.app == *app) {
        let at = keys.unit(&unit);
        let of_group = [at.nodes(), at.barrier(), at.store(), at.all_history()];
        entries.append(&mut access.kv.at_one_moment(&of_group).await?);
    }
    Ok(BuildsDocument::build(app, keys, &entries, Timestamp::now()))
}

/// A unit's past, as far as it is in Consul; [`archive::fill`](super::archive::fill) adds to it.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; as any read of Consul.
pub(crate) async fn past(access: &Access, unit: &Unit) -> Result<FullHistory, Failure> {
    let keys = access.keys.unit(unit);
    let entries = access.kv.at_one_moment(&[keys.all_history(), keys.all_actions(), keys.archive()]).await?;
    if entries.is_empty() && access.kv.entry(&keys.deploy()).await?.is_none() {
        return Err(access.unknown(unit).await);
    }
    Ok(FullHistory::read(&keys, &entries))
}

/// Every app that has keys. Apps the token may not read are silently left out.
///
/// # Errors
///
/// As any read of Consul.
pub(crate) async fn apps(access: &Access) -> Result<AppsDocument, Failure> {
    let prefix = access.keys.prefix();
    Ok(AppsDocument::build(prefix, &access.kv.names(prefix).await?))
}

/// The deploys that run in these units now, as each unit's `status` says.
///
/// # Errors
///
/// As any read of Consul.
pub(crate) async fn running(access: &Access, units: &[Unit]) -> Result<Vec<(Unit, Running)>, Failure> {
    let mut found = Vec::new();
    for some in units.chunks(AT_ONCE) {
        let keys: Vec<String> = some.iter().map(|unit| access.keys.unit(unit).status()).collect();
        let entries = access.kv.at_one_moment(&keys).await?;
        found.extend(some.iter().zip(&keys).filter_map(|(unit, key)| {
            let status: Status = decode(key, &entries.get(key)?.value).ok()?;
            Some((unit.clone(), status.running?))
        }));
    }
    Ok(found)
}

/// Every node of these units.
///
/// # Errors
///
/// As any read of Consul.
pub(crate) async fn nodes(access: &Access, units: &[Unit]) -> Result<NodesDocument, Failure> {
    Ok(NodesDocument::build(statuses(access, units).await?))
}

/// What became of one request.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit or an epoch that nothing is known of, as of a request that another replaced before it
/// was taken; as any read of Consul.
pub(crate) async fn deploy(access: &Access, unit: &Unit, epoch: Epoch) -> Result<DeployDocument, Failure> {
    let keys = access.keys.unit(unit);
    let (key, waits) = (keys.history(epoch), keys.deploy());
    // At one moment: a request leaves the one key for the other in a single transaction, and its record ends in the one
    // that settles the barrier.
    let read = [key.clone(), waits.clone(), keys.barrier(), keys.members(epoch), keys.acks(), keys.nodes()];
    let entries = access.kv.at_one_moment(&read).await?;
    if let Some(entry) = entries.get(&key) {
        let record: History = decode(&key, &entry.value)
            .map_err(|error| Failure::new(Code::Failed, "the request's record cannot be read").caused_by(error))?;
        let code = Code::of(&record);
        return Ok(DeployDocument::standing(record, code as u8, &keys, &entries));
    }
    let Some(entry) = entries.get(&waits) else {
        // Read by itself the key tells a missing right from a missing unit.
        access.kv.entry(&waits).await?;
        return Err(access.unknown(unit).await);
    };
    if let Some(waiting) = Waiting::read(entry).filter(|waiting| waiting.epoch.0 == epoch.number) {
        let headline = format!("requested: {} by {} waits for the coordinator", waiting.wants, waiting.by);
        let (fate, code) = (DeployState::Requested, Code::Done as u8);
        return Ok(DeployDocument::without_record(unit.clone(), epoch, fate, headline, code));
    }
    Err(Failure::new(Code::NotFound, format!("{unit} has no request with epoch {epoch}"))
        .hint("its record may have been replaced before it was taken, or be older than the history; see the list"))
}

/// What every node of a unit is to run; none before the first deploy.
///
/// # Errors
///
/// [`Code::Failed`] where the barrier cannot be read; as any read of Consul.
pub(crate) async fn committed(access: &Access, unit: &Unit) -> Result<Option<Release>, Failure> {
    let key = access.keys.unit(unit).barrier();
    let entry = access.kv.entry(&key).await?;
    Ok(barrier(entry.as_ref(), unit, &key)?.and_then(|barrier| barrier.committed))
}

/// Adds what a deploy is compared with: the build committed before it, and how long other deploys took. Records that
/// cannot be read are left out.
pub(crate) async fn compared(access: &Access, document: DeployDocument) -> DeployDocument {
    let Some(record) = &document.record else { return document };
    let before = async {
        let key = access.keys.build(&document.unit.app, &record.from.as_ref()?.artifact);
        let entry = access.kv.entry(&key).await.ok()??;
        decode::<Build>(&key, &entry.value).ok().map(Into::into)
    };
    let usual = async {
        let others = before_it(access, record).await.ok()?;
        Usual::of(record, &others)
    };
    let (before, usual) = tokio::join!(before, usual);
    DeployDocument { before, usual, ..document }
}

/// The records of these requests, of those that Consul has and that can be read.
///
/// # Errors
///
/// As any read of Consul.
pub(crate) async fn records(access: &Access, requests: &[(Unit, Epoch)]) -> Result<Vec<History>, Failure> {
    let mut found = Vec::new();
    for some in requests.chunks(AT_ONCE) {
        let keys: Vec<String> = some.iter().map(|(unit, epoch)| access.keys.unit(unit).history(*epoch)).collect();
        let entries = access.kv.at_one_moment(&keys).await?;
        found.extend(entries.iter().filter_map(|(key, entry)| decode::<History>(key, &entry.value).ok()));
    }
    Ok(found)
}

/// The newest records before this one, of those that Consul still has.
async fn before_it(access: &Access, record: &History) -> Result<Vec<History>, Failure> {
    /// Enough for a median, and not more: of a large fleet each record is large.
    const NEWEST: usize = 32;
    let prefix = access.keys.unit(&record.unit).all_history();
    let names = access.kv.names(&prefix).await?;
    let epochs = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<Epoch>().ok());
    let mut epochs: Vec<Epoch> = epochs.filter(|epoch| *epoch < record.epoch).collect();
    epochs.sort_unstable();
    let newest = epochs.into_iter().rev().take(NEWEST).map(|epoch| (record.unit.clone(), epoch));
    records(access, &newest.collect::<Vec<_>>()).await
}
