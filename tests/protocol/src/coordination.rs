//! The coordinators' half of a world: look, decide and write are three steps, so that anything can happen in between.

use crate::invariant::check_i4;
use crate::protocol::coordinator::{Coordinator, Decision, Now, Presence, Resolved, Slot, Snapshot};
use crate::protocol::ids::{ArtifactName, ModifyIndex, ReleaseName};
use crate::protocol::record::{
    Barrier, Build, Fault, History, Phase, Request, Selector, Status, Step, Wanted, decode, encode,
};
use crate::protocol::transition::{Key, Op, Transition};

use crate::consul::{Op as TxnOp, Session};
use crate::world::{World, jiff_at};

impl World {
    /// Moves the lock to node `i`. The former holder does not know yet.
    pub(crate) fn take_lock(&mut self, i: usize) {
        let key = self.kv.names.coordinator();
        if let Some(holder) = self.kv.holder(&key) {
            self.kv.consul.destroy(holder);
        }
        let session = self.new_session(i).unwrap();
        self.agents[i].lease = Some(session);
        let value = self.agents[i].name.as_str().as_bytes().into();
        self.kv.txn(&[TxnOp::Lock { key, value, session }]).unwrap();
    }

    /// The node that took the lock last, even where it has lost the lock since.
    pub(crate) fn lock_holder(&self) -> usize {
        (0..self.agents.len()).max_by_key(|i| self.agents[*i].lease).unwrap()
    }

    pub(crate) fn forget_coordination(&mut self, i: usize) {
        let agent = &mut self.agents[i];
        let unit = "shop/production".parse().unwrap();
        agent.coordinator = Coordinator::new(agent.name.clone(), unit, agent.policy.clone());
        agent.snapshot = None;
        agent.planned = None;
    }

    /// One consistent read of everything.
    pub(crate) fn look(&mut self, i: usize) {
        let names = self.kv.names.clone();
        let raw = |key: String| {
            self.kv.get(&key).map(|entry| Slot { index: ModifyIndex(entry.modify_index), value: entry.value.to_vec() })
        };
        let barrier = self.kv.barrier();
        let epoch = barrier.as_ref().and_then(|(_, record)| Some(record.as_ref().ok()?.epoch)).unwrap_or_default();
        let prefix = names.nodes();
        let nodes = self.kv.under(&prefix).map(|(name, entry)| {
            let presence = Presence { is_alive: entry.holder.is_some(), record: decode(name, &entry.value).ok() };
            (name.parse().unwrap(), presence)
        });
        let prefix = names.acks();
        let acks = self.kv.under(&prefix);
        let prefix = names.all_forgotten();
        let forgotten = self.kv.under(&prefix).map(|(name, _)| name.parse().unwrap()).collect();
        let snapshot = Snapshot {
            barrier: barrier.map(|(index, value)| Slot { index, value }),
            deploy: raw(names.deploy()),
            abort: raw(names.abort()),
            freeze: raw(names.freeze()),
            members: self.kv.members(epoch),
            acks: acks.map(|(name, entry)| (name.parse().unwrap(), decode(name, &entry.value).unwrap())).collect(),
            nodes: nodes.collect(),
            catalog: self.kv.consul.catalog().clone(),
            history: self.kv.history(epoch),
            status: self.status(),
            floor: self.agents[i].machine.journal().record.clone(),
            attestations: None,
            forgotten,
            newer: None,
        };
        self.agents[i].snapshot = Some(snapshot);
    }

    /// Decides on the last look, and keeps the transition for [`World::write`]. Returns whether there is one.
    pub(crate) fn decide(&mut self, i: usize) -> bool {
        let Some(snapshot) = self.agents[i].snapshot.clone() else { return false };
        let now = Now { monotonic: self.clock, wall: jiff_at(self.clock) };
        loop {
            match self.agents[i].coordinator.decide(now, &snapshot) {
                Decision::Resolve { epoch, request } => {
                    let result = self.resolve(&request);
                    self.agents[i].coordinator.resolved(epoch, result);
                }
                Decision::Write(transition) => {
                    self.agents[i].planned = Some(*transition);
                    return true;
                }
                Decision::Halt { reason } => {
                    self.say(format!("{} halts: {reason}", self.agents[i].name));
                    return false;
                }
                Decision::StandDown { record } => {
                    self.say(format!("{} stands down: {record}", self.agents[i].name));
                    return false;
                }
                Decision::Stay { until } => {
                    if let Some(until) = until {
                        self.say(format!("{} waits until {} s", self.agents[i].name, until.as_secs()));
                    }
                    return false;
                }
            }
        }
    }

    /// Writes the kept transition. Returns whether it applied.
    pub(crate) fn write(&mut self, i: usize) -> bool {
        let Some(transition) = self.agents[i].planned.take() else { return false };
        // A node that never had the lock writes with a session that does not exist.
        let lease = self.agents[i].lease.unwrap_or(Session(0));
        let holder = self.kv.holder(&self.kv.names.coordinator());
        let result = self.kv.apply(lease, &transition);
        if result.is_ok() {
            check_i4(transition.name, &lease, holder.as_ref()).unwrap();
        }
        let name = self.agents[i].name.clone();
        match &result {
            Ok(()) => self.say(format!("{name} writes {}", words(&transition))),
            Err(refusals) => {
                let fence = fence(&transition.ops[refusals[0].0]);
                self.say(format!("{name} may not write {}: {fence}", words(&transition)));
            }
        }
        result.is_ok()
    }

    /// Looks, decides and writes until there is nothing to write.
    pub(crate) fn coordinate(&mut self, i: usize) {
        loop {
            self.look(i);
            if !self.decide(i) || !self.write(i) {
                return;
            }
        }
    }

    pub(crate) fn status(&self) -> Option<Status> {
        let key = self.kv.names.status();
        self.kv.get(&key).map(|entry| decode(&key, &entry.value).unwrap())
    }

    /// Writes as the operator's `cutover recover`.
    pub(crate) fn recover(&mut self, era: u32, committed: Option<crate::protocol::record::Release>) {
        let key = self.kv.names.barrier();
        self.kv.put(&key, encode(&Barrier::idle(era, committed)).as_bytes());
    }

    /// Every name is a build, except `missing`. A rollback goes to the newest earlier release that was done.
    fn resolve(&self, request: &Request) -> Result<Resolved, Fault> {
        match &request.wanted {
            Wanted::Deploy(Selector::Any(name)) if name == "missing" => {
                Err(Fault::new(Step::NotFound, "no build or branch of that name"))
            }
            Wanted::Deploy(selector) => {
                let artifact: ArtifactName = format!("{selector}-00000001").parse().unwrap();
                Ok(resolved(&artifact, None))
            }
            Wanted::Rollback(artifact) => {
                let committed = self.kv.barriers.last().and_then(|(_, barrier)| barrier.committed.clone());
                let done = self.kv.barriers.iter().rev().filter(|(_, barrier)| barrier.phase == Phase::Done);
                let mut done = done.filter_map(|(_, barrier)| barrier.target());
                let other = done.find(|release| {
                    artifact.as_ref().map_or_else(
                        || committed.as_ref().is_none_or(|committed| !committed.same_tree(release)),
                        |artifact| release.artifact == *artifact,
                    )
                });
                let other = other.ok_or_else(|| Fault::new(Step::NotFound, "nothing to go back to"))?;
                Ok(resolved(&other.artifact, Some(other.release.clone())))
            }
        }
    }
}

fn resolved(artifact: &ArtifactName, release: Option<ReleaseName>) -> Resolved {
    let digit = artifact.as_str().bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 16);
    let build = Build {
        sha256: format!("{digit:x}").repeat(64).parse().unwrap(),
        at: jiff_at(std::time::Duration::ZERO),
        ..Build::sample(artifact.as_str())
    };
    Resolved { build, release, notes: Vec::new(), changes: None }
}

/// A transition, for the trace.
fn words(transition: &Transition) -> String {
    let mut ends = transition.histories().map(end);
    let Some(first) = ends.next() else { return transition.name.to_owned() };
    let words = ends.fold(first, |words, answered| format!("{words}, and answers {answered}"));
    format!("{} {words}", transition.name)
}

/// A request's history, for the trace.
fn end(history: &History) -> String {
    let outcome = history.outcome.map(|outcome| format!("as {}", outcome.as_str()));
    let fault = history.fault.as_ref().map(|fault| {
        let node = history.node.as_ref().map(|node| format!(" at {node}")).unwrap_or_default();
        format!("({}{node}: {})", fault.step.as_str(), fault.reason)
    });
    let notes = history.notes.iter().map(|note| format!("[{note}]"));
    let words = [history.epoch.to_string()].into_iter().chain(outcome).chain(fault).chain(notes);
    words.collect::<Vec<_>>().join(" ")
}

/// The key that an operation checks or writes, for the trace.
fn fence(op: &Op) -> &'static str {
    match op {
        Op::HoldLock => "lock",
        Op::RemoveAttestation { .. } => "attestation",
        Op::Cas { key, .. } | Op::CheckIndex { key, .. } | Op::Delete { key } | Op::Set { key, .. } => match key {
            Key::Abort => "abort",
            Key::Barrier => "barrier",
            Key::Deploy => "deploy",
            Key::Freeze => "freeze",
            Key::History(_) => "history",
            Key::Members(_) => "members",
            Key::Status => "status",
        },
    }
}
