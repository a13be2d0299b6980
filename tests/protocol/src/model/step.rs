//! The actions that are possible in a state, and the state after each.

use std::sync::Arc;

use super::fleet::{Fleet, InFlight};
use super::participate::End;
use super::scope::Scope;
use super::shared::Shared;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::participant::{Effect, Event};
use crate::protocol::record::{Barrier, Phase};
use crate::protocol::rule::{Rule, holds};

/// Nodes and candidates are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// An operator requests an abort of the running deploy.
    Abort,
    /// A delayed write arrives.
    Arrive(usize),
    /// The next request is put, over a waiting one.
    Ask,
    /// An agent dies, its work done as far as that.
    Crash(usize, End),
    /// A coordinator reads and decides; true: every deadline and grace is over.
    Decide(usize, bool),
    /// An answer is delayed. Its sender does not know, and may send it again.
    DelayAnswer(usize),
    /// As [`Self::DelayAnswer`], of a coordinator's transaction.
    DelayWrite(usize),
    /// A node reads the barrier: a past record, stale; or none: the current one, consistently.
    Deliver(usize, Option<usize>),
    /// Work under way ends.
    End(usize, End),
    /// An operator freezes or unfreezes the group.
    Freeze,
    Join,
    Leave(usize),
    /// The lock's session ends, and its holder does not know.
    LoseLock,
    LoseJournal(usize),
    /// A node's session ends, and it does not know.
    LoseSession(usize),
    Read(usize),
    /// An operator begins a new era with the release that this node runs.
    Recover(usize),
    Restart(usize),
    Restore,
    Retry(usize),
    Send(usize),
    Snapshot,
    /// A candidate takes the free lock.
    Stand(usize),
    /// A node finds that its session has ended, and creates another.
    Wake(usize),
    /// A coordinator writes its decision.
    Write(usize),
}

impl Fleet {
    /// Everything that can happen now.
    pub(super) fn actions(&self, scope: &Scope, actions: &mut Vec<Action>) {
        for i in 0..self.nodes.len() {
            self.node_actions(i, scope, actions);
        }
        for (d, candidate) in self.candidates.iter().enumerate() {
            if self.has_changed_for(d) {
                actions.push(Action::Decide(d, false));
            }
            if self.budget.overdue > 0 && self.runs() {
                actions.push(Action::Decide(d, true));
            }
            if candidate.plan.is_some() {
                actions.push(Action::Write(d));
                if self.budget.delays > 0 {
                    actions.push(Action::DelayWrite(d));
                }
            }
        }
        actions.extend((0..self.in_flight.len()).map(Action::Arrive));
        if self.store.lock.is_none() {
            let free = |i: &usize| self.nodes[*i].is_up && self.candidates.iter().all(|candidate| candidate.node != *i);
            actions.extend((0..scope.candidates).filter(free).map(Action::Stand));
            // A candidate that has lost the lock, and learns it, stands again.
            let out = (0..scope.candidates).filter(|i| self.nodes[*i].is_up && !free(i));
            actions.extend(out.map(Action::Stand));
        }
        self.outside_actions(scope, actions);
    }

    /// Whether a deploy runs or a request waits.
    fn runs(&self) -> bool {
        let is_unsettled = self.store.barrier.as_ref().is_some_and(|slot| !slot.value.phase.is_settled());
        is_unsettled || self.store.deploy.as_ref().is_some_and(|slot| !slot.value.is_empty())
    }

    fn node_actions(&self, i: usize, scope: &Scope, actions: &mut Vec<Action>) {
        let (node, budget) = (&self.nodes[i], &self.budget);
        if !node.is_up {
            actions.push(Action::Restart(i));
            if budget.lost_journals > 0 {
                actions.push(Action::LoseJournal(i));
            }
            if self.holds_presence(i) {
                actions.push(Action::LoseSession(i));
            }
            return;
        }
        if self.store.barrier.is_some() {
            actions.push(Action::Deliver(i, None));
        }
        if scope.stale && !node.has_no_journal {
            actions.extend((0..self.past.len()).map(|at| Action::Deliver(i, Some(at))));
        }
        if !node.reads.is_empty() {
            actions.push(Action::Read(i));
        }
        match &node.work {
            Some(work) => {
                actions.push(Action::End(i, End::Well));
                let may_fail = match work {
                    Effect::Prepare { .. } => budget.refusals > 0,
                    Effect::Switch { .. } => budget.failed_checks > 0,
                    _ => false,
                };
                if node.is_halted {
                    actions.push(Action::End(i, End::Early));
                } else if may_fail {
                    actions.push(Action::End(i, End::Late));
                }
                if budget.crashes > 0 {
                    actions.extend([Action::Crash(i, End::Early), Action::Crash(i, End::Late)]);
                }
            }
            None if budget.crashes > 0 => actions.push(Action::Crash(i, End::Early)),
            None => {}
        }
        if node.answer.is_some() && node.session.is_some() {
            actions.push(Action::Send(i));
            if budget.delays > 0 && !self.keeps_promise(i) {
                actions.push(Action::DelayAnswer(i));
            }
        }
        if node.wants_retry || !holds(Rule::PromiseKept) {
            actions.push(Action::Retry(i));
        }
        if !self.holds_presence(i) {
            actions.push(Action::Wake(i));
        } else if budget.lost_sessions > 0 {
            actions.push(Action::LoseSession(i));
        }
        if budget.leavers > 0 && i > 0 {
            actions.push(Action::Leave(i));
        }
    }

    /// The actions of people and of Consul.
    fn outside_actions(&self, scope: &Scope, actions: &mut Vec<Action>) {
        let budget = &self.budget;
        let may = [
            (usize::from(budget.asked) < scope.asks.len(), Action::Ask),
            (budget.aborts > 0 && self.runs(), Action::Abort),
            (budget.freezes > 0, Action::Freeze),
            (scope.joiner && self.nodes.len() == scope.nodes, Action::Join),
            (self.store.lock.is_some() && (budget.lost_locks > 0 || self.lock_holder().is_none()), Action::LoseLock),
            (budget.restores > 0 && self.snapshot.is_none(), Action::Snapshot),
            (budget.restores > 0 && self.snapshot.is_some(), Action::Restore),
        ];
        actions.extend(may.into_iter().filter_map(|(may, action)| may.then_some(action)));
        if budget.recoveries > 0 && self.is_restored {
            // As `recover` proposes: a release that a node runs, and nothing only where no node runs any.
            let runs = |i: &usize| self.nodes[*i].disk.current.is_some();
            let is_any = (0..self.nodes.len()).any(|i| runs(&i));
            actions.extend((0..self.nodes.len()).filter(|i| !is_any || runs(i)).map(Action::Recover));
        }
    }

    /// The state after an action; none: the action changes nothing.
    pub(super) fn after(&self, action: Action, scope: &Scope) -> Option<Self> {
        if self.is_idle(action) {
            return None;
        }
        let mut next = self.clone();
        match action {
            Action::Decide(d, is_overdue) => {
                if is_overdue {
                    next.budget.overdue -= 1;
                }
                if !next.decide(d, is_overdue) {
                    return None;
                }
            }
            Action::Write(d) => next.write(d),
            Action::DelayWrite(d) => {
                next.budget.delays -= 1;
                let candidate = &next.candidates[d];
                let message = InFlight::Transaction(candidate.session, Arc::clone(candidate.plan.as_ref()?));
                next.in_flight.push(message);
            }
            Action::DelayAnswer(i) => {
                next.budget.delays -= 1;
                let answer = next.answer_write(i)?;
                next.in_flight.push(InFlight::Answer(answer));
            }
            Action::Arrive(at) => match next.in_flight.remove(at) {
                InFlight::Answer(answer) => drop(next.write_answer(&answer)),
                InFlight::Transaction(session, transition) => next.apply(session, &transition),
            },
            Action::Stand(i) => {
                next.candidates.retain(|candidate| candidate.node != i);
                next.take_lock(i, scope);
            }
            Action::LoseLock => {
                // The session of a dead coordinator ends by itself, outside the budget.
                if next.lock_holder().is_some() {
                    next.budget.lost_locks -= 1;
                }
                next.store.make_mut().lock = None;
            }
            Action::Abort | Action::Ask | Action::Freeze | Action::Recover(_) => next.by_hand(action, scope),
            Action::Join => next.join(),
            Action::Leave(i) => {
                next.budget.leavers -= 1;
                let name = next.nodes[i].name.to_string();
                next.catalog.make_mut().remove(&name);
            }
            Action::Snapshot => next.snapshot = Some(next.store.clone()),
            Action::Restore => next.restore(),
            _ => next.node_after(action),
        }
        next.check_step(self);
        (next != *self).then_some(next)
    }

    /// Whether a read changes nothing: most reads do not, and copies of a fleet are expensive.
    fn is_idle(&self, action: Action) -> bool {
        let Action::Deliver(i, at) = action else { return false };
        let read = at.map_or_else(|| self.current_barrier(), |at| self.past.get(at).cloned());
        let Some((index, record)) = read else { return true };
        let (node, is_consistent) = (&self.nodes[i], at.is_none());
        if node.has_no_journal || node.known_reads.holds(&record, is_consistent) {
            return !node.has_no_journal;
        }
        let mut machine = (*node.machine).clone();
        let event = Event::Record { index, record: Box::new((*record).clone()), is_consistent };
        let effects = machine.handle(event, &node.origin());
        let is_idle = machine == *node.machine && effects.is_ok_and(|effects| effects.is_empty());
        if is_idle {
            node.known_reads.note(&record, is_consistent);
        }
        is_idle
    }

    fn node_after(&mut self, action: Action) {
        match action {
            Action::Crash(i, end) => {
                self.budget.crashes -= 1;
                self.crash(i, end);
            }
            Action::Restart(i) => self.restart(i),
            Action::LoseJournal(i) => {
                self.budget.lost_journals -= 1;
                self.lose_journal(i);
            }
            Action::LoseSession(i) => {
                // The session of a dead agent ends by itself, outside the budget.
                if self.nodes[i].is_up {
                    self.budget.lost_sessions -= 1;
                }
                let name = self.nodes[i].name.clone();
                if let Some(held) = self.store.make_mut().nodes.get_mut(&name) {
                    held.session = None;
                }
            }
            Action::Wake(i) => self.begin_session(i),
            Action::Deliver(i, None) => {
                if let Some(slot) = self.store.barrier.clone() {
                    self.deliver(i, slot.index, &slot.value, true);
                }
            }
            Action::Deliver(i, Some(at)) => {
                let (index, record) = self.past[at].clone();
                self.deliver(i, index, &record, false);
            }
            Action::Read(i) => self.answer_read(i),
            Action::End(i, end) => {
                let node = &self.nodes[i];
                match (end, &node.work) {
                    (End::Late, Some(Effect::Prepare { .. })) => self.budget.refusals -= 1,
                    (End::Late, Some(Effect::Switch { .. })) => self.budget.failed_checks -= 1,
                    _ => {}
                }
                self.end(i, end);
            }
            Action::Send(i) => self.send(i),
            Action::Retry(i) => {
                self.nodes[i].make_mut().wants_retry = false;
                self.handle(i, Event::Retry);
            }
            other => unreachable!("{other:?} is no node's"),
        }
    }

    fn by_hand(&mut self, action: Action, scope: &Scope) {
        let store = self.store.make_mut();
        match action {
            Action::Ask => {
                store.request(&mut self.indexes, scope.asks[usize::from(self.budget.asked)]);
                self.budget.asked += 1;
            }
            Action::Abort => {
                self.budget.aborts -= 1;
                let epoch = store.barrier.as_ref().map(|slot| slot.value.epoch).unwrap_or_default();
                store.ask_abort(&mut self.indexes, epoch);
            }
            Action::Freeze => {
                self.budget.freezes -= 1;
                let is_frozen = store.freeze.as_ref().is_some_and(|slot| !slot.value.is_empty());
                store.put_freeze(&mut self.indexes, if is_frozen { "" } else { "frozen" });
            }
            Action::Recover(i) => {
                self.budget.recoveries -= 1;
                let era = self.past.iter().map(|(_, record)| record.epoch.era).max().unwrap_or_default() + 1;
                let committed = self.nodes[i].disk.current.clone();
                store.recover(&mut self.indexes, Barrier::idle(era, committed));
                self.is_restored = false;
                self.note_barrier();
            }
            other => unreachable!("{other:?} is nobody's hand"),
        }
    }

    /// Consul's keys go back to the snapshot. Its sessions do too, so no current session holds a key.
    fn restore(&mut self) {
        self.budget.restores -= 1;
        let Some(snapshot) = self.snapshot.take() else { return };
        let is_older = snapshot.log != self.store.log;
        let mut store = (*snapshot).clone();
        store.lock = None;
        for held in store.nodes.values_mut() {
            held.session = None;
        }
        self.store = Shared::new(store);
        self.is_restored |= is_older;
        self.has_gone_back |= is_older;
    }

    pub(super) fn is_in(&self, phase: Phase) -> bool {
        self.store.barrier.as_ref().is_some_and(|slot| slot.value.phase == phase)
    }

    /// The barrier's record, with its index.
    pub(super) fn current_barrier(&self) -> Option<(ModifyIndex, Arc<Barrier>)> {
        self.store.barrier.as_ref().map(|slot| (slot.index, Arc::clone(&slot.value)))
    }
}
