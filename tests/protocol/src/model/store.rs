//! Consul as the barrier uses it, as a value: keys with indexes, sessions, and transactions that apply or do not.
//!
//! Each key counts its own indexes: the protocol compares them only for equality, and epochs with epochs, which all come
//! from `deploy`. One counter for all keys would tell apart states that behave alike. Indexes never go back, not even
//! when a snapshot is restored, as in Consul.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::shared::Shared;
use crate::invariant::Write;
use crate::protocol::coordinator::Slot;
use crate::protocol::ids::{Epoch, ModifyIndex, Node};
use crate::protocol::participant::Verdict;
use crate::protocol::record::{Ack, Barrier, NodeRecord, Outcome, Request, Wanted};
use crate::protocol::rule::{Rule, holds};
use crate::protocol::transition::{Key, Op, Transition, Value};

/// A session's id. `None` in a key: no session holds it.
pub(super) type Session = u8;

/// A node's presence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) session: Option<Session>,
    pub(super) record: Arc<NodeRecord>,
}

/// All keys of the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) barrier: Option<Slot<Arc<Barrier>>>,
    pub(super) deploy: Option<Slot<&'static str>>,
    pub(super) abort: Option<Slot<String>>,
    pub(super) freeze: Option<Slot<&'static str>>,
    pub(super) lock: Option<Session>,
    pub(super) members: BTreeMap<Epoch, Vec<Node>>,
    pub(super) acks: BTreeMap<Node, Slot<Arc<Ack>>>,
    pub(super) nodes: BTreeMap<Node, Held>,
    /// The outcomes in `history/`; none while a deploy runs.
    pub(super) history: BTreeMap<Epoch, Option<Outcome>>,
    /// Epochs whose history says that they were reverted.
    pub(super) reverted: BTreeSet<Epoch>,
    /// The writes that the invariants are about, oldest first. Answers to one record are sorted by name: nothing depends on
    /// their order, and every order would multiply the states.
    pub(super) log: Shared<Vec<Write>>,
}

/// The newest index of each key. Apart from the keys, since a restored snapshot does not take them back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Indexes {
    barrier: u64,
    deploy: u64,
    abort: u64,
    freeze: u64,
    ack: u64,
}

fn next(count: &mut u64) -> ModifyIndex {
    *count += 1;
    ModifyIndex(*count)
}

impl Store {
    /// A person's `consul kv put` of a request.
    pub(super) fn request(&mut self, indexes: &mut Indexes, text: &'static str) {
        self.deploy = Some(Slot { index: next(&mut indexes.deploy), value: text });
        self.note_request(text);
    }

    /// Logs only rollbacks and their ends: other requests matter to no invariant, and would multiply the states.
    fn note_request(&mut self, text: &str) {
        let wanted = Request::parse(text.as_bytes()).ok().map(|request| request.wanted);
        let wanted = wanted.filter(|wanted| matches!(wanted, Wanted::Rollback(_)));
        let waits = self.log.iter().rev().find_map(|write| match write {
            Write::Request { wanted } => Some(wanted.is_some()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } => None,
        });
        if wanted.is_some() || waits == Some(true) {
            // Before the answers to the current record: only the order of records matters.
            let at = self.log.iter().rposition(|write| !matches!(write, Write::Ack { .. })).map_or(0, |at| at + 1);
            self.log.make_mut().insert(at, Write::Request { wanted });
        }
    }

    pub(super) fn ask_abort(&mut self, indexes: &mut Indexes, epoch: Epoch) {
        self.abort = Some(Slot { index: next(&mut indexes.abort), value: epoch.to_string() });
    }

    pub(super) fn put_freeze(&mut self, indexes: &mut Indexes, text: &'static str) {
        self.freeze = Some(Slot { index: next(&mut indexes.freeze), value: text });
    }

    /// An operator's `recover`.
    pub(super) fn recover(&mut self, indexes: &mut Indexes, idle: Barrier) {
        self.put_barrier(indexes, idle);
        for slot in [&mut self.deploy, &mut self.freeze] {
            slot.get_or_insert(Slot { index: ModifyIndex(0), value: "" });
        }
        self.request(indexes, "");
        self.abort.get_or_insert(Slot { index: ModifyIndex(0), value: String::new() });
    }

    fn put_barrier(&mut self, indexes: &mut Indexes, barrier: Barrier) {
        let barrier = Arc::new(barrier);
        self.log.make_mut().push(Write::Barrier(Arc::clone(&barrier)));
        self.barrier = Some(Slot { index: next(&mut indexes.barrier), value: barrier });
    }

    fn index_of(&self, key: Key) -> ModifyIndex {
        let of = |index: Option<ModifyIndex>| index.unwrap_or_default();
        match key {
            Key::Abort => of(self.abort.as_ref().map(|slot| slot.index)),
            Key::Barrier => of(self.barrier.as_ref().map(|slot| slot.index)),
            Key::Deploy => of(self.deploy.as_ref().map(|slot| slot.index)),
            Key::Freeze => of(self.freeze.as_ref().map(|slot| slot.index)),
            // Only ever compared with "absent".
            Key::History(epoch) => ModifyIndex(u64::from(self.history.contains_key(&epoch))),
            Key::Members(epoch) => ModifyIndex(u64::from(self.members.contains_key(&epoch))),
            Key::Status => ModifyIndex(0),
        }
    }

    /// A coordinator's transaction. Returns whether it applied.
    pub(super) fn apply(&mut self, indexes: &mut Indexes, session: Session, transition: &Transition) -> bool {
        let may = transition.ops.iter().all(|op| match op {
            Op::HoldLock => self.lock == Some(session),
            Op::Cas { key, index, .. } | Op::CheckIndex { key, index } => self.index_of(*key) == *index,
            Op::Delete { .. } | Op::Set { .. } | Op::RemoveAttestation { .. } => true,
        });
        if may {
            transition.ops.iter().for_each(|op| self.carry_out(indexes, op));
        }
        may
    }

    fn carry_out(&mut self, indexes: &mut Indexes, op: &Op) {
        let (key, value) = match op {
            // The model has no attestations: the author decides nothing.
            Op::HoldLock | Op::CheckIndex { .. } | Op::RemoveAttestation { .. } => return,
            Op::Delete { key: Key::Members(epoch) } => {
                self.members.remove(epoch);
                return;
            }
            Op::Delete { key } => unreachable!("{key:?} is never deleted"),
            Op::Cas { key, value, .. } | Op::Set { key, value } => (*key, value),
        };
        match (key, value) {
            (_, Value::Barrier(barrier)) => self.put_barrier(indexes, (**barrier).clone()),
            (_, Value::History(history)) => {
                self.history.insert(history.epoch, history.outcome);
                if history.was_reverted() {
                    self.reverted.insert(history.epoch);
                }
            }
            (Key::Members(epoch), Value::Members(members)) => {
                self.members.insert(epoch, members.clone());
                self.log.make_mut().push(Write::Members { epoch, members: members.clone() });
            }
            (Key::Deploy, Value::Empty) => self.request(indexes, ""),
            (Key::Abort, Value::Empty) => {
                self.abort = Some(Slot { index: next(&mut indexes.abort), value: String::new() });
            }
            (Key::Freeze, Value::Empty) => self.put_freeze(indexes, ""),
            // No decision depends on `status`.
            (_, Value::Status(_)) => {}
            (key, value) => unreachable!("{key:?} never holds {value:?}"),
        }
    }

    /// A node's answer, fenced by its session, the record answered, and its former answer. Returns whether it applied.
    pub(super) fn acknowledge(&mut self, indexes: &mut Indexes, answer: &AnswerWrite) -> bool {
        let is_held = self.nodes.get(&answer.node).is_some_and(|held| held.session == Some(answer.session));
        let stands = self.barrier.as_ref().is_some_and(|slot| slot.index == answer.barrier);
        let former = self.acks.get(&answer.node).map(|slot| slot.index).unwrap_or_default();
        let is_as_read = former == answer.former || !holds(Rule::AnswerAsRead);
        if !is_held || !stands || !is_as_read {
            return false;
        }
        let index = next(&mut indexes.ack);
        self.acks.insert(answer.node.clone(), Slot { index, value: Arc::clone(&answer.ack) });
        let held = Held { session: Some(answer.session), record: Arc::clone(&answer.record) };
        self.nodes.insert(answer.node.clone(), held);
        self.note_answer(answer.node.clone(), &answer.ack);
        true
    }

    fn note_answer(&mut self, node: Node, ack: &Ack) {
        let is_record = |write: &Write| !matches!(write, Write::Ack { .. });
        let newest = self.log.iter().rposition(is_record).map_or(0, |at| at + 1);
        let after = |write: &Write| matches!(write, Write::Ack { node: other, .. } if *other > node);
        let at = (newest..self.log.len()).find(|at| after(&self.log[*at])).unwrap_or(self.log.len());
        self.log.make_mut().insert(at, Write::Ack { node, epoch: ack.epoch, answer: ack.answer });
    }

    /// Whether the history says that the epoch was reverted.
    pub(super) fn verdict(&self, epoch: Epoch) -> Verdict {
        if self.reverted.contains(&epoch) { Verdict::Reverted } else { Verdict::NotReverted }
    }
}

/// An answer with everything that fences it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnswerWrite {
    pub(super) node: Node,
    pub(super) session: Session,
    pub(super) barrier: ModifyIndex,
    /// The node's own former answer, as it was read.
    pub(super) former: ModifyIndex,
    pub(super) ack: Arc<Ack>,
    pub(super) record: Arc<NodeRecord>,
}
