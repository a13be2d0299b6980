//! Writes of operators besides requests: aborts, freezes, and bad marks.
//!
//! Each write applies only if the key is unchanged since it was read, so that nobody overwrites another person's change
//! without seeing it.

use jiff::Timestamp;
use serde::Serialize;

use super::access::Access;
use super::attester::{PlannedWrite, Scope};
use super::code::{Code, Failure};
use super::kv::Replaced;
use super::request::{absent, barrier};
use crate::document::{Entry, Waiting};
use crate::protocol::ids::{App, ArtifactName, Epoch, ModifyIndex, Unit};
use crate::protocol::record::{Abort, Author, BadMark, Freeze, check_labels, check_size, encode};

/// Encodes a record of `author`, and checks its length.
///
/// # Errors
///
/// [`Code::Usage`] if the texts are longer than those of a deploy request may be.
pub(super) fn written(author: &Author, record: &impl Serialize) -> Result<String, Failure> {
    let value = encode(record);
    check_labels([("by", &author.by), ("via", &author.via), ("id", &author.id)])
        .and_then(|()| check_size(value.as_bytes()))
        .map_err(|invalid| Failure::new(Code::Usage, invalid.to_string()).hint("use a shorter text"))?;
    Ok(value)
}

/// Aborts the running deploy; returns its epoch. A second abort of the same deploy changes nothing.
///
/// # Errors
///
/// [`Code::NotFound`] if no deploy is running, [`Code::Busy`] if another client wrote the key at the same moment,
/// [`Code::Usage`] for a text that is too long.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
pub(crate) async fn abort(access: &Access, unit: &Unit, author: &Author) -> Result<Epoch, Failure> {
    let keys = access.keys.unit(unit);
    let Some(deploy) = access.kv.entry(&keys.deploy()).await? else { return Err(absent(access, unit, &keys).await) };
    let standing = barrier(access.kv.entry(&keys.barrier()).await?.as_ref(), unit, &keys.barrier())?;
    let Some(running) = standing.filter(|b| !b.phase.is_settled()) else {
        let failure = Failure::new(Code::NotFound, format!("nothing to abort: no deploy of {unit} is running"));
        return Err(match Waiting::read(&deploy) {
            Some(Waiting { wants, by, .. }) => failure.hint(format!(
                "a request for {wants} by {by} is waiting; `consul kv put {}` withdraws it",
                keys.deploy()
            )),
            None => failure,
        });
    };
    let epoch = running.epoch;
    let asked = access.kv.entry(&keys.abort()).await?;
    if asked.as_ref().and_then(|entry| Abort::parse(&entry.value)).is_some_and(|abort| abort.epoch == epoch) {
        return Ok(epoch);
    }
    let value = written(author, &Abort { epoch, author: author.clone() })?;
    let index = asked.map_or(ModifyIndex(0), |entry| entry.modify_index);
    let planned = PlannedWrite { scope: Scope::Unit(unit), key: &keys.abort(), id: &author.id, value: &value };
    replace(access, planned, index, &format!("another abort of {unit}")).await?;
    Ok(epoch)
}

/// Freezes a group until `until`, or until it is unfrozen. Replaces an existing freeze.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys, [`Code::Busy`] and [`Code::Usage`] as for [`abort`].
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
pub(crate) async fn freeze(
    access: &Access,
    unit: &Unit,
    author: &Author,
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<Freeze, Failure> {
    let index = freeze_key(access, unit).await?.modify_index;
    let freeze = Freeze { author: author.clone(), until, at: Some(now), lifted: false };
    let key = access.keys.unit(unit).freeze();
    let planned =
        PlannedWrite { scope: Scope::Unit(unit), key: &key, id: &author.id, value: &written(author, &freeze)? };
    replace(access, planned, index, &format!("another freeze of {unit}")).await?;
    Ok(freeze)
}

/// Lifts the freeze of a group. Returns whether there was one.
///
/// # Errors
///
/// As [`freeze`].
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
pub(crate) async fn unfreeze(access: &Access, unit: &Unit, author: &Author, now: Timestamp) -> Result<bool, Failure> {
    let key = access.keys.unit(unit).freeze();
    let entry = freeze_key(access, unit).await?;
    let was_frozen = Freeze::parse(&entry.value).is_some();
    if was_frozen {
        let lifted = Freeze { author: author.clone(), until: None, at: Some(now), lifted: true };
        let planned =
            PlannedWrite { scope: Scope::Unit(unit), key: &key, id: &author.id, value: &written(author, &lifted)? };
        replace(access, planned, entry.modify_index, &format!("another freeze of {unit}")).await?;
    }
    Ok(was_frozen)
}

/// Reads the key `freeze`, which a coordinator creates (empty) with the unit's first keys.
async fn freeze_key(access: &Access, unit: &Unit) -> Result<Entry, Failure> {
    let keys = access.keys.unit(unit);
    match access.kv.entry(&keys.freeze()).await? {
        Some(entry) => Ok(entry),
        None => Err(absent(access, unit, &keys).await),
    }
}

/// Marks a build bad, so that its deploys are refused unless forced. Replaces an existing mark.
///
/// # Errors
///
/// [`Code::NotFound`] for a build without a record, [`Code::Busy`] and [`Code::Usage`] as for [`abort`].
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
pub(crate) async fn mark_bad(
    access: &Access,
    app: &App,
    artifact: &ArtifactName,
    author: &Author,
    now: Timestamp,
) -> Result<BadMark, Failure> {
    check_recorded(access, app, artifact).await?;
    let key = access.keys.bad(app, artifact);
    let index = access.kv.entry(&key).await?.map_or(ModifyIndex(0), |entry| entry.modify_index);
    let mark = BadMark { author: author.clone(), at: Some(now), lifted: false };
    let planned = PlannedWrite { scope: Scope::App(app), key: &key, id: &author.id, value: &written(author, &mark)? };
    replace(access, planned, index, &format!("another mark of {artifact}")).await?;
    Ok(mark)
}

/// Lifts the bad mark of a build, even if the build is gone. Returns whether there was one.
///
/// # Errors
///
/// [`Code::NotFound`] if there is neither a mark nor a build, [`Code::Busy`] and [`Code::Usage`] as for [`abort`].
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet.
pub(crate) async fn mark_good(
    access: &Access,
    app: &App,
    artifact: &ArtifactName,
    author: &Author,
    now: Timestamp,
) -> Result<bool, Failure> {
    let key = access.keys.bad(app, artifact);
    let marked = access.kv.entry(&key).await?.filter(|entry| BadMark::parse(&entry.value).is_some());
    let Some(entry) = marked else {
        check_recorded(access, app, artifact).await?;
        return Ok(false);
    };
    let lifted = BadMark { author: author.clone(), at: Some(now), lifted: true };
    let planned = PlannedWrite { scope: Scope::App(app), key: &key, id: &author.id, value: &written(author, &lifted)? };
    replace(access, planned, entry.modify_index, &format!("another mark of {artifact}")).await?;
    Ok(true)
}

async fn check_recorded(access: &Access, app: &App, artifact: &ArtifactName) -> Result<(), Failure> {
    if access.kv.entry(&access.keys.build(app, artifact)).await?.is_some() {
        return Ok(());
    }
    let failure = Failure::new(Code::NotFound, format!("{app} has no build {artifact}"));
    Err(failure.hint(format!("see: cutover builds {app}")))
}

async fn replace(access: &Access, planned: PlannedWrite<'_>, index: ModifyIndex, other: &str) -> Result<(), Failure> {
    match access.replace(planned, index).await? {
        Replaced::At(_) => Ok(()),
        Replaced::Lost => Err(Failure::new(Code::Busy, format!("{other} was written at the same moment"))
            .hint("check the current state, and run the command again if you still want the change")),
    }
}
