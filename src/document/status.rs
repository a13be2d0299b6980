//! `cutover status`: one group, its nodes, and the running deploy.
//!
//! Built from the keys of the group, read at one moment. Nothing is queried from the nodes, so the document also describes
//! nodes that are away. Unreadable records are listed in `problems`; the rest of the document is still complete.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::waiting::Waiting;
use super::{Entries, Problem, coordinator, read, read_all, under};
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{
    Ack, Answer, Barrier, Current, Fault, Fetching, Freeze, Last, NodeRecord, Phase, RefusedBuild, Release, Running,
    Status, Sweep, Timings, Unremovable,
};

/// The status of a group, as `cutover status` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct StatusDocument {
    /// The group.
    pub(crate) unit: Unit,
    /// The phase of the barrier; none if it is missing or unreadable.
    pub(crate) phase: Option<Phase>,
    /// The barrier's epoch.
    pub(crate) epoch: Option<Epoch>,
    /// The release that every node should run.
    pub(crate) current: Option<Current>,
    /// The running deploy.
    pub(crate) running: Option<Running>,
    /// The request that no coordinator has taken yet.
    pub(crate) waiting: Option<Waiting>,
    /// The outcome of the last request.
    pub(crate) last: Option<Last>,
    /// The coordinator; none if no agent holds the lock.
    pub(crate) coordinator: Option<String>,
    /// Problems of the whole group: of its keys, or of the current release's archive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub(crate) troubles: Vec<GroupTrouble>,
    /// Whether the keys are damaged: all deploys wait for `cutover recover`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) needs_recovery: bool,
    /// The current freeze.
    pub(crate) freeze: Option<Freeze>,
    /// Every node that is registered, or a member of the running deploy, by name.
    pub(crate) nodes: Vec<NodeStatus>,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
}

/// A problem of a whole group. In JSON it is its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupTrouble {
    /// The archive of the current release is not in the store: a new node cannot join.
    Archive(String),
    /// The keys are damaged: all deploys wait for `cutover recover`.
    Keys(String),
}

impl GroupTrouble {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Archive(text) | Self::Keys(text) => text,
        }
    }
}

impl Serialize for GroupTrouble {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// Whether a node's agent is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Presence {
    /// Its session holds its key.
    Alive,
    /// No live session holds its key.
    Absent,
}

/// How a node differs from its intended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Drift {
    /// The group's settings differ from those of most nodes.
    Config,
    /// Another program moved `current`.
    Current,
    /// It does not run the committed release.
    Release,
}

/// One node of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeStatus {
    /// Its name.
    pub(crate) node: Node,
    /// Whether its agent is alive.
    pub(crate) state: Presence,
    /// The release it switched to last.
    pub(crate) runs: Option<Release>,
    /// The actual target of `current`.
    pub(crate) current: Option<String>,
    /// The release before that.
    pub(crate) previous: Option<ReleaseName>,
    /// How it differs from its intended state.
    pub(crate) drift: Vec<Drift>,
    /// Builds that are already unpacked.
    pub(crate) staged: Vec<ArtifactName>,
    /// Builds that it could not unpack in advance, and why: at most five.
    pub(crate) refused: Vec<RefusedBuild>,
    /// The build that it downloads and unpacks for a deploy that waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fetching: Option<Fetching>,
    /// The agent's version; none without a readable record.
    pub(crate) version: Option<String>,
    /// Free space for releases in bytes, when the node last wrote its record.
    pub(crate) free_bytes: Option<u64>,
    /// A problem that needs an operator.
    pub(crate) alarm: Option<String>,
    /// Files and directories that its agent cannot remove.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unremovable: Vec<Unremovable>,
    /// Whether it is a member of the barrier's deploy.
    pub(crate) member: bool,
    /// Its answer to the barrier's deploy.
    pub(crate) answer: Option<NodeAnswer>,
}

/// A node's answer, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeAnswer {
    pub(crate) answer: Answer,
    /// The fault, if it refused or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    /// How long it took.
    pub(crate) took: Timings,
}

impl From<Ack> for NodeAnswer {
    fn from(ack: Ack) -> Self {
        Self { answer: ack.answer, fault: ack.fault, took: ack.took }
    }
}

impl StatusDocument {
    /// Builds the document from all keys of the group except its history. `now` decides whether a freeze is still in force.
    #[must_use]
    pub(crate) fn build(unit: &Unit, keys: &UnitKeys, entries: &Entries, now: Timestamp) -> Self {
        let mut problems = Vec::new();
        let barrier: Option<Barrier> = read(entries, &keys.barrier(), &mut problems);
        let status: Option<Status> = read(entries, &keys.status(), &mut problems);
        let epoch = barrier.as_ref().map(|b| b.epoch);
        let nodes = node_rows(keys, entries, barrier.as_ref(), &mut problems);
        let running = barrier.as_ref().filter(|b| !b.phase.is_settled()).and_then(|b| {
            let target = b.target()?;
            // `status` is written in the same transaction. Only the author is taken from it.
            let by = status.as_ref().and_then(|s| s.running.as_ref()).filter(|r| r.epoch == b.epoch);
            let by = by.map_or_else(|| "unknown".to_owned(), |r| r.by.clone());
            Some(Running { epoch: b.epoch, phase: b.phase, artifact: target.artifact.clone(), by })
        });
        let committed = barrier.as_ref().and_then(|b| b.committed.as_ref());
        let of_keys = super::remains(keys, entries).damage();
        let sweep: Option<Sweep> = read(entries, &keys.store(), &mut problems);
        let unjoinable = committed.zip(sweep).and_then(|(release, sweep)| sweep.alarm(&release.artifact));
        Self {
            unit: unit.clone(),
            phase: barrier.as_ref().map(|b| b.phase),
            epoch,
            current: committed.map(|r| Current {
                artifact: r.artifact.clone(),
                release: r.release.clone(),
                epoch: r.epoch,
            }),
            running,
            waiting: entries.get(&keys.deploy()).and_then(Waiting::read),
            last: status.and_then(|s| s.last),
            coordinator: coordinator(keys, entries),
            needs_recovery: !of_keys.is_empty(),
            troubles: of_keys
                .iter()
                .map(|damage| GroupTrouble::Keys(damage.to_string()))
                .chain(unjoinable.map(GroupTrouble::Archive))
                .collect(),
            freeze: entries.get(&keys.freeze()).and_then(|e| Freeze::parse(&e.value)).filter(|f| f.holds_at(now)),
            nodes,
            problems,
        }
    }
}

fn node_rows(
    keys: &UnitKeys,
    entries: &Entries,
    barrier: Option<&Barrier>,
    problems: &mut Vec<Problem>,
) -> Vec<NodeStatus> {
    let records: BTreeMap<Node, NodeRecord> = read_all(entries, &keys.nodes(), problems);
    let acks: BTreeMap<Node, Ack> = read_all(entries, &keys.acks(), problems);
    let members: Vec<Node> = barrier.and_then(|b| read(entries, &keys.members(b.epoch), problems)).unwrap_or_default();
    let registered = under(entries, &keys.nodes()).filter_map(|(_, name, _)| name.parse().ok()).collect::<Vec<_>>();
    let usual = usual_digest(&records);
    let names: BTreeSet<Node> = registered.into_iter().chain(members.iter().cloned()).collect();
    let row = |node: Node| {
        let record = records.get(&node);
        let lives = entries.get(&keys.node(&node)).is_some_and(|e| e.session.is_some());
        let ack = acks.get(&node).filter(|ack| barrier.is_some_and(|b| b.epoch == ack.epoch));
        NodeStatus {
            state: if lives { Presence::Alive } else { Presence::Absent },
            runs: record.and_then(|r| r.runs.clone()),
            current: record.and_then(|r| r.current.clone()),
            previous: record.and_then(|r| r.previous.clone()),
            drift: record.map_or_else(Vec::new, |r| drift(r, barrier, usual.as_deref())),
            staged: record.map_or_else(Vec::new, |r| r.staged.clone()),
            refused: record.map_or_else(Vec::new, |r| r.refused.clone()),
            // Of a node that is away, it is the last that was heard.
            fetching: record.filter(|_| lives).and_then(|r| r.fetching.clone()),
            version: record.map(|r| r.version.clone()),
            free_bytes: record.map(|r| r.free_bytes),
            alarm: record.and_then(|r| r.alarm.clone()),
            unremovable: record.map_or_else(Vec::new, |r| r.unremovable.clone()),
            member: members.binary_search(&node).is_ok(),
            answer: ack.cloned().map(NodeAnswer::from),
            node,
        }
    };
    names.into_iter().map(row).collect()
}

/// The most common config digest; the first of several equally common ones.
fn usual_digest(records: &BTreeMap<Node, NodeRecord>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records.values() {
        *counts.entry(record.config_digest.as_str()).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(digest, _)| digest.to_owned())
}

fn drift(record: &NodeRecord, barrier: Option<&Barrier>, usual: Option<&str>) -> Vec<Drift> {
    let committed = barrier.and_then(|b| b.committed.as_ref());
    // During a switch or revert, nodes on the other release are work in progress, not drift.
    let settled = barrier.is_some_and(|b| !matches!(b.phase, Phase::Commit | Phase::Revert));
    let behind = settled && committed.is_some_and(|c| !record.runs.as_ref().is_some_and(|runs| runs.same_tree(c)));
    let found = [
        (usual.is_some_and(|digest| digest != record.config_digest), Drift::Config),
        (record.has_drifted(), Drift::Current),
        (behind, Drift::Release),
    ];
    found.into_iter().filter_map(|(is, drift)| is.then_some(drift)).collect()
}
