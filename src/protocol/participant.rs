//! The participant: one node's half of the barrier.
//!
//! Pure: no clock, disk or network. It follows one rule, `committed`, and answers the deploys that it is a member
//! of. Facts come in as [`Event`]s; `Participant::duty` derives from the facts alone what the node owes; and one table
//! of activity against duty decides what is begun, halted, or left to go on. So a restart, a lost event and a record
//! that changes in the middle of something all take the same way.
//!
//! The caller must
//!
//! 1. pass every event in the order in which it was observed;
//! 2. get at the effects through [`Effects::publish`], which writes the journal first;
//! 3. run effects in their order, and report how each ended, failures and halts included;
//! 4. log an [`IllegalEvent`]: the caller reported the end of work that it was not asked for.
//!
//! Non-goals: choosing members, retrying I/O, deciding when to give up. Nothing here ends by time (I2).

mod course;
mod duty;
mod learn;

use self::course::Course;
use self::duty::Duty;
use super::effect::Planned;
pub(crate) use super::effect::{Acknowledgement, Effect, Effects, Receipt, Way};
pub(crate) use super::event::{Event, IllegalEvent, Verdict};
use super::floor::{Admission, admit};
use super::ids::{Epoch, ModifyIndex};
use super::journal::{Journal, Origin, Target};
use super::record::{Barrier, Fault, Phase};
use super::rule::{Rule, holds};

/// What the node is doing. At most one thing that touches the disk is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Activity {
    /// [`Effect::Discard`] of the release that this epoch made.
    Discarding { epoch: Epoch },
    /// [`Effect::Prepare`]. Disk: the release may be there in part. KV: no acknowledgement of it in this life.
    Preparing { epoch: Epoch, halting: bool },
    /// [`Effect::ReadHistory`] of this epoch.
    ReadingHistory { epoch: Epoch },
    /// [`Effect::ReadMembers`] of this epoch.
    ReadingMembers { epoch: Epoch },
    /// Nothing. Disk: `current` is as the journal says.
    Resting,
    /// [`Effect::Switch`]. Disk: `current` may be the old or the new; the journal names both.
    Switching { to: Target, way: Way, halting: bool },
}

impl Activity {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Discarding { .. } => "cleaning up after another deploy",
            Self::Preparing { .. } => "preparing another deploy",
            Self::ReadingHistory { .. } => "reading a history record",
            Self::ReadingMembers { .. } => "reading a member list",
            Self::Resting => "at rest",
            Self::Switching { .. } => "switching to another release",
        }
    }
}

/// How a duty is met while something is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Begin,
    /// Leave what is under way alone: it is the duty, or the duty waits for its end.
    GoOn,
    HaltPrepare,
    HaltSwitch,
}

/// The result of a preparation in this life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Prepared {
    epoch: Epoch,
    result: Result<(), Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Answered {
    epoch: Epoch,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Learnt {
    epoch: Epoch,
    verdict: Verdict,
}

pub(in crate::protocol) fn admission(held: Option<&Barrier>, seen: &Barrier) -> Admission {
    match admit(held, seen) {
        Admission::Late if !holds(Rule::FloorRank) && held.is_some_and(|held| held.epoch == seen.epoch) => {
            Admission::New
        }
        admitted @ (Admission::Contradicts | Admission::Late | Admission::New | Admission::Same) => admitted,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Participant {
    journal: Journal,
    /// Where the journal's record stands in Consul's log; none after a restart, until it is read again.
    index: Option<ModifyIndex>,
    activity: Activity,
    prepared: Option<Prepared>,
    /// The record that was answered last, in this life: each is answered once.
    answered: Option<Answered>,
    /// Why the last switch under the record that stands failed.
    failed: Option<Fault>,
    /// Whether that switch may be retried.
    may_retry: bool,
    /// The history of the epoch that the node would leave.
    learnt: Option<Learnt>,
    /// What is wrong with the record in Consul.
    alarm: Option<String>,
}

impl Participant {
    /// A participant after a start or a crash: as its journal has it, with nothing under way.
    #[must_use]
    pub(crate) const fn new(journal: Journal) -> Self {
        Self {
            journal,
            index: None,
            activity: Activity::Resting,
            prepared: None,
            answered: None,
            failed: None,
            may_retry: false,
            learnt: None,
            alarm: None,
        }
    }

    #[must_use]
    pub(crate) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The alarm for the operator, if there is any.
    #[must_use]
    pub(crate) fn alarm(&self) -> Option<String> {
        if let (None, Course::Stranded { reason } | Course::EraFromNothing { reason }) = (&self.alarm, self.course()) {
            return Some(reason);
        }
        self.alarm.clone()
    }

    /// Why the last switch under the record that stands failed.
    #[must_use]
    pub(crate) const fn fault(&self) -> Option<&Fault> {
        self.failed.as_ref()
    }

    /// Whether the node runs what is committed, or has nothing to do about it.
    #[must_use]
    pub(crate) fn has_arrived(&self) -> bool {
        matches!(self.course(), Course::Arrived | Course::EraFromNothing { .. })
    }

    #[must_use]
    pub(crate) const fn is_switching(&self) -> bool {
        matches!(self.activity, Activity::Switching { .. })
    }

    /// Whether something that touches the disk is under way.
    #[must_use]
    pub(crate) const fn is_working(&self) -> bool {
        match self.activity {
            Activity::Discarding { .. } | Activity::Preparing { .. } | Activity::Switching { .. } => true,
            Activity::ReadingHistory { .. } | Activity::ReadingMembers { .. } | Activity::Resting => false,
        }
    }

    /// Takes one event. `origin` is what `current` is now; the first switch journals it.
    ///
    /// # Errors
    ///
    /// [`IllegalEvent`]: the end of work that is not under way. Nothing has changed.
    pub(crate) fn handle(&mut self, event: Event, origin: &Origin) -> Result<Effects, IllegalEvent> {
        let before = self.journal.clone();
        let mut run = Vec::new();
        self.learn(event, &mut run)?;
        while self.advance(origin, &mut run) {}
        let is_new = self.journal != before && holds(Rule::JournalFirst);
        Ok(if is_new { Effects::after(self.journal.clone(), run) } else { Effects::under(before, run) })
    }

    fn epoch(&self) -> Option<Epoch> {
        self.journal.record.as_ref().map(|record| record.epoch)
    }

    /// One step from activity towards duty. Returns whether another step may find more to do.
    fn advance(&mut self, origin: &Origin, run: &mut Vec<Planned>) -> bool {
        let duty = self.duty();
        match self.next_move(&duty) {
            Move::Begin => return self.begin(duty, origin, run),
            Move::GoOn => {}
            Move::HaltPrepare => self.halt(Effect::HaltPrepare, run),
            Move::HaltSwitch => self.halt(Effect::HaltSwitch, run),
        }
        false
    }

    fn next_move(&self, duty: &Duty) -> Move {
        match &self.activity {
            Activity::Resting => Move::Begin,
            // Reads change nothing: the node does not wait for one that it no longer needs.
            Activity::ReadingMembers { epoch } if *duty == (Duty::ReadMembers { epoch: *epoch }) => Move::GoOn,
            Activity::ReadingHistory { epoch } if *duty == (Duty::ReadHistory { epoch: *epoch }) => Move::GoOn,
            Activity::ReadingMembers { .. } | Activity::ReadingHistory { .. } => Move::Begin,
            Activity::Preparing { epoch, .. } => match duty {
                Duty::Prepare { release, .. } if release.epoch == *epoch => Move::GoOn,
                // P2. A later record has made the preparation pointless.
                Duty::Acknowledge { .. }
                | Duty::Discard { .. }
                | Duty::Nothing
                | Duty::Prepare { .. }
                | Duty::ReadHistory { .. }
                | Duty::ReadMembers { .. }
                | Duty::Switch { .. } => Move::HaltPrepare,
            },
            Activity::Switching { to, .. } => match duty {
                // S5. Only another target stops a switch: never a new prepare, nor a read.
                Duty::Switch { to: aim, .. } if to != aim => Move::HaltSwitch,
                Duty::Acknowledge { .. }
                | Duty::Discard { .. }
                | Duty::Nothing
                | Duty::Prepare { .. }
                | Duty::ReadHistory { .. }
                | Duty::ReadMembers { .. }
                | Duty::Switch { .. } => Move::GoOn,
            },
            // A removal is short, and is not stopped half-way.
            Activity::Discarding { .. } => Move::GoOn,
        }
    }

    /// Stops what is under way, once; its end is still reported.
    fn halt(&mut self, effect: Effect, run: &mut Vec<Planned>) {
        let halting = match &mut self.activity {
            Activity::Preparing { halting, .. } | Activity::Switching { halting, .. } => halting,
            Activity::Discarding { .. }
            | Activity::ReadingHistory { .. }
            | Activity::ReadingMembers { .. }
            | Activity::Resting => return,
        };
        if !std::mem::replace(halting, true) {
            run.push(Planned::Effect(effect));
        }
    }

    /// Begins the duty. Returns whether another step may find more to do.
    fn begin(&mut self, duty: Duty, origin: &Origin, run: &mut Vec<Planned>) -> bool {
        self.activity = Activity::Resting;
        let (Some(record), Some(index)) = (&self.journal.record, self.index) else { return false };
        let effect = match duty {
            Duty::Nothing => return false,
            Duty::Acknowledge { answer, fault } => {
                let epoch = record.epoch;
                self.answered = Some(Answered { epoch, phase: record.phase });
                run.push(Planned::Answer { index, epoch, answer, fault });
                return true;
            }
            Duty::ReadMembers { epoch } => {
                self.activity = Activity::ReadingMembers { epoch };
                Effect::ReadMembers { epoch }
            }
            Duty::ReadHistory { epoch } => {
                self.activity = Activity::ReadingHistory { epoch };
                Effect::ReadHistory { epoch }
            }
            // P2. The journal says that a directory may be left, before there is one.
            Duty::Prepare { release, from } => {
                self.journal.began = Some(release.epoch);
                self.activity = Activity::Preparing { epoch: release.epoch, halting: false };
                Effect::Prepare { release, from }
            }
            Duty::Discard { release } => {
                self.activity = Activity::Discarding { epoch: release.epoch };
                Effect::Discard { release }
            }
            // S4. The journal names both ends before `current` is touched.
            Duty::Switch { to, way } => {
                if self.journal.touched.is_none() {
                    self.journal.origin = Some(origin.clone());
                }
                if let Target::Release(release) = &to {
                    self.journal.touched = self.journal.touched.max(Some(release.epoch));
                }
                self.journal.moving = Some(to.clone());
                self.failed = None;
                self.may_retry = false;
                self.activity = Activity::Switching { to: to.clone(), way, halting: false };
                Effect::Switch { to, way }
            }
        };
        run.push(Planned::Effect(effect));
        false
    }
}
