//! Keys into documents: each reads what its document is made of, consistently, with the caller's token.

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use crate::document::{BuildsDocument, HistoryDocument, StatusDocument};
use crate::protocol::ids::{App, Unit};

/// The keys of a unit that its status is made of, but for the members' list.
#[must_use]
pub fn watched(access: &Access, unit: &Unit) -> [String; 7] {
    let keys = access.keys.unit(unit);
    [keys.barrier(), keys.nodes(), keys.acks(), keys.status(), keys.deploy(), keys.freeze(), keys.coordinator()]
}

/// One unit as it stands.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; as any read of Consul.
pub async fn status(access: &Access, unit: &Unit) -> Result<StatusDocument, Failure> {
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
pub async fn statuses(access: &Access, units: &[Unit]) -> Result<Vec<StatusDocument>, Failure> {
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
pub async fn builds(access: &Access, app: &App) -> Result<BuildsDocument, Failure> {
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
        entries.append(&mut access.kv.entries(&keys.unit(&unit).nodes()).await?);
    }
    Ok(BuildsDocument::build(app, keys, &entries))
}

/// The newest requests of a unit.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; as any read of Consul.
pub async fn history(access: &Access, unit: &Unit, limit: usize) -> Result<HistoryDocument, Failure> {
    let keys = access.keys.unit(unit);
    let entries = access.kv.entries(&keys.all_history()).await?;
    if entries.is_empty() && access.kv.entry(&keys.deploy()).await?.is_none() {
        return Err(access.unknown(unit).await);
    }
    Ok(HistoryDocument::build(unit, &keys, &entries, limit))
}
