//! Situations that some state must reach: a model in which nothing happens would be safe by itself.

use std::sync::atomic::{AtomicU32, Ordering};

use super::fleet::Fleet;
use super::scope::Scope;
use crate::protocol::record::{Outcome, Phase};

type Situation = fn(&Scope, &Fleet) -> bool;

/// Every phase, every outcome, and the situations that the protocol is made for.
pub(super) const ALL: [(&str, Situation); 21] = [
    ("phase prepare", |_, fleet| fleet.is_in(Phase::Prepare)),
    ("phase commit", |_, fleet| fleet.is_in(Phase::Commit)),
    ("phase done", |_, fleet| fleet.is_in(Phase::Done)),
    ("phase aborted", |_, fleet| fleet.is_in(Phase::Aborted)),
    ("phase revert", |_, fleet| fleet.is_in(Phase::Revert)),
    ("phase reverted", |_, fleet| fleet.is_in(Phase::Reverted)),
    ("outcome done", |_, fleet| has_ended(fleet, Outcome::Done)),
    ("outcome refused", |_, fleet| has_ended(fleet, Outcome::Refused)),
    ("outcome aborted", |_, fleet| has_ended(fleet, Outcome::Aborted)),
    ("outcome reverted", |_, fleet| has_ended(fleet, Outcome::Reverted)),
    ("outcome failed", |_, fleet| has_ended(fleet, Outcome::Failed)),
    ("outcome superseded", |_, fleet| has_ended(fleet, Outcome::Superseded)),
    ("another takes over in prepare", |_, fleet| took_over_in(fleet, Phase::Prepare)),
    ("another takes over in commit", |_, fleet| took_over_in(fleet, Phase::Commit)),
    ("another takes over in revert", |_, fleet| took_over_in(fleet, Phase::Revert)),
    ("who has lost the lock is about to write", |_, fleet| {
        fleet.candidates.iter().any(|candidate| candidate.plan.is_some() && fleet.store.lock != Some(candidate.session))
    }),
    ("a joiner has caught up", |scope, fleet| {
        let committed = fleet.store.barrier.as_ref().and_then(|slot| slot.value.committed.as_ref());
        let joiner = fleet.nodes.get(scope.nodes);
        joiner.is_some_and(|node| committed.is_some() && node.disk.current.as_ref() == committed)
    }),
    ("a node is back on another tool's release", |_, fleet| {
        fleet.nodes.iter().any(|node| node.disk.current.is_none() && node.durable.origin.is_some())
    }),
    ("a rollback is done", |_, fleet| {
        let slot = fleet.store.barrier.as_ref().filter(|slot| slot.value.phase == Phase::Done);
        let target = slot.and_then(|slot| slot.value.target());
        let made_by = |node: &super::fleet::Member, name| node.disk.releases.get(name).copied();
        target
            .is_some_and(|it| fleet.nodes.iter().any(|node| made_by(node, &it.release).is_some_and(|by| by < it.epoch)))
    }),
    ("a restored snapshot strands a node", |_, fleet| {
        fleet.is_restored && fleet.nodes.iter().any(|node| node.machine.alarm().is_some())
    }),
    ("a new era is followed", |_, fleet| {
        fleet.nodes.iter().any(|node| node.durable.record.as_ref().is_some_and(|record| record.epoch.era > 0))
    }),
];

/// The situations that an exploration has reached: one bit for each of [`ALL`].
#[derive(Debug, Default)]
pub(super) struct Reached(AtomicU32);

impl Reached {
    pub(super) fn note(&self, scope: &Scope, fleet: &Fleet) {
        for (at, (_, is_so)) in ALL.iter().enumerate() {
            let bit = 1 << at;
            if self.0.load(Ordering::Relaxed) & bit == 0 && is_so(scope, fleet) {
                self.0.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        let bits = self.0.load(Ordering::Relaxed);
        ALL.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, (name, _))| *name).collect()
    }
}

fn has_ended(fleet: &Fleet, outcome: Outcome) -> bool {
    fleet.store.history.values().any(|ended| *ended == Some(outcome))
}

/// Whether another node than the first holds the lock.
fn took_over_in(fleet: &Fleet, phase: Phase) -> bool {
    let first = fleet.store.history.keys().next_back().is_some()
        && fleet.lock_holder().is_some_and(|at| fleet.candidates[at].node > 0);
    first && fleet.is_in(phase)
}
