//! The invariants of the log: P3, I1 to I5, and I12.

use std::collections::BTreeSet;

use super::{Broken, FleetView, Write, holds, in_short};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::{Epoch, Node};
use crate::protocol::record::{Answer, Barrier, Phase, Wanted};

/// I1. Before every commit, each member had answered that very epoch with prepared.
///
/// # Errors
///
/// [`Broken`], naming the epoch and the member. So do all checks of this module.
pub(crate) fn check_i1(view: &FleetView<'_>) -> Result<(), Broken> {
    for (at, barrier) in view.barriers().filter(|(_, barrier)| barrier.phase == Phase::Commit) {
        let epoch = barrier.epoch;
        let members = view.members_before(at, epoch).unwrap_or_default();
        holds(!members.is_empty(), "I1", || format!("commit of {epoch} without members"))?;
        for node in members {
            let answer = view.answer_before(at, node, epoch);
            holds(answer == Some(Answer::Prepared), "I1", || {
                format!("commit of {epoch}, and {node} had answered {answer:?}")
            })?;
        }
    }
    Ok(())
}

/// P3. No node refuses an epoch that it has answered with prepared.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_p3(view: &FleetView<'_>) -> Result<(), Broken> {
    for (at, write) in view.log.iter().enumerate() {
        let Write::Ack { node, epoch, answer: Answer::Refused } = write else { continue };
        let before = view.answer_before(at, node, *epoch);
        holds(before != Some(Answer::Prepared), "P3", || format!("{node} refused {epoch}, which it had promised"))?;
    }
    Ok(())
}

/// I2. An epoch is decided once and reverted only after its commit, and only a successor overwrites a record.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i2(view: &FleetView<'_>) -> Result<(), Broken> {
    let has = |epoch: Epoch, phase: Phase, before: usize| {
        view.barriers().any(|(at, barrier)| at < before && (barrier.epoch, barrier.phase) == (epoch, phase))
    };
    let mut previous: Option<&Barrier> = None;
    for (at, barrier) in view.barriers() {
        let (epoch, phase) = (barrier.epoch, barrier.phase);
        let text = || format!("{} at place {at}", in_short(barrier));
        holds(phase != Phase::Commit || !has(epoch, Phase::Aborted, at), "I2", text)?;
        holds(phase != Phase::Aborted || !has(epoch, Phase::Commit, at), "I2", text)?;
        holds(phase != Phase::Revert || has(epoch, Phase::Commit, at), "I2", text)?;
        if let Some(previous) = previous.filter(|previous| previous.epoch == epoch) {
            let follows = matches!(
                (previous.phase, phase),
                (Phase::Prepare, Phase::Commit | Phase::Aborted)
                    | (Phase::Commit, Phase::Done | Phase::Revert)
                    | (Phase::Revert, Phase::Reverted)
            );
            holds(follows && previous.deploy == barrier.deploy && previous.from == barrier.from, "I2", text)?;
        }
        previous = Some(barrier);
    }
    Ok(())
}

/// I3. The log's (era, epoch, rank) only rises, and no prepare is written while another epoch is unfinished.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i3(view: &FleetView<'_>) -> Result<(), Broken> {
    let mut previous: Option<&Barrier> = None;
    for (_, barrier) in view.barriers() {
        let text = || format!("{} after {}", in_short(barrier), previous.map_or("nothing".to_owned(), in_short));
        holds(admit(previous, barrier) == Admission::New, "I3", text)?;
        let may_begin = previous.is_none_or(|previous| previous.phase.is_settled());
        holds(barrier.phase != Phase::Prepare || may_begin, "I3", text)?;
        previous = Some(barrier);
    }
    Ok(())
}

/// I4. A coordinator's transaction applied, so its session must have held the lock.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i4<S: PartialEq>(transition: &str, writer: &S, holder: Option<&S>) -> Result<(), Broken> {
    holds(holder == Some(writer), "I4", || format!("{transition} was written without the lock"))
}

/// I5. The members of an epoch are written once, and a request is taken at most once.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i5(view: &FleetView<'_>) -> Result<(), Broken> {
    let (mut frozen, mut begun) = (BTreeSet::new(), BTreeSet::new());
    for write in view.log {
        match write {
            Write::Members { epoch, .. } => {
                holds(frozen.insert(*epoch), "I5", || format!("members/{epoch} was written twice"))?;
            }
            Write::Barrier(barrier) if barrier.phase == Phase::Prepare => {
                holds(begun.insert(barrier.epoch), "I5", || format!("{} was begun twice", barrier.epoch))?;
            }
            Write::Barrier(_) | Write::Ack { .. } | Write::Request { .. } => {}
        }
    }
    Ok(())
}

/// I5, for the transaction that takes a request. `taken`: every request that was taken before.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i5_taken(taken: &mut BTreeSet<Epoch>, request: Epoch) -> Result<(), Broken> {
    holds(taken.insert(request), "I5", || format!("request {request} was taken twice"))
}

/// S3. A node goes back from `left` only after a revert of that epoch, or in a higher era. `past`: every record so far.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_s3<'a>(
    node: &Node,
    left: Epoch,
    mut past: impl Iterator<Item = &'a Barrier>,
) -> Result<(), Broken> {
    let allows = |record: &Barrier| {
        let is_revert = record.epoch == left && matches!(record.phase, Phase::Revert | Phase::Reverted);
        is_revert || record.epoch.era > left.era
    };
    holds(past.any(allows), "S3", || format!("{node} left {left}, which was never reverted"))
}

/// I12. No rollback outlives the revert that fulfils it: taken later, it would take the fleet back too far.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i12(view: &FleetView<'_>) -> Result<(), Broken> {
    for (at, barrier) in view.barriers().filter(|(_, barrier)| barrier.phase == Phase::Reverted) {
        let outlives = match view.waiting_at(at) {
            None | Some(Wanted::Deploy(_)) => false,
            Some(Wanted::Rollback(None)) => true,
            Some(Wanted::Rollback(Some(artifact))) => {
                barrier.from.as_ref().is_some_and(|from| from.artifact == *artifact)
            }
        };
        holds(!outlives, "I12", || format!("a rollback still waits after {} was reverted", barrier.epoch))?;
    }
    Ok(())
}
