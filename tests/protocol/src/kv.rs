//! The unit's keys in a fake Consul: transitions and answers are written as the agent writes them, with a log for the
//! invariants.

use std::sync::Arc;

use crate::consul::{Consul, Entry, Op as TxnOp, Refusal, Session};
use crate::invariant::Write;
use crate::protocol::ids::ModifyIndex;
#[cfg(test)]
use crate::protocol::ids::{Epoch, Node};
use crate::protocol::keys::{Keys, UnitKeys};
#[cfg(test)]
use crate::protocol::participant::Verdict;
use crate::protocol::record::{Ack, Barrier, Request, decode};
#[cfg(test)]
use crate::protocol::record::{History, NodeRecord, RecordError, encode};
#[cfg(test)]
use crate::protocol::rule::{Rule, holds};
use crate::protocol::transition::{Key, Op, Transition};

#[derive(Clone, Debug)]
pub(crate) struct Kv {
    pub(crate) consul: Consul,
    pub(crate) names: UnitKeys,
    /// Every applied write to a key that an invariant is about.
    pub(crate) log: Vec<Write>,
    /// Every record that `barrier` ever held, which a stale read may return.
    pub(crate) barriers: Vec<(ModifyIndex, Barrier)>,
}

impl Kv {
    pub(crate) fn new() -> Self {
        let names = Keys::default().unit(&"shop/production".parse().unwrap());
        Self { consul: Consul::default(), names, log: Vec::new(), barriers: Vec::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.consul.get(key)
    }

    /// Every entry under a prefix, by its name without the prefix.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.consul.under(prefix).filter_map(move |(key, entry)| Some((key.strip_prefix(prefix)?, entry)))
    }

    /// `consul kv put`. Returns the key's index.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> ModifyIndex {
        self.consul.put(key, value);
        let index = self.index_of(key);
        if index.0 == self.consul.index() {
            self.log_write(key);
        }
        index
    }

    /// One transaction; its writes go into the log.
    pub(crate) fn txn(&mut self, ops: &[TxnOp]) -> Result<(), Vec<Refusal>> {
        let found = self.consul.txn(ops)?;
        for (key, entry) in found {
            if entry.modify_index == self.consul.index() {
                self.log_write(&key);
            }
        }
        Ok(())
    }

    /// Logs a key that was changed just now.
    fn log_write(&mut self, key: &str) {
        let Some(entry) = self.consul.get(key) else { return };
        if key == self.names.barrier() {
            if let Ok(barrier) = Barrier::decode(key, &entry.value) {
                self.barriers.push((ModifyIndex(entry.modify_index), barrier.clone()));
                self.log.push(Write::Barrier(Arc::new(barrier)));
            }
        } else if key == self.names.deploy() {
            let wanted = Request::parse(&entry.value).ok().map(|request| request.wanted);
            self.log.push(Write::Request { wanted });
        } else if let Some(epoch) = key.strip_prefix(&self.names.all_members()) {
            let (epoch, members) = (epoch.parse().unwrap(), decode(key, &entry.value).unwrap());
            self.log.push(Write::Members { epoch, members });
        } else if let Some(node) = key.strip_prefix(&self.names.acks()) {
            let ack: Ack = decode(key, &entry.value).unwrap();
            self.log.push(Write::Ack { node: node.parse().unwrap(), epoch: ack.epoch, answer: ack.answer });
        }
    }

    pub(crate) fn holder(&self, key: &str) -> Option<Session> {
        self.get(key).and_then(|entry| entry.holder)
    }

    pub(crate) fn index_of(&self, key: &str) -> ModifyIndex {
        ModifyIndex(self.get(key).map_or(0, |entry| entry.modify_index))
    }

    pub(crate) fn name(&self, key: Key) -> String {
        match key {
            Key::Abort => self.names.abort(),
            Key::Barrier => self.names.barrier(),
            Key::Deploy => self.names.deploy(),
            Key::Freeze => self.names.freeze(),
            Key::History(epoch) => self.names.history(epoch),
            Key::Members(epoch) => self.names.members(epoch),
            Key::Status => self.names.status(),
        }
    }

    fn operation(&self, session: Session, op: &Op) -> TxnOp {
        let value = |value: &crate::protocol::transition::Value| Arc::from(value.encode().into_bytes());
        match op {
            Op::HoldLock => TxnOp::CheckSession { key: self.names.coordinator(), session },
            Op::Cas { key, index, value: v } => TxnOp::Cas { key: self.name(*key), value: value(v), index: index.0 },
            Op::CheckIndex { key, index } => TxnOp::CheckIndex { key: self.name(*key), index: index.0 },
            Op::Delete { key } => TxnOp::Delete { key: self.name(*key) },
            Op::Set { key, value: v } => TxnOp::Set { key: self.name(*key), value: value(v) },
            Op::RemoveAttestation { node, id } => TxnOp::Delete { key: self.names.attest(node, id) },
        }
    }

    /// Applies a transition, or returns the operations that did not hold.
    pub(crate) fn apply(&mut self, session: Session, transition: &Transition) -> Result<(), Vec<Refusal>> {
        let ops: Vec<TxnOp> = transition.ops.iter().map(|op| self.operation(session, op)).collect();
        self.txn(&ops)
    }
}

/// Reads and writes for the traces, without a network in between. The simulator has one.
#[cfg(test)]
impl Kv {
    /// A node's answer, fenced by its own session, the record that it answers, and its former answer at `standing`.
    pub(crate) fn answer(
        &self,
        (node, session): (&Node, Session),
        barrier: ModifyIndex,
        standing: ModifyIndex,
        ack: &Ack,
        record: Option<&NodeRecord>,
    ) -> Vec<TxnOp> {
        let bytes = |text: String| Arc::from(text.into_bytes());
        let at_node = self.names.node(node);
        let mut ops = vec![
            TxnOp::CheckSession { key: at_node.clone(), session },
            TxnOp::CheckIndex { key: self.names.barrier(), index: barrier.0 },
            if holds(Rule::AnswerAsRead) {
                TxnOp::Cas { key: self.names.ack(node), value: bytes(encode(ack)), index: standing.0 }
            } else {
                TxnOp::Set { key: self.names.ack(node), value: bytes(encode(ack)) }
            },
        ];
        ops.extend(record.map(|record| TxnOp::Set { key: at_node, value: bytes(encode(record)) }));
        ops
    }

    pub(crate) fn members(&self, epoch: Epoch) -> Vec<Node> {
        let key = self.names.members(epoch);
        self.get(&key).map(|entry| decode(&key, &entry.value).unwrap()).unwrap_or_default()
    }

    pub(crate) fn history(&self, epoch: Epoch) -> Option<History> {
        let key = self.names.history(epoch);
        self.get(&key).map(|entry| decode(&key, &entry.value).unwrap())
    }

    /// Whether `history/<epoch>` says that the epoch was reverted.
    pub(crate) fn verdict(&self, epoch: Epoch) -> Verdict {
        let is_reverted = self.history(epoch).is_some_and(|history| history.was_reverted());
        if is_reverted { Verdict::Reverted } else { Verdict::NotReverted }
    }

    pub(crate) fn barrier(&self) -> Option<(ModifyIndex, Result<Barrier, RecordError>)> {
        let key = self.names.barrier();
        let entry = self.get(&key)?;
        Some((ModifyIndex(entry.modify_index), Barrier::decode(&key, &entry.value)))
    }
}
