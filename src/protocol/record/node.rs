//! `nodes/<node>`: a node's presence, held by its session, and what it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Release;
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName};

/// What a node says about itself. Written when something in it changes, with an answer where there is one to give, and
/// neither by time nor for its free space alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The newest record format that its agent speaks.
    pub(crate) format: u32,
    /// The node's name, as in the key.
    pub(crate) node: Node,
    /// The Consul agent's node name: what the catalog lists.
    pub(crate) consul_node: String,
    /// The agent's version.
    pub(crate) version: String,
    /// Digest of the unit's settings on this node; a difference between nodes is drift.
    pub(crate) config_digest: String,
    /// The newest epoch whose record it follows: `cutover recover` begins an era above every node's. None where it has
    /// followed no record, or its agent is too old to say.
    #[serde(default)]
    pub(crate) floor: Option<Epoch>,
    /// Whether the record in Consul is not one that it may follow: gone, unreadable, older than its floor, against it,
    /// or one that would have it leave what it runs. It stays; `cutover recover` is the way on.
    #[serde(default)]
    pub(crate) astray: bool,
    /// What it has switched to, by its own journal; none before its first switch.
    pub(crate) runs: Option<Release>,
    /// What `current` really points to: a release's name, another path, or none.
    pub(crate) current: Option<String>,
    /// What it ran before.
    pub(crate) previous: Option<ReleaseName>,
    /// Builds that lie unpacked ahead of time.
    pub(crate) staged: Vec<ArtifactName>,
    /// The newest name under `releases/`, whoever made it.
    pub(crate) newest_release: Option<ReleaseName>,
    /// Free space where releases lie, in bytes, at the time of writing.
    pub(crate) free_bytes: u64,
    /// What is wrong, for a person to mend; none: nothing.
    #[serde(default)]
    pub(crate) alarm: Option<String>,
    /// When it was written.
    pub(crate) at: Timestamp,
}

impl NodeRecord {
    /// Whether `current` was moved by something else than Cutover.
    #[must_use]
    pub(crate) fn has_drifted(&self) -> bool {
        match (&self.runs, &self.current) {
            (Some(runs), Some(current)) => runs.release.as_str() != current,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
