//! What a node owes under the record that it follows. PROTOCOL.md P1 to P4, S5 and S6.

use super::course::Course;
use super::{Answered, Participant, Way};
use crate::protocol::ids::Epoch;
use crate::protocol::journal::Target;
use crate::protocol::record::{Answer, Barrier, Fault, Phase, Release, RunningPhase, SettledPhase, Stage, Step};
use crate::protocol::rule::{Rule, holds};

/// What the node owes, by the facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Duty {
    Acknowledge { answer: Answer, fault: Option<Fault> },
    Discard { release: Release },
    Nothing,
    Prepare { release: Release, from: Option<Release> },
    ReadHistory { epoch: Epoch },
    ReadMembers { epoch: Epoch },
    Switch { to: Target, way: Way },
}

impl Participant {
    /// What the node owes under the record that it follows, by the facts alone.
    pub(super) fn duty(&self) -> Duty {
        let (Some(record), Some(_)) = (&self.journal.record, self.index) else { return Duty::Nothing };
        match (record.phase.stage(), self.journal.member) {
            // P1. Whether the node is a member is read once per epoch.
            (Stage::Running(_), None) => Duty::ReadMembers { epoch: record.epoch },
            (Stage::Running(RunningPhase::Prepare), Some(true)) => {
                if !holds(Rule::PromiseKept) && self.gives_up(record) {
                    discard(record)
                } else {
                    self.owes_prepare(record)
                }
            }
            (Stage::Running(RunningPhase::Commit), Some(true)) => {
                self.owes_decision(record, Answer::Switched, Answer::Failed)
            }
            (Stage::Running(RunningPhase::Revert), Some(true)) => {
                self.owes_decision(record, Answer::Reverted, Answer::Stuck)
            }
            // P2. The directory that this very epoch made, and nothing else.
            (Stage::Settled(SettledPhase::Aborted), None | Some(_)) if self.journal.began == Some(record.epoch) => {
                discard(record)
            }
            (Stage::Running(RunningPhase::Prepare | RunningPhase::Commit | RunningPhase::Revert), Some(false))
            | (
                Stage::Settled(
                    SettledPhase::Aborted | SettledPhase::Done | SettledPhase::Idle | SettledPhase::Reverted,
                ),
                None | Some(_),
            ) => self.owes_following(),
        }
    }

    pub(super) fn has_answered(&self, record: &Barrier) -> bool {
        self.answered == Some(Answered { epoch: record.epoch, phase: record.phase })
    }

    /// What [`Rule::PromiseKept`] forbids: to end a deploy by time, after having promised.
    fn gives_up(&self, record: &Barrier) -> bool {
        self.may_retry && self.has_answered(record) && self.journal.began == Some(record.epoch)
    }

    /// P2 to P4: prepare first, answer, and only then follow `committed`.
    fn owes_prepare(&self, record: &Barrier) -> Duty {
        if self.has_answered(record) {
            return self.owes_following();
        }
        match self.course() {
            Course::MustReadHistory { epoch } => Duty::ReadHistory { epoch },
            // P4. A node that must not leave its release could not commit either.
            Course::Stranded { reason } => refuse(Fault::new(Step::Floor, &reason)),
            Course::EraFromNothing { .. } | Course::Arrived | Course::MaySwitch { .. } => {
                let prepared = self.prepared.as_ref().filter(|prepared| prepared.epoch == record.epoch);
                match (prepared.map(|prepared| &prepared.result), &record.deploy) {
                    (Some(Ok(())), _) => Duty::Acknowledge { answer: Answer::Prepared, fault: None },
                    (Some(Err(fault)), _) => refuse(fault.clone()),
                    (None, Some(_)) if !holds(Rule::AckDurable) => {
                        Duty::Acknowledge { answer: Answer::Prepared, fault: None }
                    }
                    (None, Some((release, _))) => Duty::Prepare { release: release.clone(), from: record.from.clone() },
                    // Decoding refuses a prepare without a deploy.
                    (None, None) => Duty::Nothing,
                }
            }
        }
    }

    /// S6. A member's answer to a decision, once it is carried out or has failed.
    fn owes_decision(&self, record: &Barrier, yes: Answer, no: Answer) -> Duty {
        match (self.course(), &self.failed, self.has_answered(record)) {
            (Course::Arrived, _, false) => Duty::Acknowledge { answer: yes, fault: None },
            (Course::MaySwitch { .. }, Some(fault), false) => {
                Duty::Acknowledge { answer: no, fault: Some(fault.clone()) }
            }
            (Course::EraFromNothing { reason } | Course::Stranded { reason }, _, false) => {
                Duty::Acknowledge { answer: no, fault: Some(Fault::new(Step::Floor, &reason)) }
            }
            // S5. A failed switch under commit waits for the verdict of the fleet: alone, the node would run what the
            // others may be about to leave.
            (Course::MaySwitch { .. }, Some(_), true) if record.phase == Phase::Commit => Duty::Nothing,
            (Course::MustReadHistory { .. }, _, false)
            | (Course::MaySwitch { .. }, None, false)
            | (
                Course::EraFromNothing { .. }
                | Course::Arrived
                | Course::MustReadHistory { .. }
                | Course::MaySwitch { .. }
                | Course::Stranded { .. },
                _,
                true,
            ) => self.owes_following(),
        }
    }

    /// S2 and S3 for everyone, members and others.
    fn owes_following(&self) -> Duty {
        match (self.course(), &self.failed, self.may_retry) {
            (Course::EraFromNothing { .. } | Course::Arrived | Course::Stranded { .. }, _, _)
            | (Course::MaySwitch { .. }, Some(_), false) => Duty::Nothing,
            (Course::MustReadHistory { epoch }, _, _) => Duty::ReadHistory { epoch },
            (Course::MaySwitch { to, way }, None, _) | (Course::MaySwitch { to, way }, Some(_), true) => {
                Duty::Switch { to, way }
            }
        }
    }
}

fn discard(record: &Barrier) -> Duty {
    record.target().cloned().map_or(Duty::Nothing, |release| Duty::Discard { release })
}

fn refuse(fault: Fault) -> Duty {
    Duty::Acknowledge { answer: Answer::Refused, fault: Some(fault) }
}
