//! Faults from outside: how they begin, how long they last, and how they end.

use std::time::Duration;

use super::Sim;
use super::agenda::{Event, Timer};
use super::mix::Fault;
use super::node::{Agent, Node, State};
use crate::protocol::shell::rebuild::Ledger;

impl Sim {
    /// The next fault; plans the one after it.
    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.mix.fault_every;
        let pause = self.chance.span(pause / 8, pause * 2);
        self.later(pause, Event::Fault);
        let fault = self.mix.faults[self.chance.index(self.mix.faults.len())];
        let i = self.chance.index(self.nodes.len());
        // Half of the faults hit the coordinator's node.
        let leader = self.nodes.iter().position(|n| n.agent.as_ref().is_some_and(Agent::is_leading));
        let i = if self.chance.one_in(2) { leader.unwrap_or(i) } else { i };
        if self.strike(fault, i) {
            self.coverage.fault(fault);
            self.cover_phase(fault.word(), i);
        }
        self.look_for_changes();
    }

    /// Begins a fault. Returns whether it could happen.
    fn strike(&mut self, fault: Fault, i: usize) -> bool {
        let name = self.nodes[i].name.clone();
        match fault {
            Fault::Catalog => {
                if !self.kv.consul.catalog().contains(name.as_str()) || self.leader_back > self.now {
                    return false;
                }
                say!(self, "{name} leaves the catalog");
                self.kv.consul.deregister(name.as_str());
                self.mended_later(i, fault, 5, 60);
            }
            Fault::Clock => {
                let secs = i64::try_from(self.chance.between(0, 20_000)).unwrap() - 10_000;
                say!(self, "the clock of {name} jumps to {secs} s from the true time");
                self.nodes[i].wall_ahead_secs = secs;
            }
            Fault::Crash | Fault::JournalLost => {
                if !self.nodes[i].is_running() {
                    return false;
                }
                let most = if self.chance.one_in(3) { 90 } else { 3 };
                let pause = self.chance.secs(0, most);
                self.crash(i, pause);
                if fault == Fault::JournalLost {
                    self.lose_journal(i);
                }
            }
            Fault::Cut => {
                if std::mem::replace(&mut self.nodes[i].is_cut, true) {
                    return false;
                }
                say!(self, "{name} is cut off");
                if self.chance.one_in(2) {
                    self.later(Duration::from_secs(6), Event::Health { node: i });
                }
                self.mended_later(i, fault, 1, 60);
            }
            Fault::DiskFull => {
                if std::mem::replace(&mut self.nodes[i].disk.is_full, true) {
                    return false;
                }
                say!(self, "the disk of {name} is full");
                self.mended_later(i, fault, 2, 40);
            }
            Fault::Hang => {
                if !self.nodes[i].is_running() {
                    return false;
                }
                say!(self, "{name} stands still");
                self.nodes[i].state = State::Hanging(Vec::new());
                self.mended_later(i, fault, 1, 60);
            }
            Fault::Join => return self.join(),
            Fault::Leader => {
                if self.leader_back > self.now {
                    return false;
                }
                self.leader_back = self.now + self.chance.secs(1, 20);
                say!(self, "consul is without leader");
                self.agenda.at(self.leader_back, Event::Mended { node: i, fault });
            }
            Fault::NodeKey => {
                let key = self.kv.names.node(&name);
                say!(self, "{key} is deleted");
                self.kv.consul.delete(&key);
            }
            Fault::Session => return self.end_session(i),
            Fault::Store => {
                if std::mem::replace(&mut self.is_store_away, true) {
                    return false;
                }
                say!(self, "the store is away");
                self.mended_later(i, fault, 5, 60);
            }
            Fault::Restore | Fault::Rubbish | Fault::Wipe => return self.tamper(fault),
        }
        true
    }

    /// Ends the lock's session, or a node's own.
    fn end_session(&mut self, i: usize) -> bool {
        let session = self.nodes[i].agent.as_ref().and_then(|agent| agent.session);
        let lock = self.kv.holder(&self.kv.names.coordinator());
        let Some(session) = (if self.chance.one_in(2) { lock } else { session }) else { return false };
        say!(self, "a session of {} ends", self.kv.consul.node_of(session).unwrap_or("nobody").to_owned());
        self.kv.consul.destroy(session);
        true
    }

    fn mended_later(&mut self, i: usize, fault: Fault, from_secs: u64, to_secs: u64) {
        let pause = self.chance.secs(from_secs, to_secs);
        self.later(pause, Event::Mended { node: i, fault });
    }

    pub(crate) fn mended(&mut self, i: usize, fault: Fault) {
        match fault {
            Fault::Catalog => {
                let name = self.nodes[i].name.to_string();
                if !self.kv.consul.catalog().contains(&name) {
                    self.kv.consul.register(&name);
                }
            }
            Fault::Cut if std::mem::take(&mut self.nodes[i].is_cut) => {
                say!(self, "{} is no longer cut off", self.nodes[i].name);
                if self.nodes[i].agent.is_some() {
                    self.timer(i, Duration::from_millis(1), Timer::Watch);
                }
            }
            Fault::DiskFull => self.nodes[i].disk.is_full = false,
            Fault::Hang => self.goes_on(i),
            Fault::Leader if self.leader_back <= self.now => {
                say!(self, "consul has a leader");
                self.kv.consul.new_leader(self.now);
                self.watch_sessions();
            }
            Fault::Store => self.is_store_away = false,
            _ => {}
        }
        self.look_for_changes();
    }

    /// A hanging agent goes on. The events that it missed come in any order.
    fn goes_on(&mut self, i: usize) {
        let State::Hanging(kept) = &mut self.nodes[i].state else { return };
        let kept = std::mem::take(kept);
        self.nodes[i].state = State::Running;
        say!(self, "{} goes on", self.nodes[i].name);
        for event in kept {
            let pause = self.chance.within_ms(5);
            self.later(pause, event);
        }
    }

    pub(crate) fn is_found_dead(&mut self, i: usize) {
        if self.nodes[i].is_cut && self.leader_back <= self.now {
            say!(self, "{} is found dead", self.nodes[i].name);
            let name = self.nodes[i].name.to_string();
            self.kv.consul.fail(&name);
            self.look_for_changes();
        }
    }

    fn lose_journal(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let floor = node.journal().record;
        node.lost_floor = node.lost_floor.take().max_by_epoch(floor);
        node.has_lost_journal = true;
        node.disk.ledger =
            if self.chance.one_in(2) { Ledger::Absent } else { Ledger::Damaged("it is torn".to_owned()) };
        if self.chance.one_in(2) {
            node.has_lost_origin = true;
            node.disk.origin = None;
        }
        say!(self, "the journal of {} is lost", node.name);
        self.judge.forget_node(i);
    }

    fn join(&mut self) -> bool {
        /// More nodes find no other flaws, and make runs slow.
        const MOST: usize = 7;
        if self.nodes.len() >= MOST {
            return false;
        }
        let i = self.nodes.len();
        let name = format!("n{i}");
        let is_candidate = self.chance.one_in(3);
        say!(self, "{name} joins");
        self.kv.consul.register(&name);
        self.nodes.push(Node::new(&name, &self.mix.origin.clone(), is_candidate));
        self.judge.joined(&self.nodes[i]);
        self.start(i);
        true
    }

    /// Tampers with the keys; not again before an operator has recovered them.
    fn tamper(&mut self, fault: Fault) -> bool {
        if self.is_tampered || self.leader_back > self.now {
            return false;
        }
        match fault {
            Fault::Restore => {
                let Some(kept) = self.kept.take() else {
                    self.kept = Some(self.kv.consul.clone());
                    return false;
                };
                say!(self, "a snapshot is restored");
                self.kv.consul.restore(&kept, self.now);
                self.watch_sessions();
            }
            Fault::Rubbish => {
                say!(self, "barrier is overwritten");
                let key = self.kv.names.barrier();
                self.kv.put(&key, b"rubbish");
            }
            _ => {
                say!(self, "all keys are deleted");
                let unit = self.kv.names.deploy().trim_end_matches("deploy").to_owned();
                self.kv.consul.delete_tree(&unit);
            }
        }
        self.is_tampered = true;
        if self.chance.one_in(2) {
            let pause = self.chance.secs(10, 60);
            self.later(pause, Event::Recover);
        }
        self.judge.tampered(&self.nodes);
        true
    }
}

/// The higher of two floors.
trait Higher {
    fn max_by_epoch(self, other: Self) -> Self;
}

impl Higher for Option<crate::protocol::record::Barrier> {
    fn max_by_epoch(self, other: Self) -> Self {
        use crate::protocol::floor::{Admission, admit};
        match (self, other) {
            (Some(held), Some(now)) if admit(Some(&held), &now) == Admission::New => Some(now),
            (Some(held), _) => Some(held),
            (None, now) => now,
        }
    }
}
