//! `nodes/<node>`: a node's presence, held by its session, and what it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Release;
use crate::protocol::ids::{ArtifactName, Node, ReleaseName};

/// What a node says about itself. Written when something in it changes, not by time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The newest record format that its agent speaks.
    pub format: u32,
    /// The node's name, as in the key.
    pub node: Node,
    /// The Consul agent's node name: what the catalog lists.
    pub consul_node: String,
    /// The agent's version.
    pub version: String,
    /// Digest of the unit's settings on this node; a difference between nodes is drift.
    pub config_digest: String,
    /// What it has switched to, by its own journal; none before its first switch.
    pub runs: Option<Release>,
    /// What `current` really points to: a release's name, another path, or none.
    pub current: Option<String>,
    /// What it ran before.
    pub previous: Option<ReleaseName>,
    /// Builds that lie unpacked ahead of time.
    pub staged: Vec<ArtifactName>,
    /// The newest name under `releases/`, whoever made it.
    pub newest_release: Option<ReleaseName>,
    /// Free space where releases lie, in bytes, at the time of writing.
    pub free_bytes: u64,
    /// What is wrong, for a person to mend; none: nothing.
    #[serde(default)]
    pub alarm: Option<String>,
    /// When it was written.
    pub at: Timestamp,
}

impl NodeRecord {
    /// Whether `current` was moved by something else than Cutover.
    #[must_use]
    pub fn has_drifted(&self) -> bool {
        match (&self.runs, &self.current) {
            (Some(runs), Some(current)) => runs.release.as_str() != current,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
