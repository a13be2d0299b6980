//! A node's report about itself, `nodes/<node>`: from its participant and its disk.

use jiff::Timestamp;

use super::presence::report_content;
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName, Unit};
use crate::protocol::participant::Participant;
use crate::protocol::record::{FORMAT, NodeRecord, RefusedBuild, Unremovable};
use crate::protocol::rule::{Rule, holds};

/// The fields that do not change while an agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) unit: Unit,
    pub(crate) node: Node,
    pub(crate) consul_node: String,
    pub(crate) version: String,
    pub(crate) config_digest: String,
}

/// The fields that are read from the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnDisk {
    pub(crate) current: Option<String>,
    pub(crate) previous: Option<ReleaseName>,
    pub(crate) staged: Vec<ArtifactName>,
    pub(crate) newest_release: Option<ReleaseName>,
    pub(crate) free_bytes: u64,
    /// What could not be removed.
    pub(crate) unremovable: Vec<Unremovable>,
    /// The newest epoch in the records of the releases; read only while the node holds no record.
    pub(crate) known: Option<Epoch>,
}

/// What the driver reads before the node can be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Disk,
    /// The disk, with the epochs in the records of the releases.
    DiskAndEpochs,
    /// The node's own work is changing the disk: the last report stays until that work has ended.
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// The disk cannot be read, for this reason.
    Broken(String),
    Disk(OnDisk),
    Nothing,
}

/// Problems outside the participant that a person must look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    /// A newer agent wrote a record that this agent needs.
    pub(crate) newer: Option<String>,
    /// This agent coordinates, and is halted for this reason.
    pub(crate) halted: Option<String>,
    /// Builds that this node could not prefetch, and why.
    pub(crate) refused: Vec<RefusedBuild>,
}

/// Describes the node, and keeps its last report.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    identity: Identity,
    last: Option<NodeRecord>,
}

impl Reporter {
    pub(crate) const fn new(identity: Identity) -> Self {
        Self { identity, last: None }
    }

    pub(crate) fn look(&self, participant: &Participant) -> Look {
        match (participant.is_working() && self.last.is_some(), &participant.journal().record) {
            (true, _) => Look::Nothing,
            (false, None) => Look::DiskAndEpochs,
            (false, Some(_)) => Look::Disk,
        }
    }

    pub(crate) fn describe(
        &self,
        participant: &Participant,
        found: Found,
        problems: Problems,
        at: Timestamp,
    ) -> NodeRecord {
        let journal = participant.journal();
        let (disk, broken) = match found {
            Found::Disk(disk) => (disk, None),
            Found::Broken(reason) => (OnDisk::default(), Some(format!("the disk does not answer: {reason}"))),
            Found::Nothing => (self.last.as_ref().map(on_disk).unwrap_or_default(), None),
        };
        let Identity { unit, node, consul_node, version, config_digest } = &self.identity;
        let astray = participant.alarm();
        let way_on = astray.as_ref().map(|astray| format!("{astray}; the way on is `cutover recover {unit}`"));
        let fault = || participant.fault().map(|fault| format!("{}: {}", fault.step.as_str(), fault.reason));
        let journaled = if holds(Rule::RunsAsJournaled) {
            journal.runs.clone()
        } else {
            journal.record.as_ref().and_then(|record| record.target().cloned())
        };
        NodeRecord {
            format: FORMAT,
            node: node.clone(),
            consul_node: consul_node.clone(),
            version: version.clone(),
            config_digest: config_digest.clone(),
            // Without a record, the epochs of its releases are the floor.
            floor: journal.record.as_ref().map(|record| record.epoch).or(disk.known),
            astray: astray.is_some(),
            runs: journaled,
            current: disk.current,
            previous: disk.previous,
            staged: disk.staged,
            refused: problems.refused,
            fetching: None,
            newest_release: disk.newest_release,
            free_bytes: disk.free_bytes,
            unremovable: disk.unremovable,
            alarm: broken.or(problems.newer).or(way_on).or(problems.halted).or_else(fault),
            at,
        }
    }

    /// Whether `record` differs from the last report. It is the last report from then on.
    pub(crate) fn is_changed(&mut self, record: &NodeRecord) -> bool {
        let is_changed = self.last.as_ref().is_none_or(|last| report_content(last) != report_content(record));
        if is_changed {
            self.last = Some(record.clone());
        }
        is_changed
    }

    pub(crate) const fn last(&self) -> Option<&NodeRecord> {
        self.last.as_ref()
    }
}

fn on_disk(record: &NodeRecord) -> OnDisk {
    OnDisk {
        current: record.current.clone(),
        previous: record.previous.clone(),
        staged: record.staged.clone(),
        newest_release: record.newest_release.clone(),
        free_bytes: record.free_bytes,
        unremovable: record.unremovable.clone(),
        known: record.floor,
    }
}
