//! Where `committed` leads a node, and whether it may go there. PROTOCOL.md S1 to S3.

use super::{Participant, Verdict, Way};
use crate::protocol::ids::Epoch;
use crate::protocol::journal::Target;
use crate::protocol::record::{Barrier, Phase, Release, RunningPhase, SettledPhase, Stage};
use crate::protocol::rule::{Rule, holds};

/// Whether the node may go where `committed` points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Course {
    /// An operator began the era from nothing, and the node runs a release. The node stays, ready for the next deploy.
    EraFromNothing { reason: String },
    /// The node is there, or has nothing to do.
    Arrived,
    /// The node would leave this epoch for an older one, and must first read whether this epoch was reverted.
    MustReadHistory { epoch: Epoch },
    /// The node may switch.
    MaySwitch { to: Target, way: Way },
    /// The node would leave an epoch that was not reverted: keys were restored. The node stays.
    Stranded { reason: String },
}

impl Participant {
    /// The release that the node follows: `committed`, in every phase.
    fn aim<'a>(&self, record: &'a Barrier) -> Option<&'a Release> {
        let is_early = record.phase == Phase::Prepare
            && match self.journal.member {
                Some(true) => !holds(Rule::SwitchDecided) && self.has_answered(record),
                Some(false) => !holds(Rule::CatchUpDecided),
                None => false,
            };
        if is_early { record.target() } else { record.committed.as_ref() }
    }

    /// Where `committed` leads from here. Steps S1 to S3.
    pub(super) fn course(&self) -> Course {
        let Some(record) = &self.journal.record else { return Course::Arrived };
        let aim = self.aim(record);
        let to = aim.cloned().map_or(Target::Origin, Target::Release);
        let is_there = self.journal.moving.is_none()
            && match &to {
                Target::Origin => self.journal.touched.is_none(),
                Target::Release(release) => self.journal.runs.as_ref() == Some(release),
            };
        let Some(touched) = self.journal.touched else {
            // S1. Cutover has never switched this node.
            return match (&to, is_there) {
                (Target::Origin, _) | (_, true) => Course::Arrived,
                (Target::Release(_), false) => Course::MaySwitch { to, way: Way::Forward },
            };
        };
        if is_there {
            return Course::Arrived;
        }
        let aim = aim.map(|release| release.epoch);
        // S2. Forward. Only an operator raises an era, and a new era may lead to any release.
        if aim > Some(touched) || aim.is_some() && record.epoch.era > touched.era {
            return Course::MaySwitch { to, way: Way::Forward };
        }
        // S2. Forward too: a switch to this epoch was begun and is unfinished.
        if aim == Some(touched) {
            return self.resume(to);
        }
        match record.phase.stage() {
            // S3. Back, by the record of the epoch that the node leaves.
            Stage::Running(RunningPhase::Revert) | Stage::Settled(SettledPhase::Reverted)
                if record.epoch == touched =>
            {
                Course::MaySwitch { to, way: Way::Back }
            }
            // S5. A switch back to the origin was allowed when it began, and is finished.
            Stage::Running(_) | Stage::Settled(_) if aim.is_none() && self.journal.moving == Some(Target::Origin) => {
                Course::MaySwitch { to, way: Way::Back }
            }
            Stage::Settled(SettledPhase::Idle) if aim.is_none() => era_from_nothing(touched),
            Stage::Running(RunningPhase::Prepare | RunningPhase::Commit | RunningPhase::Revert)
            | Stage::Settled(
                SettledPhase::Aborted | SettledPhase::Done | SettledPhase::Idle | SettledPhase::Reverted,
            ) => self.leave(touched, to, record),
        }
    }

    /// S2, where the aim is of the epoch that `current` may point to already.
    fn resume(&self, to: Target) -> Course {
        let is_other = self.journal.runs.as_ref().is_some_and(
            |runs| matches!(&to, Target::Release(release) if release.epoch == runs.epoch && release != runs),
        );
        if is_other {
            let reason = "committed names another release under the epoch that this node runs".to_owned();
            return Course::Stranded { reason };
        }
        Course::MaySwitch { to, way: Way::Forward }
    }

    /// S3, where the node missed the revert itself: back, by that epoch's history.
    fn leave(&self, touched: Epoch, to: Target, record: &Barrier) -> Course {
        let learnt = self.learnt.filter(|learnt| learnt.epoch == touched);
        match (learnt.map(|learnt| learnt.verdict), &to) {
            // A history of another epoch is late: it decides nothing here.
            (None, Target::Origin | Target::Release(_)) => Course::MustReadHistory { epoch: touched },
            // Off-spec: with nothing committed, the design does nothing before a commit; a node that missed a revert
            // to nothing still goes back when history says so (I8).
            (Some(Verdict::Reverted), Target::Origin | Target::Release(_)) => Course::MaySwitch { to, way: Way::Back },
            // An operator began the era from nothing: the node stays until a release is committed.
            (Some(Verdict::NotReverted), Target::Origin) if record.epoch.era > touched.era => era_from_nothing(touched),
            (Some(Verdict::NotReverted), Target::Origin | Target::Release(_)) => Course::Stranded {
                reason: format!(
                    "committed is older than epoch {touched}, which this node runs and which was not reverted: \
                     the keys were restored or deleted"
                ),
            },
        }
    }
}

fn era_from_nothing(touched: Epoch) -> Course {
    let reason = format!(
        "this era was begun from nothing, and this node runs epoch {touched}: deploy to the group, or recover it again \
         with what it runs"
    );
    Course::EraFromNothing { reason }
}
