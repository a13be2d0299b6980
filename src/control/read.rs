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

/// How many keys are read in one transaction: fewer than the 64 that Consul accepts.
const AT_ONCE: usize = 32;

/// The keys that a unit's status is built from, except the list of members.
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

/// The status of one unit.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; as any read of Consul.
pub(crate) async fn status(access: &Access, unit: &Unit) -> Result<StatusDocument, Failure> {
    if let Some(document) = status_if_known(access, unit).await? {
        return Ok(document);
    }
    // Reading one key fails without the right to read it. The snapshot above silently omits such keys.
    access.kv.entry(&access.keys.unit(unit).deploy()).await?;
    Err(access.unknown(unit).await)
}

/// The status of each of `units` that has keys.
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
    // A second read is safe: the list of members never changes after the barrier names its epoch.
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

/// A unit's history, as far as it is in Consul. [`archive::fill`](super::archive::fill) adds archived records.
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

/// The running deploys of these units, from each unit's key `status`.
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

/// The state or outcome of one request.
///
/// # Errors
///
/// [`Code::NotFound`] for an unknown unit or epoch, including a request that was replaced before a coordinator took it; as
/// any read of Consul.
pub(crate) async fn deploy(access: &Access, unit: &Unit, epoch: Epoch) -> Result<DeployDocument, Failure> {
    let keys = access.keys.unit(unit);
    let (key, waits) = (keys.history(epoch), keys.deploy());
    // All keys at one index: one transaction moves a request from `deploy` to `history/`, and one ends its record together
    // with the barrier.
    let read = [key.clone(), waits.clone(), keys.barrier(), keys.members(epoch), keys.acks(), keys.nodes()];
    let entries = access.kv.at_one_moment(&read).await?;
    if let Some(entry) = entries.get(&key) {
        let record: History = decode(&key, &entry.value)
            .map_err(|error| Failure::new(Code::Failed, "the request's record cannot be read").caused_by(error))?;
        let code = Code::of(&record);
        return Ok(DeployDocument::from_keys(record, code as u8, &keys, &entries));
    }
    let Some(entry) = entries.get(&waits) else {
        // Reading one key fails without the right to read it. The snapshot above silently omits such keys.
        access.kv.entry(&waits).await?;
        return Err(access.unknown(unit).await);
    };
    if let Some(waiting) = Waiting::read(entry).filter(|waiting| waiting.epoch.0 == epoch.number) {
        let headline = format!("requested: {} by {} is waiting for the coordinator", waiting.wants, waiting.by);
        let (fate, code) = (DeployState::Requested, Code::Done as u8);
        return Ok(DeployDocument::without_record(unit.clone(), epoch, fate, headline, code));
    }
    Err(Failure::new(Code::NotFound, format!("{unit} has no deploy #{epoch}"))
        .hint("the request may have been replaced before a coordinator took it, or be older than the history; see `cutover history`"))
}

/// The committed release of a unit; none before the first deploy.
///
/// # Errors
///
/// [`Code::Failed`] if the barrier cannot be decoded; as any read of Consul.
pub(crate) async fn committed(access: &Access, unit: &Unit) -> Result<Option<Release>, Failure> {
    let key = access.keys.unit(unit).barrier();
    let entry = access.kv.entry(&key).await?;
    Ok(barrier(entry.as_ref(), unit, &key)?.and_then(|barrier| barrier.committed))
}

/// Adds what a deploy is compared with: the build that was committed before, and the durations of earlier deploys. Omits
/// what cannot be read.
pub(crate) async fn compared(access: &Access, document: DeployDocument) -> DeployDocument {
    let Some(record) = &document.record else { return document };
    let before = async {
        let key = access.keys.build(&document.unit.app, &record.from.as_ref()?.artifact);
        let entry = access.kv.entry(&key).await.ok()??;
        decode::<Build>(&key, &entry.value).ok().map(Into::into)
    };
    let usual = async {
        let others = earlier_records(access, record).await.ok()?;
        Usual::of(record, &others)
    };
    let (before, usual) = tokio::join!(before, usual);
    DeployDocument { before, usual, ..document }
}

/// The records of these requests. Omits records that are not in Consul or cannot be decoded.
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

/// The newest records before this one that are still in Consul.
async fn earlier_records(access: &Access, record: &History) -> Result<Vec<History>, Failure> {
    /// Enough for a median. In a large fleet each record is large.
    const NEWEST: usize = 32;
    let prefix = access.keys.unit(&record.unit).all_history();
    let names = access.kv.names(&prefix).await?;
    let epochs = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<Epoch>().ok());
    let mut epochs: Vec<Epoch> = epochs.filter(|epoch| *epoch < record.epoch).collect();
    epochs.sort_unstable();
    let newest = epochs.into_iter().rev().take(NEWEST).map(|epoch| (record.unit.clone(), epoch));
    records(access, &newest.collect::<Vec<_>>()).await
}
