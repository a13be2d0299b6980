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

use self::course::Course;
use super::effect::Planned;
pub(crate) use super::effect::{Acknowledgement, Effect, Effects, Receipt, Way};
pub(crate) use super::event::{EndOfWork, Event, IllegalEvent, Verdict};
use super::floor::{Admission, admit};
use super::ids::{Epoch, ModifyIndex};
use super::journal::{Journal, Origin, Target};
use super::record::{Answer, Barrier, Fault, Phase, Release, RunningPhase, SettledPhase, Stage, Step};
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

/// What the node owes, by the facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Duty {
    Acknowledge { answer: Answer, fault: Option<Fault> },
    Discard { release: Release },
    Nothing,
    Prepare { release: Release, from: Option<Release> },
    ReadHistory { epoch: Epoch },
    ReadMembers { epoch: Epoch },
    Switch { to: Target, way: Way },
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

fn discard(record: &Barrier) -> Duty {
    record.target().cloned().map_or(Duty::Nothing, |release| Duty::Discard { release })
}

/// How a record was read: Consul's log cannot go back in a consistent read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Consistent,
    Stale,
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
        if let (None, Course::Stranded { reason } | Course::Apart { reason }) = (&self.alarm, self.course()) {
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
        matches!(self.course(), Course::Arrived | Course::Apart { .. })
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

    fn rest_from(&mut self, activity: &Activity) {
        if self.activity == *activity {
            self.activity = Activity::Resting;
        }
    }

    fn illegal(&self, event: EndOfWork) -> IllegalEvent {
        IllegalEvent { event, during: self.activity.as_str() }
    }

    /// Takes in the facts of an event; begins nothing.
    fn learn(&mut self, event: Event, run: &mut Vec<Planned>) -> Result<(), IllegalEvent> {
        match event {
            Event::Record { index, record, is_consistent } => {
                self.see(index, *record, if is_consistent { Read::Consistent } else { Read::Stale });
            }
            Event::Unreadable { reason } => self.alarm = Some(reason),
            Event::Members { epoch, is_member } => self.members_read(epoch, is_member),
            Event::History { epoch, verdict } => {
                // Late, where the node has another aim by now: kept, and used only for its own epoch.
                self.rest_from(&Activity::ReadingHistory { epoch });
                self.learnt = Some(Learnt { epoch, verdict });
            }
            Event::PrepareEnded { epoch, result } => self.prepare_ended(epoch, result)?,
            Event::SwitchEnded { to, result } => self.switch_ended(&to, result, run)?,
            Event::Discarded { epoch } => self.discarded(epoch)?,
            // Late or repeated, where nothing has failed: the next failure resets it.
            Event::Retry => self.may_retry = true,
        }
        Ok(())
    }

    fn members_read(&mut self, epoch: Epoch, is_member: bool) {
        self.rest_from(&Activity::ReadingMembers { epoch });
        match (self.epoch() == Some(epoch), self.journal.member) {
            (true, None) => self.journal.member = Some(is_member),
            // Repeated: the members of an epoch never change (I5).
            (true, Some(_)) => {}
            // Late: that epoch is over.
            (false, None | Some(_)) => {}
        }
    }

    fn discarded(&mut self, epoch: Epoch) -> Result<(), IllegalEvent> {
        if self.activity != (Activity::Discarding { epoch }) {
            return Err(self.illegal(EndOfWork::Discarded(epoch)));
        }
        self.activity = Activity::Resting;
        if self.journal.began == Some(epoch) {
            self.journal.began = None;
        }
        Ok(())
    }

    /// F1 to F4. Which records are followed.
    fn see(&mut self, index: ModifyIndex, record: Barrier, read: Read) {
        let at = format!("barrier is at {} {}", record.epoch, record.phase.as_str());
        match admission(self.journal.record.as_ref(), &record) {
            Admission::New => {
                if self.epoch() != Some(record.epoch) {
                    self.journal.member = None;
                }
                self.journal.record = Some(record);
                self.index = Some(index);
                self.failed = None;
                self.may_retry = false;
                self.alarm = None;
            }
            Admission::Same => {
                self.index = Some(index);
                self.alarm = None;
            }
            Admission::Late if read == Read::Consistent => {
                self.alarm =
                    Some(format!("{at}, behind what this node has followed: the keys were restored to an older state"));
            }
            Admission::Late => {}
            // Off-spec: the design asks for a refusal. The node's answer is fenced by the record that it follows, which does
            // not stand, so Consul would reject it.
            Admission::Contradicts => {
                self.alarm = Some(format!(
                    "{at}, and contradicts the record that this node has followed: somebody wrote over it"
                ));
            }
        }
    }

    fn prepare_ended(&mut self, epoch: Epoch, result: Result<(), Fault>) -> Result<(), IllegalEvent> {
        match self.activity {
            Activity::Preparing { epoch: under_way, halting } if under_way == epoch => {
                self.activity = Activity::Resting;
                // P2. A later record has made a halted preparation pointless: its result is not used.
                if !halting {
                    self.prepared = Some(Prepared { epoch, result });
                }
                Ok(())
            }
            Activity::Preparing { .. }
            | Activity::Discarding { .. }
            | Activity::ReadingHistory { .. }
            | Activity::ReadingMembers { .. }
            | Activity::Resting
            | Activity::Switching { .. } => Err(self.illegal(EndOfWork::Prepared(epoch))),
        }
    }

    fn switch_ended(
        &mut self,
        ended: &Target,
        result: Result<(), Fault>,
        run: &mut Vec<Planned>,
    ) -> Result<(), IllegalEvent> {
        let halted = match &self.activity {
            Activity::Switching { to, halting, .. } if to == ended => *halting,
            Activity::Switching { .. }
            | Activity::Discarding { .. }
            | Activity::Preparing { .. }
            | Activity::ReadingHistory { .. }
            | Activity::ReadingMembers { .. }
            | Activity::Resting => return Err(self.illegal(EndOfWork::Switched(ended.clone()))),
        };
        self.activity = Activity::Resting;
        match result {
            // S4. The hooks succeeded. A halt that came too late changes nothing about that.
            Ok(()) => {
                self.journal.runs = match ended {
                    Target::Release(release) => Some(release.clone()),
                    Target::Origin => None,
                };
                self.journal.touched = self.journal.runs.as_ref().map(|release| release.epoch);
                self.journal.moving = None;
            }
            // S5. Halted, because the node has another aim by now: no failure.
            Err(_) if halted => {}
            Err(fault) => {
                self.failed = Some(fault);
                self.may_retry = false;
                run.push(Planned::Effect(Effect::RetryLater));
            }
        }
        Ok(())
    }

    /// What the node owes under the record that it follows, by the facts alone.
    fn duty(&self) -> Duty {
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

    fn has_answered(&self, record: &Barrier) -> bool {
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
            Course::MustLook { epoch } => Duty::ReadHistory { epoch },
            // P4. A node that must not leave its release could not commit either.
            Course::Stranded { reason } => refuse(Fault::new(Step::Floor, &reason)),
            Course::Apart { .. } | Course::Arrived | Course::Open { .. } => {
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
            (Course::Open { .. }, Some(fault), false) => Duty::Acknowledge { answer: no, fault: Some(fault.clone()) },
            (Course::Apart { reason } | Course::Stranded { reason }, _, false) => {
                Duty::Acknowledge { answer: no, fault: Some(Fault::new(Step::Floor, &reason)) }
            }
            // S5. A failed switch under commit waits for the verdict of the fleet: alone, the node would run what the
            // others may be about to leave.
            (Course::Open { .. }, Some(_), true) if record.phase == Phase::Commit => Duty::Nothing,
            (Course::MustLook { .. }, _, false)
            | (Course::Open { .. }, None, false)
            | (
                Course::Apart { .. }
                | Course::Arrived
                | Course::MustLook { .. }
                | Course::Open { .. }
                | Course::Stranded { .. },
                _,
                true,
            ) => self.owes_following(),
        }
    }

    /// S2 and S3 for everyone, members and others.
    fn owes_following(&self) -> Duty {
        match (self.course(), &self.failed, self.may_retry) {
            (Course::Apart { .. } | Course::Arrived | Course::Stranded { .. }, _, _)
            | (Course::Open { .. }, Some(_), false) => Duty::Nothing,
            (Course::MustLook { epoch }, _, _) => Duty::ReadHistory { epoch },
            (Course::Open { to, way }, None, _) | (Course::Open { to, way }, Some(_), true) => Duty::Switch { to, way },
        }
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

fn refuse(fault: Fault) -> Duty {
    Duty::Acknowledge { answer: Answer::Refused, fault: Some(fault) }
}
