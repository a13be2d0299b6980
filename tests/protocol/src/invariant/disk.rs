//! The invariants of journals and disks: I6, I7, I9 and I11.

use std::collections::BTreeSet;
use std::fmt;

use super::{Broken, FleetView, Write, holds, in_short};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::{Epoch, Node};
use crate::protocol::journal::{Journal, Target};
use crate::protocol::record::{Answer, Barrier, Phase, Release};

/// The complete releases on one disk.
pub(crate) trait Releases {
    fn holds(&self, release: &Release) -> bool;
}

/// One node's disk at one moment.
#[derive(Clone, Copy)]
pub(crate) struct DiskView<'a> {
    pub(crate) name: &'a Node,
    /// What `current` points to now; none: its origin.
    pub(crate) current: Option<&'a Release>,
    pub(crate) releases: &'a dyn Releases,
}

impl fmt::Debug for DiskView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskView").field("name", self.name).field("current", &self.current).finish_non_exhaustive()
    }
}

/// I6. A node with a promise has the release and `from` on its disk.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i6(log: &[Write], disks: &[DiskView<'_>]) -> Result<(), Broken> {
    let view = FleetView { log, nodes: Vec::new() };
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    // An aborted or reverted epoch binds no node any more.
    if barrier.phase.is_settled() && barrier.committed.as_ref() != barrier.target() {
        return Ok(());
    }
    for disk in disks {
        let answer = view.answer_before(log.len(), disk.name, barrier.epoch);
        let needed = match answer {
            Some(Answer::Prepared | Answer::Switched) => [barrier.target(), barrier.from.as_ref()],
            Some(Answer::Refused | Answer::Failed | Answer::Reverted | Answer::Stuck) | None => continue,
        };
        let missing = needed.into_iter().flatten().find(|release| !disk.releases.holds(release));
        holds(missing.is_none(), "I6", || {
            let epoch = missing.map(|release| release.epoch.to_string()).unwrap_or_default();
            format!("{} promised {epoch} without having it", disk.name)
        })?;
    }
    Ok(())
}

/// I6, for the journal: a node's floor is not below the epoch that it has answered.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i6_journal(node: &Node, journal: &Journal, answered: Epoch) -> Result<(), Broken> {
    let floor = journal.record.as_ref().map(|record| record.epoch);
    holds(floor >= Some(answered), "I6", || format!("{node} answered {answered}, and its journal does not know of it"))
}

/// I7. A node's floor has not fallen between two moments.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i7(node: &Node, before: &Journal, after: &Journal) -> Result<(), Broken> {
    let (held, now) = (before.record.as_ref(), after.record.as_ref());
    let is_above = match (held, now) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(now)) => matches!(admit(held, now), Admission::New | Admission::Same),
    };
    let words = |record: Option<&Barrier>| record.map_or("nothing".to_owned(), in_short);
    holds(is_above, "I7", || format!("the floor of {node} fell from {} to {}", words(held), words(now)))
}

/// I9, and the half of I1 about nodes: no node runs, or moves to, a release that the log never had as committed.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i9(view: &FleetView<'_>) -> Result<(), Broken> {
    let decided: BTreeSet<Epoch> =
        view.barriers().filter_map(|(_, barrier)| barrier.committed.as_ref()).map(|release| release.epoch).collect();
    for node in &view.nodes {
        let moving = match &node.journal.moving {
            Some(Target::Release(release)) => Some(release),
            Some(Target::Origin) | None => None,
        };
        for release in [node.current, node.journal.runs.as_ref(), moving].into_iter().flatten() {
            holds(decided.contains(&release.epoch), "I9", || {
                format!("{} runs {}, which was never committed", node.name, release.epoch)
            })?;
        }
    }
    Ok(())
}

/// I11. After a commit or a revert, every node that answered switched or reverted runs that release, and a revert sets
/// `committed` back.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i11(view: &FleetView<'_>) -> Result<(), Broken> {
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    // Not by `committed`: this check has to show that it was set back.
    let (yes, runs) = match barrier.phase {
        Phase::Commit | Phase::Done => (Answer::Switched, barrier.target()),
        Phase::Revert | Phase::Reverted => (Answer::Reverted, barrier.from.as_ref()),
        Phase::Idle | Phase::Prepare | Phase::Aborted => return Ok(()),
    };
    if matches!(barrier.phase, Phase::Revert | Phase::Reverted) {
        holds(barrier.committed == barrier.from, "I11", || {
            format!("{} is reverted, and not to what ran before", barrier.epoch)
        })?;
    }
    for node in &view.nodes {
        let has_answered = view.answer_before(view.log.len(), node.name, barrier.epoch) == Some(yes);
        holds(!has_answered || node.current == runs, "I11", || {
            let epoch = node.current.map_or("its origin".to_owned(), |release| release.epoch.to_string());
            format!("{} answered {yes:?} to {} and runs {epoch}", node.name, barrier.epoch)
        })?;
    }
    Ok(())
}

/// I11, for the disk: the release that `current` names is never removed.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i11_disk(disks: &[DiskView<'_>]) -> Result<(), Broken> {
    for disk in disks {
        let gone = disk.current.filter(|current| !disk.releases.holds(current));
        holds(gone.is_none(), "I11", || format!("{} runs a release that is gone", disk.name))?;
    }
    Ok(())
}
