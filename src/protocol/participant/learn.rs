//! Taking events: which records a node follows (PROTOCOL.md F1 to F4), and what the end of work changes.

use super::{Activity, Learnt, Participant, Prepared, admission};
use crate::protocol::effect::{Effect, Planned};
use crate::protocol::event::{EndOfWork, Event, IllegalEvent};
use crate::protocol::floor::Admission;
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::journal::Target;
use crate::protocol::record::{Barrier, Fault};

/// How a record was read: Consul's log cannot go back in a consistent read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Consistent,
    Stale,
}

impl Participant {
    fn rest_from(&mut self, activity: &Activity) {
        if self.activity == *activity {
            self.activity = Activity::Resting;
        }
    }

    fn illegal(&self, event: EndOfWork) -> IllegalEvent {
        IllegalEvent { event, during: self.activity.as_str() }
    }

    /// Takes in the facts of an event; begins nothing.
    pub(super) fn learn(&mut self, event: Event, run: &mut Vec<Planned>) -> Result<(), IllegalEvent> {
        match event {
            Event::Record { index, record, is_consistent } => {
                self.see(index, *record, if is_consistent { Read::Consistent } else { Read::Stale });
            }
            Event::Unreadable { reason } => self.alarm = Some(reason),
            Event::Members { epoch, is_member } => {
                self.rest_from(&Activity::ReadingMembers { epoch });
                match (self.epoch() == Some(epoch), self.journal.member) {
                    (true, None) => self.journal.member = Some(is_member),
                    // Repeated: the members of an epoch never change (I5).
                    (true, Some(_)) => {}
                    // Late: that epoch is over.
                    (false, None | Some(_)) => {}
                }
            }
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
}
