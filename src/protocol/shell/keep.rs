//! Which releases a node must keep on its disk, and when others may be removed.

use std::collections::BTreeSet;

use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::journal::{Journal, Target};
use crate::protocol::participant::Participant;
use crate::protocol::record::{Phase, Release};
use crate::protocol::rule::{Rule, holds};

/// I11. The releases that must not be removed: those that the barrier names, and those that the node runs or moves to.
pub(crate) fn needed(journal: &Journal) -> impl Iterator<Item = &Release> {
    let record = journal.record.as_ref().filter(|_| holds(Rule::KeepNamed));
    let moving = match &journal.moving {
        Some(Target::Release(release)) => Some(release),
        Some(Target::Origin) | None => None,
    };
    let named = [
        record.and_then(|record| record.target()),
        record.and_then(|record| record.from.as_ref()),
        record.and_then(|record| record.committed.as_ref()),
        journal.runs.as_ref(),
        moving,
    ];
    named.into_iter().flatten()
}

/// The names of [`needed`]. Without the release of a deploy that was reverted: no node runs it again.
pub(crate) fn needed_names(journal: &Journal) -> BTreeSet<ReleaseName> {
    let reverted = journal.record.as_ref().filter(|record| record.phase == Phase::Reverted);
    let left = reverted.and_then(|record| record.target());
    needed(journal).filter(|release| Some(*release) != left).map(|release| release.release.clone()).collect()
}

/// The builds that the node may still have to fetch: those of a running deploy, and of a release that it has to switch to.
pub(crate) fn to_fetch(journal: &Journal) -> BTreeSet<ArtifactName> {
    let record = journal.record.as_ref();
    let moving = match &journal.moving {
        Some(Target::Release(release)) => Some(release),
        Some(Target::Origin) | None => None,
    };
    let running = record.filter(|record| !record.phase.is_settled());
    let named = [
        running.and_then(|record| record.target()),
        running.and_then(|record| record.from.as_ref()),
        record.and_then(|record| record.committed.as_ref()).filter(|release| journal.runs.as_ref() != Some(release)),
        moving,
    ];
    named.into_iter().flatten().map(|release| release.artifact.clone()).collect()
}

/// P2. Whether the directory that an aborted epoch made may be removed: the barrier still names it as that epoch's own.
pub(crate) fn may_discard(journal: &Journal, release: &Release) -> bool {
    let is_target = journal.record.as_ref().and_then(|record| record.target()) == Some(release);
    is_target || !needed_names(journal).contains(&release.release)
}

/// Whether old releases may be removed: no deploy is under way, and the node runs what is committed.
pub(crate) fn is_time_to_prune(participant: &Participant) -> bool {
    let record = participant.journal().record.as_ref();
    record.is_some_and(|record| record.phase.is_settled()) && participant.has_arrived()
}
