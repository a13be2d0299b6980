//! `history/<epoch>` and `status`: the records that people read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Author, Changes, Fault, Identity, Phase, Release, Summary, Timings};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, Node, ReleaseName, Time, Unit};

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No node switched: a node refused, the prepare deadline passed, or an abort was requested.
    Aborted,
    /// Every member runs the release.
    Done,
    /// A switch failed, and at least one node could not be reverted.
    Failed,
    /// The coordinator refused the request.
    Refused,
    /// A switch failed, and every node was reverted.
    Reverted,
    /// A newer request replaced it before it began.
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

/// One member's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct NodeOutcome {
    /// The last answer; none: the member never answered.
    pub answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    /// Empty in a large fleet, where only `acks/` has the timings.
    #[serde(default, skip_serializing_if = "Timings::is_unknown")]
    pub took: Timings,
}

/// The history record of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct History {
    pub(crate) format: u32,
    /// The request's epoch.
    #[serde(flatten)]
    pub epoch: Epoch,
    pub(crate) unit: Unit,
    /// The request as it was written, cut to 4 KiB.
    pub(crate) request: String,
    /// The claimed author.
    #[serde(flatten, with = "super::author::with_why")]
    #[schemars(with = "super::author::with_why::Wire")]
    pub author: Author,
    /// The author, where an agent attested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Identity>,
    #[serde(default)]
    pub(crate) rollback: bool,
    /// Overrides and other remarks: a forced freeze, a rollback while frozen, nodes left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// None: the request was refused before a build was found.
    pub(crate) artifact: Option<ArtifactName>,
    pub(crate) branch: Option<Branch>,
    pub(crate) commit: Option<Commit>,
    /// Subject and author of the commit.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// The release directory.
    pub release: Option<ReleaseName>,
    /// The release that was committed before.
    pub(crate) from: Option<Release>,
    /// What the build changes compared with `from`, in short; none: there was no release before, or an older coordinator
    /// wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<Changes>,
    /// None while the deploy runs.
    pub outcome: Option<Outcome>,
    /// The node that failed the deploy; none: no single node did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Why the request did not end as done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Every member's outcome; empty: refused, or nothing to do.
    #[serde(default)]
    pub nodes: BTreeMap<Node, NodeOutcome>,
    /// Nodes that were absent and skipped (`absent_nodes = "skip"`), or left the catalog.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<Node>,
    /// The node whose agent coordinated the last transition.
    pub(crate) coordinator: Node,
    /// When the coordinator took the request.
    #[schemars(with = "Time")]
    pub started_at: Timestamp,
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub(crate) committed_at: Option<Timestamp>,
    /// When the coordinator decided to revert.
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub(crate) reverted_at: Option<Timestamp>,
    /// When the request ended.
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub ended_at: Option<Timestamp>,
}

/// The id of a deploy in records, logs and hooks: the caller's own mark, else the unit and its epoch.
#[must_use]
pub(crate) fn deploy_id(unit: &Unit, epoch: Epoch, mark: &str) -> String {
    if mark.is_empty() { format!("{unit}@{epoch}") } else { mark.to_owned() }
}

impl History {
    #[must_use]
    pub(crate) fn deploy_id(&self) -> String {
        deploy_id(&self.unit, self.epoch, &self.author.id)
    }

    /// Whether the fleet was rolled back from this deploy, completely or not.
    #[must_use]
    pub(crate) const fn was_reverted(&self) -> bool {
        self.reverted_at.is_some() || matches!(self.outcome, Some(Outcome::Reverted | Outcome::Failed))
    }
}

/// `status`: a small JSON record for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    pub(crate) app: crate::protocol::ids::App,
    pub(crate) group: crate::protocol::ids::Group,
    /// The committed release; none before the first deploy.
    pub(crate) current: Option<Current>,
    pub(crate) running: Option<Running>,
    /// The outcome of the last request.
    pub(crate) last: Option<Last>,
}

/// The committed release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Current {
    pub(crate) artifact: ArtifactName,
    pub(crate) release: ReleaseName,
    /// The epoch that decided it.
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
}

/// The running deploy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Running {
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    pub(crate) artifact: ArtifactName,
    /// The claimed author.
    pub(crate) by: String,
}

/// The outcome of the last request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Last {
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) outcome: Outcome,
    /// None: the request was refused before a build was found.
    pub(crate) artifact: Option<ArtifactName>,
    pub(crate) node: Option<Node>,
    pub(crate) step: Option<super::Step>,
    pub(crate) reason: Option<String>,
    /// The last output of the failed hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<String>,
    /// The claimed author.
    pub(crate) by: String,
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
}

impl Last {
    /// None while the deploy runs.
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
            by: history.author.by.clone(),
            at: history.ended_at?,
        })
    }
}
