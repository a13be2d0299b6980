//! The second part of a run: no more faults, and the fleet comes to rest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sim;
use super::agenda::Event;
use super::mix::Fault;
use super::node::{Agent, Node};
use super::reads::artifact;
use crate::invariant::{RestView, RestingNode, check_i8};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::journal::Target;
use crate::protocol::record::{Barrier, Release, encode};

/// The longest time from the death of a coordinator to the next one.
const TAKEOVER: Duration = Duration::from_secs(45);
/// The longest pauses of a node, with jitter: of a retried switch and of an answer.
const PAUSES: Duration = Duration::from_mins(4);
/// One more deploy without faults, with its work, and several requests that are put off or refused.
const ONE_MORE: Duration = Duration::from_secs(90);
/// How often an operator requests that deploy.
const TRIES: u32 = 2;
/// How long after the last fault an operator recovers keys: each node has raised its alarm by then.
const MENDED_AFTER: Duration = Duration::from_secs(40);

impl Sim {
    pub(crate) fn calm_down(&mut self) {
        say!(self, "calm");
        self.is_calm = true;
        self.calm_since = self.now;
        if self.leader_back > self.now {
            self.leader_back = self.now;
            self.mended(0, Fault::Leader);
        }
        for i in 0..self.nodes.len() {
            for fault in [Fault::Store, Fault::Catalog, Fault::Cut, Fault::DiskFull, Fault::Hang] {
                self.mended(i, fault);
            }
            self.start(i);
        }
        if self.is_tampered {
            self.later(MENDED_AFTER, Event::Recover);
        }
    }

    /// The time in which I8 must hold, from the last fault.
    pub(crate) fn bound(&self) -> Duration {
        let policy = &self.mix.policy;
        let phases = policy.prepare_timeout_secs + policy.switch_timeout_secs + policy.revert_timeout_secs;
        // A new coordinator counts the deadline of a phase anew.
        let phases = Duration::from_secs(phases + 2 * policy.absence_grace_secs);
        TAKEOVER + phases + PAUSES + ONE_MORE + MENDED_AFTER
    }

    /// Checks whether the fleet is at rest, and then whether it can still deploy. Returns whether the run is over.
    pub(crate) fn is_over(&mut self) -> bool {
        let passed = self.now.saturating_sub(self.calm_since);
        let is_led = self.nodes.iter().any(|n| n.agent.as_ref().is_some_and(Agent::is_leading));
        if is_led {
            self.led_at = self.now;
        } else if self.now > self.led_at.max(self.calm_since) + TAKEOVER {
            self.judge.broken(format!("I8: nobody coordinates for {} s", TAKEOVER.as_secs()));
            return true;
        }
        let unrest = self.unrest();
        let Some(wanted) = self.last_deploy.clone() else {
            if let Some(why) = unrest {
                if passed > self.bound() {
                    self.judge.broken(format!("I8: {} s after the last fault {why}", passed.as_secs()));
                }
                return passed > self.bound();
            }
            self.settled_after = passed;
            self.deploy_once_more();
            return false;
        };
        let committed = self.newest().record.clone().and_then(Result::ok).and_then(|r| r.committed.clone());
        let is_there = unrest.is_none() && committed.is_some_and(|release| release.artifact == wanted);
        let is_late = passed > self.asked_after + ONE_MORE;
        if is_late && !is_there {
            // A call that was lost before the calm may have cost a session now. An operator requests it again.
            if unrest.is_none() && self.tries < TRIES {
                self.deploy_once_more();
                return false;
            }
            let why = unrest.unwrap_or_else(|| "it was refused, or went back".to_owned());
            self.judge.broken(format!("I8: a fleet at rest cannot deploy: {why}"));
        }
        is_there || is_late
    }

    fn deploy_once_more(&mut self) {
        self.tries += 1;
        self.asked_after = self.now.saturating_sub(self.calm_since);
        let freeze = self.kv.names.freeze();
        self.kv.put(&freeze, b"");
        self.publishes();
        let wanted = artifact(self.builds.saturating_sub(1));
        self.bad.remove(&wanted);
        self.put_request(wanted.as_str(), None);
        self.last_deploy = Some(wanted);
    }

    /// Why the fleet is not at rest; none: it is.
    pub(crate) fn unrest(&self) -> Option<String> {
        if self.is_tampered {
            return Some("the keys are not mended".to_owned());
        }
        if let Some(index) = self.judge.waiting() {
            return Some(format!("request {index} was never taken"));
        }
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let Some(agent) = &node.agent else { return Some(format!("{} is down", node.name)) };
            if self.kv.holder(&self.kv.names.node(&node.name)).is_none() {
                return Some(format!("{} is not seen to be alive", node.name));
            }
            nodes.push(RestingNode {
                name: &node.name,
                runs: agent.machine.journal().runs.as_ref(),
                current: node.disk.current.as_ref(),
                alarm: agent.machine.alarm(),
                has_lost_origin: node.has_lost_origin,
            });
        }
        let view = RestView {
            barrier: self.newest().record.as_ref().and_then(|record| record.as_ref().ok()).map(AsRef::as_ref),
            has_request: self.kv.get(&self.kv.names.deploy()).is_none_or(|entry| !entry.value.is_empty()),
            nodes,
        };
        check_i8(&view).err().map(|broken| broken.what)
    }

    /// `cutover recover`: the next era, with the release that most nodes run as committed.
    pub(crate) fn recover(&mut self) {
        if !self.is_tampered || self.leader_back > self.now {
            return;
        }
        if self.is_calm {
            // A recovery that was planned during the faults waits, too.
            if self.now < self.calm_since + MENDED_AFTER {
                return;
            }
            self.judge_alarms();
        }
        if self.is_harmless() {
            return;
        }
        let standing = self.newest().record.clone().and_then(Result::ok);
        let floors = self.nodes.iter().filter_map(|node| node.journal().record);
        let eras = floors.map(|floor| floor.epoch.era).chain(standing.map(|record| record.epoch.era));
        // Where journals and keys are lost together, only people know the past eras.
        let era = eras.max().unwrap_or_default().max(self.era) + 1;
        self.era = era;
        let mut counts: BTreeMap<_, (usize, Release)> = BTreeMap::new();
        for release in self.nodes.iter().filter_map(heads_for) {
            counts.entry(release.epoch).or_insert((0, release)).0 += 1;
        }
        let most = counts.into_iter().max_by_key(|(epoch, (count, _))| (*count, *epoch));
        let committed = most.map(|(_, (_, release))| release);
        say!(self, "recover: era {era} with {:?}", committed.as_ref().map(|release| release.epoch));
        self.coverage.hit("recover");
        self.is_tampered = false;
        self.judge.recovered(self.kv.log.len());
        let key = self.kv.names.barrier();
        self.kv.put(&key, encode(&Barrier::idle(era, committed)).as_bytes());
        self.look_for_changes();
    }

    /// Whether every node can follow the keys: then there is nothing to recover, once the fleet is at rest.
    fn is_harmless(&mut self) -> bool {
        let Some(Ok(standing)) = self.newest().record.clone() else { return false };
        let follows = |node: &Node| {
            // A node must not fall below what it had followed before it lost its journal.
            let floor = node.lost_floor.clone().or(node.journal().record);
            matches!(admit(floor.as_ref(), &standing), Admission::New | Admission::Same)
        };
        let halts = |node: &Node| node.agent.as_ref().is_some_and(Agent::is_halted);
        let alarms = |node: &Node| node.agent.as_ref().is_some_and(|agent| agent.machine.alarm().is_some());
        if !self.nodes.iter().all(follows) || self.nodes.iter().any(halts) {
            return false;
        }
        let is_moving = self.nodes.iter().any(|node| node.journal().moving.is_some());
        if !standing.phase.is_settled() || is_moving && !self.is_calm {
            self.later(Duration::from_secs(5), Event::Recover);
        } else if self.nodes.iter().any(alarms) {
            return false;
        } else {
            self.coverage.hit("tampered, and harmless");
            self.is_tampered = false;
            self.judge.recovered(self.kv.log.len());
        }
        true
    }

    /// Fail static: a node that may not follow the keys raises an alarm.
    fn judge_alarms(&mut self) {
        let standing = self.newest().record.clone();
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(floor) = node.journal().record else { continue };
            let is_wrong = match &standing {
                None | Some(Err(_)) => true,
                Some(Ok(record)) => {
                    matches!(admit(Some(&floor), record), Admission::Late | Admission::Contradicts)
                }
            };
            let is_silent = node.agent.as_ref().is_some_and(|agent| agent.machine.alarm().is_none());
            if is_wrong && is_silent {
                let text = format!("fail static: {} does not say that the keys are not what it followed", node.name);
                self.judge.broken(text);
            }
        }
    }
}

/// The release that a node runs or moves to.
fn heads_for(node: &Node) -> Option<Release> {
    match node.journal().moving {
        Some(Target::Release(release)) => Some(release),
        Some(Target::Origin) => None,
        None => node.disk.current.clone(),
    }
}
