//! The participant: one node's half of the barrier.
//!
//! Pure: no clock, disk or network. It follows one rule, `committed`, and answers the deploys that it is a member
//! of. Facts come in as [`Event`]s; `Participant::duty` says, from the facts alone, what the node owes; and one
//! table of activity against duty says what is begun, halted, or left to go on. So a restart, a lost event and a
//! record that changes in the middle of something all take the same way.
//!
//! The caller must
//!
//! 1. pass every event in the order in which it was observed;
//! 2. get at the effects through [`Effects::publish`], which writes the journal first;
//! 3. run effects in their order, and report how each ended, failures and halts included.
//!
//! Non-goals: choosing members, retrying I/O, deciding when to give up. Nothing here ends by time (I2).

mod course;

use self::course::Course;
pub use super::effect::{Effect, Effects, Way};
pub use super::event::{Event, Verdict};
use super::floor::{Admission, admit};
use super::ids::{Epoch, ModifyIndex};
use super::journal::{Journal, Origin, Target};
use super::record::{Answer, Barrier, Fault, Phase, Release, Step};
use super::rule::{Rule, holds};

/// What the node is doing. At most one thing that touches the disk is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Activity {
    /// [`Effect::ReadMembers`] of this epoch.
    Asking { epoch: Epoch },
    /// [`Effect::Discard`] of what this epoch made.
    Discarding { epoch: Epoch },
    /// [`Effect::ReadHistory`] of this epoch.
    Looking { epoch: Epoch },
    /// [`Effect::Prepare`]. Disk: the release may be there in part. KV: no acknowledgement of it in this life.
    Preparing { epoch: Epoch, halting: bool },
    /// Nothing. Disk: `current` is as the journal says.
    Resting,
    /// [`Effect::Switch`]. Disk: `current` may be the old or the new; the journal names both.
    Switching { to: Target, way: Way, halting: bool },
}

/// What the node owes, by the facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Duty {
    Acknowledge { answer: Answer, fault: Option<Fault> },
    Ask { epoch: Epoch },
    Discard { release: Release },
    Look { epoch: Epoch },
    Nothing,
    Prepare { release: Release, from: Option<Release> },
    Switch { to: Target, way: Way },
}

/// Removes what `record`'s epoch made.
fn discard(record: &Barrier) -> Duty {
    record.target().cloned().map_or(Duty::Nothing, |release| Duty::Discard { release })
}

/// What `seen` is to a node that holds `held`.
pub(in crate::protocol) fn admission(held: Option<&Barrier>, seen: &Barrier) -> Admission {
    match admit(held, seen) {
        Admission::Late if !holds(Rule::FloorRank) && held.is_some_and(|held| held.epoch == seen.epoch) => {
            Admission::New
        }
        admission => admission,
    }
}

/// One node's half of the barrier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    journal: Journal,
    /// Where the journal's record stands in Consul's log; none after a restart, until it is read again.
    index: Option<ModifyIndex>,
    activity: Activity,
    /// What the preparation of this epoch came to, in this life.
    prepared: Option<(Epoch, Result<(), Fault>)>,
    /// The record that was answered, in this life: once each.
    answered: Option<(Epoch, Phase)>,
    /// What the last switch under the record that stands came to, where it failed.
    failed: Option<Fault>,
    /// Whether that switch may be tried again.
    may_retry: bool,
    /// What was learnt about an epoch that the node would leave.
    verdict: Option<(Epoch, Verdict)>,
    /// What is wrong with the record in Consul.
    alarm: Option<String>,
}

impl Participant {
    /// A participant as its journal has it, with nothing under way: after a start or a crash.
    #[must_use]
    pub const fn new(journal: Journal) -> Self {
        Self {
            journal,
            index: None,
            activity: Activity::Resting,
            prepared: None,
            answered: None,
            failed: None,
            may_retry: false,
            verdict: None,
            alarm: None,
        }
    }

    /// The durable half.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What a person must look at; none: nothing.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        if let (None, Course::Stranded { reason } | Course::Apart { reason }) = (&self.alarm, self.course()) {
            return Some(reason);
        }
        self.alarm.clone()
    }

    /// Why the last switch under the record that stands failed.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        self.failed.as_ref()
    }

    /// Whether the node runs what is committed, or nothing is to be done about it.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        matches!(self.course(), Course::Arrived | Course::Apart { .. })
    }

    /// Whether a switch is under way.
    #[must_use]
    pub const fn is_switching(&self) -> bool {
        matches!(self.activity, Activity::Switching { .. })
    }

    /// Whether something that touches the disk is under way.
    #[must_use]
    pub const fn is_working(&self) -> bool {
        match self.activity {
            Activity::Discarding { .. } | Activity::Preparing { .. } | Activity::Switching { .. } => true,
            Activity::Asking { .. } | Activity::Looking { .. } | Activity::Resting => false,
        }
    }

    /// Takes one event in. `origin` is what `current` is now: what a first switch leaves behind.
    pub fn handle(&mut self, event: Event, origin: &Origin) -> Effects {
        let before = self.journal.clone();
        let mut run = Vec::new();
        self.learn(event, &mut run);
        while self.advance(origin, &mut run) {}
        let is_new = self.journal != before && holds(Rule::JournalFirst);
        Effects::after(is_new.then(|| self.journal.clone()), run)
    }

    fn epoch(&self) -> Option<Epoch> {
        self.journal.record.as_ref().map(|record| record.epoch)
    }

    fn rest_from(&mut self, activity: &Activity) {
        if self.activity == *activity {
            self.activity = Activity::Resting;
        }
    }

    /// Facts only; nothing is begun here.
    fn learn(&mut self, event: Event, run: &mut Vec<Effect>) {
        match event {
            Event::Record { index, record, is_consistent } => self.see(index, *record, is_consistent),
            Event::Unreadable { reason } => self.alarm = Some(reason),
            Event::Members { epoch, is_member } => {
                self.rest_from(&Activity::Asking { epoch });
                if self.epoch() == Some(epoch) && self.journal.member.is_none() {
                    self.journal.member = Some(is_member);
                }
            }
            Event::History { epoch, verdict } => {
                self.rest_from(&Activity::Looking { epoch });
                self.verdict = Some((epoch, verdict));
            }
            Event::PrepareEnded { epoch, result } => self.prepare_ended(epoch, result),
            Event::SwitchEnded { to, result } => self.switch_ended(&to, result, run),
            Event::Discarded { epoch } => {
                self.rest_from(&Activity::Discarding { epoch });
                if self.journal.began == Some(epoch) {
                    self.journal.began = None;
                }
            }
            Event::Retry => self.may_retry = true,
        }
    }

    /// Steps F1 to F4: which records are followed.
    fn see(&mut self, index: ModifyIndex, record: Barrier, is_consistent: bool) {
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
            Admission::Late if is_consistent => {
                self.alarm =
                    Some(format!("{at}, behind what this node has followed: the keys were restored to an older state"));
            }
            Admission::Late => {}
            Admission::Contradicts => {
                self.alarm = Some(format!("{at}, and denies what this node holds as decided: somebody wrote over it"));
            }
        }
    }

    fn prepare_ended(&mut self, epoch: Epoch, result: Result<(), Fault>) {
        match self.activity {
            Activity::Preparing { epoch: under_way, halting } if under_way == epoch => {
                self.activity = Activity::Resting;
                if !halting {
                    self.prepared = Some((epoch, result));
                }
            }
            // Late: the preparation of a former life or of an epoch that is over.
            Activity::Preparing { .. }
            | Activity::Asking { .. }
            | Activity::Discarding { .. }
            | Activity::Looking { .. }
            | Activity::Resting
            | Activity::Switching { .. } => {}
        }
    }

    fn switch_ended(&mut self, ended: &Target, result: Result<(), Fault>, run: &mut Vec<Effect>) {
        let Activity::Switching { to, halting, .. } = &self.activity else { return };
        if to != ended {
            return;
        }
        let halted = *halting;
        self.activity = Activity::Resting;
        match result {
            // S4. There, with its hooks content; a halt that came too late changes nothing about that.
            Ok(()) => {
                self.journal.runs = match ended {
                    Target::Release(release) => Some(release.clone()),
                    Target::Origin => None,
                };
                self.journal.touched = self.journal.runs.as_ref().map(|release| release.epoch);
                self.journal.moving = None;
            }
            // S5. Not there, because it is to go elsewhere.
            Err(_) if halted => {}
            Err(fault) => {
                self.failed = Some(fault);
                self.may_retry = false;
                run.push(Effect::RetryLater);
            }
        }
    }

    /// What the node owes under the record that stands, by the facts alone.
    fn duty(&self) -> Duty {
        let (Some(record), Some(_)) = (&self.journal.record, self.index) else { return Duty::Nothing };
        match (record.phase, self.journal.member) {
            // P1. Whether it concerns this node is read once per epoch.
            (Phase::Prepare | Phase::Commit | Phase::Revert, None) => Duty::Ask { epoch: record.epoch },
            (Phase::Commit, Some(true)) => self.owes_decision(record, Answer::Switched, Answer::Failed),
            (Phase::Revert, Some(true)) => self.owes_decision(record, Answer::Reverted, Answer::Stuck),
            // P2. What this very epoch made, and nothing else.
            (Phase::Aborted, _) if self.journal.began == Some(record.epoch) => discard(record),
            (Phase::Prepare, Some(true)) if !holds(Rule::PromiseKept) && self.gives_up(record) => discard(record),
            (Phase::Prepare, Some(true)) => self.owes_prepare(record),
            (Phase::Prepare | Phase::Commit | Phase::Revert, Some(false))
            | (Phase::Aborted | Phase::Done | Phase::Idle | Phase::Reverted, _) => self.owes_following(),
        }
    }

    fn has_answered(&self, record: &Barrier) -> bool {
        self.answered == Some((record.epoch, record.phase))
    }

    /// What [`Rule::PromiseKept`] forbids: to end a deploy by time, after having promised.
    fn gives_up(&self, record: &Barrier) -> bool {
        self.may_retry && self.has_answered(record) && self.journal.began == Some(record.epoch)
    }

    /// P2 to P4: prepare first, answer, and only then see to what is committed meanwhile.
    fn owes_prepare(&self, record: &Barrier) -> Duty {
        let outcome = self.prepared.as_ref().filter(|(epoch, _)| *epoch == record.epoch).map(|(_, result)| result);
        match (self.course(), outcome, &record.deploy) {
            _ if self.has_answered(record) => self.owes_following(),
            (Course::MustLook { epoch }, _, _) => Duty::Look { epoch },
            (Course::Stranded { reason }, _, _) => {
                Duty::Acknowledge { answer: Answer::Refused, fault: Some(Fault::new(Step::Floor, &reason)) }
            }
            (Course::Apart { .. } | Course::Arrived | Course::Open { .. }, None, Some(_))
                if !holds(Rule::AckDurable) =>
            {
                Duty::Acknowledge { answer: Answer::Prepared, fault: None }
            }
            (Course::Apart { .. } | Course::Arrived | Course::Open { .. }, None, Some((release, _))) => {
                Duty::Prepare { release: release.clone(), from: record.from.clone() }
            }
            (_, Some(Ok(())), _) => Duty::Acknowledge { answer: Answer::Prepared, fault: None },
            (_, Some(Err(fault)), _) => Duty::Acknowledge { answer: Answer::Refused, fault: Some(fault.clone()) },
            (_, None, None) => Duty::Nothing,
        }
    }

    /// S6: a member's answer to a decision, once it is carried out or has failed.
    fn owes_decision(&self, record: &Barrier, yes: Answer, no: Answer) -> Duty {
        match (self.course(), &self.failed, self.has_answered(record)) {
            (Course::Arrived, _, false) => Duty::Acknowledge { answer: yes, fault: None },
            (Course::Open { .. }, Some(fault), false) => Duty::Acknowledge { answer: no, fault: Some(fault.clone()) },
            (Course::Apart { reason } | Course::Stranded { reason }, _, false) => {
                Duty::Acknowledge { answer: no, fault: Some(Fault::new(Step::Floor, &reason)) }
            }
            // A failed switch under commit waits for the verdict of the fleet; it does not try its luck alone.
            (Course::Open { .. }, Some(_), true) if record.phase == Phase::Commit => Duty::Nothing,
            (_, _, _) => self.owes_following(),
        }
    }

    /// S2 and S3 for everyone, members and others.
    fn owes_following(&self) -> Duty {
        match (self.course(), &self.failed, self.may_retry) {
            (Course::Apart { .. } | Course::Arrived | Course::Stranded { .. }, _, _)
            | (Course::Open { .. }, Some(_), false) => Duty::Nothing,
            (Course::MustLook { epoch }, _, _) => Duty::Look { epoch },
            (Course::Open { to, way }, None, _) | (Course::Open { to, way }, Some(_), true) => Duty::Switch { to, way },
        }
    }

    /// Activity against duty. Whether another round may find more to do.
    fn advance(&mut self, origin: &Origin, run: &mut Vec<Effect>) -> bool {
        let duty = self.duty();
        match (&mut self.activity, duty) {
            // Reads are harmless: the answer to one that is no longer wanted is not waited for.
            (Activity::Asking { epoch: under_way }, Duty::Ask { epoch })
            | (Activity::Looking { epoch: under_way }, Duty::Look { epoch })
                if *under_way == epoch =>
            {
                false
            }
            (Activity::Resting | Activity::Asking { .. } | Activity::Looking { .. }, duty) => {
                self.begin(duty, origin, run)
            }
            (Activity::Preparing { epoch, .. }, Duty::Prepare { release, .. }) if *epoch == release.epoch => false,
            // P2. A later record has made it pointless.
            (Activity::Preparing { halting, .. }, _) => {
                if !std::mem::replace(halting, true) {
                    run.push(Effect::HaltPrepare);
                }
                false
            }
            // S5. Only another aim stops a switch: never a new prepare, nor a question.
            (Activity::Switching { to, halting, .. }, Duty::Switch { to: aim, .. }) if *to != aim => {
                if !std::mem::replace(halting, true) {
                    run.push(Effect::HaltSwitch);
                }
                false
            }
            (Activity::Switching { .. } | Activity::Discarding { .. }, _) => false,
        }
    }

    /// Begins what is owed, from rest.
    fn begin(&mut self, duty: Duty, origin: &Origin, run: &mut Vec<Effect>) -> bool {
        self.activity = Activity::Resting;
        let (Some(record), Some(index)) = (&self.journal.record, self.index) else { return false };
        match duty {
            Duty::Nothing => {}
            Duty::Acknowledge { answer, fault } => {
                let epoch = record.epoch;
                self.answered = Some((epoch, record.phase));
                run.push(Effect::Acknowledge { index, epoch, answer, fault });
                return true;
            }
            Duty::Ask { epoch } => {
                self.activity = Activity::Asking { epoch };
                run.push(Effect::ReadMembers { epoch });
            }
            Duty::Look { epoch } => {
                self.activity = Activity::Looking { epoch };
                run.push(Effect::ReadHistory { epoch });
            }
            // P2. That a directory may be left is journaled before there is one.
            Duty::Prepare { release, from } => {
                self.journal.began = Some(release.epoch);
                self.activity = Activity::Preparing { epoch: release.epoch, halting: false };
                run.push(Effect::Prepare { release, from });
            }
            Duty::Discard { release } => {
                self.activity = Activity::Discarding { epoch: release.epoch };
                run.push(Effect::Discard { release });
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
                run.push(Effect::Switch { to, way });
            }
        }
        false
    }
}
