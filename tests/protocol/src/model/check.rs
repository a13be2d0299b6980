//! What every state must satisfy: the invariants, and that what comes to rest has converged.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use super::fleet::{Fleet, Member};
use super::participate::End;
use super::scope::{Budget, Scope};
use super::store::is_promise;
use crate::protocol::ids::Node;
use crate::protocol::invariant::{
    FleetView, NodeView, check_i1, check_i2, check_i3, check_i5, check_i7, check_i12, check_moment,
};
use crate::protocol::record::{Phase, Release};

impl Fleet {
    fn view(&self) -> FleetView<'_> {
        FleetView { log: &self.store.log, nodes: self.nodes.iter().map(|node| seen(node)).collect() }
    }

    /// Every invariant, now and against the state before.
    pub(super) fn check(&mut self, before: &Self) {
        let result = self.checked(before);
        if let Err(what) = result {
            self.broken.get_or_insert(what);
        }
    }

    fn checked(&self, before: &Self) -> Result<(), String> {
        let view = self.view();
        let has_log_changed = self.store.log.len() != before.store.log.len();
        if has_log_changed || self.nodes != before.nodes {
            if self.has_gone_back {
                self.check_after_restore(&view)?;
            } else {
                check_moment(&view).map_err(|broken| broken.to_string())?;
            }
            self.check_disks()?;
        }
        let has_lost_journal = self.budget.lost_journals != before.budget.lost_journals;
        for (old, new) in before.nodes.iter().zip(&self.nodes).filter(|(old, new)| !has_lost_journal && old != new) {
            check_i7(&new.name, &old.durable, &new.durable).map_err(|broken| broken.to_string())?;
        }
        Ok(())
    }

    /// A restored snapshot takes decisions away that nodes have followed: the log has to be good in itself, and I9
    /// looks at everything that ever stood.
    fn check_after_restore(&self, view: &FleetView<'_>) -> Result<(), String> {
        for check in [check_i1, check_i2, check_i3, check_i5, check_i12] {
            check(view).map_err(|broken| broken.to_string())?;
        }
        for node in &self.nodes {
            let runs = [node.disk.current.as_ref(), node.durable.runs.as_ref()];
            if let Some(release) = runs.into_iter().flatten().find(|release| !self.decided.contains(&release.epoch)) {
                return Err(format!("I9 is broken: {} runs {}, which was never committed", node.name, release.epoch));
            }
        }
        Ok(())
    }

    /// I6 and I11, which only a disk can show: a promise that stands is on disk, and so is what `current` names.
    fn check_disks(&self) -> Result<(), String> {
        let standing = self.store.barrier.as_ref().map(|slot| &slot.value);
        for node in &self.nodes {
            let has = |release: &Release| node.disk.releases.contains_key(&release.release);
            if node.disk.current.as_ref().is_some_and(|current| !has(current)) {
                return Err(format!("I11 is broken: what {} runs is gone", node.name));
            }
            let (Some(barrier), Some(ack)) = (standing, self.store.acks.get(&node.name)) else { continue };
            let is_over = barrier.phase.is_settled() && barrier.committed.as_ref() != barrier.target();
            if ack.value.epoch != barrier.epoch || !is_promise(ack.value.answer) || is_over {
                continue;
            }
            let needed = [barrier.target(), barrier.from.as_ref()];
            if let Some(release) = needed.into_iter().flatten().find(|release| !has(release)) {
                return Err(format!("I6 is broken: {} promised {} without having it", node.name, release.epoch));
            }
        }
        Ok(())
    }

    /// S3: nobody goes back but on the word of the epoch that it leaves, or in a higher era.
    pub(super) fn check_way(&mut self, node: &Node, before: Option<&Release>, after: Option<&Release>) {
        let Some(left) = before.filter(|left| after.is_none_or(|after| after.epoch < left.epoch)) else { return };
        let is_allowed = self.past.iter().any(|(_, record)| {
            let is_revert = record.epoch == left.epoch && matches!(record.phase, Phase::Revert | Phase::Reverted);
            is_revert || record.epoch.era > left.epoch.era
        });
        if !is_allowed {
            let what = format!("S3 is broken: {node} left {}, which was never taken back", left.epoch);
            self.broken.get_or_insert(what);
        }
    }

    /// A number that spreads states evenly, and is the same in every run: which of them are brought to rest.
    pub(super) fn draw(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        (&self.indexes, &self.budget, self.sessions, self.past.len(), self.parcels.len()).hash(&mut hasher);
        for node in &self.nodes {
            (node.is_up, &node.answer, node.reads.len(), node.work.is_some(), &node.durable.member).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// I8: from here, without another fault, everything settles and every node ends on what is committed. After a
    /// restored snapshot, and before somebody has recovered, nothing may move instead.
    pub(super) fn check_calm(&self, scope: &Scope) -> Result<(), String> {
        /// Rounds; a deploy takes four, and two requests can wait.
        const BOUND: usize = 40;
        let mut fleet = self.clone();
        fleet.budget = Budget { asked: self.budget.asked, overdue: 200, ..Budget::default() };
        fleet.parcels.clear();
        for round in 0..BOUND {
            let before = fleet.clone();
            fleet.calm_round(scope, false);
            if fleet == before {
                // Only time can help now: a member that will not answer, or is away.
                fleet.calm_round(scope, true);
            }
            if let Some(broken) = &fleet.broken {
                return Err(format!("on the way to rest, {broken}"));
            }
            if fleet.desks == before.desks && fleet.store == before.store && fleet.nodes == before.nodes {
                return fleet.converged();
            }
            if round + 1 == BOUND {
                break;
            }
        }
        Err("I8 is broken: it never comes to rest".to_owned())
    }

    fn calm_round(&mut self, scope: &Scope, is_overdue: bool) {
        for i in 0..self.nodes.len() {
            if !self.nodes[i].is_up {
                self.restart(i);
            }
            if !self.holds_presence(i) {
                self.begin_session(i);
            }
            self.settle_node(i);
        }
        let desk = self.in_office().unwrap_or_else(|| {
            self.desks.retain(|desk| desk.node != 0);
            self.take_office(0, scope);
            self.desks.len() - 1
        });
        self.decide(desk, is_overdue);
        self.write(desk);
    }

    /// Everything that a node has to do, all of it well.
    fn settle_node(&mut self, i: usize) {
        /// Steps: prepare, answer, switch, answer take six; the rest is room.
        const BOUND: usize = 40;
        if let Some((index, record)) = self.standing() {
            self.deliver(i, index, &record, true);
        }
        for _ in 0..BOUND {
            let node = &self.nodes[i];
            if !node.reads.is_empty() {
                self.answer_read(i);
            } else if node.work.is_some() {
                self.end(i, End::Well);
            } else if node.answer.is_some() {
                self.send(i);
            } else if node.wants_retry {
                Arc::make_mut(&mut self.nodes[i]).wants_retry = false;
                self.handle(i, crate::protocol::participant::Event::Retry);
            } else {
                return;
            }
        }
        self.broken.get_or_insert(format!("I8 is broken: {} never comes to rest", self.nodes[i].name));
    }

    fn converged(&self) -> Result<(), String> {
        if self.is_restored {
            return Ok(());
        }
        let Some(slot) = &self.store.barrier else { return Err("I8 is broken: there is no barrier".to_owned()) };
        let (barrier, committed) = (&slot.value, slot.value.committed.as_ref());
        if !barrier.phase.is_settled() {
            return Err(format!("I8 is broken: {} stays at {}", barrier.epoch, barrier.phase.as_str()));
        }
        if self.store.deploy.as_ref().is_some_and(|slot| !slot.value.is_empty()) {
            return Err("I8 is broken: a request waits for ever".to_owned());
        }
        for node in &self.nodes {
            let runs = node.machine.journal().runs.as_ref();
            // Begun anew from nothing, while this node ran something: it says so, and stays.
            let is_apart = committed.is_none() && runs.is_some_and(|runs| runs.epoch.era < barrier.epoch.era);
            if is_apart && node.machine.alarm().is_some() {
                continue;
            }
            if node.disk.current.as_ref() != committed || runs != committed || node.machine.alarm().is_some() {
                let has = node.disk.current.as_ref().map(|release| release.epoch);
                let (name, alarm) = (&node.name, node.machine.alarm());
                return Err(format!("I8 is broken: {name} rests on {has:?}, alarm {alarm:?}"));
            }
        }
        Ok(())
    }
}

/// A node as the invariants see it.
fn seen(node: &Member) -> NodeView<'_> {
    NodeView { name: &node.name, journal: &node.durable, current: node.disk.current.as_ref() }
}
