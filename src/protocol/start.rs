//! Step C2, where the request is not refused: freeze the members and begin the deploy.

use super::barrier::{Cause, list};
use super::coordinator::{Coordinator, Decision, Now, Resolved, Round, Snapshot};
use super::ids::{ModifyIndex, Node, ReleaseName};
use super::record::{
    AbsentNodes, Barrier, Changes, FORMAT, Fault, History, NodeRecord, Outcome, Phase, Release, Request, Step, encode,
};
use super::transition::{self, Key, Op, Transition, Value};

/// The largest member list with the history that names them too, in bytes of JSON. A transaction may hold 512 KiB
/// encoded, of which base64 takes a third, and the other records of the start need room too (measured on Consul 1.8:
/// about 393,000 raw bytes).
const MAX_MEMBERS_BYTES: usize = 380_000;

/// The nodes that take part.
enum Membership {
    /// Every node that the deploy needs is alive.
    Complete { members: Vec<Node>, left_out: Vec<Node> },
    /// The deploy cannot begin.
    Refused(Cause),
    /// Put off: a node has been away for less than the grace.
    Waiting { away: Node },
}

impl Coordinator {
    /// Begins the deploy, refuses it, puts it off, or ends it as done where the release runs everywhere already.
    pub(super) fn start(
        &self,
        round: Round<'_>,
        request: &Request,
        found: &Resolved,
        mut history: History,
    ) -> Decision {
        let Round { now, view, current } = round;
        let barrier = current.barrier;
        let (members, left_out) = match self.membership(now, view) {
            Membership::Complete { members, left_out } => (members, left_out),
            Membership::Waiting { away } => {
                let grace = std::time::Duration::from_secs(self.policy.absence_grace_secs);
                let left = grace.saturating_sub(self.absent_for(now, &away));
                return Decision::Stay { until: Some(now.monotonic.saturating_add(left)) };
            }
            Membership::Refused(cause) => return self.refuse(round, history, cause),
        };
        if !left_out.is_empty() {
            history.notes.push(format!("without {}: away or gone", list(&left_out)));
        }
        history.left_out = left_out;
        if !request.again && is_running_everywhere(view, barrier, found, &members) {
            history.notes.push("already running on every node: nothing to do".to_owned());
            history.release = barrier.committed.as_ref().map(|r| r.release.clone());
            history.end(Outcome::Done, now.wall);
            return self.settle(round, &history, "nothing to do");
        }
        history.add_answers(&members, &view.acks);
        let bytes = encode(&members).len().saturating_add(encode(&history).len());
        if bytes > MAX_MEMBERS_BYTES {
            history.nodes.clear();
            let reason = format!(
                "{} members take {bytes} bytes in the records of a deploy; at most {MAX_MEMBERS_BYTES} fit",
                members.len(),
            );
            return self.refuse(round, history, Cause::of_fleet(Fault::new(Step::Request, &reason)));
        }
        let release = Release {
            epoch: history.epoch,
            artifact: found.build.artifact.clone(),
            sha256: found.build.sha256.clone(),
            release: found.release.clone().unwrap_or_else(|| new_name(now, view, barrier)),
        };
        history.release = Some(release.release.clone());
        history.from.clone_from(&barrier.committed);
        history.changes = found.changes.clone().map(Changes::shortened);
        let next = Barrier {
            epoch: history.epoch,
            phase: Phase::Prepare,
            deploy: Some((release, self.policy.clone())),
            from: barrier.committed.clone(),
            committed: barrier.committed.clone(),
        };
        let (Some(deploy), Some(freeze)) = (&view.deploy, &view.freeze) else { return Decision::Stay { until: None } };
        let status = transition::status(&self.unit, &next, Some(&history), view.status.as_ref());
        let mut ops = vec![
            Op::CheckIndex { key: Key::Freeze, index: freeze.index },
            Op::take_request(deploy.index),
            Op::move_barrier(current.index, &next),
            Op::Cas { key: Key::Members(next.epoch), index: ModifyIndex(0), value: Value::Members(members) },
            Op::set_history(&history),
            Op::set_status(status),
        ];
        ops.extend(Op::remove_attestations(view.attestations.as_ref()));
        if barrier.phase != Phase::Idle {
            // No node reads the members of an ended deploy once another has begun.
            ops.push(Op::Delete { key: Key::Members(barrier.epoch) });
        }
        Decision::Write(Box::new(Transition::new("prepare", ops)))
    }

    fn membership(&self, now: Now, view: &Snapshot) -> Membership {
        let refused = |step, node: Option<&Node>, reason: &str| {
            Membership::Refused(Cause { node: node.cloned(), fault: Fault::new(step, reason) })
        };
        let grace = std::time::Duration::from_secs(self.policy.absence_grace_secs);
        let (mut members, mut gone, mut away) = (Vec::new(), Vec::new(), Vec::new());
        for (node, presence) in &view.nodes {
            let Some(record) = &presence.record else {
                let reason =
                    "its nodes/ record cannot be read: restart its agent, or forget the node (`cutover node forget`)";
                return refused(Step::Request, Some(node), reason);
            };
            match (view.catalog.contains(&record.consul_node), presence.is_alive) {
                (false, _) => gone.push(node.clone()),
                (true, true) if record.format < FORMAT => {
                    let reason =
                        format!("its agent {} does not speak record format {FORMAT}: upgrade it", record.version);
                    return refused(Step::Request, Some(node), &reason);
                }
                (true, true) => members.push(node.clone()),
                (true, false) if self.absent_for(now, node) < grace => {
                    return Membership::Waiting { away: node.clone() };
                }
                (true, false) => away.push(node.clone()),
            }
        }
        // An ACL shortens lists without an error. The next two checks find nodes that it hides.
        if !members.contains(&self.me) {
            let reason = "the coordinator's own node is not among the live nodes: an ACL may be hiding nodes from it";
            return refused(Step::Request, Some(&self.me), reason);
        }
        let is_hidden = |node: &&Node| {
            !view.nodes.contains_key(*node) && view.catalog.contains(node.as_str()) && !view.is_forgotten(node)
        };
        if let Some(node) = view.members.iter().find(is_hidden) {
            let reason = "it took part in the last deploy, is in Consul's catalog, and has no nodes/ record now: \
                          start its agent, see whether an ACL hides the record, or forget the node \
                          (`cutover node forget`)";
            return refused(Step::Request, Some(node), reason);
        }
        if let (AbsentNodes::Fail, Some(node)) = (self.policy.absent_nodes, away.first()) {
            let reason = format!(
                "registered and not alive for over {} s: {}; start it, or let the deploy go on without it \
                     (absent_nodes = \"skip\")",
                self.policy.absence_grace_secs,
                list(&away)
            );
            return refused(Step::Session, Some(node), &reason);
        }
        if members.len() < usize::try_from(self.policy.min_nodes).unwrap_or(usize::MAX) {
            let reason = format!("{} nodes are alive, min_nodes is {}", members.len(), self.policy.min_nodes);
            return refused(Step::Session, None, &reason);
        }
        gone.extend(away);
        Membership::Complete { members, left_out: gone }
    }
}

fn is_running_everywhere(view: &Snapshot, barrier: &Barrier, found: &Resolved, members: &[Node]) -> bool {
    let Some(committed) = &barrier.committed else { return false };
    let is_same_build = committed.artifact == found.build.artifact && committed.sha256 == found.build.sha256;
    let is_same_release = found.release.as_ref().is_none_or(|release| *release == committed.release);
    let runs = |node: &Node| -> bool {
        let record: Option<&NodeRecord> = view.nodes.get(node).and_then(|presence| presence.record.as_ref());
        record.is_some_and(|record| record.runs.as_ref() == Some(committed) && !record.has_drifted())
    };
    is_same_build && is_same_release && members.iter().all(runs)
}

/// A name above every known one, so that names sort in the order of deploys, whatever the clocks say.
fn new_name(now: Now, view: &Snapshot, barrier: &Barrier) -> ReleaseName {
    let in_barrier = [barrier.target(), barrier.from.as_ref(), barrier.committed.as_ref()];
    let in_barrier = in_barrier.into_iter().flatten().map(|release| &release.release);
    let on_nodes = view.nodes.values().filter_map(|presence| presence.record.as_ref()?.newest_release.as_ref());
    let newest = in_barrier.chain(on_nodes).max();
    let by_clock = ReleaseName::at(now.wall);
    newest.map(ReleaseName::next).map_or(by_clock.clone(), |next| next.max(by_clock))
}
