//! A small Consul: keys with a ModifyIndex and a holder, transactions that apply wholly or not at all.

use std::collections::BTreeMap;

use cutover::protocol::ids::{Epoch, ModifyIndex, Node};
use cutover::protocol::invariant::Write;
use cutover::protocol::keys::{Keys, UnitKeys};
use cutover::protocol::participant::Verdict;
use cutover::protocol::record::{Ack, Barrier, History, NodeRecord, decode, encode};
use cutover::protocol::transition::{Key, Op, Transition};

/// A session: nothing but an identity.
pub(crate) type Session = u32;

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) index: ModifyIndex,
    pub(crate) value: Vec<u8>,
    pub(crate) holder: Option<Session>,
}

#[derive(Clone, Debug)]
pub(crate) struct Kv {
    index: u64,
    entries: BTreeMap<String, Entry>,
    pub(crate) names: UnitKeys,
    /// Every applied write that an invariant speaks of.
    pub(crate) log: Vec<Write>,
    /// Every record that `barrier` ever held: what stale reads may answer.
    pub(crate) barriers: Vec<(ModifyIndex, Barrier)>,
}

impl Kv {
    pub(crate) fn new() -> Self {
        let names = Keys::default().unit(&"shop/production".parse().unwrap());
        Self { index: 1, entries: BTreeMap::new(), names, log: Vec::new(), barriers: Vec::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every entry under a prefix, by what follows it.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.entries.iter().filter_map(move |(key, entry)| Some((key.strip_prefix(prefix)?, entry)))
    }

    /// `consul kv put`. The index that it got.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> ModifyIndex {
        self.index += 1;
        self.set(key, value);
        ModifyIndex(self.index)
    }

    /// Writes elsewhere in this Consul.
    pub(crate) fn pass(&mut self, writes: u64) {
        self.index += writes;
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.index += 1;
        self.entries.remove(key);
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        let index = ModifyIndex(self.index);
        let holder = self.entries.get(key).and_then(|entry| entry.holder);
        self.entries.insert(key.to_owned(), Entry { index, value: value.to_vec(), holder });
        if key == self.names.barrier()
            && let Ok(barrier) = Barrier::decode(key, value)
        {
            self.barriers.push((index, barrier.clone()));
            self.log.push(Write::Barrier(Box::new(barrier)));
        } else if let Some(epoch) = key.strip_prefix(&self.names.all_members()) {
            let (epoch, members) = (epoch.parse().unwrap(), decode(key, value).unwrap());
            self.log.push(Write::Members { epoch, members });
        }
    }

    /// Takes the lock on a key, from whomever has it.
    pub(crate) fn acquire(&mut self, key: &str, session: Session, value: &[u8]) {
        self.put(key, value);
        self.entries.get_mut(key).unwrap().holder = Some(session);
    }

    /// The session has ended: what it held stays, without holder.
    pub(crate) fn end_session(&mut self, session: Session) {
        for entry in self.entries.values_mut().filter(|entry| entry.holder == Some(session)) {
            entry.holder = None;
        }
    }

    pub(crate) fn holder(&self, key: &str) -> Option<Session> {
        self.entries.get(key).and_then(|entry| entry.holder)
    }

    fn index_of(&self, key: &str) -> ModifyIndex {
        self.entries.get(key).map_or(ModifyIndex(0), |entry| entry.index)
    }

    fn name(&self, key: Key) -> String {
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

    /// Applies a transition, or says which operation did not hold.
    pub(crate) fn apply(&mut self, session: Session, transition: &Transition) -> Result<(), String> {
        for op in &transition.ops {
            let (holds, what) = match op {
                Op::HoldLock => (self.holder(&self.names.coordinator()) == Some(session), "lock"),
                Op::Cas { key, index, .. } => (self.index_of(&self.name(*key)) == *index, key_word(*key)),
                Op::CheckIndex { key, index } => (self.index_of(&self.name(*key)) == *index, key_word(*key)),
                Op::Delete { .. } | Op::Set { .. } => (true, ""),
            };
            if !holds {
                return Err(what.to_owned());
            }
        }
        self.index += 1;
        for op in &transition.ops {
            match op {
                Op::HoldLock | Op::CheckIndex { .. } => {}
                Op::Cas { key, value, .. } | Op::Set { key, value } => self.set(&self.name(*key), value.as_bytes()),
                Op::Delete { key } => {
                    self.entries.remove(&self.name(*key));
                }
            }
        }
        Ok(())
    }

    /// A node's answer, fenced by the record that it answers, its own session, and its former answer.
    pub(crate) fn acknowledge(
        &mut self,
        node: &Node,
        session: Option<Session>,
        barrier: ModifyIndex,
        ack: &Ack,
        record: &NodeRecord,
    ) -> Result<(), &'static str> {
        if session.is_none() || self.holder(&self.names.node(node)) != session {
            return Err("session");
        }
        if self.index_of(&self.names.barrier()) != barrier {
            return Err("barrier");
        }
        let (ack_key, node_key) = (self.names.ack(node), self.names.node(node));
        self.put(&ack_key, encode(ack).as_bytes());
        self.put(&node_key, encode(record).as_bytes());
        self.log.push(Write::Ack { node: node.clone(), epoch: ack.epoch, answer: ack.answer });
        Ok(())
    }

    pub(crate) fn members(&self, epoch: Epoch) -> Vec<Node> {
        let key = self.names.members(epoch);
        self.get(&key).map(|entry| decode(&key, &entry.value).unwrap()).unwrap_or_default()
    }

    pub(crate) fn history(&self, epoch: Epoch) -> Option<History> {
        let key = self.names.history(epoch);
        self.get(&key).map(|entry| decode(&key, &entry.value).unwrap())
    }

    /// What a node reads in `history/<epoch>` about leaving that epoch.
    pub(crate) fn verdict(&self, epoch: Epoch) -> Verdict {
        let is_reverted = self.history(epoch).is_some_and(|history| history.was_reverted());
        if is_reverted { Verdict::Reverted } else { Verdict::NotReverted }
    }

    /// The record that stands.
    pub(crate) fn barrier(&self) -> Option<(ModifyIndex, Result<Barrier, String>)> {
        let key = self.names.barrier();
        let entry = self.get(&key)?;
        Some((entry.index, Barrier::decode(&key, &entry.value).map_err(|e| e.to_string())))
    }
}

fn key_word(key: Key) -> &'static str {
    match key {
        Key::Abort => "abort",
        Key::Barrier => "barrier",
        Key::Deploy => "deploy",
        Key::Freeze => "freeze",
        Key::History(_) => "history",
        Key::Members(_) => "members",
        Key::Status => "status",
    }
}
