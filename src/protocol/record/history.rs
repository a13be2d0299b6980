//! `history/<epoch>` and `status`: what people read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Answer, Fault, Identity, Phase, Release, Summary, Timings};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, Node, ReleaseName, Unit};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No node switched: a node said no, time ran out, or somebody aborted the deploy.
    Aborted,
    /// Every member runs it.
    Done,
    /// Rolled back after the switch, and not every node could follow.
    Failed,
    /// Not even begun.
    Refused,
    /// Rolled back after the switch, on every node.
    Reverted,
    /// A newer request took its place before it began.
    Superseded,
}

impl Outcome {
    /// The outcome as users read it, the same word as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
        }
    }
}

/// How one member fared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeOutcome {
    /// Its last answer; none: it never gave one.
    pub answer: Option<Answer>,
    /// What went wrong there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    /// How long it took; in a large fleet `acks/` alone says it.
    #[serde(default, skip_serializing_if = "Timings::is_unknown")]
    pub took: Timings,
}

/// One request's whole life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct History {
    /// The record's format.
    pub(crate) format: u32,
    /// Its epoch.
    #[serde(flatten)]
    pub epoch: Epoch,
    pub(crate) unit: Unit,
    /// What stood in the key, cut to 4 KiB.
    pub(crate) request: String,
    /// The author: a claim.
    pub by: String,
    /// The author, where an agent has attested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Identity>,
    /// Through what.
    pub via: String,
    /// Why they asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
    /// The caller's own mark.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    /// Whether it is a rollback.
    #[serde(default)]
    pub(crate) rollback: bool,
    /// Overrides and other remarks: a forced freeze, a rollback while frozen, nodes left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The build that the request meant; none where it was refused before that.
    pub(crate) artifact: Option<ArtifactName>,
    /// The build's branch.
    pub(crate) branch: Option<Branch>,
    /// The build's commit.
    pub(crate) commit: Option<Commit>,
    /// What the commit says.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// The release directory.
    pub release: Option<ReleaseName>,
    /// What was committed before.
    pub(crate) from: Option<Release>,
    /// How it ended; none while it runs.
    pub outcome: Option<Outcome>,
    /// The node that stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Why it ended as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Every member's outcome; none: refused or nothing to do.
    #[serde(default)]
    pub nodes: BTreeMap<Node, NodeOutcome>,
    /// Nodes that were away and left out (`absent_nodes = "skip"`), or left the catalog.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<Node>,
    /// The node whose agent coordinated the last transition.
    pub(crate) coordinator: Node,
    /// When it was taken.
    pub started_at: Timestamp,
    /// When the decision to switch was taken.
    #[serde(default)]
    pub(crate) committed_at: Option<Timestamp>,
    /// When the decision to go back was taken.
    #[serde(default)]
    pub(crate) reverted_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// What a deploy goes by in records, logs and hooks: the caller's own mark, else the unit and its epoch.
#[must_use]
pub(crate) fn deploy_id(unit: &Unit, epoch: Epoch, mark: &str) -> String {
    if mark.is_empty() { format!("{unit}@{epoch}") } else { mark.to_owned() }
}

impl History {
    /// [`deploy_id`] of this request.
    #[must_use]
    pub(crate) fn deploy_id(&self) -> String {
        deploy_id(&self.unit, self.epoch, &self.id)
    }

    /// Whether the fleet was taken back from this deploy, wholly or not.
    #[must_use]
    pub(crate) const fn was_reverted(&self) -> bool {
        self.reverted_at.is_some() || matches!(self.outcome, Some(Outcome::Reverted | Outcome::Failed))
    }
}

/// `status`: a small JSON for humans.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    pub(crate) app: crate::protocol::ids::App,
    pub(crate) group: crate::protocol::ids::Group,
    /// What is committed; none before the first deploy.
    pub(crate) current: Option<Current>,
    /// The deploy that runs.
    pub(crate) running: Option<Running>,
    /// How the last one ended.
    pub(crate) last: Option<Last>,
}

/// What is committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Current {
    /// The build.
    pub(crate) artifact: ArtifactName,
    /// Its directory.
    pub(crate) release: ReleaseName,
    /// The epoch that decided it.
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
}

/// The deploy that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Running {
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    /// The build.
    pub(crate) artifact: ArtifactName,
    /// The author: a claim.
    pub(crate) by: String,
}

/// How the last request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Last {
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) outcome: Outcome,
    /// The build, where the request came to one.
    pub(crate) artifact: Option<ArtifactName>,
    /// The node that stopped it.
    pub(crate) node: Option<Node>,
    pub(crate) step: Option<super::Step>,
    pub(crate) reason: Option<String>,
    /// The last output of the hook that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<String>,
    /// The author: a claim.
    pub(crate) by: String,
    /// When it ended.
    pub(crate) at: Timestamp,
}

impl Last {
    /// The last outcome of a record that has ended; none while it runs.
    #[must_use]
    pub(crate) fn of(history: &History) -> Option<Self> {
        let fault = history.fault.as_ref();
        Some(Self {
            epoch: history.epoch,
            outcome: history.outcome?,
            artifact: history.artifact.clone(),
            node: history.node.clone(),
            step: fault.map(|f| f.step),
            reason: fault.map(|f| f.reason.clone()),
            output: fault.map(|f| f.output.clone()).filter(|o| !o.is_empty()),
            by: history.by.clone(),
            at: history.ended_at?,
        })
    }
}
