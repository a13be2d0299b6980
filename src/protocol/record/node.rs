//! `nodes/<node>`: a node's presence, held by its session, and the release that the node runs.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_REASON_BYTES, Release, Step, clip};
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName};

/// How many of them a node reports; when one is removed, the next follows. They make the record 20 kB longer at most.
pub(crate) const MAX_UNREMOVABLE: usize = 20;

/// How many builds a node reports that it could not unpack ahead of a deploy. They make the record 4 kB longer at most.
pub(crate) const MAX_REFUSED: usize = 5;

/// A file or directory on a node that the agent cannot remove.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Unremovable {
    /// Its full path.
    pub path: String,
    /// The reason, in one line.
    pub reason: String,
}

impl Unremovable {
    /// Replaces control characters by blanks, and cuts both at [`MAX_REASON_BYTES`].
    pub(crate) fn new(path: &str, reason: &str) -> Self {
        let plain = |text: &str| {
            let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            clip(&plain, MAX_REASON_BYTES)
        };
        Self { path: plain(path), reason: plain(reason) }
    }

    /// Path and reason in one sentence.
    #[must_use]
    pub(crate) fn sentence(&self) -> String {
        format!("{} cannot be removed: {}", self.path, self.reason)
    }
}

/// A node's report about itself. Written when a field changes, together with an answer where one is due; never by time,
/// nor for a change of free space alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The newest record format that the node's agent reads.
    pub(crate) format: u32,
    pub(crate) node: Node,
    /// The Consul agent's node name, as the catalog lists it.
    pub(crate) consul_node: String,
    pub(crate) version: String,
    /// Digest of the unit's settings on this node. It should be the same on every node.
    pub(crate) config_digest: String,
    /// The newest epoch that the node has followed: `cutover recover` begins an era above every node's. None: the node has
    /// followed no record, or its agent is too old to report it.
    #[serde(default)]
    pub(crate) floor: Option<Epoch>,
    /// Whether the node may not follow the record in Consul: it is gone, unreadable, older than the node's floor, contradicts
    /// it, or would take the node off a release that was not reverted. The node stays until `cutover recover`.
    #[serde(default)]
    pub(crate) astray: bool,
    /// The release that the node runs, by its own journal; none before its first switch.
    pub(crate) runs: Option<Release>,
    /// The target of the link `current`: a release's name, or another path; none: there is no link.
    pub(crate) current: Option<String>,
    /// The release that the node ran before.
    pub(crate) previous: Option<ReleaseName>,
    /// Builds that are unpacked ahead of a deploy.
    pub(crate) staged: Vec<ArtifactName>,
    /// Builds that the node would unpack ahead of a deploy and cannot: at most [`MAX_REFUSED`], the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<RefusedBuild>,
    /// The build that a deploy waits for, while the node downloads and unpacks it; none of a download that is over soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fetching: Option<Fetching>,
    /// The newest name under `releases/`, also one that Cutover did not make.
    pub(crate) newest_release: Option<ReleaseName>,
    /// Free space of the file system with the releases, at the time of writing.
    pub(crate) free_bytes: u64,
    /// The problem that a person must fix; none: no problem.
    #[serde(default)]
    pub(crate) alarm: Option<String>,
    /// What the node cannot remove: at most [`MAX_UNREMOVABLE`]. Absent where there is nothing, as in records of older agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unremovable: Vec<Unremovable>,
    pub(crate) at: Timestamp,
}

/// A build that a node could not unpack ahead of a deploy, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RefusedBuild {
    pub(crate) artifact: ArtifactName,
    #[serde(flatten)]
    pub(crate) why: Refusal,
}

/// Why a node could not unpack a build ahead of a deploy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// One sentence that says how to proceed.
    #[schemars(length(max = super::MAX_REASON_BYTES))]
    pub(crate) reason: String,
    /// The step that failed. Absent: the signature is not accepted, by an agent that reports nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Step>,
    /// The longest time until the node tries again by itself, in seconds. Absent: it waits for a publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_secs: Option<u64>,
}

impl Refusal {
    /// Whether `other` differs only in its figures, such as those of free space: then it is no news.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        self.step == other.step && self.retry_secs == other.retry_secs && words(&self.reason) == words(&other.reason)
    }
}

/// How much of a build a node has downloaded. It is unpacked meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Fetching {
    pub(crate) artifact: ArtifactName,
    /// How much of the archive is on the node, in bytes.
    pub(crate) received_bytes: u64,
    /// The size of the archive, in bytes.
    pub(crate) packed_bytes: u64,
}

impl NodeRecord {
    /// Whether something other than Cutover has moved `current`.
    #[must_use]
    pub(crate) fn has_drifted(&self) -> bool {
        match (&self.runs, &self.current) {
            (Some(runs), Some(current)) => runs.release.as_str() != current,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
