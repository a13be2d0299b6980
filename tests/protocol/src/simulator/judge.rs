//! The invariants, after every event that can touch one.
//!
//! They are the product's own predicates, over a window of the log: the newest two epochs. What reaches further back,
//! that no request is taken twice and that only what was committed ever runs, is kept beside it.

use std::collections::BTreeSet;

use super::Sim;
use super::node::Node;
use crate::consul::{Refusal, Session};
use crate::invariant::{
    Broken, DiskView, FleetView, NodeView, Write, check_i1, check_i2, check_i3, check_i4, check_i5, check_i6,
    check_i6_journal, check_i7, check_i9, check_i11, check_i11_disk, check_i12, check_p3,
};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::journal::{Journal, Target};
use crate::protocol::record::{Ack, Barrier, History, Outcome, Phase, Release, decode};
use crate::protocol::transition::{Key, Op, Transition, Value};

/// What a node may run while the keys are not to be trusted.
#[derive(Debug)]
struct Held {
    floor: Option<Barrier>,
    may_run: Vec<Option<Release>>,
}

/// A node as its disk showed it.
#[derive(Clone, Debug)]
struct Seen {
    name: crate::protocol::ids::Node,
    journal: Journal,
    current: Option<Release>,
}

impl Seen {
    fn view(&self) -> NodeView<'_> {
        NodeView { name: &self.name, journal: &self.journal, current: self.current.as_ref() }
    }
}

/// With which session a coordinator wrote, and which one held the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) writer: Session,
    pub(crate) holder: Option<Session>,
}

#[derive(Debug)]
pub(crate) struct Judge {
    /// The newest part of the log, and every node as it was seen last.
    window: Vec<Write>,
    nodes: Vec<Seen>,
    /// Every record that committed something: what a node may run.
    decided: Vec<Write>,
    /// How much of the log is in the window.
    seen: usize,
    /// The requests that were taken.
    taken: BTreeSet<Epoch>,
    /// The request that waits.
    asked: Option<ModifyIndex>,
    /// While somebody's hand is on the keys.
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

    /// The window as the invariants see it.
    fn view(&self) -> FleetView<'_> {
        FleetView { log: &self.window, nodes: self.nodes.iter().map(Seen::view).collect() }
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

    /// Its journal is lost: its floor may fall, once.
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

    /// The log is no witness any more, until an operator recovers.
    pub(crate) fn tampered(&mut self, nodes: &[Node]) {
        self.held = Some(nodes.iter().map(hold).collect());
        self.asked = None;
        // A request that waits in a restored snapshot waits again; that it was refused since is forgotten with it.
        self.taken.clear();
    }

    pub(crate) fn recovered(&mut self, log_length: usize) {
        self.held = None;
        self.window.clear();
        self.seen = log_length;
    }
}

/// A node as its disk shows it. A rollback's release directory carries the name of the epoch that made it: which of two
/// epochs with one directory a node runs is what the record that stands says.
fn look(node: &Node, committed: Option<&Release>) -> Seen {
    let current = node.disk.current.as_ref();
    let is_it = |committed: &&Release| current.is_some_and(|current| current.same_tree(committed));
    let current = committed.filter(is_it).or(current).cloned();
    Seen { name: node.name.clone(), journal: node.journal(), current }
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
    /// New writes in the log.
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

    /// A node's disk may have changed.
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
                // It was behind, or new: what the keys hold now is above all that it has ever followed.
                self.coverage.hit("follows tampered keys");
                *held = hold(&self.nodes[i]);
            }
            return;
        }
        let result = check_i11(&self.judge.view());
        self.judge.check(result);
        self.judge_disk(i);
    }

    /// I7 for a node whose journal was lost: what it follows first is what stands, or newer than all it had followed.
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
            // The log is no witness of promises while the keys are tampered with.
            Some(_) => check_i11_disk(&disks),
            None => check_i11_disk(&disks).and_then(|()| check_i6(&self.judge.window, &disks)),
        };
        self.judge.check(result);
    }

    fn ack_of(&self, i: usize) -> Option<Ack> {
        let entry = self.kv.get(&self.kv.names.ack(&self.nodes[i].name))?;
        decode("ack", &entry.value).ok()
    }

    /// I6: what a node has answered is in its journal, unless that was lost since.
    fn judge_promise(&mut self, i: usize) {
        if self.nodes[i].has_lost_journal {
            return;
        }
        let Some(ack) = self.ack_of(i) else { return };
        let node = &self.nodes[i];
        let result = check_i6_journal(&node.name, &node.journal(), ack.epoch);
        self.judge.check(result);
    }

    /// A coordinator says that the keys were lost only where somebody's hand was on them: a false alarm stops every deploy
    /// until a person has looked.
    pub(crate) fn judge_halt(&mut self, i: usize, reason: &str) {
        if !self.is_tampered && self.judge.held.is_none() {
            let text = format!("a false alarm: {} halts, and nobody touched the keys: {reason}", self.nodes[i].name);
            self.judge.broken(text);
        }
    }

    /// I4 and I5, of each transaction that applied.
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
        // The record of the request that is taken is the newest.
        if let Some(history) = histories.last().filter(|_| transition.ops.iter().any(takes)) {
            if self.judge.asked.is_some_and(|asked| asked.0 == history.epoch.number) {
                self.judge.asked = None;
            }
            if !self.judge.taken.insert(history.epoch) && self.judge.held.is_none() {
                self.judge.broken(format!("I5: request {} was taken twice", history.epoch));
            }
        }
    }
}

fn why(transition: &Transition) -> String {
    let fault = transition.histories().find_map(|history| history.fault.as_ref());
    fault.map_or(String::new(), |fault| format!(" ({}: {})", fault.step.as_str(), fault.reason))
}

/// Leaves of the log only the epoch that is over now; the next one begins.
fn forget_old(log: &mut Vec<Write>) {
    let is_prepare = |write: &Write| matches!(write, Write::Barrier(barrier) if barrier.phase == Phase::Prepare);
    if let Some(last) = log.iter().rposition(is_prepare) {
        log.drain(..last);
    }
}
