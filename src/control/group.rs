//! The build that a group runs, for a deploy to another group (`cutover deploy --from`).

use super::access::Access;
use super::code::{Code, Failure};
use super::request::{absent, barrier};
use crate::protocol::ids::Unit;
use crate::protocol::record::{Build, Phase, Release, decode};

/// The build that `unit` runs, if its last deploy is done and the build record is unchanged.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys, or one that runs nothing; [`Code::Refused`] if its last deploy did not
/// succeed, or the build record changed since.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn runs(access: &Access, unit: &Unit) -> Result<Release, Failure> {
    let keys = access.keys.unit(unit);
    let entry = access.kv.entry(&keys.barrier()).await?;
    let Some(standing) = barrier(entry.as_ref(), unit, &keys.barrier())? else {
        return Err(absent(access, unit, &keys).await);
    };
    let Some(committed) = standing.committed else {
        return Err(Failure::new(Code::NotFound, format!("{unit} runs nothing yet")));
    };
    let refused = |why: String| {
        let named = format!("`artifact:{}` deploys that build anyway", committed.artifact);
        Failure::new(Code::Refused, format!("cannot deploy what {unit} runs: {why}")).hint(named)
    };
    let why = match standing.phase {
        Phase::Done => None,
        Phase::Aborted => Some("its last deploy was aborted".to_owned()),
        Phase::Reverted => Some("its last deploy was rolled back after the switch".to_owned()),
        Phase::Idle => Some("its keys were recovered, and there was no deploy since".to_owned()),
        Phase::Prepare | Phase::Commit | Phase::Revert => Some(format!("deploy #{} is running there", standing.epoch)),
    };
    if let Some(why) = why {
        return Err(refused(why));
    }
    let key = access.keys.build(&unit.app, &committed.artifact);
    let record = access.kv.entry(&key).await?.and_then(|entry| decode::<Build>(&key, &entry.value).ok());
    match record {
        Some(build) if build.sha256 == committed.sha256 => Ok(committed),
        Some(_) => Err(refused(format!("{} was recorded again with different content", committed.artifact))),
        None => Err(refused(format!("the build record of {} is gone", committed.artifact))),
    }
}
