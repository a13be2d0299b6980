//! Checks the invariants after every event that can break one.
//!
//! The predicates of [`crate::invariant`] look at a window of the log: the newest two epochs. The judge keeps what needs
//! more: which requests were taken (I5), and which epochs were committed (I9).

use std::collections::BTreeSet;

use super::Sim;
use super::node::Node;
use crate::consul::{Refusal, Session};
use crate::invariant::{
    Broken, DiskView, FleetView, NodeView, Write, check_i1, check_i2, check_i3, check_i4, check_i5, check_i5_taken,
    check_i6, check_i6_journal, check_i7, check_i9, check_i11, check_i11_disk, check_i12, check_p3,
};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::journal::{Journal, Target};
use crate::protocol::record::{Ack, Barrier, History, Outcome, Phase, Release, decode};
use crate::protocol::transition::{Key, Op, Transition, Value};

/// The releases that a node may run while the keys are tampered with.
#[derive(Debug)]
struct Held {
    floor: Option<Barrier>,
    may_run: Vec<Option<Release>>,
}

/// A node as it was seen last.
#[derive(Clone, Debug)]
struct NodeSeen {
    name: crate::protocol::ids::Node,
    journal: Journal,
    current: Option<Release>,
}

impl NodeSeen {
    fn view(&self) -> NodeView<'_> {
        NodeView { name: &self.name, journal: &self.journal, current: self.current.as_ref() }
    }
}

/// The session with which a coordinator wrote, and the one that held the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) writer: Session,
    pub(crate) holder: Option<Session>,
}

#[derive(Debug)]
pub(crate) struct Judge {
    /// The newest part of the log.
    window: Vec<Write>,
    nodes: Vec<NodeSeen>,
    /// Every record that committed a release.
    decided: Vec<Write>,
    /// The length of the log when it was last read.
    seen: usize,
    taken: BTreeSet<Epoch>,
    /// The waiting request.
    asked: Option<ModifyIndex>,
    /// While the keys are tampered with.
    held: Option<Vec<Held>>,
    failure: Option<String>,
}

impl Judge {
    pub(crate) fn new(nodes: &[Node]) -> Self {
        Self {
            window: Vec::new(),
            nodes: nodes.iter().map(|node| look(node, None)).collect(),
            decided: Vec::new(),
            seen: 0,
            taken: BTreeSet::new(),
            asked: None,
            held: None,
            failure: None,
        }
    }

    pub(crate) fn broken(&mut self, text: String) {
        self.failure.get_or_insert(text);
    }

    pub(crate) const fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    fn view(&self) -> FleetView<'_> {
        FleetView { log: &self.window, nodes: self.nodes.iter().map(NodeSeen::view).collect() }
    }

    fn check(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.broken(broken.to_string());
        }
    }

    pub(crate) fn joined(&mut self, node: &Node) {
        self.nodes.push(look(node, None));
        if let Some(held) = &mut self.held {
            held.push(hold(node));
        }
    }

    /// A node has lost its journal: its floor may fall once.
    pub(crate) fn forget_node(&mut self, i: usize) {
        self.nodes[i].journal = Journal::default();
        if let Some(held) = &mut self.held {
            held[i].floor = None;
        }
    }

    pub(crate) const fn asked(&mut self, index: ModifyIndex) {
        self.asked = Some(index);
    }

    pub(crate) const fn waiting(&self) -> Option<ModifyIndex> {
        self.asked
    }

    /// The keys were tampered with: the log proves nothing until a recovery.
    pub(crate) fn tampered(&mut self, nodes: &[Node]) {
        self.held = Some(nodes.iter().map(hold).collect());
        self.asked = None;
        // A request that waits in a restored snapshot waits again, even if it was taken since.
        self.taken.clear();
    }

    pub(crate) fn recovered(&mut self, log_length: usize) {
        self.held = None;
        self.window.clear();
        self.seen = log_length;
    }
}

/// A node by its disk. A rollback's directory has the epoch that made it, so the current record decides which of two
/// epochs with one directory the node runs.
fn look(node: &Node, committed: Option<&Release>) -> NodeSeen {
    let current = node.disk.current.as_ref();
    let is_it = |committed: &&Release| current.is_some_and(|current| current.same_tree(committed));
    let current = committed.filter(is_it).or(current).cloned();
    NodeSeen { name: node.name.clone(), journal: node.journal(), current }
}

fn hold(node: &Node) -> Held {
    let journal = node.journal();
    let moving = journal.moving.map(|to| match to {
        Target::Origin => None,
        Target::Release(release) => Some(release),
    });
    let aim = journal.record.as_ref().map(|record| record.committed.clone());
    let may_run = [Some(node.disk.current.clone()), moving, aim].into_iter().flatten().collect();
    Held { floor: journal.record, may_run }
}

impl Sim {
    /// Checks the new writes in the log.
    pub(crate) fn judge_log(&mut self) {
        let judge = &mut self.judge;
        if judge.seen == self.kv.log.len() {
            return;
        }
        let new: Vec<Write> = self.kv.log[judge.seen..].to_vec();
        judge.seen = self.kv.log.len();
        for write in new {
            if let Write::Barrier(barrier) = &write {
                if barrier.committed.is_some() && matches!(barrier.phase, Phase::Commit | Phase::Idle) {
                    judge.decided.push(write.clone());
                }
                for (seen, node) in judge.nodes.iter_mut().zip(&self.nodes) {
                    *seen = look(node, barrier.committed.as_ref());
                }
                if barrier.phase == Phase::Prepare {
                    forget_old(&mut judge.window);
                }
            }
            judge.window.push(write);
        }
        if judge.held.is_some() {
            return;
        }
        for check in [check_i1, check_i2, check_i3, check_i5, check_i11, check_i12, check_p3] {
            let result = check(&judge.view());
            judge.check(result);
        }
        for i in 0..self.nodes.len() {
            self.judge_disk(i);
            self.judge_promise(i);
        }
    }

    /// Checks a node whose disk may have changed.
    pub(crate) fn judge_node(&mut self, i: usize) {
        let newest = self.newest().record.clone().and_then(Result::ok);
        let now = look(&self.nodes[i], newest.as_ref().and_then(|record| record.committed.as_ref()));
        let judge = &mut self.judge;
        let result = check_i7(&now.name, &judge.nodes[i].journal, &now.journal);
        judge.check(result);
        judge.nodes[i].clone_from(&now);
        let result = check_i9(&FleetView { log: &judge.decided, nodes: vec![now.view()] });
        judge.check(result);
        self.judge_lost_floor(i);
        if let Some(held) = self.judge.held.as_mut().map(|held| &mut held[i]) {
            if held.floor == now.journal.record {
                if !held.may_run.contains(&self.nodes[i].disk.current) {
                    let text =
                        format!("fail static: {} runs {:?} under keys that were tampered with", now.name, now.current);
                    self.judge.broken(text);
                }
            } else {
                // The node was behind, or new, and may follow these keys: they are above all that it has followed.
                self.coverage.hit("follows tampered keys");
                *held = hold(&self.nodes[i]);
            }
            return;
        }
        let result = check_i11(&self.judge.view());
        self.judge.check(result);
        self.judge_disk(i);
    }

    /// I7 for a node whose journal was lost: the first record that it follows must not be below its lost floor.
    fn judge_lost_floor(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let Some(lost) = &node.lost_floor else { return };
        let Some(now) = node.journal().record else { return };
        let is_above = matches!(admit(Some(lost), &now), Admission::New | Admission::Same);
        if !is_above && self.judge.held.is_none() && !self.is_tampered {
            let text = format!("I7: {} lost its journal at {} {}", node.name, lost.epoch, lost.phase.as_str());
            self.judge.broken(format!("{text}, and follows {} {} now", now.epoch, now.phase.as_str()));
        }
        self.nodes[i].lost_floor = None;
    }

    /// I6 and I11 for one disk.
    fn judge_disk(&mut self, i: usize) {
        let node = &self.nodes[i];
        let disks = [DiskView { name: &node.name, current: node.disk.current.as_ref(), releases: &node.disk }];
        let result = match &self.judge.held {
            // While the keys are tampered with, the log proves no promises.
            Some(_) => check_i11_disk(&disks),
            None => check_i11_disk(&disks).and_then(|()| check_i6(&self.judge.window, &disks)),
        };
        self.judge.check(result);
    }

    fn ack_of(&self, i: usize) -> Option<Ack> {
        let entry = self.kv.get(&self.kv.names.ack(&self.nodes[i].name))?;
        decode("ack", &entry.value).ok()
    }

    /// I6: a node's journal has the epoch that it has answered, unless the journal was lost since.
    fn judge_promise(&mut self, i: usize) {
        if self.nodes[i].has_lost_journal {
            return;
        }
        let Some(ack) = self.ack_of(i) else { return };
        let node = &self.nodes[i];
        let result = check_i6_journal(&node.name, &node.journal(), ack.epoch);
        self.judge.check(result);
    }

    /// A coordinator may halt only where keys were tampered with: a false alarm would stop every deploy until a person acts.
    pub(crate) fn judge_halt(&mut self, i: usize, reason: &str) {
        if !self.is_tampered && self.judge.held.is_none() {
            let text = format!("a false alarm: {} halts, and nobody touched the keys: {reason}", self.nodes[i].name);
            self.judge.broken(text);
        }
    }

    /// I4 and I5, for each transaction that applied.
    pub(crate) fn judge_transition(
        &mut self,
        i: usize,
        transition: &Transition,
        lock: &Lock,
        result: &Result<(), Vec<Refusal>>,
    ) {
        let name = self.nodes[i].name.clone();
        let histories: Vec<&History> = transition.histories().collect();
        let epoch = histories.first().map(|history| history.epoch.to_string()).unwrap_or_default();
        if result.is_err() {
            say!(self, "{name} may not write {} {epoch}", transition.name);
            self.coverage.hit("transition refused");
            return;
        }
        say!(self, "{name} writes {} {epoch}{}", transition.name, why(transition));
        let result = check_i4(&format!("{} by {name}", transition.name), &lock.writer, lock.holder.as_ref());
        self.judge.check(result);
        for history in &histories {
            if let Some(outcome) = history.outcome {
                self.coverage.hit(match outcome {
                    Outcome::Aborted => "outcome aborted",
                    Outcome::Done => "outcome done",
                    Outcome::Failed => "outcome failed",
                    Outcome::Refused => "outcome refused",
                    Outcome::Reverted => "outcome reverted",
                    Outcome::Superseded => "outcome superseded",
                });
            }
        }
        if histories.len() > 1 {
            self.coverage.hit("rollback answered by the revert");
        }
        let takes = |op: &Op| {
            matches!(
                op,
                Op::Cas { key: Key::Deploy, value: Value::Empty, index } if index.0 > 0
            ) || matches!(op, Op::Set { key: Key::Deploy, .. })
        };
        // The last history in it is that of the request taken.
        if let Some(history) = histories.last().filter(|_| transition.ops.iter().any(takes)) {
            if self.judge.asked.is_some_and(|asked| asked.0 == history.epoch.number) {
                self.judge.asked = None;
            }
            let result = check_i5_taken(&mut self.judge.taken, history.epoch);
            if self.judge.held.is_none() {
                self.judge.check(result);
            }
        }
    }
}

fn why(transition: &Transition) -> String {
    let fault = transition.histories().find_map(|history| history.fault.as_ref());
    fault.map_or(String::new(), |fault| format!(" ({}: {})", fault.step.as_str(), fault.reason))
}

/// Drops everything before the last epoch, as the next one begins.
fn forget_old(log: &mut Vec<Write>) {
    let is_prepare = |write: &Write| matches!(write, Write::Barrier(barrier) if barrier.phase == Phase::Prepare);
    if let Some(last) = log.iter().rposition(is_prepare) {
        log.drain(..last);
    }
}
