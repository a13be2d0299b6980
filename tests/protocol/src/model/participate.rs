//! The participants' half of a run: the driver of a participant, with a disk that is a value.

use std::sync::Arc;

use super::fleet::{Fleet, KnownReads, Member};
use super::shared::Shared;
use super::store::AnswerWrite;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::journal::{Journal, Target};
use crate::protocol::participant::{Acknowledgement, Effect, Event, Participant};
use crate::protocol::record::{Ack, Barrier, FORMAT, Fault, Release, Step, Timings};
use crate::protocol::rule::{Rule, holds};
use crate::receipt::{self, Written};

/// How a piece of work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Well,
    /// Failed before it changed anything.
    Early,
    /// Failed after it changed everything: by a hook, or a lost result.
    Late,
}

impl Fleet {
    /// Gives an event to a participant, writes its journal, and begins its effects.
    pub(super) fn handle(&mut self, i: usize, event: Event) {
        let node = self.nodes[i].make_mut();
        let origin = node.origin();
        node.known_reads = KnownReads::default();
        let effects = match node.machine.make_mut().handle(event, &origin) {
            Ok(effects) => effects,
            Err(illegal) => {
                self.broken.get_or_insert(illegal.to_string());
                return;
            }
        };
        let durable = &mut node.durable;
        let run = effects.publish(&mut node.receipt, |journal| -> Result<Written, std::convert::Infallible> {
            Ok(receipt::write(durable.make_mut(), journal))
        });
        let Ok(run) = run;
        for effect in run {
            if let Err(what) = node.begin(effect) {
                self.broken.get_or_insert(what);
            }
        }
    }

    /// A node reads a record.
    pub(super) fn deliver(&mut self, i: usize, index: ModifyIndex, record: &Barrier, is_consistent: bool) {
        self.nodes[i].make_mut().has_no_journal = false;
        self.handle(i, Event::Record { index, record: Box::new(record.clone()), is_consistent });
    }

    /// A node's oldest read is answered.
    pub(super) fn answer_read(&mut self, i: usize) {
        let node = self.nodes[i].make_mut();
        let event = match node.reads.remove(0) {
            Effect::ReadMembers { epoch } => {
                let members = self.store.members.get(&epoch);
                Event::Members { epoch, is_member: members.is_some_and(|members| members.contains(&node.name)) }
            }
            Effect::ReadHistory { epoch } => Event::History { epoch, verdict: self.store.verdict(epoch) },
            other => unreachable!("no read: {other:?}"),
        };
        self.handle(i, event);
    }

    /// The work under way ends.
    pub(super) fn end(&mut self, i: usize, end: End) {
        let Some(work) = self.carry_out(i, end) else { return };
        let result = match end {
            End::Well => Ok(()),
            End::Early | End::Late => Err(Fault::new(Step::CheckHook, "")),
        };
        let event = match work {
            Effect::Prepare { release, .. } => Event::PrepareEnded { epoch: release.epoch, result },
            Effect::Switch { to, .. } => Event::SwitchEnded { to, result },
            Effect::Discard { release } => Event::Discarded { epoch: release.epoch },
            other => unreachable!("no work on the disk: {other:?}"),
        };
        self.handle(i, event);
    }

    /// Changes the disk as the work does, as far as it came.
    fn carry_out(&mut self, i: usize, end: End) -> Option<Effect> {
        let node = self.nodes[i].make_mut();
        node.is_halted = false;
        let work = node.work.take()?;
        if end == End::Early {
            return Some(work);
        }
        let before = node.disk.current.clone();
        let keep = |node: &mut Member, release: &Release| {
            node.disk.make_mut().releases.entry(release.release.clone()).or_insert(release.epoch);
        };
        match &work {
            Effect::Prepare { release, from } => {
                for release in from.iter().chain([release]) {
                    keep(node, release);
                }
            }
            Effect::Switch { to: Target::Release(release), .. } => {
                keep(node, release);
                node.disk.make_mut().current = Some(release.clone());
            }
            Effect::Switch { to: Target::Origin, .. } => node.disk.make_mut().current = None,
            Effect::Discard { release } => {
                let made_by = node.disk.releases.get(&release.release);
                if made_by == Some(&release.epoch) || !holds(Rule::DiscardOwn) {
                    node.disk.make_mut().releases.remove(&release.release);
                }
            }
            other => unreachable!("no work on the disk: {other:?}"),
        }
        let (name, after) = (node.name.clone(), node.disk.current.clone());
        self.check_back(&name, before.as_ref(), after.as_ref());
        Some(work)
    }

    /// A node tries to write its answer. The answer is kept without a session, and dropped when the record is another.
    pub(super) fn send(&mut self, i: usize) {
        if self.keeps_promise(i) {
            self.nodes[i].make_mut().answer = None;
        }
        let Some(answer) = self.answer_write(i) else { return };
        let has_moved = self.store.barrier.as_ref().is_none_or(|slot| slot.index != answer.barrier);
        if self.write_answer(&answer) || has_moved {
            self.nodes[i].make_mut().answer = None;
        }
    }

    /// P3. Whether the next answer would take back a former life's promise.
    pub(super) fn keeps_promise(&self, i: usize) -> bool {
        let node = &self.nodes[i];
        let former = self.store.acks.get(&node.name).map(|slot| &slot.value);
        let answer = node.answer.as_ref().map(|(_, ack)| ack);
        answer.zip(former).is_some_and(|(answer, former)| !answer.may_replace(former))
    }

    /// The answer as it would be sent now.
    pub(super) fn answer_write(&self, i: usize) -> Option<AnswerWrite> {
        let node = &self.nodes[i];
        let (barrier, ack) = node.answer.clone()?;
        let former = self.store.acks.get(&node.name).map(|slot| slot.index).unwrap_or_default();
        let record = Arc::new(node.record());
        Some(AnswerWrite { node: node.name.clone(), session: node.session?, barrier, former, ack, record })
    }

    /// An answer arrives at Consul. Returns whether it was written.
    pub(super) fn write_answer(&mut self, answer: &AnswerWrite) -> bool {
        let before = self.store.clone();
        let is_written = self.store.make_mut().acknowledge(&mut self.indexes, answer);
        if !is_written {
            self.store = before;
        }
        is_written
    }

    /// The agent dies, its work done as far as `end` says. An answer that it has sent may still arrive.
    pub(super) fn crash(&mut self, i: usize, end: End) {
        self.carry_out(i, end);
        let node = self.nodes[i].make_mut();
        node.is_up = false;
        node.machine = Shared::new(Participant::new((*node.durable).clone()));
        node.known_reads = KnownReads::default();
        node.receipt = None;
        node.reads.clear();
        node.answer = None;
        node.wants_retry = false;
        self.candidates.retain(|candidate| candidate.node != i);
    }

    /// The agent starts again. A session that still exists is renewed.
    pub(super) fn restart(&mut self, i: usize) {
        let is_held = self.holds_presence(i);
        let node = self.nodes[i].make_mut();
        node.is_up = true;
        if !is_held {
            node.session = None;
        }
    }

    /// Whether the session that a node uses holds its presence.
    pub(super) fn holds_presence(&self, i: usize) -> bool {
        let held = self.store.nodes.get(&self.nodes[i].name).and_then(|held| held.session);
        held.is_some() && held == self.nodes[i].session
    }

    /// The journal is lost: it is rebuilt from the disk, and the first read will be consistent.
    pub(super) fn lose_journal(&mut self, i: usize) {
        let node = self.nodes[i].make_mut();
        let runs = node.disk.current.as_ref().map(|current| {
            let made_by = node.disk.releases.get(&current.release).copied().unwrap_or(current.epoch);
            Release { epoch: made_by, ..current.clone() }
        });
        let touched = runs.as_ref().map(|r| r.epoch);
        node.durable = Shared::new(Journal { runs, touched, ..Journal::default() });
        node.machine = Shared::new(Participant::new((*node.durable).clone()));
        node.known_reads = KnownReads::default();
        node.has_no_journal = true;
    }
}

impl Member {
    fn begin(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Acknowledge(Acknowledgement { index, epoch, answer, fault, .. }) => {
                let at = jiff::Timestamp::UNIX_EPOCH;
                let fault = fault.map(|fault| Fault { reason: String::new(), ..fault });
                let ack = Ack { format: FORMAT, epoch, answer, fault, took: Timings::default(), at };
                self.answer = Some((index, Arc::new(ack)));
            }
            Effect::Discard { .. } | Effect::Prepare { .. } | Effect::Switch { .. } => {
                if let Some(work) = self.work.replace(effect) {
                    return Err(format!("two things touch the disk of {} at once: {work:?}", self.name));
                }
            }
            Effect::HaltPrepare | Effect::HaltSwitch => self.is_halted = true,
            Effect::ReadHistory { .. } | Effect::ReadMembers { .. } => self.reads.push(effect),
            Effect::RetryLater => self.wants_retry = true,
        }
        Ok(())
    }
}
