//! The coordinators' half of a run: look and decide, and write as a later step, so that anything can happen in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::fleet::{Candidate, Fleet, OVERDUE_SECS, Uncounted};
use super::shared::Shared;
use super::store::Session;
use crate::invariant::{Write, check_i4};
use crate::protocol::coordinator::{Decision, Now, Presence, Resolved, Slot, Snapshot};
use crate::protocol::ids::{ArtifactName, Epoch, ReleaseName};
use crate::protocol::record::{Build, Fault, Phase, Release, Request, Step, Wanted};
use crate::protocol::transition::{Key, Op, Transition, Value};

impl Fleet {
    /// A coordinator reads everything at one index, and decides. Returns whether the coordinator has changed.
    pub(super) fn decide(&mut self, d: usize, is_overdue: bool) -> bool {
        let before = self.candidates[d].clone();
        let view = self.look(&before);
        let monotonic = Duration::from_secs(if is_overdue { OVERDUE_SECS } else { 0 });
        let now = Now { monotonic, wall: jiff::Timestamp::UNIX_EPOCH };
        let mut candidate = Candidate { plan: None, ..Candidate::clone(&before) };
        loop {
            match candidate.coordinator.decide(now, &view) {
                Decision::Resolve { epoch, request } => {
                    let found = self.resolve(&request);
                    candidate.coordinator.resolved(epoch, found);
                }
                Decision::Write(transition) => {
                    candidate.plan = Some(Arc::new(*transition));
                    break;
                }
                Decision::Halt { .. } | Decision::StandDown { .. } | Decision::Stay { .. } => break,
            }
        }
        let (store, catalog) = (self.store.clone(), self.catalog.clone());
        candidate.decided_on = Uncounted(Some((store, self.nodes[candidate.node].clone(), catalog)));
        let is_new = candidate != *before;
        self.candidates[d] = Shared::new(candidate);
        is_new
    }

    /// Whether a coordinator would read something else than it has decided on.
    pub(super) fn has_changed_for(&self, d: usize) -> bool {
        let candidate = &self.candidates[d];
        candidate.decided_on.0.as_ref().is_none_or(|(store, node, catalog)| {
            !store.ptr_eq(&self.store)
                || !catalog.ptr_eq(&self.catalog)
                || node.durable.record != self.nodes[candidate.node].durable.record
        })
    }

    fn look(&self, candidate: &Candidate) -> Snapshot {
        let store = &self.store;
        let text = |slot: &Slot<&'static str>| Slot { index: slot.index, value: slot.value.as_bytes().to_vec() };
        let barrier = store.barrier.as_ref();
        let epoch = barrier.map(|slot| slot.value.epoch).unwrap_or_default();
        let presence = |held: &super::store::Held| Presence {
            is_alive: held.session.is_some(),
            record: Some((*held.record).clone()),
        };
        Snapshot {
            barrier: barrier.map(|slot| Slot { index: slot.index, value: Ok((*slot.value).clone()) }),
            deploy: store.deploy.as_ref().map(text),
            abort: store.abort.as_ref().map(|slot| Slot { index: slot.index, value: slot.value.clone().into_bytes() }),
            freeze: store.freeze.as_ref().map(text),
            members: store.members.get(&epoch).cloned().unwrap_or_default(),
            acks: store.acks.iter().map(|(node, slot)| (node.clone(), (*slot.value).clone())).collect(),
            nodes: store.nodes.iter().map(|(node, held)| (node.clone(), presence(held))).collect(),
            catalog: (*self.catalog).clone(),
            // The coordinator makes it again from the barrier: only its outcome matters for decisions.
            history: None,
            status: None,
            floor: self.nodes[candidate.node].machine.journal().record.clone(),
            attestations: None,
            forgotten: BTreeSet::new(),
            newer: None,
        }
    }

    /// Every name is a build. A rollback goes to the newest earlier release that was done.
    fn resolve(&self, request: &Request) -> Result<Resolved, Fault> {
        match &request.wanted {
            Wanted::Deploy(selector) => Ok(resolved(&format!("{selector}-00000001").parse().unwrap(), None)),
            Wanted::Rollback(named) => {
                let committed = self.store.barrier.as_ref().and_then(|slot| slot.value.committed.as_ref());
                let done = self.store.log.iter().rev().filter_map(|write| match write {
                    Write::Barrier(barrier) if barrier.phase == Phase::Done => barrier.target(),
                    Write::Barrier(_) | Write::Ack { .. } | Write::Members { .. } | Write::Request { .. } => None,
                });
                let is_meant = |release: &&Release| match named {
                    Some(artifact) => release.artifact == *artifact,
                    None => committed.is_none_or(|committed| !committed.same_tree(release)),
                };
                let other = done.into_iter().find(is_meant);
                let other = other.ok_or_else(|| Fault::new(Step::NotFound, "nothing to go back to"))?;
                Ok(resolved(&other.artifact, Some(other.release.clone())))
            }
        }
    }

    /// A coordinator writes its decision, whatever has happened since.
    pub(super) fn write(&mut self, d: usize) {
        let candidate = self.candidates[d].make_mut();
        let session = candidate.session;
        if let Some(transition) = candidate.plan.take() {
            self.apply(session, &transition);
        }
    }

    /// A coordinator's transaction arrives at Consul.
    pub(super) fn apply(&mut self, session: Session, transition: &Transition) {
        let before = self.store.clone();
        if !self.store.make_mut().apply(&mut self.indexes, session, transition) {
            self.store = before;
            return;
        }
        if let Err(broken) = check_i4(transition.name, &session, before.lock.as_ref()) {
            self.broken.get_or_insert(broken.to_string());
        }
        for op in &transition.ops {
            let (Op::Cas { key, value, .. } | Op::Set { key, value }) = op else { continue };
            match (key, value) {
                (Key::Deploy, Value::Empty) => self.check_taken(before.deploy.as_ref()),
                (Key::History(epoch), Value::History(history)) => {
                    if let Some(Some(ended)) = before.history.get(epoch).filter(|ended| **ended != history.outcome) {
                        let what = format!("I5 is broken: {epoch} had ended as {}, and ends anew", ended.as_str());
                        self.broken.get_or_insert(what);
                    }
                }
                (_, _) => {}
            }
        }
        self.note_barrier();
    }

    /// The other half of I5: a request that was emptied has a history record.
    fn check_taken(&mut self, standing: Option<&Slot<&'static str>>) {
        let Some(slot) = standing.filter(|slot| !slot.value.is_empty()) else { return };
        let era = self.store.barrier.as_ref().map(|slot| slot.value.epoch.era).unwrap_or_default();
        let epoch = Epoch { era, number: slot.index.0 };
        if !self.store.history.contains_key(&epoch) {
            self.broken.get_or_insert(format!("I5 is broken: request {epoch} was emptied, and nobody has taken it"));
        }
    }

    /// Adds the current record to those that a stale read may return.
    pub(super) fn note_barrier(&mut self) {
        let Some(slot) = &self.store.barrier else { return };
        if self.past.last().is_none_or(|(index, _)| *index != slot.index) {
            self.past.make_mut().push((slot.index, Arc::clone(&slot.value)));
        }
        if let Some(release) = slot.value.committed.as_ref().filter(|release| !self.decided.contains(&release.epoch)) {
            self.decided.make_mut().insert(release.epoch);
        }
    }
}

fn resolved(artifact: &ArtifactName, release: Option<ReleaseName>) -> Resolved {
    static BUILDS: OnceLock<BTreeMap<ArtifactName, Build>> = OnceLock::new();
    let builds = BUILDS.get_or_init(|| ["x", "y", "z"].into_iter().map(build).collect());
    Resolved { build: builds[artifact].clone(), release, notes: Vec::new(), changes: None }
}

fn build(name: &str) -> (ArtifactName, Build) {
    let artifact: ArtifactName = format!("{name}-00000001").parse().unwrap();
    let digit = name.bytes().map(|byte| u32::from(byte) % 16).sum::<u32>();
    let build = Build {
        sha256: format!("{digit:x}").repeat(64).parse().unwrap(),
        by: String::new(),
        ..Build::sample(artifact.as_str())
    };
    (artifact, build)
}
