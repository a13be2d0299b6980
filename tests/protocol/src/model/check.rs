//! The checks of every state: the invariants, and that a fleet at rest has converged.

use std::hash::{Hash as _, Hasher as _};

use super::fleet::{Fleet, Member, News, Uncounted};
use super::participate::End;
use super::scope::{Budget, Scope};
use crate::invariant::{
    DiskView, FleetView, NodeView, RestView, RestingNode, check_i1, check_i2, check_i3, check_i5, check_i6, check_i7,
    check_i8, check_i9, check_i11, check_i11_disk, check_i12, check_moment, check_s3,
};
use crate::protocol::ids::Node;
use crate::protocol::record::Release;

impl Fleet {
    fn view(&self) -> FleetView<'_> {
        FleetView { log: &self.store.log, nodes: self.nodes.iter().map(|node| seen(node)).collect() }
    }

    /// Checks the step that leads here, and notes what [`Self::fault`] has to look at.
    pub(super) fn check_step(&mut self, before: &Self) {
        let is_log_new = self.store.log != before.store.log;
        let are_nodes_new = self.nodes != before.nodes;
        self.fault = Uncounted::default();
        self.news = Uncounted(match (is_log_new, are_nodes_new) {
            (true, _) => News::Log,
            (false, true) => News::Nodes,
            (false, false) => News::Nothing,
        });
        if !are_nodes_new || self.budget.lost_journals != before.budget.lost_journals {
            return;
        }
        for (old, new) in before.nodes.iter().zip(&self.nodes) {
            if let Err(broken) = check_i7(&new.name, &old.durable, &new.durable) {
                self.broken.get_or_insert(broken.to_string());
            }
        }
    }

    /// The broken invariant, if any. Every state before this one was checked.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.0.get_or_init(|| self.check().err()).as_deref()
    }

    fn check(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.news.0 == News::Nothing {
            return Ok(());
        }
        let view = self.view();
        if self.has_gone_back {
            self.check_after_restore(&view)?;
        } else if self.news.0 == News::Log {
            check_moment(&view).map_err(|broken| broken.to_string())?;
        } else {
            for check in [check_i9, check_i11] {
                check(&view).map_err(|broken| broken.to_string())?;
            }
        }
        self.check_disks()
    }

    /// A restored snapshot removes decisions that nodes have followed: the log must be good in itself, and I9 counts every
    /// release that was ever committed.
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

    /// I6 and I11 for the disks.
    fn check_disks(&self) -> Result<(), String> {
        let disks: Vec<DiskView<'_>> = self.nodes.iter().map(|node| disk(node)).collect();
        check_i6(&self.store.log, &disks).map_err(|broken| broken.to_string())?;
        check_i11_disk(&disks).map_err(|broken| broken.to_string())
    }

    /// S3: a node goes back only after a revert of the epoch that it leaves, or in a higher era.
    pub(super) fn check_back(&mut self, node: &Node, before: Option<&Release>, after: Option<&Release>) {
        let Some(left) = before.filter(|left| after.is_none_or(|after| after.epoch < left.epoch)) else { return };
        if let Err(broken) = check_s3(node, left.epoch, self.past.iter().map(|(_, record)| &**record)) {
            self.broken.get_or_insert(broken.to_string());
        }
    }

    /// A hash of the state that is the same in every run: it selects the states that are brought to rest.
    pub(super) fn draw(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        (&self.indexes, &self.budget, self.sessions, self.past.len(), self.in_flight.len()).hash(&mut hasher);
        for node in &self.nodes {
            (node.is_up, &node.answer, node.reads.len(), node.work.is_some(), &node.durable.member).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// I8: from here, without another fault, every deploy settles and every node ends on what is committed. After a restored
    /// snapshot, and before a recovery, nothing may move instead.
    pub(super) fn check_calm(&self, scope: &Scope) -> Result<(), String> {
        /// Rounds; a deploy takes four, and two requests can wait.
        const BOUND: usize = 40;
        let mut fleet = self.clone();
        fleet.budget = Budget { asked: self.budget.asked, overdue: 200, ..Budget::default() };
        fleet.in_flight.clear();
        for round in 0..BOUND {
            let before = fleet.clone();
            fleet.calm_round(scope, false);
            if fleet == before {
                // Only a deadline can help now: a member will not answer, or is away.
                fleet.calm_round(scope, true);
            }
            if let Some(broken) = &fleet.broken {
                return Err(format!("on the way to rest, {broken}"));
            }
            if fleet.candidates == before.candidates && fleet.store == before.store && fleet.nodes == before.nodes {
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
        let candidate = self.lock_holder().unwrap_or_else(|| {
            self.candidates.retain(|candidate| candidate.node != 0);
            self.take_lock(0, scope);
            self.candidates.len() - 1
        });
        self.decide(candidate, is_overdue);
        self.write(candidate);
    }

    /// Does all the work of a node, with success.
    fn settle_node(&mut self, i: usize) {
        /// Steps: prepare, answer, switch, answer take six; the rest is room.
        const BOUND: usize = 40;
        if let Some((index, record)) = self.current_barrier() {
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
                self.nodes[i].make_mut().wants_retry = false;
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
        let nodes = self.nodes.iter().map(|node| RestingNode {
            name: &node.name,
            runs: node.machine.journal().runs.as_ref(),
            current: node.disk.current.as_ref(),
            alarm: node.machine.alarm(),
            has_lost_origin: false,
        });
        let view = RestView {
            barrier: self.store.barrier.as_ref().map(|slot| slot.value.as_ref()),
            has_request: self.store.deploy.as_ref().is_some_and(|slot| !slot.value.is_empty()),
            nodes: nodes.collect(),
        };
        check_i8(&view).map_err(|broken| broken.to_string())
    }
}

fn seen(node: &Member) -> NodeView<'_> {
    NodeView { name: &node.name, journal: &node.durable, current: node.disk.current.as_ref() }
}

fn disk(node: &Member) -> DiskView<'_> {
    DiskView { name: &node.name, current: node.disk.current.as_ref(), releases: &*node.disk }
}
